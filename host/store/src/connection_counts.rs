//! How many connections each principal has on this node. Knows no limits, and not which connections they are.

use crate::permit::ConnectionSlots;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

#[derive(Default)]
pub(crate) struct ConnectionCounts(Mutex<HashMap<Arc<str>, u32>>);

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

    /// The principals that have a connection.
    pub(crate) fn principals(&self) -> Vec<Arc<str>> {
        self.lock().keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, u32>> {
        self.0.lock().expect("no code panics while it counts")
    }
}

impl ConnectionSlots for ConnectionCounts {
    fn release(self: Arc<Self>, principal: &Arc<str>) {
        self.subtract(principal);
    }
}
