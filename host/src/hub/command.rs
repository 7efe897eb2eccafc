//! What a shard is asked to do. Every question has a way back that may be gone by the time of the answer.

use super::{Connection, catch_up::Progress, policy::Checked};
use crate::{
    plugin::{Limits, Mirror, OnFailure, Plugin, Principal},
    protocol::{Position, Publication, Refusal},
    room::RoomName,
    store::{ConnectionId, Event},
};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

pub type Queue = mpsc::UnboundedSender<Command>;

pub enum Command {
    Join {
        joining: Joining,
        reply: oneshot::Sender<Result<Joined, Refusal>>,
    },
    Leave {
        room: RoomName,
        seat: SeatId,
        reply: Option<oneshot::Sender<()>>,
    },
    /// Answers whether the offset was sent already; then it is recorded.
    Acknowledge {
        room: RoomName,
        seat: SeatId,
        offset: u64,
        reply: oneshot::Sender<bool>,
    },
    /// Which of these messages of the room's history the member may see.
    Sieve {
        room: RoomName,
        seat: SeatId,
        messages: Vec<Arc<Publication>>,
        reply: oneshot::Sender<Sieved>,
    },
    /// A member has been sent everything up to `upto`: go live, or say how much further to go.
    Settle {
        room: RoomName,
        seat: SeatId,
        upto: u64,
        reply: oneshot::Sender<Settled>,
    },
    Check {
        room: RoomName,
        who: Arc<str>,
        event: Option<String>,
        data: String,
        reply: oneshot::Sender<Result<(RoomName, Checked), Refusal>>,
    },
    /// Puts another version in charge.
    Swap {
        plugin: Arc<Plugin>,
        on_failure: OnFailure,
        reply: oneshot::Sender<Result<(), String>>,
    },
    /// From now on a candidate sees what the plugin is asked, or none does.
    Reflect(Option<Mirror>),
    /// The members for which something gathered were written for.
    Written,
    Store(Event),
}

/// A connection's place in a room. A later place of the same connection has another number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeatId {
    pub connection: ConnectionId,
    pub serial: u64,
}

pub struct Joining {
    pub room: RoomName,
    pub connection: Arc<Connection>,
    pub who: Principal,
    /// A JSON object, as the client wrote it.
    pub filter: Option<Arc<str>>,
    pub since: Option<Position>,
    /// Keep back what comes from here on until the member asks to settle: for a member of the room that joins it
    /// anew, and has to see what was sent before apart from what comes after.
    pub keep_back: bool,
}

#[derive(Debug)]
pub struct Joined {
    pub seat: Seat,
    /// The room's newest at the moment of joining.
    pub position: Position,
    pub recovery: Recovery,
    /// How far the member was brought, where messages are kept back until it settles.
    pub behind: Option<Progress>,
    pub limits: Limits,
    /// Whether what is replayed has to be sieved.
    pub filtered: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    NotAsked,
    /// Nothing was missed.
    Complete,
    /// The position is of another epoch or ahead of the room.
    Impossible,
    /// What came after this offset has to be replayed.
    After(u64),
}

pub struct Sieved {
    pub passed: Vec<Arc<Publication>>,
    /// The plugin failed on some: they are lost to the member.
    pub failed: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Settled {
    Live,
    /// More came than could be kept back: replay up to this offset and ask again.
    Behind {
        upto: u64,
    },
    /// The seat is gone.
    Gone,
}

/// Holds a place in a room and gives it up when dropped.
#[derive(Debug)]
pub struct Seat {
    pub room: RoomName,
    pub id: SeatId,
    pub(super) shard: usize,
    queue: Option<Queue>,
}

impl Seat {
    pub fn new(room: RoomName, id: SeatId, shard: usize, queue: Queue) -> Self {
        Self { room, id, shard, queue: Some(queue) }
    }

    /// Leaves; when this returns the room enqueues nothing more. A replay has to be stopped before.
    pub async fn leave(mut self) {
        let Some(queue) = self.queue.take() else { return };
        let (reply, left) = oneshot::channel();
        let command = Command::Leave { room: self.room.clone(), seat: self.id, reply: Some(reply) };
        if queue.send(command).is_ok() {
            left.await.ok();
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.take() {
            queue.send(Command::Leave { room: self.room.clone(), seat: self.id, reply: None }).ok();
        }
    }
}
