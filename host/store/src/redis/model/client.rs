//! The clients of the model, and what they know about their sessions. A client uses one connection at a time;
//! its node may not know that an earlier one is gone.

use super::{network::ProcessId, step::ROOMS};
use crate::{ConnectionId, SessionToken};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use switchyard_protocol::Position;
use tokio::{task::AbortHandle, time::Instant};

/// `None` if a client is not in a room; otherwise its filter there.
pub(super) type RoomState = Option<Option<Arc<str>>>;

/// The rooms that a client is in, with its filters.
pub(super) type RoomStates = BTreeMap<&'static str, Option<Arc<str>>>;

pub(super) struct ModelClient {
    pub principal: Arc<str>,
    pub token: Option<SessionToken>,
    /// The index of the connection that it uses.
    pub current: Option<usize>,
    /// What Redis may have for each room, as far as the client can know. More than one state is possible if a
    /// change was not answered, or was answered with an error.
    pub possible: BTreeMap<&'static str, BTreeSet<RoomState>>,
    /// Redis has lost data since the client was told its rooms.
    pub is_uncertain: bool,
    /// What it last acknowledged in each room, and to which process.
    pub acknowledged: BTreeMap<&'static str, (Position, ProcessId)>,
    /// Positions up to which the client has received everything. A session's position beyond them would hide
    /// messages.
    pub known_positions: BTreeSet<(&'static str, Arc<str>, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum State {
    /// The node has not read the client's first request yet.
    Waiting,
    Opening,
    Open,
    Closed,
}

/// A request to join or leave a room that has not been answered.
pub(super) struct PendingChange {
    pub task: AbortHandle,
    pub room: &'static str,
    pub seat: RoomState,
}

pub(super) struct ModelConnection {
    pub id: ConnectionId,
    pub client: usize,
    pub process: ProcessId,
    pub requested_at: Instant,
    /// The session that it asks for or has.
    pub token: Option<SessionToken>,
    pub state: State,
    pub connecting: Option<AbortHandle>,
    pub change: Option<PendingChange>,
    pub told: RoomStates,
    pub probed: bool,
    /// It ended when all requests of its client had been answered.
    pub is_answered: bool,
}

impl ModelClient {
    pub(super) fn new(n: usize) -> Self {
        Self {
            principal: format!("p{n}").into(),
            token: None,
            current: None,
            possible: BTreeMap::new(),
            is_uncertain: false,
            acknowledged: BTreeMap::new(),
            known_positions: BTreeSet::new(),
        }
    }

    /// From now on exactly these rooms are possible.
    pub(super) fn set_known(&mut self, room_states: &RoomStates) {
        self.possible =
            ROOMS.iter().map(|room| (*room, BTreeSet::from([room_states.get(room).cloned()]))).collect();
        self.is_uncertain = false;
    }

    /// The client loses its session and starts again.
    pub(super) fn forget(&mut self) {
        *self = Self { principal: self.principal.clone(), current: self.current, ..Self::new(0) };
    }

    /// Checks that a session can be in these rooms with these filters.
    pub(super) fn compare(&self, room_states: &RoomStates) -> Result<(), String> {
        if self.is_uncertain {
            return Ok(());
        }
        for (room, may) in &self.possible {
            let is = room_states.get(room).cloned();
            if !may.contains(&is) {
                return Err(format!("room {room} is {is:?} in the session, and the client was told {may:?}"));
            }
        }
        Ok(())
    }

    pub(super) fn record_position(&mut self, room: &'static str, position: &Position) {
        self.known_positions.insert((room, position.epoch.clone(), position.offset));
    }

    pub(super) fn furthest_position(&self, room: &str, epoch: &str) -> Option<u64> {
        let here = self.known_positions.iter().filter(|(name, of, _)| *name == room && **of == *epoch);
        here.map(|(.., offset)| *offset).max()
    }
}
