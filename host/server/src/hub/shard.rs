//! A shard owns its rooms. Only the task or the thread that runs it touches them, so they need no lock, and the order of
//! a room is the order of the shard's queue. It waits neither for a socket nor for the store: only for its plugin and,
//! while the version changes, for the other shards of its plugin.

mod arrivals;
mod check;
mod filter_limit;
mod filter_texts;
mod governed;
mod handover;
mod membership;
mod routing;
mod swap;
#[cfg(test)]
mod tests;
mod thread;

use super::{
    command::*,
    flush::FlushQueue,
    governed_rooms::GovernedRooms,
    observers::Observers,
    policy::Policy,
    room::{Delivered, NewSeat, Room, Verdicts},
    room_entry::{RoomEntry, SeatRequest, WaitingJoin},
    room_policies::RoomPolicies,
    router::{Router, ShardId},
};
use crate::metrics::Metrics;
use arrivals::Arrivals;
use filter_texts::FilterTexts;
use std::time::{Duration, Instant};
use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};
use swap::PreparedSwap;
use switchyard_plugin::{Audience, Counts, FilterId, FilterResults};
use switchyard_process::memory::MemoryKind;
use switchyard_protocol::{Position, Publication, Refusal, room::RoomName};
use switchyard_store::{Event, Store};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout_at,
};

/// How many commands are taken from the queue at once: enough to share a wake-up, few enough to stay fair to
/// other tasks.
const COMMAND_BATCH_SIZE: usize = 64;

/// Some of the rooms of one plugin, or some of the rooms without a plugin.
pub(super) struct Shard {
    pub(super) id: ShardId,
    /// The shard's own queue. Weak, so that the shard ends when the router does not use it any more.
    pub(super) queue: mpsc::WeakUnboundedSender<ShardCommand>,
    pub(super) policy: Policy,
    /// What it shares with the other shards of its plugin. `None` for rooms without a plugin.
    pub(super) governed: Option<Arc<GovernedRooms>>,
    /// Weak, so that the shard ends with the hub.
    pub(super) router: Weak<Router>,
    pub(super) store: Store,
    pub(super) metrics: Metrics,
    pub(super) policies: Arc<RoomPolicies>,
    pub(super) observers: Arc<Observers>,
    /// Number of messages that wait for this shard.
    pub(super) backlog: Arc<AtomicUsize>,
    /// Maximum size of the data of a message, in bytes.
    pub(super) message_bytes: usize,
    pub(super) rooms: HashMap<RoomName, RoomEntry>,
    /// Reused for each message.
    pub(super) scratch: Scratch,
    pub(super) flush: FlushQueue,
    pub(super) filter_texts: FilterTexts,
    pub(super) arrivals: Arrivals,
    /// Set while it waits for a decision.
    pub(super) prepared_swap: Option<PreparedSwap>,
    /// Whether it has a thread on which it can call a plugin.
    pub(super) has_thread: bool,
}

/// Buffers for the evaluation of filters.
#[derive(Default)]
pub(super) struct Scratch {
    filters: Vec<FilterId>,
    results: FilterResults,
}

impl Shard {
    /// Runs a shard of rooms without a plugin.
    pub(super) async fn run_in_order(mut self, mut commands: mpsc::UnboundedReceiver<ShardCommand>) {
        let mut batch = Vec::with_capacity(COMMAND_BATCH_SIZE);
        while self.receive(&mut commands, &mut batch).await {
            batch.drain(..).for_each(|command| self.handle_in_order(command));
            self.flush.write(Instant::now(), &self.queue);
            tokio::task::yield_now().await;
        }
        self.flush.write_all();
    }

    /// Waits for commands, or until outboxes have to be written. Returns `false` when the shard ends.
    async fn receive(
        &mut self,
        commands: &mut mpsc::UnboundedReceiver<ShardCommand>,
        batch: &mut Vec<ShardCommand>,
    ) -> bool {
        let received = commands.recv_many(batch, COMMAND_BATCH_SIZE);
        match self.flush.due() {
            None => received.await > 0,
            Some(due) => timeout_at(due.into(), received).await != Ok(0),
        }
    }

    /// Handles a command, and then what had to wait for it.
    pub(super) fn handle_in_order(&mut self, command: ShardCommand) {
        self.handle(command);
        while let Some(command) = self.arrivals.next_released() {
            self.handle(command);
        }
    }

    /// Handles a command. If it is about a room that another shard has not handed over yet, it is handled after
    /// that.
    fn handle(&mut self, command: ShardCommand) {
        let Some(command) = self.arrivals.defer(command) else { return };
        match command {
            ShardCommand::Store(Event::Published(message)) => {
                self.backlog.fetch_sub(1, Ordering::Relaxed);
                self.deliver(&message);
            }
            ShardCommand::Store(Event::Subscribed { room, position }) => self.open(&room, position),
            ShardCommand::Store(Event::SubscribeFailed { room }) => self.refuse_waiting(&room),
            ShardCommand::Store(Event::Lost { room, position }) => {
                if let Some(room) = self.open_room(&room) {
                    let told = room.skip_to(position);
                    self.metrics.gaps.inc_by(told);
                }
            }
            ShardCommand::Store(Event::TakenOver(_) | Event::Probe(_) | Event::Reconnected) => {}
            ShardCommand::Request(request) => drop(self.answer(request, None)),
            ShardCommand::Accept { room, connection, filter, filter_text, since, reply } => {
                let request = SeatRequest { room, connection, filter, filter_text, since, buffer: true };
                self.take_seat(request, |joined| drop(reply.send(joined)));
            }
            ShardCommand::Decline { filter, principal } => self.policy.release(Some(filter), &principal),
            ShardCommand::Leave { room, seat, reply } => {
                self.leave(&room, seat);
                reply.map(|reply| reply.send(()));
            }
            ShardCommand::Acknowledge { room, seat, epoch, offset, reply } => {
                let position =
                    self.open_room(&room).map(|room| room.acknowledge(seat, epoch.as_deref(), offset));
                reply.send(position.unwrap_or(Err(AckError::Unsent))).ok();
            }
            ShardCommand::FinishCatchUp { room, seat, upto, lost, reply } => match self.open_room(&room) {
                Some(room) => room.finish_catch_up(seat, upto, lost, reply),
                None => drop(reply.send(CatchUpOutcome::Gone)),
            },
            ShardCommand::PrepareSwap(preparation) => {
                // What was delivered waits neither for the plugin nor, below, for other shards.
                self.flush.write(Instant::now(), &self.queue);
                self.prepare_swap(preparation);
            }
            ShardCommand::Mirror(mirror) => self.policy.set_mirror(mirror),
            ShardCommand::HandOver { handover, reply } => self.hand_over(&handover, reply),
            ShardCommand::Survey { selector, reply } => drop(reply.send(self.survey(&selector))),
            ShardCommand::Adopt { from, rooms } => {
                self.flush.write(Instant::now(), &self.queue);
                self.adopt(from, rooms);
            }
            ShardCommand::Written => self.flush.written(Instant::now()),
        }
    }

    /// Answers a request. If that takes longer than `until`, returns the rest of the request.
    fn answer(&mut self, request: PolicyRequest, until: Option<Instant>) -> Option<PolicyRequest> {
        if request.is_abandoned() {
            return None;
        }
        let request = self.keep_own(request)?;
        let request = self.resolve_room(request)?;
        let (request, _question) = self.begin_question(request)?;
        match request {
            PolicyRequest::Join { request, is_granted, canonical, reply, turn: _ } => {
                self.join(request, canonical, is_granted, reply);
            }
            PolicyRequest::Check { message, canonical, reply } => {
                drop(reply.send(self.check(message, canonical)));
            }
            PolicyRequest::FilterHistory(request) => {
                return self.filter_history(request, until).map(PolicyRequest::FilterHistory);
            }
        }
        None
    }

    fn open_room(&mut self, room: &str) -> Option<&mut Room> {
        match self.rooms.get_mut(room) {
            Some(RoomEntry::Open(room, _)) => Some(room),
            _ => None,
        }
    }

    fn deliver(&mut self, message: &Arc<Publication>) {
        let Some(RoomEntry::Open(room, _)) = self.rooms.get_mut(&*message.room) else { return };
        // It was stored before the policy was switched off, or by a node with another one.
        let unnamed = self.policies.hides_sender(message).then(|| {
            // The memory of both is accounted for as long as either is needed.
            Arc::new(message.without_sender().with_guard(message.clone()))
        });
        let message = unnamed.as_ref().unwrap_or(message);
        let Scratch { filters, results } = &mut self.scratch;
        room.filters(filters);
        let results = match &mut self.policy {
            Policy::Governed(governor) if !filters.is_empty() => {
                let (event, data) = (message.event.as_deref().unwrap_or_default(), message.data().as_bytes());
                let audience = Audience::Members(message.publisher.as_deref());
                // The governor logs a failure, and the results say for which filters.
                governor.filter(&message.room, event, data, filters, audience, results).ok();
                Some(&*results)
            }
            _ => filters.is_empty().then_some(&*results),
        };
        let verdicts = Verdicts { filters, results };
        let now = Instant::now();
        room.pace.message(now);
        let flush = self.flush.queue_for(&room.pace, now);
        let Delivered { members, gaps } = room.deliver(message, &verdicts, flush);
        self.flush.count(members, now);
        self.metrics.deliveries.inc_by(members);
        self.metrics.gaps.inc_by(gaps);
    }

    /// Evaluates a member's filter for messages of the history, and replies when all are evaluated. If that
    /// takes longer than `until`, returns the rest of the request.
    fn filter_history(
        &mut self,
        mut request: HistoryFilterRequest,
        until: Option<Instant>,
    ) -> Option<HistoryFilterRequest> {
        let filter = self.open_room(&request.room).and_then(|room| room.filter_of(request.seat));
        match (filter, &mut self.policy) {
            (Some((None, _)), _) => request.filtered.passed.extend(request.messages.drain(..)),
            (Some((Some(filter), principal)), Policy::Governed(governor)) => {
                while let Some(message) = request.messages.pop_front() {
                    let (event, data) =
                        (message.event.as_deref().unwrap_or_default(), message.data().as_bytes());
                    let (results, audience) =
                        (&mut self.scratch.results, Audience::HistoryReader(&principal));
                    governor.filter(&message.room, event, data, &[filter], audience, results).ok();
                    request.filtered.lost |= results.is_lost(0);
                    if results.passes(0) {
                        request.filtered.passed.push(message);
                    }
                    if !request.messages.is_empty() && until.is_some_and(|until| Instant::now() >= until) {
                        return Some(request);
                    }
                }
            }
            // The seat is gone, or no plugin is active that could evaluate its filter.
            _ => request.filtered = FilteredHistory::failed(),
        }
        request.reply.send(request.filtered).ok();
        None
    }
}
