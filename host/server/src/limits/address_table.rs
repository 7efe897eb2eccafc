//! A bounded number of addresses with a value for each. Does not know what the values mean.

use super::AddressRange;
use std::{collections::HashMap, time::Duration};
use tokio::time::Instant;

/// How many addresses a table has at most. With more than that, those that come last are not remembered.
pub(super) const MAX_ADDRESSES: usize = 10_000;
/// Minimum time between two attempts to make room for more addresses, because each attempt looks at all of
/// them.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// A value that a table may forget.
pub(super) trait Forgettable {
    /// Whether a new value in its place would behave in the same way, for example because its bucket is full.
    fn is_forgettable(&mut self, now: Instant) -> bool;
}

/// The values of at most [`MAX_ADDRESSES`] addresses.
pub(super) struct AddressTable<V> {
    entries: HashMap<AddressRange, V>,
    swept: Option<Instant>,
}

impl<V> Default for AddressTable<V> {
    fn default() -> Self {
        Self { entries: HashMap::new(), swept: None }
    }
}

impl<V: Forgettable> AddressTable<V> {
    /// The value of an address, which gets a new one if it has none. `None`: all others must be remembered, so
    /// there is no room for it. A caller must not refuse anything because of that: the address did nothing.
    pub(super) fn entry(
        &mut self,
        group: AddressRange,
        now: Instant,
        new: impl FnOnce() -> V,
    ) -> Option<&mut V> {
        let has_room = self.entries.contains_key(&group) || self.make_room(now);
        has_room.then(|| self.entries.entry(group).or_insert_with(new))
    }

    /// The value of an address, if it has one.
    pub(super) fn get_mut(&mut self, group: AddressRange) -> Option<&mut V> {
        self.entries.get_mut(&group)
    }

    /// Whether there is room for one more address.
    fn make_room(&mut self, now: Instant) -> bool {
        if self.entries.len() < MAX_ADDRESSES {
            return true;
        }
        if self.swept.is_some_and(|swept| now - swept < SWEEP_INTERVAL) {
            return false;
        }
        self.swept = Some(now);
        self.entries.retain(|_, value| !value.is_forgettable(now));
        self.entries.len() < MAX_ADDRESSES
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How much memory the table takes: an entry and a control byte for each bucket of the map, which is a power
    /// of two of them, at least an eighth of them unused.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let buckets = (self.entries.capacity() * 8 / 7).next_power_of_two();
        buckets * (size_of::<(AddressRange, V)>() + 1)
    }
}
