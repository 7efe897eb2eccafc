//! How much of a plugin's state counts against which principal, and how much each may keep. Does not know
//! what is kept.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::Arc;
use switchyard_process::memory::{MemoryCharge, may_grow};

/// Bytes of memory that the record of a principal takes beside its name, roughly, as measured.
const HOLDER_BYTES: usize = 240;

/// A principal that holds entries. No number is used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HolderId(NonZero<u64>);

/// What an entry counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StateClaim {
    pub holder: HolderId,
    pub bytes: usize,
}

/// Whose values may be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Victim {
    Anyone,
    /// The principal itself would have more than an equal part of the budget.
    Only(HolderId),
    /// The principal cannot have that much, or has nothing itself.
    Nobody,
}

struct StateHolder {
    name: Arc<str>,
    bytes: usize,
    entries: usize,
}

/// Counts the entries of a plugin and their bytes, together and for each principal.
#[derive(Default)]
pub(super) struct StateLedger {
    by_name: BTreeMap<Arc<str>, HolderId>,
    holders: BTreeMap<HolderId, StateHolder>,
    last_holder: u64,
    pub bytes: usize,
    pub entries: usize,
    /// Reports the sum to the account of the node.
    charge: Option<MemoryCharge>,
}

impl StateLedger {
    pub(super) fn new(charge: Option<MemoryCharge>) -> Self {
        Self { charge, ..Self::default() }
    }

    /// Counts an entry of this many bytes against a principal, in place of `replaced`. `None` if the
    /// principal may not keep that much. Beyond 80 % of the budget, a principal may keep four times what it
    /// leaves free.
    pub(super) fn claim(
        &mut self,
        principal_id: &str,
        bytes: usize,
        replaced: Option<StateClaim>,
        budget: usize,
    ) -> Option<StateClaim> {
        let known = self.by_name.get(principal_id).copied();
        let needed = bytes + if known.is_some() { 0 } else { HOLDER_BYTES + principal_id.len() };
        let (freed, freed_by_principal) = match replaced {
            Some(claim) => (claim.bytes, if known == Some(claim.holder) { claim.bytes } else { 0 }),
            None => (0, 0),
        };
        let total = (self.bytes + needed).saturating_sub(freed);
        let own = (known.map_or(0, |id| self.holders[&id].bytes) + needed).saturating_sub(freed_by_principal);
        let is_smaller = freed_by_principal >= needed;
        if !is_smaller && (total > budget || !may_grow(own, total, budget)) {
            return None;
        }
        let holder = known.unwrap_or_else(|| self.add_holder(principal_id));
        let record = self.holders.get_mut(&holder).expect("it is known, or was just added");
        (record.bytes, record.entries) = (record.bytes + bytes, record.entries + 1);
        (self.bytes, self.entries) = (self.bytes + bytes, self.entries + 1);
        replaced.into_iter().for_each(|claim| self.release(claim));
        self.report();
        Some(StateClaim { holder, bytes })
    }

    /// Stops counting an entry.
    pub(super) fn release(&mut self, claim: StateClaim) {
        let record = self.holders.get_mut(&claim.holder).expect("an entry keeps its holder");
        (record.bytes, record.entries) = (record.bytes - claim.bytes, record.entries - 1);
        (self.bytes, self.entries) = (self.bytes - claim.bytes, self.entries - 1);
        if record.entries == 0 {
            self.bytes -= record.bytes;
            let name = self.holders.remove(&claim.holder).expect("it is there").name;
            self.by_name.remove(&name);
        }
        self.report();
    }

    /// Whose values may be evicted so that the principal can keep this many bytes more.
    pub(super) fn victim(&self, principal_id: &str, bytes: usize, budget: usize) -> Victim {
        let alone = HOLDER_BYTES + principal_id.len() + bytes;
        if alone > budget || !may_grow(alone, alone, budget) {
            return Victim::Nobody;
        }
        let holder = self.by_name.get(principal_id).copied();
        let own = holder.map_or(0, |holder| self.holders[&holder].bytes);
        let holders = self.holders.len() + usize::from(holder.is_none());
        match holder {
            _ if own + bytes <= budget / holders => Victim::Anyone,
            Some(holder) => Victim::Only(holder),
            None => Victim::Nobody,
        }
    }

    fn add_holder(&mut self, principal_id: &str) -> HolderId {
        self.last_holder += 1;
        let number = NonZero::new(self.last_holder).expect("it counts up from one");
        let (name, id): (Arc<str>, _) = (principal_id.into(), HolderId(number));
        let bytes = HOLDER_BYTES + name.len();
        self.by_name.insert(name.clone(), id);
        self.holders.insert(id, StateHolder { name, bytes, entries: 0 });
        self.bytes += bytes;
        id
    }

    fn report(&mut self) {
        if let Some(charge) = &mut self.charge {
            charge.grow(self.bytes.saturating_sub(charge.bytes()));
            charge.shrink(charge.bytes().saturating_sub(self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: usize = 1_000_000;

    #[test]
    fn a_principal_that_fills_the_budget_leaves_a_part_to_others() {
        let mut ledger = StateLedger::default();
        let mut fill = |name: &str| {
            let mut claims = vec![];
            while let Some(claim) = ledger.claim(name, 1000, None, BUDGET) {
                claims.push(claim);
            }
            claims
        };
        let greedy = fill("greedy");
        assert!((790..=800).contains(&greedy.len()), "{}", greedy.len());
        assert!(fill("second").len() > 100 && fill("third").len() > 10);
        greedy.into_iter().for_each(|claim| ledger.release(claim));
        assert!(ledger.claim("greedy", 1000, None, BUDGET).is_some());
    }

    #[test]
    fn only_a_principal_below_its_part_evicts_values_of_others() {
        let mut ledger = StateLedger::default();
        assert_eq!(ledger.victim("new", 10_000, BUDGET), Victim::Anyone);
        assert_eq!(
            ledger.victim("new", 900_000, BUDGET),
            Victim::Nobody,
            "it would not fit into an empty table"
        );
        let large = ledger.claim("large", 500_000, None, BUDGET).unwrap().holder;
        assert_eq!(ledger.victim("large", 1000, BUDGET), Victim::Anyone, "it is alone");
        ledger.claim("small", 1000, None, BUDGET).unwrap();
        assert_eq!(ledger.victim("large", 1000, BUDGET), Victim::Only(large), "it has more than half");
        assert_eq!(ledger.victim("new", 300_000, BUDGET), Victim::Anyone);
        assert_eq!(ledger.victim("new", 400_000, BUDGET), Victim::Nobody, "that is more than a third");
    }

    #[test]
    fn a_replaced_entry_counts_against_whoever_replaces_it() {
        let mut ledger = StateLedger::default();
        let first = ledger.claim("first", 1000, None, BUDGET).unwrap();
        let second = ledger.claim("second", 500, Some(first), BUDGET).unwrap();
        assert_eq!((ledger.bytes, ledger.entries), (500 + HOLDER_BYTES + 6, 1));
        let same = ledger.claim("second", 500, Some(second), 0).expect("it takes no more than before");
        assert!(ledger.claim("second", 501, Some(same), 0).is_none());
        ledger.release(same);
        assert_eq!((ledger.bytes, ledger.entries, ledger.by_name.len()), (0, 0, 0));
    }
}
