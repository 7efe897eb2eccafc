//! The commands of a shard, and its replies. The receiver of a reply may be gone by the time it is sent.

use super::{
    CompiledVersion, Connection, RoomSelector, Survey,
    catch_up::Progress,
    places::Turn,
    publish_pipeline::{CheckedMessage, UncheckedMessage},
    room::Room,
    router::{Owners, Router, ShardId, SlotId},
    stopping, store_unavailable,
};
use std::{
    collections::{BTreeSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use switchyard_plugin::{FilterId, Mirror};
use switchyard_process::memory::MemoryCharge;
use switchyard_protocol::{ErrorCode, Position, Publication, Refusal, room::RoomName};
use switchyard_store::{ConnectionId, Event};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};

/// The queue of a shard.
pub(super) type ShardQueue = mpsc::UnboundedSender<ShardCommand>;

/// A command to a shard.
pub(crate) enum ShardCommand {
    /// Needs a decision of the shard's policy.
    Request(PolicyRequest),
    /// A member accepts an offer.
    Accept {
        room: RoomName,
        connection: Arc<Connection>,
        filter: Option<FilterId>,
        /// As the client wrote it.
        filter_text: Option<Arc<str>>,
        since: Option<Position>,
        reply: oneshot::Sender<Joined>,
    },
    /// A member does not accept an offer.
    Decline {
        filter: FilterId,
        /// The principal to which the filter was granted.
        principal: Arc<str>,
    },
    Leave {
        room: RoomName,
        seat: SeatId,
        reply: Option<oneshot::Sender<()>>,
    },
    /// A member has handled all messages up to an offset. The reply is the position to record.
    Acknowledge {
        room: RoomName,
        seat: SeatId,
        /// As the client sent it.
        epoch: Option<Arc<str>>,
        offset: u64,
        reply: oneshot::Sender<Result<Position, AckError>>,
    },
    /// A replay has sent its member everything up to `upto`; or, if `lost`, the member must be told that it
    /// missed these messages. The member goes live once the room has reached this position. Otherwise the
    /// reply says how to continue.
    FinishCatchUp {
        room: RoomName,
        seat: SeatId,
        upto: Position,
        lost: bool,
        reply: oneshot::Sender<CatchUpOutcome>,
    },
    /// Prepares another version of the plugin, and waits for the decision.
    PrepareSwap(SwapPreparation),
    /// Starts or stops copying all calls and answers to a candidate.
    Mirror(Option<Mirror>),
    /// The owners of rooms have changed: hands over the rooms that this shard has lost. Replies when it has
    /// all rooms that it was given.
    HandOver {
        handover: Arc<Handover>,
        reply: oneshot::Sender<()>,
    },
    /// Lists the members of rooms. Changes nothing.
    Survey {
        selector: RoomSelector,
        reply: oneshot::Sender<Survey>,
    },
    /// Takes the rooms over that another shard has lost to this one.
    Adopt {
        from: ShardId,
        rooms: Vec<HandedRoom>,
    },
    /// Tasks have written the delayed connections of the flush queue.
    Written,
    /// An event of the store.
    Store(Event),
}

/// A version that all shards of a plugin prepare, and then activate together or not at all.
pub(crate) struct SwapPreparation {
    pub version: CompiledVersion,
    /// The shard is ready, or the version cannot run on it. Then it does nothing else until it is told the
    /// decision.
    pub prepared: oneshot::Sender<Result<(), Refusal>>,
    /// To activate the version. The shard tells when it has. The version is not activated if there is no answer.
    pub commit: oneshot::Receiver<oneshot::Sender<()>>,
}

/// A change of the owners of rooms.
pub(crate) struct Handover {
    pub previous: Arc<Owners>,
    pub next: Arc<Owners>,
    /// The shards that may lose rooms. Each of them sends [`ShardCommand::Adopt`] to all others, perhaps without
    /// rooms.
    pub sources: BTreeSet<ShardId>,
}

/// An open room that is handed over, with its members.
pub(crate) struct HandedRoom {
    pub name: RoomName,
    pub room: Box<Room>,
    pub charge: MemoryCharge,
}

/// A request that may call the plugin. In a governed shard, principals take turns with these.
pub(crate) enum PolicyRequest {
    Join {
        request: JoinRequest,
        /// See [`JoinReceiver`].
        is_granted: Option<Arc<AtomicBool>>,
        canonical: Option<CanonicalRoom>,
        /// Its place among the questions about its principal, if a plugin governs the room.
        turn: Option<Turn>,
        reply: oneshot::Sender<Result<JoinAnswer, Refusal>>,
    },
    /// Asks whether a message may be published, and to which room.
    Check {
        message: UncheckedMessage,
        canonical: Option<CanonicalRoom>,
        reply: oneshot::Sender<Result<CheckedMessage, Refusal>>,
    },
    /// Asks which messages of the history pass a member's filter.
    FilterHistory(HistoryFilterRequest),
}

/// The canonical name of a room, as its plugin gave it.
pub(crate) struct CanonicalRoom {
    pub name: RoomName,
    /// The plugin's slot.
    pub slot: SlotId,
    /// Which version of the plugin; see [`GovernorGroup::generation`](switchyard_plugin::GovernorGroup::generation).
    pub generation: u64,
}

impl PolicyRequest {
    /// The name of the room that decides which shard answers: the canonical name if it is known, and otherwise
    /// that which the client wrote.
    pub(super) fn room(&self) -> &RoomName {
        match self {
            Self::Join { canonical: Some(canonical), .. }
            | Self::Check { canonical: Some(canonical), .. } => &canonical.name,
            Self::Join { request, .. } => &request.room,
            Self::Check { message, .. } => &message.room,
            Self::FilterHistory(request) => &request.room,
        }
    }

    pub(super) fn canonical(&mut self) -> Option<&mut Option<CanonicalRoom>> {
        match self {
            Self::Join { canonical, .. } | Self::Check { canonical, .. } => Some(canonical),
            Self::FilterHistory(_) => None,
        }
    }

    pub(super) fn set_turn(&mut self, new: Option<Turn>) {
        if let Self::Join { turn, .. } = self {
            *turn = new;
        }
    }

    pub(super) fn take_turn(&mut self) -> Option<Turn> {
        match self {
            Self::Join { turn, .. } => turn.take(),
            Self::Check { .. } | Self::FilterHistory(_) => None,
        }
    }

    /// Refuses what was requested.
    pub(super) fn refuse(self, refusal: Refusal) {
        match self {
            Self::Join { reply, .. } => drop(reply.send(Err(refusal))),
            Self::Check { reply, .. } => drop(reply.send(Err(refusal))),
            Self::FilterHistory(request) => drop(request.reply.send(FilteredHistory::failed())),
        }
    }

    /// Whether nobody waits for the reply any more.
    pub(super) fn is_abandoned(&self) -> bool {
        match self {
            Self::Join { reply, .. } => reply.is_closed(),
            Self::Check { reply, .. } => reply.is_closed(),
            Self::FilterHistory(request) => request.reply.is_closed(),
        }
    }
}

/// A member that had to leave a room.
pub(crate) struct RemovedSeat {
    pub room: RoomName,
    pub seat: SeatId,
    pub reason: Refusal,
}

/// Identifies a connection's membership in a room. A later membership of the same connection has another
/// number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SeatId {
    pub connection: ConnectionId,
    pub serial: u64,
}

/// A request of a connection for a seat in a room.
pub(crate) struct JoinRequest {
    pub room: RoomName,
    pub connection: Arc<Connection>,
    /// A JSON object, as the client wrote it.
    pub filter: Option<Arc<str>>,
    pub since: Option<Position>,
    /// Buffer messages until the member finishes catching up. Set if the member may still have to leave
    /// without having been sent anything.
    pub buffer: bool,
    /// If the connection is a member already, reply with an offer: nothing changes until it is accepted.
    pub offer: bool,
}

/// Receives the reply to a [`JoinRequest`].
pub(crate) struct JoinReceiver {
    pub(super) reply: oneshot::Receiver<Result<JoinAnswer, Refusal>>,
    /// Present if a plugin governs the room. Set once it has granted the join.
    pub(super) is_granted: Option<Arc<AtomicBool>>,
}

impl JoinReceiver {
    /// Waits for the reply. If there is none at `until`, returns who has not answered.
    pub(crate) async fn receive(self, until: Option<Instant>) -> Result<JoinAnswer, Refusal> {
        let Self { reply, is_granted } = self;
        let reply = async { reply.await.unwrap_or_else(|_| Err(stopping())) };
        let Some(until) = until else { return reply.await };
        timeout_at(until, reply).await.unwrap_or_else(|_| {
            Err(match is_granted.is_some_and(|is_granted| !is_granted.load(Ordering::Relaxed)) {
                true => plugin_overloaded(),
                false => store_unavailable(),
            })
        })
    }
}

/// The refusal if a plugin does not answer in time, because its queue is too long or its calls are too slow.
fn plugin_overloaded() -> Refusal {
    let message = "the room's plugin is overloaded and did not answer in time; try again";
    Refusal::retry(ErrorCode::Overloaded, message, 1000)
}

/// The reply to a [`JoinRequest`].
#[derive(Debug)]
pub(crate) enum JoinAnswer {
    Joined(Joined),
    Offered(Offer),
}

/// Another filter for a member of a room. Dropping it declines the offer.
#[derive(Debug)]
pub(crate) struct Offer {
    pub room: RoomName,
    /// The room's newest position when the offer was made.
    pub position: Position,
    filter: Option<FilterId>,
    filter_text: Option<Arc<str>>,
    principal: Arc<str>,
    queue: Option<ShardQueue>,
}

impl Offer {
    pub(crate) fn new(
        room: RoomName,
        position: Position,
        (filter, filter_text): (Option<FilterId>, Option<Arc<str>>),
        principal: Arc<str>,
        queue: ShardQueue,
    ) -> Self {
        Self { room, position, filter, filter_text, principal, queue: Some(queue) }
    }

    /// Accepts the offer. From here on, messages are buffered until the member finishes catching up, so that
    /// the client can be told first. `None` if the room was handed over to another shard in the meantime, or
    /// the node is stopping.
    pub(crate) async fn accept(
        mut self,
        connection: Arc<Connection>,
        since: Option<Position>,
    ) -> Option<Joined> {
        let queue = self.queue.take()?;
        let (reply, joined) = oneshot::channel();
        let (room, filter, filter_text) = (self.room.clone(), self.filter.take(), self.filter_text.take());
        queue.send(ShardCommand::Accept { room, connection, filter, filter_text, since, reply }).ok()?;
        joined.await.ok()
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        if let (Some(queue), Some(filter)) = (self.queue.take(), self.filter.take()) {
            queue.send(ShardCommand::Decline { filter, principal: self.principal.clone() }).ok();
        }
    }
}

/// A seat that was taken.
#[derive(Debug)]
pub(crate) struct Joined {
    pub seat: Seat,
    /// The newest position of the room when the seat was taken.
    pub position: Position,
    pub recovery: Recovery,
    /// How far the member has got, if it has to catch up. Messages are buffered for it meanwhile.
    pub progress: Option<Progress>,
}

/// What a member has missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Recovery {
    /// The client did not ask to recover from a position.
    NotAsked,
    /// The member has missed nothing.
    Complete,
    /// The messages after this position must be replayed, if the log still has them. The position may be
    /// ahead of the room on this node, or of an epoch that this node does not know yet.
    After(Position),
}

/// Asks which messages of a room's history pass the filter of a member.
pub(crate) struct HistoryFilterRequest {
    pub room: RoomName,
    pub seat: SeatId,
    /// The messages that have not been evaluated yet.
    pub messages: VecDeque<Arc<Publication>>,
    /// The result for the messages that have been evaluated.
    pub filtered: FilteredHistory,
    pub reply: oneshot::Sender<FilteredHistory>,
}

/// The reply to a [`HistoryFilterRequest`].
#[derive(Default)]
pub(crate) struct FilteredHistory {
    pub passed: Vec<Arc<Publication>>,
    /// The plugin failed for some messages, which are lost to the member.
    pub lost: bool,
    /// Nothing could be evaluated, because the seat is gone or no plugin is active.
    pub failed: bool,
}

impl FilteredHistory {
    pub(crate) fn failed() -> Self {
        Self { failed: true, ..Self::default() }
    }
}

/// The reply to [`ShardCommand::FinishCatchUp`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CatchUpOutcome {
    /// The member is live.
    Live,
    /// The buffer overflowed: replay up to this position, in the epoch of the replay, and ask again.
    Behind { upto: Position },
    /// The room changed its epoch: ask the log whether the member's epoch is the current one.
    EpochChanged,
    /// The seat is gone.
    Gone,
}

/// Why an acknowledgement is rejected.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AckError {
    /// The message was not sent yet, or the member has left.
    Unsent,
    /// It names another epoch than this one, the last that the member was told.
    OtherEpoch(Arc<str>),
    /// It names no epoch, and the member may not know yet that the room is in this one.
    UnconfirmedEpoch(Arc<str>),
}

/// A connection's membership in a room. Dropping it leaves the room.
pub(crate) struct Seat {
    pub room: RoomName,
    pub id: SeatId,
    router: Option<Arc<Router>>,
}

impl Seat {
    pub(super) fn new(room: RoomName, id: SeatId, router: Arc<Router>) -> Self {
        Self { room, id, router: Some(router) }
    }

    /// Leaves the room. When this returns, the room enqueues nothing more. The caller must have stopped any
    /// replay.
    pub(crate) async fn leave(mut self) {
        let Some(router) = self.router.take() else { return };
        let (reply, left) = oneshot::channel();
        let command = ShardCommand::Leave { room: self.room.clone(), seat: self.id, reply: Some(reply) };
        router.send(&self.room, command);
        left.await.ok();
    }
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seat").field("room", &self.room).field("id", &self.id).finish_non_exhaustive()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(router) = self.router.take() {
            let command = ShardCommand::Leave { room: self.room.clone(), seat: self.id, reply: None };
            router.send(&self.room, command);
        }
    }
}
