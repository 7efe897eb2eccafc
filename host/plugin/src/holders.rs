//! Which principals hold which filters of one plugin, and how much of the plugin's quota each of them uses.

use super::filters::FilterId;
use std::collections::HashMap;
use std::sync::Arc;

/// How much of the quota the filters of a principal use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FilterUsage {
    pub filters: usize,
    /// Total length of their canonical forms.
    pub bytes: usize,
}

struct FilterHolder {
    number: u32,
    usage: FilterUsage,
}

/// References to filters, counted by principal. Each principal has a number, which keeps the keys small.
#[derive(Default)]
pub(crate) struct FilterHolders {
    by_name: HashMap<Arc<str>, FilterHolder>,
    /// How many references to a filter a principal's number has.
    references: HashMap<(FilterId, u32), u32>,
    /// The highest number that was ever assigned. Free ones are reused first.
    numbers: u32,
    free: Vec<u32>,
}

impl FilterHolders {
    pub(crate) fn usage(&self, principal_id: &str) -> FilterUsage {
        self.by_name.get(principal_id).map_or(FilterUsage::default(), |holder| holder.usage)
    }

    /// The shared copy of the name if there is one, or else a new one.
    pub(crate) fn name(&self, principal_id: &str) -> Arc<str> {
        self.by_name.get_key_value(principal_id).map_or_else(|| principal_id.into(), |(name, _)| name.clone())
    }

    pub(crate) fn holds(&self, principal_id: &str, id: FilterId) -> bool {
        self.by_name
            .get(principal_id)
            .is_some_and(|holder| self.references.contains_key(&(id, holder.number)))
    }

    /// Adds one reference to a filter whose canonical form has `bytes` bytes. Returns whether it is the first of
    /// this principal.
    pub(crate) fn add_reference(&mut self, principal_id: &Arc<str>, id: FilterId, bytes: usize) -> bool {
        let (numbers, free) = (&mut self.numbers, &mut self.free);
        let holder = self.by_name.entry(principal_id.clone()).or_insert_with(|| {
            let number = free.pop().unwrap_or_else(|| {
                *numbers += 1;
                *numbers
            });
            FilterHolder { number, usage: FilterUsage::default() }
        });
        let references = self.references.entry((id, holder.number)).or_default();
        *references += 1;
        let is_first = *references == 1;
        if is_first {
            holder.usage.filters += 1;
            holder.usage.bytes += bytes;
        }
        is_first
    }

    /// Removes one reference, and returns how many the principal still has. `None` if there was none.
    pub(crate) fn remove_reference(&mut self, principal_id: &str, id: FilterId, bytes: usize) -> Option<u32> {
        let holder = self.by_name.get_mut(principal_id)?;
        let references = self.references.get_mut(&(id, holder.number))?;
        *references -= 1;
        let remaining = *references;
        if remaining == 0 {
            self.references.remove(&(id, holder.number));
            holder.usage.filters -= 1;
            holder.usage.bytes -= bytes;
            if holder.usage.filters == 0 {
                self.free.push(holder.number);
                self.by_name.remove(principal_id);
            }
        }
        Some(remaining)
    }

    /// Which principal holds which filter, each pair once.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&Arc<str>, FilterId)> {
        let names: HashMap<u32, &Arc<str>> =
            self.by_name.iter().map(|(name, holder)| (holder.number, name)).collect();
        self.references.keys().map(move |(id, number)| (names[number], *id))
    }

    /// The principal whose filters use the most bytes.
    pub(crate) fn largest(&self) -> Option<(&Arc<str>, FilterUsage)> {
        self.by_name
            .iter()
            .max_by_key(|(_, holder)| holder.usage.bytes)
            .map(|(principal_id, holder)| (principal_id, holder.usage))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_counts_once_for_each_holder() {
        let mut holders = FilterHolders::default();
        let (one, two) = (FilterId::new(1), FilterId::new(2));
        let (acme, zed): (Arc<str>, Arc<str>) = ("acme".into(), "zed".into());
        for principal_id in [&acme, &acme, &zed] {
            holders.add_reference(principal_id, one, 10);
        }
        holders.add_reference(&acme, two, 5);
        assert_eq!(holders.usage("acme"), FilterUsage { filters: 2, bytes: 15 });
        assert_eq!(holders.usage("zed"), FilterUsage { filters: 1, bytes: 10 });
        assert_eq!(holders.largest().unwrap().0, &acme);
        assert_eq!(holders.remove_reference("acme", one, 10), Some(1));
        assert_eq!(holders.usage("acme").filters, 2, "it has another reference");
        assert_eq!(holders.remove_reference("acme", one, 10), Some(0));
        assert_eq!(holders.remove_reference("acme", one, 10), None);
        assert!(!holders.holds("acme", one) && holders.holds("zed", one));
        assert_eq!(holders.all().count(), 2);
        assert_eq!(holders.remove_reference("zed", one, 10), Some(0));
        assert_eq!(holders.remove_reference("acme", two, 5), Some(0));
        assert!(holders.by_name.is_empty() && holders.references.is_empty());
        // A reused number does not carry over references.
        holders.add_reference(&zed, two, 5);
        assert!(holders.holds("zed", two) && !holders.holds("acme", two));
        assert_eq!(holders.numbers, 2);
    }
}
