//! The hub finds a room's shard and is the only way to it: for joining, publishing and reading history. Knows no frames
//! and no sockets.

mod allowances;
mod catch_up;
mod command;
mod connect_authorizer;
mod connections;
mod entry;
mod fair_semaphore;
mod flush;
mod grant;
mod pings;
mod policy;
mod publish_pipeline;
mod quotas;
mod recent_publishers;
mod refusals;
mod replay;
pub(crate) mod room;
mod room_usage;
mod routes;
mod sessions;
mod shard;
mod slots;
mod start;

pub(crate) use command::{AckError, JoinAnswer, JoinRequest, Joined, Offer, Recovery, Seat};
pub(crate) use connections::{
    CONNECTION_BYTES, Connection, Connections, Registration, close_for_key, connection_limit_reached,
};
pub(crate) use pings::Confirmation;
pub(crate) use policy::{Policy, Ungoverned};
pub(crate) use publish_pipeline::{Proposal, PublishPipeline, Published};
pub(crate) use replay::{Recovered, Replay, ReplayTurns};
pub(crate) use slots::{CompiledVersion, SlotConfig};
pub(crate) use start::HubConfig;
pub(crate) use switchyard_store::Permit;

use crate::{key::Keys, metrics::Metrics};
use allowances::Allowances;
use command::{Command, Question, Queue, SeatId, Sieved, Sieving};
use connect_authorizer::ConnectAuthorizer;
use fair_semaphore::{FairPermit, FairSemaphore};
use routes::Routes;
use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::Instant,
};
use switchyard_plugin::{ConnectRequest, Limits};
use switchyard_process::{
    memory::{MemoryAccount, MemoryShare},
    vital::VitalTasks,
};
use switchyard_protocol::{ErrorCode, Position, Publication, Refusal, reply, room::RoomName};
use switchyard_store::{History, PageLimit, Reader, Store, Unavailable};
use tokio::sync::oneshot;

/// Messages that may wait for one shard. A shard handles well over 100,000 a second, so only a plugin that is too slow for
/// its rooms lets so many wait.
const BACKLOG: usize = 4096;

/// Audience of all principals at a time. With pages of 256 KiB that is a megabyte, which a publish waits for at most.
const READS: usize = 4;
/// A request that names more rooms than this waits until it is its principal's turn.
const FEW: usize = 32;

/// Read of a room's history at once, to be sent to a member.
const PAGE: PageLimit = PageLimit { messages: 256, bytes: 256 << 10 };

pub(crate) struct Hub {
    pub store: Store,
    pub connections: Arc<Connections>,
    pub metrics: Metrics,
    /// What this node keeps, and how much it may.
    pub memory: Arc<MemoryAccount>,
    /// What this node cannot live without.
    pub vitals: VitalTasks,
    ungoverned: Ungoverned,
    connect_authorizer: ConnectAuthorizer,
    allowances: Allowances,
    routes: Arc<Routes>,
    /// Audience of histories.
    reads: FairSemaphore,
    /// Requests that name many rooms.
    lists: FairSemaphore,
    shards: Vec<Handle>,
}

/// A shard's answer to a join.
pub(crate) type Answer = oneshot::Receiver<Result<JoinAnswer, Refusal>>;

/// On whose behalf a message is published.
pub(crate) struct Publisher<'a> {
    /// All keys: an inbox exists if its principal has one.
    pub keys: Arc<Keys>,
    pub share: &'a Arc<MemoryShare>,
    pub tier: &'a Arc<str>,
}

struct Handle {
    queue: Queue,
    backlog: Arc<AtomicUsize>,
}

/// What the system has no thread for now may be done later.
pub(crate) fn no_thread(whose: &str, error: impl std::fmt::Display) -> Refusal {
    Refusal::retry(ErrorCode::Overloaded, format!("the thread {whose} cannot be started: {error}"), 1000)
}

impl Hub {
    /// The name of the plugin that governs a room.
    pub(crate) fn governor(&self, room: &RoomName) -> Option<&str> {
        self.routes.governor(room)
    }

    /// Asks for a seat in a room. When this returns, the question is in the shard's queue.
    pub(crate) fn join(&self, request: JoinRequest) -> Answer {
        let (reply, joined) = oneshot::channel();
        let shard = &self.shards[self.routes.shard(&request.room)];
        shard.queue.send(Command::Question(Question::Join { request, reply })).ok();
        joined
    }

    /// Whether this node and the store may keep more for a principal.
    pub(crate) fn may_grow(&self, share: &MemoryShare) -> bool {
        self.store.broker.has_capacity_for(share) && share.may_grow()
    }

    /// Sets the limits that plugins gave to a principal's newest connection.
    pub(crate) fn allow(&self, who: &Arc<str>, limits: &Limits) {
        self.allowances.grant(who, limits, Instant::now());
    }

    /// Asks the plugins that want to be asked of every connection; what they narrow holds together.
    pub(crate) async fn admit(&self, connecting: ConnectRequest) -> Result<Limits, Refusal> {
        self.connect_authorizer.authorize(connecting).await
    }

    /// Records for the connection's session that everything up to an offset is handled, if that was sent to the seat.
    pub(crate) async fn acknowledge(
        &self,
        connection: &Connection,
        seat: &Seat,
        epoch: Option<Arc<str>>,
        offset: u64,
    ) -> Result<(), AckError> {
        let (reply, answer) = oneshot::channel();
        let (room, id) = (seat.room.clone(), seat.id);
        let command = Command::Acknowledge { room, seat: id, epoch, offset, reply };
        self.shards[seat.shard].queue.send(command).ok();
        let position = answer.await.unwrap_or(Err(AckError::Unsent))?;
        self.store.sessions.acknowledge(connection.hold(), &seat.room, &position);
        Ok(())
    }

    async fn sieve(
        &self,
        shard: usize,
        room: &RoomName,
        seat: SeatId,
        messages: Vec<Arc<Publication>>,
    ) -> Sieved {
        let (reply, sieved) = oneshot::channel();
        let sieving =
            Sieving { room: room.clone(), seat, messages: messages.into(), sieved: Sieved::default(), reply };
        self.shards[shard].queue.send(Command::Question(Question::Sieve(sieving))).ok();
        sieved.await.unwrap_or_else(|_| Sieved::failed())
    }

    /// A page of history as the member may see it. If its filter excludes messages, more are read, so that a page is short
    /// only at the end of the history.
    pub(crate) async fn history(
        &self,
        principal: &Arc<str>,
        seat: &Seat,
        since: Option<&Position>,
        limit: PageLimit,
    ) -> Result<reply::HistoryReply, Refusal> {
        let is_governed = self.routes.governor(&seat.room).is_some();
        let page = if is_governed { PAGE } else { limit };
        let (mut seen, mut bytes, mut after, mut recovered) = (vec![], 0, since.cloned(), None);
        loop {
            let history = self
                .read(principal, &seat.room, after.as_ref(), page, Reader::Member)
                .await
                .map_err(unavailable)?;
            let History { newest: Position { epoch, .. }, messages, mut more, whole, .. } = history;
            recovered = recovered.or(since.map(|_| whole));
            let last = messages.last().map(|message| message.offset).filter(|_| is_governed && more);
            let (messages, lost) = match is_governed {
                true => self.visible(seat, messages).await?,
                false => (messages, false),
            };
            if lost {
                recovered = Some(false);
            }
            let mut is_full = false;
            for message in messages {
                bytes += message.frame().len();
                is_full = seen.len() == limit.messages || (bytes > limit.bytes && !seen.is_empty());
                if is_full {
                    more = true;
                    break;
                }
                seen.push(message);
            }
            match last.filter(|_| !is_full && seen.len() < limit.messages) {
                Some(offset) => after = Some(Position { epoch, offset }),
                None => {
                    let room = seat.room.shared();
                    return Ok(reply::HistoryReply { room, epoch, messages: seen, more, recovered });
                }
            }
        }
    }

    /// The messages that pass the member's filter, and whether some are lost because the plugin failed.
    async fn visible(
        &self,
        seat: &Seat,
        messages: Vec<Arc<Publication>>,
    ) -> Result<(Vec<Arc<Publication>>, bool), Refusal> {
        let sieved = self.sieve(seat.shard, &seat.room, seat.id, messages).await;
        if sieved.failed {
            let message =
                format!("the filter of room '{}' could not be evaluated; try again later", &*seat.room);
            return Err(Refusal::new(ErrorCode::PluginFailed, message));
        }
        Ok((sieved.passed, sieved.lost))
    }

    /// Waits until the principal may continue with a request that names so many rooms.
    pub(crate) async fn turn_of_list<'a>(
        &'a self,
        principal: &'a Arc<str>,
        rooms: usize,
    ) -> Option<FairPermit<'a>> {
        match rooms > FEW {
            true => Some(self.lists.acquire(principal).await),
            false => None,
        }
    }

    /// Reads a page of a room's history when it is the principal's turn.
    pub(crate) async fn read(
        &self,
        principal: &Arc<str>,
        room: &RoomName,
        after: Option<&Position>,
        limit: PageLimit,
        reader: Reader,
    ) -> Result<History, Unavailable> {
        let _turn = self.reads.acquire(principal).await;
        self.store.broker.history(room, after, limit, reader).await
    }
}

/// The refusal that a client gets if the store fails.
pub(crate) fn unavailable(error: Unavailable) -> Refusal {
    tracing::debug!(%error, "the store did not answer");
    if error.is_full() {
        return Refusal::retry(ErrorCode::Overloaded, "the store has no memory left; try again later", 1000);
    }
    store_is_away()
}

pub(crate) fn store_is_away() -> Refusal {
    Refusal::retry(ErrorCode::StoreUnavailable, "the store does not answer; try again", 1000)
}

/// The node or the store keeps nearly as much as it may, and of that so much for the principal that it keeps no more for it.
pub(crate) fn full(what: &str) -> Refusal {
    let message = format!(
        "memory is short, and much of it holds what is this principal's: no new {what} of it are taken; try again later"
    );
    Refusal::retry(ErrorCode::Overloaded, message, 1000)
}

pub(crate) fn stopping() -> Refusal {
    Refusal::retry(ErrorCode::Overloaded, "this node is stopping; connect again", 1000)
}

/// The request conflicts with the state of a plugin.
pub(crate) fn conflict(message: String) -> Refusal {
    Refusal::new(ErrorCode::Conflict, message)
}
