//! Bytes in Redis by principal, including those that Redis deletes at a known time. Does not know what is
//! stored.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

#[derive(Default)]
pub(super) struct UsageSums {
    by_principal: HashMap<Arc<str>, usize>,
    /// Bytes that Redis deletes, by second and principal. They are part of the sums until then.
    expiring: BTreeMap<(u64, Arc<str>), usize>,
}

impl UsageSums {
    pub(super) fn of(&self, principal: &str) -> usize {
        self.by_principal.get(principal).copied().unwrap_or(0)
    }

    pub(super) fn add(&mut self, principal: &Arc<str>, bytes: usize) {
        match self.by_principal.get_mut(principal) {
            _ if bytes == 0 => {}
            Some(sum) => *sum += bytes,
            None => drop(self.by_principal.insert(principal.clone(), bytes)),
        }
    }

    pub(super) fn subtract(&mut self, principal: &Arc<str>, bytes: usize) {
        let Some(sum) = self.by_principal.get_mut(principal) else { return };
        debug_assert!(*sum >= bytes, "more is subtracted than was added");
        *sum = sum.saturating_sub(bytes);
        if *sum == 0 {
            self.by_principal.remove(principal);
        }
    }

    /// Adds bytes until a second.
    pub(super) fn add_until(&mut self, principal: &Arc<str>, bytes: usize, second: u64) {
        if bytes > 0 {
            self.add(principal, bytes);
            *self.expiring.entry((second, principal.clone())).or_default() += bytes;
        }
    }

    /// Subtracts what has expired by a second, at most `max` entries. Returns how many there were.
    pub(super) fn expire(&mut self, second: u64, max: usize) -> usize {
        let mut expired = 0;
        while expired < max
            && let Some(first) = self.expiring.first_entry().filter(|first| first.key().0 <= second)
        {
            let ((_, principal), bytes) = first.remove_entry();
            self.subtract(&principal, bytes);
            expired += 1;
        }
        expired
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.by_principal.is_empty() && self.expiring.is_empty()
    }
}
