//! What a shard is told to do, and the questions that it answers. Whoever asks may be gone when the answer is there.

use super::{
    CompiledVersion, Connection,
    catch_up::Progress,
    publish_pipeline::{CheckedMessage, UncheckedMessage},
};
use std::{collections::VecDeque, sync::Arc};
use switchyard_plugin::{FilterId, Mirror, Principal};
use switchyard_protocol::{Position, Publication, Refusal, room::RoomName};
use switchyard_store::{ConnectionId, Event};
use tokio::sync::{mpsc, oneshot};

pub(super) type Queue = mpsc::UnboundedSender<Command>;

pub(crate) enum Command {
    Question(Question),
    /// A member accepts an offer.
    Accept {
        room: RoomName,
        connection: Arc<Connection>,
        filter: Option<FilterId>,
        since: Option<Position>,
        reply: oneshot::Sender<Joined>,
    },
    /// A member does not accept an offer.
    Decline {
        filter: FilterId,
        /// The principal that would have held it.
        who: Arc<str>,
    },
    Leave {
        room: RoomName,
        seat: SeatId,
        reply: Option<oneshot::Sender<()>>,
    },
    /// A member has handled all messages up to an offset. The answer is the position to record.
    Acknowledge {
        room: RoomName,
        seat: SeatId,
        /// As the client sent it.
        epoch: Option<Arc<str>>,
        offset: u64,
        reply: oneshot::Sender<Result<Position, AckError>>,
    },
    /// A member has been sent everything up to `upto`, or is to be told that it is `lost`: take it live once the room is
    /// there, or say how to go on.
    FinishCatchUp {
        room: RoomName,
        seat: SeatId,
        upto: Position,
        lost: bool,
        reply: oneshot::Sender<CatchUpOutcome>,
    },
    /// Activates another version of the plugin.
    Swap {
        version: CompiledVersion,
        reply: oneshot::Sender<Result<(), Refusal>>,
    },
    /// Starts or stops sending all calls and answers to a candidate.
    Mirror(Option<Mirror>),
    /// The gathered messages have been written to all members.
    Written,
    Store(Event),
}

/// What may take a call to the plugin to answer. In a governed shard, principals take turns.
pub(crate) enum Question {
    Join {
        request: JoinRequest,
        reply: oneshot::Sender<Result<JoinAnswer, Refusal>>,
    },
    /// Whether a message may be published, and where.
    Check {
        message: UncheckedMessage,
        reply: oneshot::Sender<Result<CheckedMessage, Refusal>>,
    },
    Sieve(Sieving),
}

impl Question {
    /// Nobody waits for the answer any more.
    pub(super) fn is_abandoned(&self) -> bool {
        match self {
            Self::Join { reply, .. } => reply.is_closed(),
            Self::Check { reply, .. } => reply.is_closed(),
            Self::Sieve(sieving) => sieving.reply.is_closed(),
        }
    }
}

/// Identifies a connection's membership in a room. A later membership of the same connection has another number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SeatId {
    pub connection: ConnectionId,
    pub serial: u64,
}

pub(crate) struct JoinRequest {
    pub room: RoomName,
    pub connection: Arc<Connection>,
    pub who: Principal,
    /// A JSON object, as the client wrote it.
    pub filter: Option<Arc<str>>,
    pub since: Option<Position>,
    /// Keep back what comes until the member asks to settle: for one that may have to leave again without having heard anything.
    pub buffer: bool,
    /// If the connection is a member already, make an offer: nothing changes until it accepts.
    pub offer: bool,
}

/// The answer to a join.
#[derive(Debug)]
pub(crate) enum JoinAnswer {
    Joined(Joined),
    Offered(Offer),
}

/// Another filter for a member of a room. Dropping it declines the offer.
#[derive(Debug)]
pub(crate) struct Offer {
    pub room: RoomName,
    filter: Option<FilterId>,
    who: Arc<str>,
    queue: Option<Queue>,
}

impl Offer {
    pub(crate) fn new(room: RoomName, filter: Option<FilterId>, who: Arc<str>, queue: Queue) -> Self {
        Self { room, filter, who, queue: Some(queue) }
    }

    /// Accepts the offer. From here on, messages are buffered until the member asks to finish catching up, so that it can
    /// tell the client first. `None` if the node is stopping.
    pub(crate) async fn accept(
        mut self,
        connection: Arc<Connection>,
        since: Option<Position>,
    ) -> Option<Joined> {
        let queue = self.queue.take()?;
        let (reply, joined) = oneshot::channel();
        let (room, filter) = (self.room.clone(), self.filter.take());
        queue.send(Command::Accept { room, connection, filter, since, reply }).ok()?;
        joined.await.ok()
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        if let (Some(queue), Some(filter)) = (self.queue.take(), self.filter.take()) {
            queue.send(Command::Decline { filter, who: self.who.clone() }).ok();
        }
    }
}

#[derive(Debug)]
pub(crate) struct Joined {
    pub seat: Seat,
    /// The newest position of the room at the moment of joining.
    pub position: Position,
    pub recovery: Recovery,
    /// How far the member has got, if it has to catch up. Messages are buffered for it until it has.
    pub progress: Option<Progress>,
    /// Whether what is replayed has to be sieved.
    pub filtered: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Recovery {
    NotAsked,
    /// The member has missed nothing.
    Complete,
    /// What came after this position must be replayed, if the log still has it. The position may be ahead of the room on this
    /// node, or of an epoch that this node does not know yet.
    After(Position),
}

/// Messages of a room's history, of which the member may see those that pass its filter.
pub(crate) struct Sieving {
    pub room: RoomName,
    pub seat: SeatId,
    pub messages: VecDeque<Arc<Publication>>,
    /// The result for the messages that have been evaluated already.
    pub sieved: Sieved,
    pub reply: oneshot::Sender<Sieved>,
}

#[derive(Default)]
pub(crate) struct Sieved {
    pub passed: Vec<Arc<Publication>>,
    /// The plugin failed for some messages, which are lost to the member.
    pub lost: bool,
    /// There is no seat or no plugin, so nothing could be evaluated.
    pub failed: bool,
}

impl Sieved {
    pub(crate) fn failed() -> Self {
        Self { failed: true, ..Self::default() }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CatchUpOutcome {
    Live,
    /// The buffer overflowed: replay up to this position, in the epoch of the replay, and ask again.
    Behind {
        upto: Position,
    },
    /// The room changed its epoch: ask the log whether the member's is the one it has now.
    EpochChanged,
    /// The seat is gone.
    Gone,
}

/// Why an acknowledgement is wrong.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AckError {
    /// The message was not sent yet, or the member has left.
    Unsent,
    /// It names an epoch other than the last one that the member was told, which is this.
    OtherEpoch(Arc<str>),
    /// It names no epoch, and the member may not know yet that the room is in this one.
    Unheard(Arc<str>),
}

/// A connection's membership in a room. Dropping it leaves the room.
#[derive(Debug)]
pub(crate) struct Seat {
    pub room: RoomName,
    pub id: SeatId,
    pub(super) shard: usize,
    queue: Option<Queue>,
}

impl Seat {
    pub(crate) fn new(room: RoomName, id: SeatId, shard: usize, queue: Queue) -> Self {
        Self { room, id, shard, queue: Some(queue) }
    }

    /// Leaves the room. When this returns, the room enqueues nothing more. A replay must be stopped before.
    pub(crate) async fn leave(mut self) {
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
