//! Clients, each with at most one connection at a time that it knows of, and what they were told.

use super::{step::ROOMS, wire::Process};
use crate::{ConnectionId, SessionToken};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use switchyard_protocol::Position;
use tokio::{task::AbortHandle, time::Instant};

/// A room as a client has it: `None`: it is not in it; otherwise with its filter.
pub(super) type Seat = Option<Option<Arc<str>>>;

/// Rooms and filters.
pub(super) type Seats = BTreeMap<&'static str, Option<Arc<str>>>;

pub(super) struct Client {
    pub principal: Arc<str>,
    pub token: Option<SessionToken>,
    /// Which connection it is on.
    pub current: Option<usize>,
    /// What the session may hold of each room, as far as the client can know: more than one thing while a write was not answered,
    /// or answered with an error.
    pub may: BTreeMap<&'static str, BTreeSet<Seat>>,
    /// The store lost data since all of that was told.
    pub unsure: bool,
    /// What it acknowledged in each room, and to which process.
    pub acknowledged: BTreeMap<&'static str, (Position, Process)>,
    /// Beyond this a session's position would hide what the client never had.
    pub reach: BTreeSet<(&'static str, Arc<str>, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum State {
    /// What the client says was not read yet.
    Waiting,
    Opening,
    Open,
    Closed,
}

/// A change of a room that is not answered.
pub(super) struct Change {
    pub task: AbortHandle,
    pub room: &'static str,
    pub seat: Seat,
}

pub(super) struct Connection {
    pub id: ConnectionId,
    pub client: usize,
    pub process: Process,
    pub asked: Instant,
    /// The session that it asks for, or has.
    pub token: Option<SessionToken>,
    pub state: State,
    pub opening: Option<AbortHandle>,
    pub change: Option<Change>,
    pub told: Seats,
    pub probed: bool,
    /// It ended when nothing that its client asked for was unanswered.
    pub is_answered: bool,
}

impl Client {
    pub(super) fn new(n: usize) -> Self {
        Self {
            principal: format!("p{n}").into(),
            token: None,
            current: None,
            may: BTreeMap::new(),
            unsure: false,
            acknowledged: BTreeMap::new(),
            reach: BTreeSet::new(),
        }
    }

    /// The session holds this and nothing else.
    pub(super) fn knows(&mut self, seats: &Seats) {
        self.may = ROOMS.iter().map(|room| (*room, BTreeSet::from([seats.get(room).cloned()]))).collect();
        self.unsure = false;
    }

    /// A client that begins anew.
    pub(super) fn forget(&mut self) {
        *self = Self { principal: self.principal.clone(), current: self.current, ..Self::new(0) };
    }

    /// Why a session cannot be in these rooms with these filters.
    pub(super) fn compare(&self, seats: &Seats) -> Result<(), String> {
        if self.unsure {
            return Ok(());
        }
        for (room, may) in &self.may {
            let is = seats.get(room).cloned();
            if !may.contains(&is) {
                return Err(format!("room {room} is {is:?} in the session, and the client was told {may:?}"));
            }
        }
        Ok(())
    }

    pub(super) fn reaches(&mut self, room: &'static str, position: &Position) {
        self.reach.insert((room, position.epoch.clone(), position.offset));
    }

    pub(super) fn reached(&self, room: &str, epoch: &str) -> Option<u64> {
        let here = self.reach.iter().filter(|(name, of, _)| *name == room && **of == *epoch);
        here.map(|(.., offset)| *offset).max()
    }
}
