//! A shard owns its rooms. Only its task touches them, so they need no lock, and the order of a room is the
//! order of the shard's queue. It waits neither for a socket nor for the store.

mod check;
mod governed;

use super::{
    command::*,
    flush::FlushQueue,
    memory_exhausted,
    policy::Policy,
    quotas::Quotas,
    room::{Delivered, NewSeat, Room, Verdicts},
    room_entry::{RoomEntry, SeatRequest, WaitingJoin},
    room_usage::RoomUsage,
    routes::Routes,
    store_unavailable,
};
use crate::metrics::Metrics;
use std::time::{Duration, Instant};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};
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

/// The rooms of one plugin, or some of the rooms without a plugin.
pub(super) struct Shard {
    pub(super) index: usize,
    /// The shard's own queue. Weak, so that the shard ends when neither the hub nor a seat uses it any more.
    pub(super) queue: mpsc::WeakUnboundedSender<ShardCommand>,
    pub(super) policy: Policy,
    pub(super) routes: Arc<Routes>,
    pub(super) store: Store,
    pub(super) metrics: Metrics,
    /// Number of messages that wait for this shard.
    pub(super) backlog: Arc<AtomicUsize>,
    /// Maximum size of the data of a message, in bytes.
    pub(super) message_bytes: usize,
    pub(super) rooms: HashMap<RoomName, RoomEntry>,
    /// For the counts that a plugin is told. Unused in ungoverned shards.
    pub(super) room_usage: RoomUsage,
    /// What the plugin allows publishers. Unused in ungoverned shards.
    pub(super) quotas: Quotas,
    /// Reused for each message.
    pub(super) scratch: Scratch,
    pub(super) flush: FlushQueue,
}

/// Buffers for the evaluation of filters.
#[derive(Default)]
pub(super) struct Scratch {
    filters: Vec<FilterId>,
    results: FilterResults,
}

/// The approximate memory of a membership, in the room and in the session.
const SEAT_BYTES: usize = 500;

/// The approximate memory of a room without its members, in the shard and in the store's subscription.
fn room_bytes(room: &RoomName) -> usize {
    1024 + room.len()
}

impl Shard {
    pub(super) async fn run(self, commands: mpsc::UnboundedReceiver<ShardCommand>) {
        match self.policy {
            Policy::Ungoverned(_) => self.run_in_order(commands).await,
            Policy::Governed(_) | Policy::Failed { .. } => self.run_in_turns(commands).await,
        }
    }

    async fn run_in_order(mut self, mut commands: mpsc::UnboundedReceiver<ShardCommand>) {
        let mut batch = Vec::with_capacity(COMMAND_BATCH_SIZE);
        loop {
            let taken = match self.flush.due() {
                None => Some(commands.recv_many(&mut batch, COMMAND_BATCH_SIZE).await),
                Some(due) => {
                    timeout_at(due.into(), commands.recv_many(&mut batch, COMMAND_BATCH_SIZE)).await.ok()
                }
            };
            if taken == Some(0) {
                return;
            }
            batch.drain(..).for_each(|command| self.handle(command));
            self.flush.write(Instant::now(), &self.queue);
            tokio::task::yield_now().await;
        }
    }

    /// Tells publishers whether this shard must check messages before they are stored.
    fn update_publishers(&self) {
        if let Some(governed) = self.routes.governed(self.index) {
            governed.set_wants_publishes(self.policy.wants_publishes());
        }
    }

    pub(super) fn handle(&mut self, command: ShardCommand) {
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
            ShardCommand::Store(Event::TakenOver(_) | Event::Probe(_)) => {}
            ShardCommand::Request(request) => drop(self.answer(request, None)),
            ShardCommand::Accept { room, connection, filter, since, reply } => {
                let request = SeatRequest { room, connection, filter, since, buffer: true };
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
            ShardCommand::Swap { version, reply } => {
                self.quotas.expire_answers(Instant::now());
                let swapped = self.policy.swap(version);
                // Before anybody is told that the version is active.
                self.update_publishers();
                reply.send(swapped).ok();
            }
            ShardCommand::Mirror(mirror) => self.policy.set_mirror(mirror),
            ShardCommand::Written => self.flush.written(Instant::now()),
        }
    }

    /// Answers a request. If that takes longer than `until`, returns the rest of the request.
    fn answer(&mut self, request: PolicyRequest, until: Option<Instant>) -> Option<PolicyRequest> {
        if request.is_abandoned() {
            return None;
        }
        match request {
            PolicyRequest::Join { request, is_granted, reply } => self.join(request, is_granted, reply),
            PolicyRequest::Check { message, reply } => drop(reply.send(self.check(message))),
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

    fn join(
        &mut self,
        request: JoinRequest,
        is_granted: Option<Arc<AtomicBool>>,
        reply: oneshot::Sender<Result<JoinAnswer, Refusal>>,
    ) {
        let (rooms, usage, routes, index) = (&self.rooms, &self.room_usage, &self.routes, self.index);
        let connection = &request.connection;
        let counts = |room: &RoomName| {
            let (of_connection, of_principal) = usage.other_rooms(room, connection.id, &connection.principal);
            let in_room = match rooms.get(room) {
                Some(RoomEntry::Open(room, _)) => room.len() as u32,
                Some(RoomEntry::Opening(waiting, _)) => waiting.len() as u32,
                None => 0,
            };
            Counts { of_connection, of_principal, in_room }
        };
        let admission = match self.policy.admit(&request, counts, |room| routes.shard(room) == index) {
            Ok(admission) => admission,
            Err(refusal) => return drop(reply.send(Err(refusal))),
        };
        if let Some(is_granted) = is_granted {
            is_granted.store(true, Ordering::Relaxed);
        }
        if matches!(self.policy, Policy::Governed(_)) {
            let principal = &request.connection.principal;
            self.quotas.set_member_limits(principal, &admission.room, &admission.limits, Instant::now());
        }
        if let (true, Some(queue)) = (request.offer, self.queue.upgrade())
            && let Some(room) = self.open_room(&admission.room)
            && room.has_member(request.connection.id)
        {
            let (position, principal) = (room.position().clone(), request.connection.principal.clone());
            let offer = Offer::new(admission.room, position, admission.filter, principal, queue);
            return drop(reply.send(Ok(JoinAnswer::Offered(offer))));
        }
        let share = &request.connection.share;
        if !self.store.broker.has_capacity_for(share) || !share.may_grow() {
            self.policy.release(admission.filter, &request.connection.principal);
            return drop(reply.send(Err(memory_exhausted("rooms"))));
        }
        if matches!(self.policy, Policy::Governed(_)) {
            self.room_usage.add(&admission.room, request.connection.id, &request.connection.principal);
        }
        let JoinRequest { connection, since, buffer, .. } = request;
        let request =
            SeatRequest { room: admission.room, connection, filter: admission.filter, since, buffer };
        match self.rooms.get_mut(&request.room) {
            Some(RoomEntry::Open(..)) => {
                self.take_seat(request, |joined| drop(reply.send(Ok(JoinAnswer::Joined(joined)))))
            }
            // The connection is joining the room under another name of it.
            Some(RoomEntry::Opening(others, _))
                if matches!(self.policy, Policy::Governed(_))
                    && others.iter().any(|other| other.is_of(&request.connection)) =>
            {
                self.policy.release(request.filter, &request.connection.principal);
                let message = format!("this connection is joining room '{}' already", &*request.room);
                reply.send(Err(Refusal::invalid(message))).ok();
            }
            Some(RoomEntry::Opening(others, _)) => others.push(WaitingJoin { request, reply }),
            None => {
                let room = request.room.clone();
                let charge = request.connection.share.charge(MemoryKind::Rooms, room_bytes(&room));
                let waiting = vec![WaitingJoin { request, reply }];
                self.rooms.insert(room.clone(), RoomEntry::Opening(waiting, charge));
                self.metrics.rooms.inc();
                self.store.broker.subscribe(&room);
            }
        }
    }

    /// The store has subscribed to a room, or has done so again.
    fn open(&mut self, name: &str, position: Position) {
        let Some((name, entry)) = self.rooms.remove_entry(name) else { return };
        let (waiting, charge) = match entry {
            RoomEntry::Opening(waiting, charge) => (waiting, charge),
            RoomEntry::Open(..) => return drop(self.rooms.insert(name, entry)),
        };
        self.rooms.insert(name.clone(), RoomEntry::Open(Box::new(Room::new(name, position)), charge));
        for WaitingJoin { request, reply } in waiting {
            self.take_seat(request, |joined| drop(reply.send(Ok(JoinAnswer::Joined(joined)))));
        }
    }

    /// The store cannot subscribe to a room: refuses the joins that wait for it.
    fn refuse_waiting(&mut self, name: &str) {
        if !matches!(self.rooms.get(name), Some(RoomEntry::Opening(..))) {
            return;
        }
        let Some((name, RoomEntry::Opening(waiting, _))) = self.rooms.remove_entry(name) else { return };
        self.metrics.rooms.dec();
        for WaitingJoin { request: SeatRequest { connection, filter, .. }, reply } in waiting {
            self.policy.release(filter, &connection.principal);
            self.room_usage.remove(&name, connection.id, &connection.principal);
            reply.send(Err(store_unavailable())).ok();
        }
    }

    /// Takes a seat in an open room, and replies. If nobody waits for the reply any more, dropping it leaves
    /// the room.
    fn take_seat(&mut self, request: SeatRequest, reply: impl FnOnce(Joined)) {
        let SeatRequest { room: name, connection, filter, since, buffer } = request;
        let (principal, share) = (connection.principal.clone(), connection.share.clone());
        let (index, queue) = (self.index, self.queue.upgrade());
        let (Some(room), Some(queue)) = (self.open_room(&name), queue) else {
            return self.policy.release(filter, &principal);
        };
        let before = room.len();
        let NewSeat { seat, recovery, progress, released_filter } =
            room.join(connection, filter, since, buffer);
        let (position, new_members) = (room.position().clone(), room.len() - before);
        share.add(MemoryKind::Sessions, new_members * SEAT_BYTES);
        self.policy.release(released_filter, &principal);
        let seat = Seat::new(name, seat, index, queue);
        reply(Joined { seat, position, recovery, progress, filtered: filter.is_some() });
    }

    fn leave(&mut self, name: &RoomName, seat: SeatId) {
        let Some(room) = self.open_room(name) else { return };
        let Some((connection, filter)) = room.leave(seat) else { return };
        let is_empty = room.is_empty();
        connection.share.subtract(MemoryKind::Sessions, SEAT_BYTES);
        self.policy.release(filter, &connection.principal);
        self.room_usage.remove(name, seat.connection, &connection.principal);
        if is_empty {
            self.rooms.remove(name);
            self.metrics.rooms.dec();
            self.store.broker.unsubscribe(name);
            // Frees the memory that a flood of room names has taken.
            if self.rooms.capacity() > 1024 && self.rooms.len() < self.rooms.capacity() / 4 {
                self.rooms.shrink_to(2 * self.rooms.len());
            }
        }
    }

    fn deliver(&mut self, message: &Arc<Publication>) {
        let Some(RoomEntry::Open(room, _)) = self.rooms.get_mut(&*message.room) else { return };
        let Scratch { filters, results } = &mut self.scratch;
        room.filters(filters);
        let publisher = || self.routes.publisher(self.index, message);
        let results = match &mut self.policy {
            Policy::Governed(governor) if !filters.is_empty() => {
                let (event, data) = (message.event.as_deref().unwrap_or_default(), message.data().as_bytes());
                let audience = Audience::Members(&publisher);
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
