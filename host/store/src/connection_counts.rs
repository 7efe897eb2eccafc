//! How many connections each principal has on this node. Knows no limits, and not which connections they are.

use crate::permit::ConnectionSlots;
use std::{
    collections::BTreeMap,
    iter,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard},
};

/// How many principals a walk over all of them copies before it releases the lock.
const PAGE_PRINCIPALS: usize = 256;

#[derive(Default)]
pub(crate) struct ConnectionCounts(Mutex<BTreeMap<Arc<str>, u32>>);

impl ConnectionCounts {
    /// Counts one more connection of the principal. Returns the new count.
    pub(crate) fn add(&self, principal: &Arc<str>) -> u32 {
        let mut counts = self.lock();
        let count = counts.entry(principal.clone()).or_default();
        *count += 1;
        *count
    }

    /// Counts one connection less. Returns the new count.
    pub(crate) fn subtract(&self, principal: &str) -> u32 {
        let mut counts = self.lock();
        let Some(count) = counts.get_mut(principal) else { return 0 };
        *count -= 1;
        let left = *count;
        if left == 0 {
            counts.remove(principal);
        }
        left
    }

    pub(crate) fn of(&self, principal: &str) -> u32 {
        self.lock().get(principal).copied().unwrap_or(0)
    }

    /// The principals that have a connection, in the order of their names. The lock is released between
    /// pages, because each new connection needs it. A principal that comes or goes meanwhile may be missing.
    pub(crate) fn principals(&self) -> impl Iterator<Item = Arc<str>> {
        let mut last: Option<Arc<str>> = None;
        let pages = iter::from_fn(move || {
            let after = last.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let counts = self.lock();
            let page: Vec<_> = counts
                .range::<str, _>((after, Bound::Unbounded))
                .map(|(name, _)| name.clone())
                .take(PAGE_PRINCIPALS)
                .collect();
            drop(counts);
            last = Some(page.last()?.clone());
            Some(page)
        });
        pages.flatten()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, u32>> {
        self.0.lock().expect("no code panics while it counts")
    }
}

impl ConnectionSlots for ConnectionCounts {
    fn release(self: Arc<Self>, principal: &Arc<str>) {
        self.subtract(principal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_principals_are_visited_although_the_lock_is_released_between_pages() {
        let counts = ConnectionCounts::default();
        let names: Vec<Arc<str>> = (0..2 * PAGE_PRINCIPALS + 1).map(|n| format!("p{n:04}").into()).collect();
        for name in &names {
            counts.add(name);
        }
        let mut visited = vec![];
        for principal in counts.principals() {
            // Needs the lock.
            counts.subtract(&principal);
            visited.push(principal);
        }
        assert_eq!(visited, names);
        assert_eq!(counts.principals().count(), 0);
    }
}
