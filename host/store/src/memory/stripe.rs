//! One stripe of the memory store's rooms: those that share a lock. Knows which rooms there are, by name and
//! in order, but not when one may be forgotten.

use super::room_log::RoomLog;
use std::{
    collections::{BTreeSet, HashMap},
    ops::Bound,
    sync::Arc,
};

/// How many rooms a walk over all rooms visits before it releases the stripe's lock.
pub(super) const PAGE_ROOMS: usize = 256;

#[derive(Default)]
pub(super) struct Stripe {
    logs: HashMap<Arc<str>, RoomLog>,
    /// The same names in order, so that a walk over all rooms can release the lock and continue after the
    /// last name.
    names: BTreeSet<Arc<str>>,
}

impl Stripe {
    pub(super) fn get(&self, room: &str) -> Option<&RoomLog> {
        self.logs.get(room)
    }

    pub(super) fn get_mut(&mut self, room: &str) -> Option<&mut RoomLog> {
        self.logs.get_mut(room)
    }

    /// Adds a room that has not been added yet.
    pub(super) fn insert(&mut self, log: RoomLog) -> &mut RoomLog {
        let name = log.name.clone();
        self.names.insert(name.clone());
        self.logs.entry(name).insert_entry(log).into_mut()
    }

    pub(super) fn remove(&mut self, room: &str) {
        self.logs.remove(room);
        self.names.remove(room);
    }

    /// The rooms with names greater than `after`, or all without it, in the order of their names. Takes time
    /// only for those that the caller consumes.
    pub(super) fn after(&self, after: Option<&str>) -> impl Iterator<Item = &RoomLog> {
        let bound = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.names.range::<str, _>((bound, Bound::Unbounded)).map(|name| &self.logs[name])
    }

    /// The names of at most [`PAGE_ROOMS`] rooms, from the one after `after`.
    pub(super) fn page(&self, after: Option<&str>) -> Vec<Arc<str>> {
        self.after(after).take(PAGE_ROOMS).map(|log| log.name.clone()).collect()
    }

    /// Frees the memory of rooms that no longer exist. Moves all rooms that are left, but at most once
    /// for each time that three quarters of the rooms have gone.
    pub(super) fn shrink(&mut self) {
        if self.logs.len() < self.logs.capacity() / 4 {
            self.logs.shrink_to(2 * self.logs.len());
        }
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.logs.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use switchyard_process::memory::MemoryAccount;
    use tokio::time::Instant;

    #[test]
    fn pages_visit_each_room_once_while_others_come_and_go() {
        let account = MemoryAccount::unlimited();
        let mut stripe = Stripe::default();
        let add = |stripe: &mut Stripe, name: String| {
            stripe.insert(RoomLog::new(name.into(), Instant::now(), &account));
        };
        let names: Vec<_> = (0..PAGE_ROOMS * 2 + 10).map(|n| format!("room:{n:04}")).collect();
        names.iter().for_each(|name| add(&mut stripe, name.clone()));
        let (mut visited, mut after): (Vec<Arc<str>>, _) = (vec![], None);
        loop {
            let page = stripe.page(after.as_deref());
            let Some(last) = page.last() else { break };
            assert!(page.len() <= PAGE_ROOMS);
            after = Some(last.clone());
            // The room that the next page starts after is gone by then, and a new one is behind.
            stripe.remove(last);
            add(&mut stripe, format!("early:{}", visited.len()));
            visited.extend(page);
        }
        assert!(visited.iter().map(|name| &**name).eq(names.iter().map(String::as_str)));
    }
}
