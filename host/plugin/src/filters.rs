//! The filters in use under one governor: interned by canonical form, reference-counted, and numbered for the
//! guest. Which principal holds which filter is in `holders.rs`, and how many the plugin may have in all its
//! shards in `filter_ledger.rs`.

use super::filter_ledger::{FilterLedger, MAX_TOTAL_BYTES, QuotaExceeded};
use super::holders::FilterHolders;
use std::collections::HashMap;
use std::mem;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use switchyard_process::lock::LockExt;

/// Maximum length of one filter in bytes, both as a client sends it and in the plugin's canonical form.
pub(super) const MAX_FILTER_BYTES: usize = 64 * 1024;

/// A principal is the dominant holder only if its filters use more than this part of [`MAX_TOTAL_BYTES`].
const MIN_DOMINANT_BYTES: usize = MAX_TOTAL_BYTES / 16;

/// After this many filters went out of use, the guest is told to release them.
const RELEASE_BATCH: usize = 64;

/// The number of an interned filter. Filters with equal canonical forms have the same number, so members can
/// be grouped by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FilterId(pub(super) u32);

impl FilterId {
    /// A filter with this number, for tests of code that only groups by filter.
    #[doc(hidden)]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }
}

/// How a filter is evaluated. This is decided by the plugin version that compiled it; another version may
/// decide differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Every message passes, without a call.
    All,
    /// No message passes, without a call.
    None,
    /// The guest is called for each message.
    Guest,
}

struct FilterEntry {
    canonical: Arc<str>,
    /// The principal that added the filter. It may have released it since; others may hold it, too.
    owner: Arc<str>,
    plan: Plan,
    references: u32,
    /// The filter could not be compiled again. No message passes until that succeeds.
    is_closed: bool,
}

/// All filters in use, by the number under which the guest knows them. A number is reused only after the
/// guest has released it, or its instance has ended.
pub(crate) struct FilterTable {
    slots: Vec<Option<FilterEntry>>,
    /// Total length of all canonical forms.
    bytes: usize,
    by_canonical: HashMap<Arc<str>, FilterId>,
    free: Vec<u32>,
    /// Numbers that are no longer in use here, but that the guest has not released yet.
    stale: Vec<u32>,
    holders: FilterHolders,
    /// Counts the filters of all shards of the plugin.
    ledger: Arc<Mutex<FilterLedger>>,
    /// Filters that made the plugin fail, and until when they are not evaluated. Usually empty.
    suspended: HashMap<FilterId, Instant>,
}

impl FilterTable {
    /// A table whose filters count in this ledger.
    pub(crate) fn new(ledger: Arc<Mutex<FilterLedger>>) -> Self {
        Self {
            slots: Vec::new(),
            bytes: 0,
            by_canonical: HashMap::new(),
            free: Vec::new(),
            stale: Vec::new(),
            holders: FilterHolders::default(),
            ledger,
            suspended: HashMap::new(),
        }
    }

    pub(crate) fn find(&self, canonical: &str) -> Option<FilterId> {
        self.by_canonical.get(canonical).copied()
    }

    /// Counts a filter that is about to be compiled, and reserves a number for it. The caller passes it on to
    /// [`insert`](Self::insert) or [`cancel_reservation`](Self::cancel_reservation).
    pub(crate) fn reserve(
        &mut self,
        canonical: &str,
        principal_id: &Arc<str>,
    ) -> Result<FilterId, QuotaExceeded> {
        self.ledger.locked().reserve(canonical, principal_id)?;
        Ok(FilterId(self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        })))
    }

    pub(crate) fn cancel_reservation(&mut self, id: FilterId, canonical: &str, principal_id: &str) {
        self.ledger.locked().remove(canonical, principal_id);
        self.free.push(id.0);
    }

    /// Adds a compiled filter, with one reference. The ledger has counted it already.
    pub(crate) fn insert(&mut self, id: FilterId, canonical: &str, plan: Plan, principal_id: &Arc<str>) {
        let canonical: Arc<str> = canonical.into();
        self.bytes += canonical.len();
        self.by_canonical.insert(canonical.clone(), id);
        self.holders.add_reference(principal_id, id, canonical.len());
        let owner = principal_id.clone();
        self.slots[id.0 as usize] =
            Some(FilterEntry { canonical, owner, plan, references: 1, is_closed: false });
    }

    pub(crate) fn retain(&mut self, id: FilterId, principal_id: &Arc<str>) {
        if let Some(Some(entry)) = self.slots.get_mut(id.0 as usize) {
            entry.references += 1;
            if self.holders.add_reference(principal_id, id, entry.canonical.len()) {
                self.ledger.locked().add(&entry.canonical, principal_id);
            }
        }
    }

    /// How many different filters a principal holds on all shards of the plugin.
    pub(crate) fn held_by(&self, principal_id: &str) -> usize {
        self.ledger.locked().held_by(principal_id)
    }

    /// Removes one reference. Returns whether so many numbers are stale that the guest should be told.
    pub(crate) fn release(&mut self, id: FilterId, principal_id: &str) -> bool {
        if let Some(Some(entry)) = self.slots.get_mut(id.0 as usize)
            && let Some(remaining) = self.holders.remove_reference(principal_id, id, entry.canonical.len())
        {
            if remaining == 0 {
                self.ledger.locked().remove(&entry.canonical, principal_id);
            }
            entry.references -= 1;
            if entry.references == 0
                && let Some(entry) = self.slots[id.0 as usize].take()
            {
                self.by_canonical.remove(&entry.canonical);
                self.suspended.remove(&id);
                self.bytes -= entry.canonical.len();
                self.stale.push(id.0);
            }
        }
        self.stale.len() >= RELEASE_BATCH
    }

    /// A principal's name, shared among the filters that it holds.
    pub(crate) fn shared_name(&self, principal_id: &str) -> Arc<str> {
        self.holders.name(principal_id)
    }

    /// The principal that added the filter, if it still holds it.
    pub(crate) fn owner(&self, id: FilterId) -> Option<&Arc<str>> {
        self.entry(id).map(|entry| &entry.owner).filter(|owner| self.holders.holds(owner, id))
    }

    /// The principal whose filters use more than half of all bytes, if that is a lot: its filters fill the
    /// memory of an instance.
    pub(crate) fn dominant_holder(&self) -> Option<&Arc<str>> {
        let (who, usage) = self.holders.largest()?;
        (usage.bytes > self.bytes / 2 && usage.bytes > MIN_DOMINANT_BYTES).then_some(who)
    }

    /// Stops evaluating the filters that a principal added, until the given time. Forgets suspensions that
    /// are over.
    pub(crate) fn suspend(&mut self, who: &str, now: Instant, until: Instant) {
        self.suspended.retain(|_, until| now < *until);
        let owned = |(slot, id): (&Option<FilterEntry>, u32)| {
            let entry = slot.as_ref()?;
            (*entry.owner == *who).then_some((FilterId(id), until))
        };
        self.suspended.extend(self.slots.iter().zip(0..).filter_map(owned));
    }

    /// Whether any filter is suspended, or was recently.
    pub(crate) fn has_suspensions(&self) -> bool {
        !self.suspended.is_empty()
    }

    /// How a filter is evaluated at present. `None` means that it cannot be evaluated, and the message is
    /// lost for its members. `now` may be `None` if there are [no suspensions](Self::has_suspensions).
    pub(crate) fn current_plan(&self, id: FilterId, now: Option<Instant>) -> Option<Plan> {
        let is_suspended =
            || now.is_some_and(|now| self.suspended.get(&id).is_some_and(|until| now < *until));
        match self.entry(id) {
            Some(entry) if entry.is_closed => None,
            Some(entry) => (!is_suspended()).then_some(entry.plan),
            None => Some(Plan::None),
        }
    }

    /// Ends all suspensions: a new version of the plugin may handle what the previous one did not.
    pub(crate) fn clear_suspensions(&mut self) {
        self.suspended.clear();
    }

    /// The filter's plan, regardless of suspensions. No message passes an unknown filter.
    pub(crate) fn plan(&self, id: FilterId) -> Plan {
        self.entry(id).map_or(Plan::None, |entry| entry.plan)
    }

    pub(crate) fn set_plan(&mut self, id: FilterId, plan: Plan) {
        if let Some(entry) = self.entry_mut(id) {
            (entry.plan, entry.is_closed) = (plan, false);
        }
    }

    pub(crate) fn close(&mut self, id: FilterId) {
        if let Some(entry) = self.entry_mut(id) {
            (entry.plan, entry.is_closed) = (Plan::None, true);
        }
    }

    pub(crate) fn is_closed(&self, id: FilterId) -> bool {
        self.entry(id).is_some_and(|entry| entry.is_closed)
    }

    pub(crate) fn canonical(&self, id: FilterId) -> &str {
        self.entry(id).map_or("", |entry| &entry.canonical)
    }

    /// All filters in use, with their canonical forms.
    pub(crate) fn live(&self) -> impl Iterator<Item = (FilterId, &str)> {
        let entries = self.slots.iter().zip(0..);
        entries.filter_map(|(slot, id)| slot.as_ref().map(|entry| (FilterId(id), &*entry.canonical)))
    }

    /// The filters that a principal added.
    pub(crate) fn owned_by(&self, principal_id: &str) -> Vec<FilterId> {
        let entries = self.slots.iter().zip(0..);
        let owned = |(slot, id): (&Option<FilterEntry>, u32)| {
            (*slot.as_ref()?.owner == *principal_id).then_some(FilterId(id))
        };
        entries.filter_map(owned).collect()
    }

    /// Numbers that the guest should release. Call [`free_stale`](Self::free_stale) afterwards.
    pub(crate) fn stale(&self) -> &[u32] {
        &self.stale
    }

    /// Makes stale numbers available again: the guest has released them, or its instance has ended.
    pub(crate) fn free_stale(&mut self) {
        self.free.append(&mut mem::take(&mut self.stale));
    }

    /// Calls `report` with how many filters the plugin has in all its shards, while that cannot change.
    pub(crate) fn report_count(&self, report: impl FnOnce(usize)) {
        let ledger = self.ledger.locked();
        report(ledger.len());
    }

    fn entry(&self, id: FilterId) -> Option<&FilterEntry> {
        self.slots.get(id.0 as usize)?.as_ref()
    }

    fn entry_mut(&mut self, id: FilterId) -> Option<&mut FilterEntry> {
        self.slots.get_mut(id.0 as usize)?.as_mut()
    }
}

/// The filters of a shard that ends do not count any more.
impl Drop for FilterTable {
    fn drop(&mut self) {
        let mut ledger = self.ledger.locked();
        for (principal_id, id) in self.holders.all() {
            ledger.remove(self.canonical(id), principal_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter_ledger::MAX_FILTERS;

    fn shared(name: &str) -> Arc<str> {
        name.into()
    }

    fn insert(filters: &mut FilterTable, canonical: &str) -> FilterId {
        insert_for(filters, canonical, "acme").unwrap()
    }

    fn insert_for(filters: &mut FilterTable, canonical: &str, name: &str) -> Result<FilterId, QuotaExceeded> {
        let id = filters.reserve(canonical, &shared(name))?;
        filters.insert(id, canonical, Plan::Guest, &shared(name));
        Ok(id)
    }

    #[test]
    fn equal_filters_share_a_number_until_the_last_reference_is_released() {
        let mut filters = FilterTable::new(Arc::default());
        let id = insert(&mut filters, "a");
        assert_eq!(filters.find("a"), Some(id));
        filters.retain(id, &shared("zed"));
        filters.release(id, "acme");
        assert_eq!((filters.by_canonical.len(), filters.plan(id)), (1, Plan::Guest));
        assert_eq!(filters.owner(id), None, "its owner has released it");
        // An extra release does not take a reference of others.
        filters.release(id, "acme");
        assert_eq!(filters.by_canonical.len(), 1);
        filters.release(id, "zed");
        assert_eq!((filters.by_canonical.len(), filters.plan(id), filters.find("a")), (0, Plan::None, None));
        filters.release(id, "zed");
        assert_eq!(filters.stale(), [id.0]);
    }

    #[test]
    fn a_number_is_reused_only_after_the_guest_has_released_it() {
        let mut filters = FilterTable::new(Arc::default());
        let first = insert(&mut filters, "a");
        filters.release(first, "acme");
        let second = insert(&mut filters, "b");
        assert_ne!(first, second);
        filters.free_stale();
        assert_eq!(insert(&mut filters, "c"), first);
        assert_eq!(filters.live().collect::<Vec<_>>(), [(first, "c"), (second, "b")]);
    }

    #[test]
    fn a_closed_filter_passes_nothing_until_it_has_a_plan_again() {
        let mut filters = FilterTable::new(Arc::default());
        let id = insert(&mut filters, "a");
        filters.close(id);
        assert_eq!((filters.plan(id), filters.is_closed(id)), (Plan::None, true));
        filters.set_plan(id, Plan::All);
        assert_eq!((filters.plan(id), filters.is_closed(id)), (Plan::All, false));
    }

    #[test]
    fn a_suspension_affects_only_filters_of_its_principal_and_ends() {
        let mut filters = FilterTable::new(Arc::default());
        let (one, two) = (insert(&mut filters, "a"), insert_for(&mut filters, "b", "zed").unwrap());
        let (now, later) = (Instant::now(), Instant::now() + std::time::Duration::from_secs(1));
        filters.suspend("acme", now, later);
        let plans = |filters: &FilterTable, at| [one, two].map(|id| filters.current_plan(id, Some(at)));
        assert_eq!(plans(&filters, now), [None, Some(Plan::Guest)]);
        assert_eq!(plans(&filters, later), [Some(Plan::Guest); 2]);
        filters.clear_suspensions();
        assert!(!filters.has_suspensions());
    }

    #[test]
    fn a_single_principal_gets_half_and_each_further_one_half_of_the_rest() {
        let mut filters = FilterTable::new(Arc::default());
        let mut number = 0;
        let mut fill = |filters: &mut FilterTable, name: &str| {
            let mut taken = 0;
            loop {
                number += 1;
                match insert_for(filters, &number.to_string(), name) {
                    Ok(_) => taken += 1,
                    Err(full) => return (taken, full),
                }
            }
        };
        let (taken, full) = fill(&mut filters, "mallory");
        assert_eq!(taken, MAX_FILTERS / 2);
        assert!(matches!(full, QuotaExceeded::Principal(usage) if usage.filters == taken), "{full:?}");
        for name in ["acme", "zed", "ann"] {
            let before = filters.by_canonical.len();
            let (taken, _) = fill(&mut filters, name);
            assert_eq!(taken, (MAX_FILTERS - before) / 2);
        }
        // A filter that exists already needs no quota.
        let known = filters.find("1").unwrap();
        filters.retain(known, &shared("mallory"));
    }

    #[test]
    fn the_total_size_of_filters_is_bounded_over_all_principals() {
        let mut filters = FilterTable::new(Arc::default());
        let text = |n: usize| format!("{n:03}{}", "0".repeat(65533));
        let most = MAX_TOTAL_BYTES / text(0).len();
        for n in 0..most {
            insert_for(&mut filters, &text(n), &n.to_string()).unwrap();
        }
        assert_eq!(filters.reserve("a", &shared("ann")), Err(QuotaExceeded::Plugin));
        let stale =
            (0..RELEASE_BATCH as u32).filter(|id| filters.release(FilterId(*id), &id.to_string())).count();
        assert_eq!(stale, 1);
        assert!(filters.reserve("a", &shared("ann")).is_ok());
        assert_eq!(filters.reserve(&"a".repeat(MAX_TOTAL_BYTES), &shared("ann")), Err(QuotaExceeded::Plugin));
    }

    #[test]
    fn the_dominant_holder_is_found_once_filters_use_much_memory() {
        let mut filters = FilterTable::new(Arc::default());
        insert(&mut filters, &"a".repeat(1000));
        assert_eq!(filters.dominant_holder(), None, "too little to matter");
        insert_for(&mut filters, &"b".repeat(MAX_TOTAL_BYTES / 8), "mallory").unwrap();
        assert_eq!(filters.dominant_holder(), Some(&shared("mallory")));
        insert(&mut filters, &"c".repeat(MAX_TOTAL_BYTES / 8));
        assert_eq!(filters.dominant_holder(), Some(&shared("acme")));
    }

    #[test]
    fn all_shards_of_a_plugin_share_its_quota() {
        let ledger: Arc<Mutex<FilterLedger>> = Arc::default();
        let mut shards = [(); 4].map(|()| FilterTable::new(ledger.clone()));
        for n in 0..MAX_FILTERS / 2 {
            insert_for(&mut shards[n % 4], &n.to_string(), "mallory").unwrap();
        }
        for shard in &mut shards {
            assert!(matches!(insert_for(shard, "more", "mallory"), Err(QuotaExceeded::Principal(_))));
            // What another shard has counts already.
            for known in ["0", "1", "2", "3"]
                .into_iter()
                .filter(|known| shard.find(known).is_none())
                .collect::<Vec<_>>()
            {
                insert_for(shard, known, "mallory").unwrap();
            }
        }
        assert_eq!(ledger.locked().len(), MAX_FILTERS / 2);
        let [first, ..] = shards;
        drop(first);
        assert_eq!(ledger.locked().len(), MAX_FILTERS / 2 * 3 / 4 + 1, "the others have one of its filters");
    }
}
