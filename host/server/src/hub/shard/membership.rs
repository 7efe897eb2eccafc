//! Joining and leaving the rooms of a shard: whom the policy admits, who waits for a room to be opened, and what a
//! membership costs. Delivers nothing.

use super::*;
use crate::hub::{memory_exhausted, store_unavailable};
use switchyard_process::lock::LockExt;
use switchyard_protocol::room::RoomKind;
use switchyard_store::{ConnectionId, grant::Verb};

/// The approximate memory of a membership, in the room and in the session.
const SEAT_BYTES: usize = 500;

/// The approximate memory of a room without its members, in the shard and in the store's subscription.
fn room_bytes(room: &RoomName) -> usize {
    1024 + room.len()
}

/// What the text of a filter adds to a membership, as if no other member had the same.
fn text_len(text: Option<&Arc<str>>) -> usize {
    text.map_or(0, |text| text.len())
}

impl Shard {
    pub(super) fn join(
        &mut self,
        request: JoinRequest,
        canonical: Option<CanonicalRoom>,
        is_granted: Option<Arc<AtomicBool>>,
        reply: oneshot::Sender<Result<JoinAnswer, Refusal>>,
    ) {
        let room = canonical.map_or_else(|| request.room.clone(), |canonical| canonical.name);
        let (connection, key) = (&request.connection, request.connection.key.load_full());
        if room.kind() == RoomKind::Ordinary
            && let Err(refusal) = key.require_in(Verb::Subscribe, &room)
        {
            return drop(reply.send(Err(refusal)));
        }
        let in_room = match self.rooms.get(&room) {
            Some(RoomEntry::Open(room, _)) => room.len() as u32,
            Some(RoomEntry::Opening(waiting, _)) => waiting.len() as u32,
            None => 0,
        };
        let counts = match &self.governed {
            Some(governed) => governed.places.counts(&room, connection.id, &connection.principal, in_room),
            None => Counts::default(),
        };
        let (principal, filter) = (&key.seen_by_plugins, request.filter.as_deref());
        let observed = self.observers.are_there().then(|| room.clone());
        let filters_before = self.limited_filters(&key);
        let admission = self.policy.admit(room, principal, filter, counts);
        if let Some(room) = observed {
            self.observers.subscribing(principal, &room, filter, counts, admission.as_ref().err());
        }
        let admission = match admission {
            Ok(admission) => admission,
            Err(refusal) => return drop(reply.send(Err(refusal))),
        };
        if let Some(refusal) = self.filter_refusal(connection, &key, filters_before, &admission) {
            self.policy.release(admission.filter, &principal.id);
            return drop(reply.send(Err(refusal)));
        }
        if let Some(is_granted) = is_granted {
            is_granted.store(true, Ordering::Relaxed);
        }
        if let (Policy::Governed(_), Some(governed)) = (&self.policy, &self.governed) {
            let (principal, now) = (&request.connection.principal, Instant::now());
            governed.quotas.locked().set_member_limits(principal, &admission.room, &admission.limits, now);
        }
        if let (true, Some(queue)) = (request.offer, self.queue.upgrade())
            && let Some(room) = self.open_room(&admission.room)
            && room.has_member(request.connection.id)
        {
            let (position, principal) = (room.position().clone(), request.connection.principal.clone());
            let filter = (admission.filter, request.filter);
            let offer = Offer::new(admission.room, position, filter, principal, queue);
            return drop(reply.send(Ok(JoinAnswer::Offered(offer))));
        }
        let share = &request.connection.share;
        // A session that is resumed keeps its rooms: it would lose them otherwise.
        if request.buffer
            && let Err(refusal) = request.connection.budget.check_memory(&key, share)
        {
            self.policy.release(admission.filter, &request.connection.principal);
            return drop(reply.send(Err(refusal)));
        }
        if !self.store.broker.has_capacity_for(share) || !share.may_grow() {
            self.policy.release(admission.filter, &request.connection.principal);
            return drop(reply.send(Err(memory_exhausted("rooms"))));
        }
        if let (Policy::Governed(_), Some(governed)) = (&self.policy, &self.governed) {
            governed.places.add(&admission.room, request.connection.id, &request.connection.principal);
        }
        let JoinRequest { connection, filter, since, buffer, .. } = request;
        let request = SeatRequest {
            room: admission.room,
            connection,
            filter: admission.filter,
            filter_text: filter,
            since,
            buffer,
        };
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
    pub(super) fn open(&mut self, name: &str, position: Position) {
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
    pub(super) fn refuse_waiting(&mut self, name: &str) {
        if !matches!(self.rooms.get(name), Some(RoomEntry::Opening(..))) {
            return;
        }
        let Some((name, RoomEntry::Opening(waiting, _))) = self.rooms.remove_entry(name) else { return };
        self.refuse_all(&name, waiting, &store_unavailable());
    }

    /// Refuses the joins that wait for a room that is not opened.
    pub(super) fn refuse_all(&mut self, name: &RoomName, waiting: Vec<WaitingJoin>, refusal: &Refusal) {
        self.metrics.rooms.dec();
        for WaitingJoin { request, reply } in waiting {
            let SeatRequest { connection, filter, .. } = request;
            self.policy.release(filter, &connection.principal);
            self.forget_place(name, connection.id, &connection.principal);
            reply.send(Err(refusal.clone())).ok();
        }
    }

    /// Takes a seat in an open room, and replies. If nobody waits for the reply any more, dropping it leaves
    /// the room.
    pub(super) fn take_seat(&mut self, request: SeatRequest, reply: impl FnOnce(Joined)) {
        let SeatRequest { room: name, connection, filter, filter_text, since, buffer } = request;
        let (principal, share) = (connection.principal.clone(), connection.share.clone());
        let router = self.router.upgrade();
        let (Some(RoomEntry::Open(room, _)), Some(router)) = (self.rooms.get_mut(&name), router) else {
            return self.policy.release(filter, &principal);
        };
        let before = room.len();
        let NewSeat { seat, recovery, progress, released_filter } =
            room.join(connection, filter, since, buffer);
        let (position, new_members) = (room.position().clone(), room.len() - before);
        let filter_text = self.filter_texts.share(filter_text);
        let text_bytes = text_len(filter_text.as_ref());
        let replaced = room.set_filter_text(seat.connection, filter_text);
        share.add(MemoryKind::Sessions, new_members * SEAT_BYTES + text_bytes);
        share.subtract(MemoryKind::Sessions, text_len(replaced.as_ref()));
        self.filter_texts.release(replaced);
        self.policy.release(released_filter, &principal);
        let seat = Seat::new(name, seat, router);
        reply(Joined { seat, position, recovery, progress });
    }

    pub(super) fn leave(&mut self, name: &RoomName, seat: SeatId) {
        let Some(room) = self.open_room(name) else { return };
        let Some((connection, filter)) = room.leave(seat) else { return };
        let text = room.set_filter_text(seat.connection, None);
        let is_empty = room.is_empty();
        connection.share.subtract(MemoryKind::Sessions, SEAT_BYTES + text_len(text.as_ref()));
        self.filter_texts.release(text);
        self.policy.release(filter, &connection.principal);
        self.forget_place(name, seat.connection, &connection.principal);
        if is_empty {
            self.rooms.remove(name);
            self.metrics.rooms.dec();
            self.store.broker.unsubscribe(name);
            self.free_memory();
        }
    }

    /// Does not count a place any more.
    pub(super) fn forget_place(&self, name: &RoomName, connection: ConnectionId, principal: &str) {
        if let Some(governed) = &self.governed {
            governed.places.remove(name, connection, principal);
        }
    }

    /// Frees the memory that a flood of room names has taken.
    pub(super) fn free_memory(&mut self) {
        if self.rooms.capacity() > 1024 && self.rooms.len() < self.rooms.capacity() / 4 {
            self.rooms.shrink_to(2 * self.rooms.len());
        }
    }
}
