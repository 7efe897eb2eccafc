//! A shard owns its rooms: only it touches them, so they need no lock, and a room's order is the shard's. It
//! never waits, neither for a socket nor for the store.

mod check;
mod governed;

use super::{
    Connection,
    command::*,
    entry::{Entry, WaitingJoin},
    flush::FlushQueue,
    full,
    policy::Policy,
    quotas::Quotas,
    room::{Delivered, NewSeat, Room, Verdicts},
    room_usage::RoomUsage,
    routes::Routes,
    store_is_away,
};
use crate::metrics::Metrics;
use std::time::{Duration, Instant};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
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

/// Commands taken at once: enough to share a wake-up, few enough to stay fair.
const BATCH: usize = 64;

pub(super) struct Shard {
    pub(super) index: usize,
    /// Weak: who sits in a room keeps its shard, not the shard itself.
    pub(super) queue: mpsc::WeakUnboundedSender<Command>,
    pub(super) policy: Policy,
    pub(super) routes: Arc<Routes>,
    pub(super) store: Store,
    pub(super) metrics: Metrics,
    /// Messages on their way to this shard.
    pub(super) backlog: Arc<AtomicUsize>,
    /// Bytes of data that a message may have.
    pub(super) message_bytes: usize,
    pub(super) rooms: HashMap<RoomName, Entry>,
    /// Kept in a governed shard, whose plugin is told.
    pub(super) room_usage: RoomUsage,
    /// Kept in a governed shard, of what its plugin allows publishers.
    pub(super) quotas: Quotas,
    /// Reused from message to message.
    pub(super) scratch: Scratch,
    pub(super) flush: FlushQueue,
}

#[derive(Default)]
pub(super) struct Scratch {
    filters: Vec<FilterId>,
    bits: FilterResults,
}

/// Who takes a seat, and how.
struct Seating {
    room: RoomName,
    connection: Arc<Connection>,
    filter: Option<FilterId>,
    since: Option<Position>,
    buffer: bool,
}

/// What it takes in memory that a connection is in a room, about, here and in its session.
const SEAT: usize = 500;

/// What a room takes in memory beside its members, about, in its shard and in what listens to it.
fn size(room: &RoomName) -> usize {
    1024 + room.len()
}

impl Shard {
    pub(super) async fn run(self, commands: mpsc::UnboundedReceiver<Command>) {
        match self.policy {
            Policy::Ungoverned(_) => self.run_in_order(commands).await,
            Policy::Governed(_) | Policy::Failed { .. } => self.run_in_turns(commands).await,
        }
    }

    async fn run_in_order(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let taken = match self.flush.due() {
                None => Some(commands.recv_many(&mut batch, BATCH).await),
                Some(due) => timeout_at(due.into(), commands.recv_many(&mut batch, BATCH)).await.ok(),
            };
            if taken == Some(0) {
                return;
            }
            batch.drain(..).for_each(|command| self.handle(command));
            self.flush.write(Instant::now(), &self.queue);
            tokio::task::yield_now().await;
        }
    }

    /// Tells publishers whether this shard has to be asked before a message is stored.
    fn tell_publishers(&self) {
        if let Some(governed) = self.routes.governed(self.index) {
            governed.set_wants_publishes(self.policy.wants_publishes());
        }
    }

    pub(super) fn handle(&mut self, command: Command) {
        match command {
            Command::Store(Event::Published(message)) => {
                self.backlog.fetch_sub(1, Ordering::Relaxed);
                self.deliver(&message);
            }
            Command::Store(Event::Subscribed { room, position }) => self.open(&room, position),
            Command::Store(Event::SubscribeFailed { room }) => self.close(&room),
            Command::Store(Event::Lost { room, position }) => {
                if let Some(room) = self.room(&room) {
                    let told = room.skip_to(position);
                    self.metrics.gaps.inc_by(told);
                }
            }
            Command::Store(Event::TakenOver(_) | Event::Probe(_)) => {}
            Command::Question(question) => drop(self.answer(question, None)),
            Command::Accept { room, connection, filter, since, reply } => {
                let who = connection.principal.clone();
                let seated = Seating { room, connection, filter, since, buffer: true };
                match self.take_seat(seated) {
                    Some(joined) => drop(reply.send(joined)),
                    None => self.policy.release(filter, &who),
                }
            }
            Command::Decline { filter, who } => self.policy.release(Some(filter), &who),
            Command::Leave { room, seat, reply } => {
                self.leave(&room, seat);
                reply.map(|reply| reply.send(()));
            }
            Command::Acknowledge { room, seat, epoch, offset, reply } => {
                let position = self.room(&room).map(|room| room.acknowledge(seat, epoch.as_deref(), offset));
                reply.send(position.unwrap_or(Err(AckError::Unsent))).ok();
            }
            Command::FinishCatchUp { room, seat, upto, lost, reply } => match self.room(&room) {
                Some(room) => room.finish_catch_up(seat, upto, lost, reply),
                None => drop(reply.send(CatchUpOutcome::Gone)),
            },
            Command::Swap { version, reply } => {
                self.quotas.ask_again(Instant::now());
                let swapped = self.policy.swap(version);
                // Before anybody hears that it is active.
                self.tell_publishers();
                reply.send(swapped).ok();
            }
            Command::Mirror(mirror) => self.policy.mirror(mirror),
            Command::Written => self.flush.written(Instant::now()),
        }
    }

    /// Answers a question, or a part of it until some time: then the rest of it is returned.
    fn answer(&mut self, question: Question, until: Option<Instant>) -> Option<Question> {
        if question.is_abandoned() {
            return None;
        }
        match question {
            Question::Join { request, reply } => self.join(request, reply),
            Question::Check { message, reply } => drop(reply.send(self.check(message))),
            Question::Sieve(sieving) => return self.sieve(sieving, until).map(Question::Sieve),
        }
        None
    }

    fn room(&mut self, room: &str) -> Option<&mut Room> {
        match self.rooms.get_mut(room) {
            Some(Entry::Open(room, _)) => Some(room),
            _ => None,
        }
    }

    fn join(&mut self, request: JoinRequest, reply: oneshot::Sender<Result<JoinAnswer, Refusal>>) {
        let (rooms, usage, routes, index) = (&self.rooms, &self.room_usage, &self.routes, self.index);
        let connection = &request.connection;
        let counts = |room: &RoomName| {
            let (of_connection, of_principal) = usage.other_rooms(room, connection.id, &connection.principal);
            let in_room = match rooms.get(room) {
                Some(Entry::Open(room, _)) => room.len() as u32,
                Some(Entry::Opening(waiting, _)) => waiting.len() as u32,
                None => 0,
            };
            Counts { of_connection, of_principal, in_room }
        };
        let admission = match self.policy.admit(&request, counts, |room| routes.shard(room) == index) {
            Ok(admission) => admission,
            Err(refusal) => return drop(reply.send(Err(refusal))),
        };
        if matches!(self.policy, Policy::Governed(_)) {
            let who = &request.connection.principal;
            self.quotas.grant(who, &admission.room, &admission.limits, Instant::now());
        }
        if let (true, Some(queue)) = (request.offer, self.queue.upgrade())
            && self.room(&admission.room).is_some_and(|room| room.has_member(request.connection.id))
        {
            let offer =
                Offer::new(admission.room, admission.filter, request.connection.principal.clone(), queue);
            return drop(reply.send(Ok(JoinAnswer::Offered(offer))));
        }
        let share = &request.connection.share;
        if !self.store.broker.has_capacity_for(share) || !share.may_grow() {
            self.policy.release(admission.filter, &request.connection.principal);
            return drop(reply.send(Err(full("rooms"))));
        }
        if matches!(self.policy, Policy::Governed(_)) {
            self.room_usage.add(&admission.room, request.connection.id, &request.connection.principal);
        }
        let filter = admission.filter;
        let waiting = WaitingJoin { request: JoinRequest { room: admission.room, ..request }, filter, reply };
        match self.rooms.get_mut(&waiting.request.room) {
            Some(Entry::Open(..)) => self.seat(waiting),
            // By another name that the plugin knows it by; the seat of the first is on its way.
            Some(Entry::Opening(others, _))
                if matches!(self.policy, Policy::Governed(_))
                    && others.iter().any(|other| other.is_of(&waiting.request.connection)) =>
            {
                self.policy.release(waiting.filter, &waiting.request.connection.principal);
                let message = format!("this connection is joining room '{}' already", &*waiting.request.room);
                waiting.reply.send(Err(Refusal::invalid(message))).ok();
            }
            Some(Entry::Opening(others, _)) => others.push(waiting),
            None => {
                let room = waiting.request.room.clone();
                let charge = waiting.request.connection.share.charge(MemoryKind::Rooms, size(&room));
                self.rooms.insert(room.clone(), Entry::Opening(vec![waiting], charge));
                self.metrics.rooms.inc();
                self.store.broker.subscribe(&room);
            }
        }
    }

    /// The store begins to tell of a room, or begins anew.
    fn open(&mut self, name: &str, position: Position) {
        let Some((name, entry)) = self.rooms.remove_entry(name) else { return };
        let (waiting, charge) = match entry {
            Entry::Opening(waiting, charge) => (waiting, charge),
            Entry::Open(..) => return drop(self.rooms.insert(name, entry)),
        };
        self.rooms.insert(name.clone(), Entry::Open(Box::new(Room::new(name, position)), charge));
        waiting.into_iter().for_each(|waiting| self.seat(waiting));
    }

    /// The store cannot tell of a room: who waits for it is refused.
    fn close(&mut self, name: &str) {
        if !matches!(self.rooms.get(name), Some(Entry::Opening(..))) {
            return;
        }
        let Some((name, Entry::Opening(waiting, _))) = self.rooms.remove_entry(name) else { return };
        self.metrics.rooms.dec();
        for WaitingJoin { request, filter, reply, .. } in waiting {
            self.policy.release(filter, &request.connection.principal);
            self.room_usage.remove(&name, request.connection.id, &request.connection.principal);
            reply.send(Err(store_is_away())).ok();
        }
    }

    fn seat(&mut self, waiting: WaitingJoin) {
        let WaitingJoin { request, filter, reply } = waiting;
        let JoinRequest { room, connection, since, buffer, .. } = request;
        let seated = self.take_seat(Seating { room, connection, filter, since, buffer });
        // Where nobody waits for the answer, dropping it gives up the seat.
        if let Some(joined) = seated {
            reply.send(Ok(JoinAnswer::Joined(joined))).ok();
        }
    }

    /// Takes a seat in an open room.
    fn take_seat(&mut self, seating: Seating) -> Option<Joined> {
        let Seating { room: name, connection, filter, since, buffer } = seating;
        let (index, queue) = (self.index, self.queue.upgrade()?);
        let room = self.room(&name)?;
        let (who, share, before) = (connection.principal.clone(), connection.share.clone(), room.len());
        let NewSeat { seat, recovery, progress, released_filter } =
            room.join(connection, filter, since, buffer);
        let (position, more) = (room.position().clone(), room.len() - before);
        share.add(MemoryKind::Sessions, more * SEAT);
        self.policy.release(released_filter, &who);
        let seat = Seat::new(name, seat, index, queue);
        Some(Joined { seat, position, recovery, progress, filtered: filter.is_some() })
    }

    fn leave(&mut self, name: &RoomName, seat: SeatId) {
        let Some(room) = self.room(name) else { return };
        let Some((connection, filter)) = room.leave(seat) else { return };
        let is_empty = room.is_empty();
        connection.share.subtract(MemoryKind::Sessions, SEAT);
        self.policy.release(filter, &connection.principal);
        self.room_usage.remove(name, seat.connection, &connection.principal);
        if is_empty {
            self.rooms.remove(name);
            self.metrics.rooms.dec();
            self.store.broker.unsubscribe(name);
            // What a flood of names took is given back when they are gone.
            if self.rooms.capacity() > 1024 && self.rooms.len() < self.rooms.capacity() / 4 {
                self.rooms.shrink_to(2 * self.rooms.len());
            }
        }
    }

    fn deliver(&mut self, message: &Arc<Publication>) {
        let Some(Entry::Open(room, _)) = self.rooms.get_mut(&*message.room) else { return };
        let Scratch { filters, bits } = &mut self.scratch;
        room.filters(filters);
        let publisher = || self.routes.publisher(self.index, message);
        let bits = match &mut self.policy {
            Policy::Governed(governor) if !filters.is_empty() => {
                let (event, data) = (message.event.as_deref().unwrap_or_default(), message.data().as_bytes());
                let audience = Audience::Members(&publisher);
                // A failure is logged there, and the results say who does not get the message.
                governor.filter(&message.room, event, data, filters, audience, bits).ok();
                Some(&*bits)
            }
            _ => filters.is_empty().then_some(&*bits),
        };
        let verdicts = Verdicts { filters, results: bits };
        let now = Instant::now();
        room.pace.message(now);
        let flush = self.flush.queue_for(&room.pace, now);
        let Delivered { members, gaps } = room.deliver(message, &verdicts, flush);
        self.flush.count(members, now);
        self.metrics.deliveries.inc_by(members);
        self.metrics.gaps.inc_by(gaps);
    }

    /// Looks through messages until some time, and answers once it has been through all of them; otherwise gives what is left.
    fn sieve(&mut self, mut sieving: Sieving, until: Option<Instant>) -> Option<Sieving> {
        let filter = self.room(&sieving.room).and_then(|room| room.filter_of(sieving.seat));
        match (filter, &mut self.policy) {
            (Some((None, _)), _) => sieving.sieved.passed.extend(sieving.messages.drain(..)),
            (Some((Some(filter), who)), Policy::Governed(governor)) => {
                while let Some(message) = sieving.messages.pop_front() {
                    let (event, data) =
                        (message.event.as_deref().unwrap_or_default(), message.data().as_bytes());
                    let (bits, audience) = (&mut self.scratch.bits, Audience::HistoryReader(&who));
                    governor.filter(&message.room, event, data, &[filter], audience, bits).ok();
                    sieving.sieved.lost |= bits.is_lost(0);
                    if bits.passes(0) {
                        sieving.sieved.passed.push(message);
                    }
                    if !sieving.messages.is_empty() && until.is_some_and(|until| Instant::now() >= until) {
                        return Some(sieving);
                    }
                }
            }
            // The seat is gone, or there is no plugin that could evaluate its filter.
            _ => sieving.sieved = Sieved::failed(),
        }
        sieving.reply.send(sieving.sieved).ok();
        None
    }
}
