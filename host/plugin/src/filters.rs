//! The filters in use under one governor: interned by canonical form, counted by who holds them, numbered for the guest.

use super::holders::{Held, Holders};
use std::collections::HashMap;
use std::mem;
use std::sync::Arc;
use std::time::Instant;

/// Filters that one governor keeps, and bytes of their canonical forms: about what an instance of the default
/// memory budget can hold. A principal may have as much as it leaves free: alone half of it, and so on, so that there is
/// always something left for the next one.
pub(super) const MAX_FILTERS: usize = 20_000;
pub(super) const MAX_TEXT: usize = 8 << 20;

/// Bytes of one filter, as a client sends it and as a plugin makes it canonical.
pub(super) const MAX_FILTER: usize = 64 * 1024;

/// Freed numbers after which it is worth telling the guest.
const BATCH: usize = 64;

/// An interned filter. Equal canonical forms have one, so members can be grouped by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FilterId(pub(super) u32);

impl FilterId {
    /// A filter of this number, for tests of what only groups by filter.
    #[doc(hidden)]
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

/// Why there is no room for another filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// The plugin has as many as it may.
    Plugin,
    /// The principal has this much, and what is left is for others.
    Share(Held),
}

struct Entry {
    canonical: Arc<str>,
    /// Who brought it. It may have left since; others may hold it too.
    owner: Arc<str>,
    plan: Plan,
    references: u32,
    /// It could not be compiled again: nothing passes until that succeeds.
    closed: bool,
}

/// Canonical forms and the numbers under which the guest keeps them. A number is used again only once the
/// guest has let go of it, or has ended.
#[derive(Default)]
pub(crate) struct Filters {
    slots: Vec<Option<Entry>>,
    /// Bytes of all canonical forms.
    text: usize,
    numbers: HashMap<Arc<str>, FilterId>,
    free: Vec<u32>,
    /// No longer in use here, still kept by the guest.
    stale: Vec<u32>,
    holders: Holders,
    /// Not asked until then: they made the plugin fail. Mostly empty.
    suspended: HashMap<FilterId, Instant>,
}

impl Filters {
    pub(crate) fn len(&self) -> usize {
        self.numbers.len()
    }

    pub(crate) fn find(&self, canonical: &str) -> Option<FilterId> {
        self.numbers.get(canonical).copied()
    }

    /// A number for a filter that is about to be compiled; give it to [`insert`](Self::insert) or
    /// [`give_back`](Self::give_back).
    pub(crate) fn reserve(&mut self, canonical: &str, who: &str) -> Result<FilterId, Full> {
        let (filters, text) = (self.len() + 1, self.text + canonical.len());
        if filters > MAX_FILTERS || text > MAX_TEXT {
            return Err(Full::Plugin);
        }
        let held = self.holders.held(who);
        if held.filters + filters > MAX_FILTERS || held.text + text > MAX_TEXT {
            return Err(Full::Share(held));
        }
        Ok(FilterId(self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        })))
    }

    pub(crate) fn give_back(&mut self, id: FilterId) {
        self.free.push(id.0);
    }

    /// Takes up a compiled filter with one reference.
    pub(crate) fn insert(&mut self, id: FilterId, canonical: &str, plan: Plan, who: &Arc<str>) {
        let canonical: Arc<str> = canonical.into();
        self.text += canonical.len();
        self.numbers.insert(canonical.clone(), id);
        self.holders.take(who, id, canonical.len());
        let owner = who.clone();
        self.slots[id.0 as usize] = Some(Entry { canonical, owner, plan, references: 1, closed: false });
    }

    pub(crate) fn retain(&mut self, id: FilterId, who: &Arc<str>) {
        if let Some(Some(entry)) = self.slots.get_mut(id.0 as usize) {
            entry.references += 1;
            self.holders.take(who, id, entry.canonical.len());
        }
    }

    /// Gives one reference back; tells whether enough numbers are stale to tell the guest.
    pub(crate) fn release(&mut self, id: FilterId, who: &str) -> bool {
        if let Some(Some(entry)) = self.slots.get_mut(id.0 as usize)
            && self.holders.give_back(who, id, entry.canonical.len())
        {
            entry.references -= 1;
            if entry.references == 0
                && let Some(entry) = self.slots[id.0 as usize].take()
            {
                self.numbers.remove(&entry.canonical);
                self.suspended.remove(&id);
                self.text -= entry.canonical.len();
                self.stale.push(id.0);
            }
        }
        self.stale.len() >= BATCH
    }

    /// A principal's name, to be shared by what it holds.
    pub(crate) fn holder(&self, who: &str) -> Arc<str> {
        self.holders.name(who)
    }

    /// Who brought a filter, and holds it still.
    pub(crate) fn owner(&self, id: FilterId) -> Option<&Arc<str>> {
        self.entry(id).map(|entry| &entry.owner).filter(|owner| self.holders.holds(owner, id))
    }

    /// Who holds more than half of all text, where that is much: whose filters fill the memory of an instance.
    pub(crate) fn hoarder(&self) -> Option<&Arc<str>> {
        let (who, held) = self.holders.largest()?;
        (held.text > self.text / 2 && held.text > MAX_TEXT / 16).then_some(who)
    }

    /// The filters that a principal brought are not asked of until then. Earlier suspensions that are over are forgotten.
    pub(crate) fn suspend(&mut self, who: &str, now: Instant, until: Instant) {
        self.suspended.retain(|_, until| now < *until);
        let of = |(slot, id): (&Option<Entry>, u32)| {
            let entry = slot.as_ref()?;
            (*entry.owner == *who).then_some((FilterId(id), until))
        };
        self.suspended.extend(self.slots.iter().zip(0..).filter_map(of));
    }

    /// Whether any filter is suspended, or was lately.
    pub(crate) fn suspends(&self) -> bool {
        !self.suspended.is_empty()
    }

    /// A filter's plan at present; `None`: it cannot be asked of, and what it would let through is lost to its members.
    /// `now` is not looked at where nothing [is suspended](Self::suspends).
    pub(crate) fn present(&self, id: FilterId, now: Option<Instant>) -> Option<Plan> {
        let is_suspended =
            || now.is_some_and(|now| self.suspended.get(&id).is_some_and(|until| now < *until));
        match self.entry(id) {
            Some(entry) if entry.closed => None,
            Some(entry) => (!is_suspended()).then_some(entry.plan),
            None => Some(Plan::None),
        }
    }

    /// Another version is asked without regard to what the one before did not bear.
    pub(crate) fn pardon(&mut self) {
        self.suspended.clear();
    }

    /// An unknown filter passes nothing.
    pub(crate) fn plan(&self, id: FilterId) -> Plan {
        self.entry(id).map_or(Plan::None, |entry| entry.plan)
    }

    pub(crate) fn set_plan(&mut self, id: FilterId, plan: Plan) {
        if let Some(entry) = self.entry_mut(id) {
            (entry.plan, entry.closed) = (plan, false);
        }
    }

    pub(crate) fn close(&mut self, id: FilterId) {
        if let Some(entry) = self.entry_mut(id) {
            (entry.plan, entry.closed) = (Plan::None, true);
        }
    }

    pub(crate) fn is_closed(&self, id: FilterId) -> bool {
        self.entry(id).is_some_and(|entry| entry.closed)
    }

    pub(crate) fn canonical(&self, id: FilterId) -> &str {
        self.entry(id).map_or("", |entry| &entry.canonical)
    }

    pub(crate) fn live(&self) -> impl Iterator<Item = (FilterId, &str)> {
        let entries = self.slots.iter().zip(0..);
        entries.filter_map(|(slot, id)| slot.as_ref().map(|entry| (FilterId(id), &*entry.canonical)))
    }

    /// Those that a principal brought.
    pub(crate) fn of(&self, who: &str) -> Vec<FilterId> {
        let entries = self.slots.iter().zip(0..);
        let of = |(slot, id): (&Option<Entry>, u32)| (*slot.as_ref()?.owner == *who).then_some(FilterId(id));
        entries.filter_map(of).collect()
    }

    /// Numbers that the guest shall let go of. Afterwards comes [`forgotten`](Self::forgotten).
    pub(crate) fn stale(&self) -> &[u32] {
        &self.stale
    }

    /// The guest has let go of what was stale, or has ended.
    pub(crate) fn forgotten(&mut self) {
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

    fn who(name: &str) -> Arc<str> {
        name.into()
    }

    fn insert(filters: &mut Filters, canonical: &str) -> FilterId {
        insert_for(filters, canonical, "acme").unwrap()
    }

    fn insert_for(filters: &mut Filters, canonical: &str, name: &str) -> Result<FilterId, Full> {
        let id = filters.reserve(canonical, name)?;
        filters.insert(id, canonical, Plan::Guest, &who(name));
        Ok(id)
    }

    #[test]
    fn equal_forms_are_one_until_the_last_reference_goes() {
        let mut filters = Filters::default();
        let id = insert(&mut filters, "a");
        assert_eq!(filters.find("a"), Some(id));
        filters.retain(id, &who("zed"));
        filters.release(id, "acme");
        assert_eq!((filters.len(), filters.plan(id)), (1, Plan::Guest));
        assert_eq!(filters.owner(id), None, "who brought it has left");
        // One release too many is nobody else's loss.
        filters.release(id, "acme");
        assert_eq!(filters.len(), 1);
        filters.release(id, "zed");
        assert_eq!((filters.len(), filters.plan(id), filters.find("a")), (0, Plan::None, None));
        filters.release(id, "zed");
        assert_eq!(filters.stale(), [id.0]);
    }

    #[test]
    fn a_number_is_used_again_only_when_the_guest_forgot_it() {
        let mut filters = Filters::default();
        let first = insert(&mut filters, "a");
        filters.release(first, "acme");
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
    fn only_what_a_principal_brought_is_suspended_and_for_a_while() {
        let mut filters = Filters::default();
        let (one, two) = (insert(&mut filters, "a"), insert_for(&mut filters, "b", "zed").unwrap());
        let (now, later) = (Instant::now(), Instant::now() + std::time::Duration::from_secs(1));
        filters.suspend("acme", now, later);
        let present = |filters: &Filters, at| [one, two].map(|id| filters.present(id, Some(at)));
        assert_eq!(present(&filters, now), [None, Some(Plan::Guest)]);
        assert_eq!(present(&filters, later), [Some(Plan::Guest); 2]);
        filters.pardon();
        assert!(!filters.suspends());
    }

    #[test]
    fn a_principal_alone_may_have_half_and_leaves_something_for_the_next() {
        let mut filters = Filters::default();
        let mut number = 0;
        let mut fill = |filters: &mut Filters, name: &str| {
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
        assert!(matches!(full, Full::Share(held) if held.filters == taken), "{full:?}");
        for name in ["acme", "zed", "ann"] {
            let before = filters.len();
            let (taken, _) = fill(&mut filters, name);
            assert_eq!(taken, (MAX_FILTERS - before) / 2);
        }
        // What somebody else brought already takes nothing.
        let known = filters.find("1").unwrap();
        filters.retain(known, &who("mallory"));
    }

    #[test]
    fn there_is_an_end_to_them_also_for_many() {
        let mut filters = Filters::default();
        let text = |n: usize| format!("{n:03}{}", "0".repeat(65533));
        let most = MAX_TEXT / text(0).len();
        for n in 0..most {
            insert_for(&mut filters, &text(n), &n.to_string()).unwrap();
        }
        assert_eq!(filters.reserve("a", "ann"), Err(Full::Plugin));
        let stale = (0..BATCH as u32).filter(|id| filters.release(FilterId(*id), &id.to_string())).count();
        assert_eq!(stale, 1);
        assert!(filters.reserve("a", "ann").is_ok());
        assert_eq!(filters.reserve(&"a".repeat(MAX_TEXT), "ann"), Err(Full::Plugin));
    }

    #[test]
    fn who_holds_most_of_much_is_found() {
        let mut filters = Filters::default();
        insert(&mut filters, &"a".repeat(1000));
        assert_eq!(filters.hoarder(), None, "that is little");
        insert_for(&mut filters, &"b".repeat(MAX_TEXT / 8), "mallory").unwrap();
        assert_eq!(filters.hoarder(), Some(&who("mallory")));
        insert(&mut filters, &"c".repeat(MAX_TEXT / 8));
        assert_eq!(filters.hoarder(), Some(&who("acme")));
    }
}
