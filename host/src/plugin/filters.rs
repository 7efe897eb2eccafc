//! The filters in use under one governor: interned by canonical form, counted, numbered for the guest.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;

/// Filters that one governor keeps, and bytes of their canonical forms: about what an instance of the default
/// memory budget can hold.
const MAX_FILTERS: usize = 10_000;
const MAX_TEXT: usize = 8 << 20;

/// Freed numbers after which it is worth telling the guest.
const BATCH: usize = 64;

/// An interned filter. Equal canonical forms have one, so members can be grouped by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FilterId(pub(super) u32);

#[cfg(test)]
impl FilterId {
    /// For tests of what only groups by filter.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }
}

/// How a filter's question is answered. It belongs to the running version of the plugin: a swap may change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Every message passes, without asking.
    All,
    /// No message passes, without asking.
    None,
    /// The guest is asked.
    Guest,
}

struct Entry {
    canonical: Arc<str>,
    plan: Plan,
    references: u32,
    /// It could not be compiled again: nothing passes until that succeeds.
    closed: bool,
}

/// Canonical forms and the numbers under which the guest keeps them. A number is used again only once the
/// guest has let go of it, or has ended.
#[derive(Default)]
pub struct Filters {
    slots: Vec<Option<Entry>>,
    /// Bytes of all canonical forms.
    text: usize,
    numbers: HashMap<Arc<str>, FilterId>,
    free: Vec<u32>,
    /// No longer in use here, still kept by the guest.
    stale: Vec<u32>,
}

impl Filters {
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    pub fn find(&self, canonical: &str) -> Option<FilterId> {
        self.numbers.get(canonical).copied()
    }

    /// A number for a filter that is about to be compiled; give it to [`insert`](Self::insert) or
    /// [`give_back`](Self::give_back). `None` when there are too many filters.
    pub fn reserve(&mut self, canonical: &str) -> Option<FilterId> {
        if self.len() >= MAX_FILTERS || self.text + canonical.len() > MAX_TEXT {
            return None;
        }
        Some(FilterId(self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        })))
    }

    pub fn give_back(&mut self, id: FilterId) {
        self.free.push(id.0);
    }

    /// Takes up a compiled filter with one reference.
    pub fn insert(&mut self, id: FilterId, canonical: &str, plan: Plan) {
        let canonical: Arc<str> = canonical.into();
        self.text += canonical.len();
        self.numbers.insert(canonical.clone(), id);
        self.slots[id.0 as usize] = Some(Entry { canonical, plan, references: 1, closed: false });
    }

    pub fn retain(&mut self, id: FilterId) {
        if let Some(entry) = self.entry_mut(id) {
            entry.references += 1;
        }
    }

    /// Gives one reference back; tells whether enough numbers are stale to tell the guest.
    pub fn release(&mut self, id: FilterId) -> bool {
        if let Some(entry) = self.entry_mut(id) {
            entry.references -= 1;
            if entry.references == 0
                && let Some(entry) = self.slots[id.0 as usize].take()
            {
                self.numbers.remove(&entry.canonical);
                self.text -= entry.canonical.len();
                self.stale.push(id.0);
            }
        }
        self.stale.len() >= BATCH
    }

    /// An unknown filter passes nothing.
    pub fn plan(&self, id: FilterId) -> Plan {
        self.entry(id).map_or(Plan::None, |entry| entry.plan)
    }

    pub fn set_plan(&mut self, id: FilterId, plan: Plan) {
        if let Some(entry) = self.entry_mut(id) {
            (entry.plan, entry.closed) = (plan, false);
        }
    }

    pub fn close(&mut self, id: FilterId) {
        if let Some(entry) = self.entry_mut(id) {
            (entry.plan, entry.closed) = (Plan::None, true);
        }
    }

    pub fn is_closed(&self, id: FilterId) -> bool {
        self.entry(id).is_some_and(|entry| entry.closed)
    }

    pub fn canonical(&self, id: FilterId) -> &str {
        self.entry(id).map_or("", |entry| &entry.canonical)
    }

    pub fn live(&self) -> impl Iterator<Item = (FilterId, &str)> {
        let entries = self.slots.iter().zip(0..);
        entries.filter_map(|(slot, id)| slot.as_ref().map(|entry| (FilterId(id), &*entry.canonical)))
    }

    /// Numbers that the guest shall let go of. Afterwards comes [`forgotten`](Self::forgotten).
    pub fn stale(&self) -> &[u32] {
        &self.stale
    }

    /// The guest has let go of what was stale, or has ended.
    pub fn forgotten(&mut self) {
        self.free.append(&mut mem::take(&mut self.stale));
    }

    fn entry(&self, id: FilterId) -> Option<&Entry> {
        self.slots.get(id.0 as usize)?.as_ref()
    }

    fn entry_mut(&mut self, id: FilterId) -> Option<&mut Entry> {
        self.slots.get_mut(id.0 as usize)?.as_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(filters: &mut Filters, canonical: &str) -> FilterId {
        let id = filters.reserve(canonical).unwrap();
        filters.insert(id, canonical, Plan::Guest);
        id
    }

    #[test]
    fn equal_forms_are_one_until_the_last_reference_goes() {
        let mut filters = Filters::default();
        let id = insert(&mut filters, "a");
        assert_eq!(filters.find("a"), Some(id));
        filters.retain(id);
        filters.release(id);
        assert_eq!((filters.len(), filters.plan(id)), (1, Plan::Guest));
        filters.release(id);
        assert_eq!((filters.len(), filters.plan(id), filters.find("a")), (0, Plan::None, None));
        // One release too many is nobody else's loss.
        filters.release(id);
        assert_eq!(filters.stale(), [id.0]);
    }

    #[test]
    fn a_number_is_used_again_only_when_the_guest_forgot_it() {
        let mut filters = Filters::default();
        let first = insert(&mut filters, "a");
        filters.release(first);
        let second = insert(&mut filters, "b");
        assert_ne!(first, second);
        filters.forgotten();
        assert_eq!(insert(&mut filters, "c"), first);
        assert_eq!(filters.live().collect::<Vec<_>>(), [(first, "c"), (second, "b")]);
    }

    #[test]
    fn a_closed_filter_passes_nothing_until_it_has_a_plan_again() {
        let mut filters = Filters::default();
        let id = insert(&mut filters, "a");
        filters.close(id);
        assert_eq!((filters.plan(id), filters.is_closed(id)), (Plan::None, true));
        filters.set_plan(id, Plan::All);
        assert_eq!((filters.plan(id), filters.is_closed(id)), (Plan::All, false));
    }

    #[test]
    fn there_is_an_end_to_them() {
        let mut filters = Filters::default();
        for i in 0..MAX_FILTERS {
            insert(&mut filters, &i.to_string());
        }
        assert!(filters.reserve("a").is_none());
        let stale = (0..BATCH as u32).filter(|id| filters.release(FilterId(*id))).count();
        assert_eq!(stale, 1);
        assert!(filters.reserve("a").is_some());
        assert!(filters.reserve(&"a".repeat(MAX_TEXT)).is_none());
    }
}
