//! The account of all filters of one plugin, over all its shards: how many there are, how large they are, and how
//! much of the quota each principal uses. A filter counts once, however many shards evaluate it. Compiles none;
//! each shard has a table of its own (`filters.rs`).

use super::filters::FilterId;
use super::holders::{FilterHolders, FilterUsage};
use std::collections::HashMap;
use std::sync::Arc;

/// Maximum number of filters of one plugin, and of bytes of their canonical forms: about what an instance
/// with the default memory budget can hold. A principal may use as much as it leaves free: a single one half
/// of it, the next one half of the rest, and so on. So there is always something left for others.
pub(super) const MAX_FILTERS: usize = 20_000;
pub(super) const MAX_TOTAL_BYTES: usize = 8 << 20;

/// Why a filter cannot be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QuotaExceeded {
    /// The plugin has as many filters as are allowed.
    Plugin,
    /// The principal uses this much already, and the rest is reserved for others.
    Principal(FilterUsage),
}

/// All filters of one plugin, by canonical form.
#[derive(Default)]
pub(crate) struct FilterLedger {
    filters: HashMap<Arc<str>, LedgerEntry>,
    /// Total length of all canonical forms.
    bytes: usize,
    holders: FilterHolders,
    /// The highest number that was ever assigned. Free ones are reused first.
    numbers: u32,
    free: Vec<u32>,
}

struct LedgerEntry {
    /// Identifies the filter among the holders. Guests have other numbers for it.
    number: FilterId,
    /// How many references all principals have in all shards.
    references: u32,
}

impl FilterLedger {
    /// How many different filters there are.
    pub(crate) fn len(&self) -> usize {
        self.filters.len()
    }

    /// How many different filters a principal holds.
    pub(crate) fn held_by(&self, principal_id: &str) -> usize {
        self.holders.usage(principal_id).filters
    }

    /// Counts a filter that a principal is about to hold in one more shard. A filter that exists already needs no
    /// quota.
    pub(crate) fn reserve(&mut self, canonical: &str, principal_id: &Arc<str>) -> Result<(), QuotaExceeded> {
        if !self.filters.contains_key(canonical) {
            let (filters, bytes) = (self.len() + 1, self.bytes + canonical.len());
            if filters > MAX_FILTERS || bytes > MAX_TOTAL_BYTES {
                return Err(QuotaExceeded::Plugin);
            }
            let usage = self.holders.usage(principal_id);
            if usage.filters + filters > MAX_FILTERS || usage.bytes + bytes > MAX_TOTAL_BYTES {
                return Err(QuotaExceeded::Principal(usage));
            }
        }
        self.add(canonical, principal_id);
        Ok(())
    }

    /// Counts a filter that a shard has already, for a principal that did not hold it there.
    pub(crate) fn add(&mut self, canonical: &str, principal_id: &Arc<str>) {
        let number = match self.filters.get_mut(canonical) {
            Some(entry) => {
                entry.references += 1;
                entry.number
            }
            None => {
                let number = FilterId(self.free.pop().unwrap_or_else(|| {
                    self.numbers += 1;
                    self.numbers
                }));
                self.bytes += canonical.len();
                self.filters.insert(canonical.into(), LedgerEntry { number, references: 1 });
                number
            }
        };
        self.holders.add_reference(principal_id, number, canonical.len());
    }

    /// A principal does not hold a filter in one of the shards any more.
    pub(crate) fn remove(&mut self, canonical: &str, principal_id: &str) {
        let Some(entry) = self.filters.get_mut(canonical) else { return };
        if self.holders.remove_reference(principal_id, entry.number, canonical.len()).is_none() {
            return;
        }
        entry.references -= 1;
        if entry.references == 0 {
            self.free.push(entry.number.0);
            self.bytes -= canonical.len();
            self.filters.remove(canonical);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_of_several_shards_counts_once_until_the_last_one_has_none() {
        let (mut ledger, acme, zed) = (FilterLedger::default(), Arc::from("acme"), Arc::from("zed"));
        for principal in [&acme, &acme, &zed] {
            ledger.reserve("filter", principal).unwrap();
        }
        assert_eq!((ledger.len(), ledger.bytes), (1, 6));
        assert_eq!([ledger.held_by("acme"), ledger.held_by("ann")], [1, 0]);
        assert_eq!(ledger.holders.usage("acme"), FilterUsage { filters: 1, bytes: 6 });
        ledger.remove("filter", "acme");
        ledger.remove("filter", "zed");
        ledger.remove("filter", "zed");
        assert_eq!((ledger.len(), ledger.holders.usage("acme").filters), (1, 1));
        ledger.remove("filter", "acme");
        assert_eq!((ledger.len(), ledger.bytes, ledger.free.len()), (0, 0, 1));
    }
}
