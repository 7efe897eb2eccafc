//! The places in the rooms of one plugin, over all its shards. The plugin is told how many a principal has, so
//! questions about one principal are asked one after another, in the order of the requests, each after the previous
//! one was decided. Does not know limits.

use super::{command::PolicyRequest, governed_rooms::GovernedRooms, room_usage::RoomUsage};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::Instant,
};
use switchyard_plugin::Counts;
use switchyard_process::lock::{LockExt, NOT_POISONED};
use switchyard_protocol::room::RoomName;
use switchyard_store::ConnectionId;

/// All places in the rooms of one plugin, and who is being asked about.
#[derive(Default)]
pub(super) struct Places {
    state: Mutex<PlacesState>,
    /// A question was decided.
    decided: Condvar,
}

#[derive(Default)]
struct PlacesState {
    usage: RoomUsage,
    /// The principals about which a shard is asking, or is about to ask.
    asking: HashMap<Arc<str>, Asking>,
}

/// The turns of one principal.
#[derive(Default)]
struct Asking {
    /// Whether the plugin is being asked right now.
    is_called: bool,
    /// By the order in which they were requested. `None` if the request is on its way to its shard, and otherwise the
    /// request, which waits there. There are never more than the principal's connections may have in flight.
    turns: BTreeMap<u64, Option<PolicyRequest>>,
    next_number: u64,
}

/// The place of a join among the questions about its principal. Dropping it gives the place up.
pub(crate) struct Turn {
    /// `None` if it was used.
    rooms: Option<Arc<GovernedRooms>>,
    principal: Arc<str>,
    number: u64,
}

/// A question about a principal that is being asked. Dropping it lets the next one begin.
pub(super) struct Question {
    rooms: Arc<GovernedRooms>,
    principal: Arc<str>,
    /// `None` for a member that is judged at a handover.
    number: Option<u64>,
}

impl Places {
    /// How many places the connection has in other rooms than this one, and its principal in all of its
    /// connections. `in_room` is how many members the room has.
    pub(super) fn counts(
        &self,
        room: &RoomName,
        connection: ConnectionId,
        principal: &str,
        in_room: u32,
    ) -> Counts {
        let (of_connection, of_principal) = self.lock().usage.other_rooms(room, connection, principal);
        Counts { of_connection, of_principal, in_room }
    }

    /// Counts a place that was granted.
    pub(super) fn add(&self, room: &RoomName, connection: ConnectionId, principal: &Arc<str>) {
        self.lock().usage.add(room, connection, principal);
    }

    pub(super) fn remove(&self, room: &RoomName, connection: ConnectionId, principal: &str) {
        self.lock().usage.remove(room, connection, principal);
    }

    fn lock(&self) -> MutexGuard<'_, PlacesState> {
        self.state.locked()
    }

    /// Ends a turn of a principal, and a question about it if `is_question`. Lets the next question begin, if its
    /// request waits for that.
    fn end(&self, rooms: &Arc<GovernedRooms>, principal: &Arc<str>, number: Option<u64>, is_question: bool) {
        let mut next = self.next_after(principal, number, is_question);
        self.decided.notify_all();
        while let Some((number, mut request)) = next {
            let turn = Turn { rooms: Some(rooms.clone()), principal: principal.clone(), number };
            request.set_turn(Some(turn));
            let unsent = match rooms.router.upgrade() {
                Some(router) => router.forward(request),
                None => Some(request),
            };
            let Some(mut request) = unsent else { return };
            // Nobody will answer it.
            if let Some(turn) = request.take_turn() {
                turn.forget();
            }
            next = self.next_after(principal, Some(number), false);
        }
    }

    /// Ends a turn, and returns the request whose question may begin now, if it waits.
    fn next_after(
        &self,
        principal: &Arc<str>,
        number: Option<u64>,
        is_question: bool,
    ) -> Option<(u64, PolicyRequest)> {
        let mut state = self.lock();
        let asking = state.asking.get_mut(principal)?;
        if is_question {
            asking.is_called = false;
        }
        let ended = number.and_then(|number| asking.turns.remove(&number));
        let first = if asking.is_called { None } else { asking.turns.iter_mut().next() };
        let next = first.and_then(|(number, request)| Some((*number, request.take()?)));
        if asking.turns.is_empty() && !asking.is_called {
            state.asking.remove(principal);
        }
        drop(state);
        // A request may give up a turn itself when it is dropped.
        drop(ended);
        next
    }
}

impl GovernedRooms {
    /// Takes the last place among the questions about a principal, for a join.
    pub(super) fn take_turn(self: &Arc<Self>, principal: &Arc<str>) -> Turn {
        let mut state = self.places.lock();
        let asking = state.asking.entry(principal.clone()).or_default();
        let number = asking.next_number;
        asking.next_number += 1;
        asking.turns.insert(number, None);
        drop(state);
        Turn { rooms: Some(self.clone()), principal: principal.clone(), number }
    }

    /// Begins to ask about the principal of a join. If it is not its turn, the join is parked, and comes back through
    /// the queue of its shard when it is.
    pub(super) fn begin_question(
        self: &Arc<Self>,
        mut request: PolicyRequest,
        principal: &Arc<str>,
    ) -> Option<(PolicyRequest, Question)> {
        let is_own = |turn: &Turn| turn.rooms.as_ref().is_some_and(|rooms| Arc::ptr_eq(rooms, self));
        let turn = request.take_turn().filter(is_own).unwrap_or_else(|| self.take_turn(principal));
        let number = turn.number;
        turn.forget();
        let mut state = self.places.lock();
        let asking = state.asking.entry(principal.clone()).or_default();
        if asking.is_called || asking.turns.keys().next() != Some(&number) {
            asking.turns.insert(number, Some(request));
            return None;
        }
        asking.is_called = true;
        drop(state);
        let (rooms, principal) = (self.clone(), principal.clone());
        Some((request, Question { rooms, principal, number: Some(number) }))
    }

    /// Begins to ask about a principal, before all joins that wait for it. Waits for the question that is being
    /// asked, but for none that is on its way to a shard, which may be the caller's. `None` if it takes longer
    /// than `until`.
    pub(super) fn begin_urgent_question(
        self: &Arc<Self>,
        principal: &Arc<str>,
        until: Instant,
    ) -> Option<Question> {
        let mut state = self.places.lock();
        while state.asking.get(principal).is_some_and(|asking| asking.is_called) {
            let remaining = until.checked_duration_since(Instant::now())?;
            state = self.places.decided.wait_timeout(state, remaining).expect(NOT_POISONED).0;
        }
        state.asking.entry(principal.clone()).or_default().is_called = true;
        drop(state);
        Some(Question { rooms: self.clone(), principal: principal.clone(), number: None })
    }
}

impl Turn {
    /// Uses it.
    fn forget(mut self) {
        self.rooms = None;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(rooms) = self.rooms.take() {
            rooms.places.end(&rooms, &self.principal, Some(self.number), false);
        }
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        self.rooms.places.end(&self.rooms, &self.principal, self.number, true);
    }
}

#[cfg(test)]
mod tests;
