//! Who holds which filters of one plugin, and how much of what there is for filters that takes: so that no principal takes
//! what others need.

use super::filters::FilterId;
use std::collections::HashMap;
use std::sync::Arc;

/// What the filters of one principal, or of all of them, take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub filters: usize,
    /// Bytes of their canonical forms.
    pub text: usize,
}

struct Holder {
    number: u32,
    held: Held,
}

#[derive(Default)]
pub(crate) struct Holders {
    by_name: HashMap<Arc<str>, Holder>,
    /// References by filter and number of the holder.
    references: HashMap<(FilterId, u32), u32>,
    /// Numbers that were given away; those that came back are given first.
    numbers: u32,
    free: Vec<u32>,
}

impl Holders {
    pub(crate) fn held(&self, who: &str) -> Held {
        self.by_name.get(who).map_or(Held::default(), |holder| holder.held)
    }

    /// The name as it is kept here already, or a new one.
    pub(crate) fn name(&self, who: &str) -> Arc<str> {
        self.by_name.get_key_value(who).map_or_else(|| who.into(), |(name, _)| name.clone())
    }

    pub(crate) fn holds(&self, who: &str, id: FilterId) -> bool {
        self.by_name.get(who).is_some_and(|holder| self.references.contains_key(&(id, holder.number)))
    }

    /// One reference more to a filter of `text` bytes.
    pub(crate) fn take(&mut self, who: &Arc<str>, id: FilterId, text: usize) {
        let (numbers, free) = (&mut self.numbers, &mut self.free);
        let holder = self.by_name.entry(who.clone()).or_insert_with(|| {
            let number = free.pop().unwrap_or_else(|| {
                *numbers += 1;
                *numbers
            });
            Holder { number, held: Held::default() }
        });
        let references = self.references.entry((id, holder.number)).or_default();
        *references += 1;
        if *references == 1 {
            holder.held.filters += 1;
            holder.held.text += text;
        }
    }

    /// One reference less. Who has none loses none.
    pub(crate) fn give_back(&mut self, who: &str, id: FilterId, text: usize) -> bool {
        let Some(holder) = self.by_name.get_mut(who) else { return false };
        let Some(references) = self.references.get_mut(&(id, holder.number)) else { return false };
        *references -= 1;
        if *references == 0 {
            self.references.remove(&(id, holder.number));
            holder.held.filters -= 1;
            holder.held.text -= text;
            if holder.held.filters == 0 {
                self.free.push(holder.number);
                self.by_name.remove(who);
            }
        }
        true
    }

    /// Who holds the most text.
    pub(crate) fn largest(&self) -> Option<(&Arc<str>, Held)> {
        self.by_name.iter().max_by_key(|(_, holder)| holder.held.text).map(|(who, holder)| (who, holder.held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_counts_once_for_each_who_holds_it() {
        let mut holders = Holders::default();
        let (one, two) = (FilterId::new(1), FilterId::new(2));
        let (acme, zed): (Arc<str>, Arc<str>) = ("acme".into(), "zed".into());
        for who in [&acme, &acme, &zed] {
            holders.take(who, one, 10);
        }
        holders.take(&acme, two, 5);
        assert_eq!(holders.held("acme"), Held { filters: 2, text: 15 });
        assert_eq!(holders.held("zed"), Held { filters: 1, text: 10 });
        assert_eq!(holders.largest().unwrap().0, &acme);
        assert!(holders.give_back("acme", one, 10));
        assert_eq!(holders.held("acme").filters, 2, "it has another reference");
        assert!(holders.give_back("acme", one, 10) && !holders.give_back("acme", one, 10));
        assert!(!holders.holds("acme", one) && holders.holds("zed", one));
        assert!(holders.give_back("zed", one, 10) && holders.give_back("acme", two, 5));
        assert!(holders.by_name.is_empty() && holders.references.is_empty());
        // Nobody is taken for whoever had the number before.
        holders.take(&zed, two, 5);
        assert!(holders.holds("zed", two) && !holders.holds("acme", two));
        assert_eq!(holders.numbers, 2);
    }
}
