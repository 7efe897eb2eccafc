//! The entry point to rooms: finds the shard of a room, and joins, publishes and reads history through it.
//! Knows no frames and no sockets.

mod allowances;
mod catch_up;
mod command;
mod connect_authorizer;
mod connections;
mod denials;
mod fair_semaphore;
mod flush;
mod governance_gate;
mod governed_rooms;
mod observers;
mod paced_reads;
mod pings;
mod places;
mod policy;
mod publish_limiter;
mod publish_pipeline;
mod quotas;
mod refusals;
mod removals;
mod replay;
pub(crate) mod room;
mod room_entry;
mod room_policies;
mod room_policy;
mod room_rates;
mod room_usage;
mod router;
mod sessions;
mod shard;
mod slots;
mod start;
mod survey;
mod token_expirations;

pub(crate) use command::{
    AckError, JoinAnswer, JoinReceiver, JoinRequest, Joined, Offer, Recovery, RemovedSeat, Seat,
};
pub(crate) use connections::{
    CONNECTION_BYTES, Connection, Connections, Registration, close_for_drain, close_for_key,
    connection_limit_reached,
};
pub(crate) use denials::{DenialRefresh, EnforcedDenials};
pub(crate) use observers::Observer;
pub(crate) use paced_reads::charge_read;
pub(crate) use pings::Confirmation;
pub(crate) use policy::{Policy, Ungoverned};
pub(crate) use publish_pipeline::{Proposal, PublishOutcome, PublishPipeline};
pub(crate) use replay::{Recovered, Replay, ReplayTurns};
pub(crate) use room_policies::RoomPolicies;
pub use room_policy::RoomPolicyView;
pub(crate) use room_policy::{HistoryOverrides, MAX_ROOM_ENTRIES, MembersAccess, RoomConfig, RoomPolicy};
pub(crate) use router::SlotId;
pub(crate) use slots::{CompiledVersion, SlotRooms};
pub(crate) use start::HubConfig;
pub(crate) use survey::{RoomSelector, Survey, SurveyJudge, SurveyedMember};
pub(crate) use switchyard_store::Permit;

use crate::{
    audit::Audit,
    key::{Key, Keys},
    limits::Budget,
    metrics::Metrics,
};
use allowances::Allowances;
use arc_swap::ArcSwap;
use command::{FilteredHistory, HistoryFilterRequest, PolicyRequest, SeatId, ShardCommand};
use connect_authorizer::ConnectAuthorizer;
use fair_semaphore::{FairPermit, FairSemaphore};
use governance_gate::GovernanceGate;
use observers::Observers;
use router::Router;
use shard::Shard;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::Instant,
};
use switchyard_plugin::{Limits, Via};
use switchyard_process::{
    memory::{MemoryAccount, MemoryKind, MemoryShare},
    vital::VitalTasks,
};
use switchyard_protocol::{ErrorCode, Position, Publication, Refusal, reply, room::RoomName};
use switchyard_store::{History, PageLimit, Reader, Store, Unavailable};
use tokio::sync::oneshot;

/// Maximum number of messages that wait for one shard. A shard handles well over 100,000 a second, so the
/// limit is reached only if a plugin is too slow for its rooms.
const MAX_SHARD_BACKLOG: usize = 4096;

/// Maximum number of history pages that are read at a time, for all principals together. With pages of 256
/// KiB this is 1 MiB, the most that a publish has to wait for.
const MAX_CONCURRENT_HISTORY_READS: usize = 4;
/// Maximum number of rooms in a request that runs at once. A request with more rooms waits for its
/// principal's turn.
const MAX_UNQUEUED_ROOMS: usize = 32;

/// The page size for reading history that is sent to a member.
const HISTORY_PAGE: PageLimit = PageLimit { messages: 256, bytes: 256 << 10 };

/// The rooms of this node, and what they share.
pub(crate) struct Hub {
    pub store: Store,
    pub connections: Arc<Connections>,
    /// Who is banned, and which tokens are revoked.
    pub denials: EnforcedDenials,
    pub metrics: Metrics,
    pub audit: Audit,
    /// How much memory this node uses and may use for clients.
    pub memory: Arc<MemoryAccount>,
    /// The tasks whose failure stops the node.
    pub vitals: VitalTasks,
    /// What holds in which rooms.
    pub policies: Arc<RoomPolicies>,
    ungoverned: Ungoverned,
    /// Maximum size of the data of a message, in bytes.
    message_bytes: usize,
    /// Maximum number of shards of one plugin.
    cores: usize,
    /// For how many shards each slot has reserved instances of its plugin.
    instances: Mutex<BTreeMap<SlotId, usize>>,
    connect_authorizer: ConnectAuthorizer,
    observers: Arc<Observers>,
    allowances: Allowances,
    router: Arc<Router>,
    /// Whether it is known which plugin governs which rooms.
    gate: Arc<GovernanceGate>,
    /// Held while rooms are handed over to other shards.
    handovers: tokio::sync::Mutex<()>,
    /// Limits concurrent reads of history.
    history_reads: FairSemaphore,
    /// Limits concurrent requests that name many rooms.
    long_requests: FairSemaphore,
    /// Limits concurrent questions to plugins about takeovers.
    takeovers: FairSemaphore,
}

/// The principal on whose behalf a message is published.
pub(crate) struct Publisher<'a> {
    /// All valid keys. An inbox exists if its principal has a key.
    pub keys: Arc<ArcSwap<Keys>>,
    pub share: &'a Arc<MemoryShare>,
    pub key: Arc<Key>,
    pub via: Via,
}

/// The refusal if the system cannot start a thread. `purpose` follows "the thread".
pub(crate) fn cannot_start_thread(purpose: &str, error: impl std::fmt::Display) -> Refusal {
    Refusal::retry(
        ErrorCode::Overloaded,
        format!("the thread {purpose} cannot be started: {error}; try again later"),
        1000,
    )
}

impl Hub {
    /// The name of the plugin that governs a room.
    pub(crate) fn governor(&self, room: &RoomName) -> Option<Arc<str>> {
        self.router.governed(room).map(|governed| governed.name.clone())
    }

    fn is_governed(&self, room: &RoomName) -> bool {
        self.router.governed(room).is_some()
    }

    /// Requests a seat in a room. When this returns, the request is in the shard's queue.
    pub(crate) fn join(&self, request: JoinRequest) -> JoinReceiver {
        let (reply, joined) = oneshot::channel();
        let governed = self.router.governed(&request.room);
        let is_granted: Option<Arc<AtomicBool>> = governed.is_some().then(Arc::default);
        let turn = governed.map(|governed| governed.take_turn(&request.connection.principal));
        let receiver = JoinReceiver { reply: joined, is_granted: is_granted.clone() };
        self.router.forward(PolicyRequest::Join { request, is_granted, canonical: None, turn, reply });
        receiver
    }

    /// Whether this node and the store have memory for more data of a principal.
    pub(crate) fn may_grow(&self, share: &MemoryShare) -> bool {
        self.store.broker.has_capacity_for(share) && share.may_grow()
    }

    /// Refuses a message that would be kept on this node, if the tier allows its principal to keep no more.
    pub(crate) fn check_tier_memory(
        &self,
        budget: &Budget,
        key: &Key,
        share: &MemoryShare,
    ) -> Result<(), Refusal> {
        // Another store keeps messages elsewhere.
        if self.store.remote.is_some() { Ok(()) } else { budget.check_memory(key, share) }
    }

    /// Sets the limits that plugins gave to the latest connection of a principal.
    pub(crate) fn set_principal_limits(&self, principal: &Arc<str>, limits: &Limits) {
        self.allowances.set_limits(principal, limits, Instant::now());
    }

    /// Records in the session that the client has handled all messages up to an offset. Fails if they were
    /// not sent to the seat.
    pub(crate) async fn acknowledge(
        &self,
        connection: &Connection,
        seat: &Seat,
        epoch: Option<Arc<str>>,
        offset: u64,
    ) -> Result<(), AckError> {
        let (reply, answer) = oneshot::channel();
        let (room, id) = (seat.room.clone(), seat.id);
        let command = ShardCommand::Acknowledge { room, seat: id, epoch, offset, reply };
        self.router.send(&seat.room, command);
        let position = answer.await.unwrap_or(Err(AckError::Unsent))?;
        self.store.sessions.acknowledge(connection.session_handle(), &seat.room, &position);
        Ok(())
    }

    /// Asks the shard which of these messages pass the filter of a seat.
    async fn filter_history(
        &self,
        room: &RoomName,
        seat: SeatId,
        messages: Vec<Arc<Publication>>,
    ) -> FilteredHistory {
        let (reply, filtered) = oneshot::channel();
        let request = HistoryFilterRequest {
            room: room.clone(),
            seat,
            messages: messages.into(),
            filtered: FilteredHistory::default(),
            reply,
        };
        self.router.send(room, ShardCommand::Request(PolicyRequest::FilterHistory(request)));
        filtered.await.unwrap_or_else(|_| FilteredHistory::failed())
    }

    /// Reads a page of history, without the messages that the member's filter excludes. More are read in
    /// their place, so a page is short only at the end of the history.
    pub(crate) async fn history(
        &self,
        connection: &Connection,
        seat: &Seat,
        since: Option<&Position>,
        limit: PageLimit,
    ) -> Result<reply::HistoryReply, Refusal> {
        let (mut seen, mut bytes, mut after, mut recovered) = (vec![], 0, since.cloned(), None);
        loop {
            let page = if self.is_governed(&seat.room) { HISTORY_PAGE } else { limit };
            let history = self
                .read(&connection.principal, &seat.room, after.as_ref(), page, Reader::Member)
                .await
                .map_err(unavailable)?;
            connection.charge_read(&history);
            let History { newest: Position { epoch, .. }, messages, mut more, whole, .. } = history;
            recovered = recovered.or(since.map(|_| whole));
            // A plugin may have taken the room over in the meantime.
            let is_governed = self.is_governed(&seat.room);
            let last = messages.last().map(|message| message.offset).filter(|_| is_governed && more);
            let (messages, lost) = match is_governed {
                true => self.filter_for_member(seat, messages).await?,
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
                Some(offset) => {
                    after = Some(Position { epoch, offset });
                    connection.wait_for_history().await?;
                }
                None => {
                    let room = seat.room.shared();
                    return Ok(reply::HistoryReply { room, epoch, messages: seen, more, recovered });
                }
            }
        }
    }

    /// Returns the messages that pass the member's filter, and whether some are lost because the plugin failed.
    async fn filter_for_member(
        &self,
        seat: &Seat,
        messages: Vec<Arc<Publication>>,
    ) -> Result<(Vec<Arc<Publication>>, bool), Refusal> {
        let filtered = self.filter_history(&seat.room, seat.id, messages).await;
        if filtered.failed {
            let message =
                format!("the filter of room '{}' could not be evaluated; try again later", &*seat.room);
            return Err(Refusal::new(ErrorCode::PluginFailed, message));
        }
        Ok((filtered.passed, filtered.lost))
    }

    /// Waits until the principal may continue with a request that names this many rooms. Only a long request
    /// gets a permit.
    pub(crate) async fn acquire_long_request<'a>(
        &'a self,
        principal: &'a Arc<str>,
        rooms: usize,
    ) -> Option<FairPermit<'a>> {
        match rooms > MAX_UNQUEUED_ROOMS {
            true => Some(self.long_requests.acquire(principal).await),
            false => None,
        }
    }

    /// Waits for the principal's turn, and reads a page of a room's history.
    pub(crate) async fn read(
        &self,
        principal: &Arc<str>,
        room: &RoomName,
        after: Option<&Position>,
        limit: PageLimit,
        reader: Reader,
    ) -> Result<History, Unavailable> {
        let _permit = self.history_reads.acquire(principal).await;
        let mut history = self.store.broker.history(room, after, limit, reader).await?;
        self.policies.hide_senders(room, &mut history.messages, |message| {
            let charge = self.memory.charge(MemoryKind::Replays, message.size());
            message.with_guard(charge)
        });
        // It may be newer than what this node knows about the room.
        self.gate.opened().await;
        Ok(history)
    }
}

/// The refusal for an error of the store.
pub(crate) fn unavailable(error: Unavailable) -> Refusal {
    tracing::debug!(%error, "the store did not answer");
    if error.is_full() {
        return Refusal::retry(ErrorCode::Overloaded, "the store has no memory left; try again later", 1000);
    }
    store_unavailable()
}

/// The refusal if the store does not answer.
pub(crate) fn store_unavailable() -> Refusal {
    Refusal::retry(ErrorCode::StoreUnavailable, "the store does not answer; try again", 1000)
}

/// The refusal if memory is short and the principal uses much of it. `what` is what it asked for, such as
/// `messages`.
pub(crate) fn memory_exhausted(what: &str) -> Refusal {
    let message = format!(
        "memory is short and this principal uses much of it: no new {what} are accepted; try again later"
    );
    Refusal::retry(ErrorCode::Overloaded, message, 1000)
}

/// The refusal for requests to a node that is stopping.
pub(crate) fn stopping() -> Refusal {
    Refusal::retry(ErrorCode::Overloaded, "this node is stopping; connect again", 1000)
}

/// The refusal of a request that conflicts with the state of a plugin.
pub(crate) fn conflict(message: String) -> Refusal {
    Refusal::new(ErrorCode::Conflict, message)
}

#[cfg(test)]
pub(crate) mod tests;
