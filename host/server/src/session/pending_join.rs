//! One room on its way in, from the entry that asks for it to what the client is told. It keeps its place in the request
//! whatever becomes of it. Decides nothing and does no I/O: the conversation moves it on.

use crate::hub::{self, Joined, Offer, Replay};
use std::{mem, sync::Arc};
use switchyard_protocol::{
    Position, Refusal, reply,
    room::{MAX_NAME_BYTES, RoomName},
};
use switchyard_store::{Join, Membership};

/// What a client asks for.
pub(super) struct JoinTerms {
    pub room: RoomName,
    /// A JSON object, as the client wrote it.
    pub filter: Option<Arc<str>>,
    /// Everything after it is to be replayed.
    pub since: Option<Position>,
}

pub(super) struct PendingJoin {
    /// As the client called the room, at most as long as a name may be.
    pub name: String,
    pub state: JoinState,
}

/// How far it has come.
pub(super) enum JoinState {
    Requested(JoinTerms),
    /// The room's shard was asked.
    Asked(JoinTerms, hub::Answer),
    /// The connection is in the room already; what changes waits to be recorded.
    Offered(JoinTerms, Offer),
    /// The connection has a new seat, which waits to be recorded and told.
    Seated(Box<Seated>),
    Refused(Refusal),
    /// The connection is in the room; the rest is for the client.
    Done(Box<Done>),
}

/// A room that was joined and is not told yet.
pub(super) struct Seated {
    pub terms: JoinTerms,
    pub joined: Joined,
    pub replay: Option<Replay>,
    pub position: Position,
    pub recovered: Option<bool>,
}

/// A room that goes on after a position for a member, and the last epoch that it knew.
pub(crate) type Moved = (RoomName, Arc<str>, Position);

/// What is told of a room that was joined.
pub(super) struct Done {
    pub result: reply::RoomResult,
    /// Where what was before is lost.
    pub moved: Option<Moved>,
    pub replay: Option<Replay>,
}

impl Seated {
    pub(super) fn room(&self) -> &RoomName {
        &self.joined.seat.room
    }

    /// What it came with it has until it was told otherwise.
    fn membership(&self) -> Membership {
        let position = self.terms.since.as_ref().unwrap_or(&self.position).clone();
        Membership { filter: self.terms.filter.clone(), position }
    }

    /// Where what was before is lost.
    pub(super) fn moved(&self) -> Option<Moved> {
        let since = self.terms.since.as_ref().filter(|_| self.recovered == Some(false))?;
        Some((self.room().clone(), since.epoch.clone(), self.position.clone()))
    }
}

impl PendingJoin {
    pub(super) fn new(terms: JoinTerms) -> Self {
        Self { name: terms.room.to_string(), state: JoinState::Requested(terms) }
    }

    /// An entry that is refused before anybody is asked. A name that is longer than names may be is cut.
    pub(super) fn refused(name: &str, refusal: Refusal) -> Self {
        Self { name: clip(name).to_owned(), state: JoinState::Refused(refusal) }
    }

    /// The room that it comes to, by the name that its plugin gives it, once the shard has answered.
    pub(super) fn room(&self) -> Option<&RoomName> {
        match &self.state {
            JoinState::Seated(seated) => Some(seated.room()),
            JoinState::Offered(_, offer) => Some(&offer.room),
            _ => None,
        }
    }

    /// What is to be recorded of it.
    pub(super) fn record(&self) -> Option<Join> {
        match &self.state {
            JoinState::Seated(seated) => {
                Some(Join { room: seated.room().clone(), membership: seated.membership(), anew: true })
            }
            JoinState::Offered(terms, offer) => {
                // Without a position of its own it keeps the one it has.
                let position = terms.since.clone();
                let anew = position.is_some();
                let position = position.unwrap_or_else(|| Position { epoch: "".into(), offset: 0 });
                let membership = Membership { filter: terms.filter.clone(), position };
                Some(Join { room: offer.room.clone(), membership, anew })
            }
            _ => None,
        }
    }

    /// It could not be recorded: the seat is given up, and of what was kept back nothing is heard.
    pub(super) async fn withdraw(self, refusal: &Refusal) -> Self {
        let state = match self.state {
            JoinState::Seated(seated) => {
                seated.joined.seat.leave().await;
                JoinState::Refused(refusal.clone())
            }
            JoinState::Offered(..) => JoinState::Refused(refusal.clone()),
            state => state,
        };
        Self { name: self.name, state }
    }

    pub(super) fn refusal(&self) -> Option<&Refusal> {
        match &self.state {
            JoinState::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// What the client is told of it; `rejected` is the status of a room that was refused.
    pub(super) fn result(&mut self, rejected: Option<reply::RoomStatus>) -> reply::RoomResult {
        match &mut self.state {
            JoinState::Done(done) => {
                let nothing = reply::RoomResult::new(done.result.room.clone());
                mem::replace(&mut done.result, nothing)
            }
            JoinState::Refused(refusal) => reply::RoomResult::refused(&self.name, rejected, refusal.clone()),
            _ => unreachable!("all were answered"),
        }
    }

    pub(super) fn moved(&self) -> Option<&Moved> {
        match &self.state {
            JoinState::Done(done) => done.moved.as_ref(),
            _ => None,
        }
    }

    pub(super) fn into_replay(self) -> Option<Replay> {
        match self.state {
            JoinState::Done(done) => done.replay,
            _ => None,
        }
    }
}

/// As much of a name as one may have.
pub(super) fn clip(name: &str) -> &str {
    let end = (0..=MAX_NAME_BYTES.min(name.len())).rev().find(|at| name.is_char_boundary(*at)).unwrap_or(0);
    &name[..end]
}

/// An entry that another of the same request is for. Which of them would rule, nobody could tell.
pub(super) fn named_twice(room: &RoomName) -> Refusal {
    Refusal::invalid(format!("another entry of this request is for room '{}'; name it once", &**room))
}
