//! From which records a record was made. So a node that reads one that does not descend from the one it knew can tell that
//! the store has lost something, and puts it back.

use super::{Governance, GovernedSlot};
use crate::random::random;
use std::collections::BTreeSet;
use switchyard_protocol::room::RoomPattern;

/// How many of its ancestors a record names: the newest. A change of an operator makes up to three records.
const MAX_ANCESTORS: usize = 256;

impl Governance {
    /// This record as it is written in place of `replaced`.
    pub(crate) fn as_written(&self, replaced: &Self) -> Self {
        // At most 53 bits, like all numbers in Redis.
        let id = (u64::from_le_bytes(random()) >> 11) | 1;
        let mut ancestors = &self.ancestors | &replaced.lineage();
        while ancestors.len() > MAX_ANCESTORS {
            ancestors.pop_first();
        }
        Self { id, ancestors, ..self.clone() }
    }

    /// This record and its ancestors.
    fn lineage(&self) -> BTreeSet<(u64, u64)> {
        let own = (self.id != 0).then_some((self.revision, self.id));
        self.ancestors.iter().copied().chain(own).collect()
    }

    /// Whether this record was made from `other`. If `other` is so old that its descendants do not name it any more, it is
    /// taken for an ancestor.
    fn descends_from(&self, other: &Self) -> bool {
        let is_forgotten = || {
            self.ancestors.len() == MAX_ANCESTORS
                && self.ancestors.first().is_some_and(|(oldest, _)| other.revision < *oldest)
        };
        self.id == other.id || self.ancestors.contains(&(other.revision, other.id)) || is_forgotten()
    }

    /// The record to write if this is what the store has instead of `known`, which a node has read before. `None` if the
    /// node can accept it as it is.
    ///
    /// If the store has none, or an ancestor of `known`, it has lost the newest. If neither descends from the other, this
    /// one was written by somebody who did not know what was lost. It gets what it lacks: the plugins, and rooms of
    /// plugins. So no room opens because of a loss.
    pub fn restore(&self, known: &Self) -> Option<Self> {
        if known.revision == 0 || (self.revision > 0 && self.descends_from(known)) {
            return None;
        }
        let revision = self.revision.max(known.revision) + 1;
        let ancestors = &self.lineage() | &known.lineage();
        if self.revision == 0 || known.descends_from(self) {
            return Some(Self { revision, ancestors, ..known.clone() });
        }
        let announced = self.announced.as_ref().map(|slots| with_lost_rooms(slots, &known.slots));
        let slots = with_lost_rooms(&self.slots, &known.slots);
        // Not announced first: a node that knows what was lost would open rooms until they are closed for the change.
        let changed_from = match slots == self.slots {
            true => self.changed_from.clone(),
            false => self.changed_from.clone().or_else(|| Some(self.slots.clone())),
        };
        Some(Self { revision, ancestors, announced, slots, changed_from, ..self.clone() })
    }
}

/// Some plugins, with the plugins and rooms of `lost` that they lack.
fn with_lost_rooms(slots: &[GovernedSlot], lost: &[GovernedSlot]) -> Vec<GovernedSlot> {
    let mut merged = slots.to_vec();
    for lost in lost {
        let Some(slot) = merged.iter_mut().find(|slot| slot.name == lost.name) else {
            merged.push(GovernedSlot { declined: BTreeSet::new(), ..lost.clone() });
            continue;
        };
        let is_covered = |pattern: &&RoomPattern| slot.rooms.iter().any(|rooms| rooms.covers(pattern));
        let missing: Vec<_> = lost.rooms.iter().filter(|pattern| !is_covered(pattern)).cloned().collect();
        slot.rooms.extend(missing);
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::super::tests::{live, plugins, shown};
    use super::*;
    use crate::StoredSettings;

    /// A store, and what happens to its record.
    struct Log(Vec<Governance>);

    impl Log {
        fn begin() -> Self {
            Self(vec![Governance::default().begun_at(1000).as_written(&Governance::default())])
        }

        fn newest(&self) -> &Governance {
            self.0.last().unwrap()
        }

        fn write(&mut self, next: &Governance) -> Governance {
            let written = next.as_written(self.newest());
            self.0.push(written.clone());
            written
        }

        /// Adds a plugin, or gives it other rooms.
        fn put(&mut self, plugin: &str) -> Governance {
            let next = put(self.newest(), plugin);
            self.write(&next)
        }

        fn remove(&mut self, plugin: &str) -> Governance {
            let next = self.newest().remove(plugin, &live("ab")).unwrap().complete().settle();
            self.write(&next)
        }

        /// The store loses its newest records.
        fn lose(&self, count: usize) -> Self {
            Self(self.0[..self.0.len() - count].to_vec())
        }

        /// A node that knows this record reads the newest one.
        fn is_read_by(&mut self, known: &Governance) -> String {
            if let Some(restored) = self.newest().restore(known) {
                assert!(restored.revision > known.revision.max(self.newest().revision));
                let restored = self.write(&restored);
                assert_eq!(restored.restore(known), None, "it is restored once");
                // No node ever reads that the rooms have no plugin.
                assert_eq!(with_lost_rooms(&restored.slots, &known.slots), restored.slots);
                self.write(&restored.settle());
            }
            shown(&self.newest().slots)
        }
    }

    #[test]
    fn a_record_that_the_store_has_lost_is_written_again() {
        let mut log = Log::begin();
        log.put("s=s");
        let known = log.put("t=t");
        assert_eq!(log.lose(1).is_read_by(&known), "s1=s t1=t");
        let restored = Governance::default().restore(&known).unwrap();
        assert_eq!((shown(&restored.slots), restored.revision), ("s1=s t1=t".to_owned(), known.revision + 1));
        assert_eq!(log.newest().restore(&Governance::default()), None, "a node that knows nothing");
        let removed = log.remove("t");
        assert_eq!(log.is_read_by(&known), "s1=s", "an operator has removed it");
        // A change that a node has not seen comes back, also one that removes or narrows something.
        assert_eq!(log.lose(1).is_read_by(&removed), "s1=s");
    }

    /// Once, a node took any record of a higher revision for one that was made from its own. So rooms opened after a loss,
    /// when a node that had been stopped came back later than others had made changes.
    #[test]
    fn no_room_opens_when_somebody_goes_on_from_what_a_loss_has_left() {
        let mut log = Log::begin();
        log.put("s=s");
        let known = log.put("t=t");
        for changes in 1..5 {
            let mut left = log.lose(1);
            for n in 0..changes {
                left.put(&format!("c{n}=c"));
            }
            assert!(left.is_read_by(&known).ends_with(" t1=t"), "after {changes} changes");
        }
        let mut begun_anew = Log::begin();
        begun_anew.put("c=c");
        assert_eq!(begun_anew.is_read_by(&known), "c1=c s1=s t1=t");
    }

    #[test]
    fn rooms_that_a_plugin_lost_with_a_record_are_governed_again() {
        let mut log = Log::begin();
        log.put("s=s");
        let wider = Governance {
            slots: vec![GovernedSlot {
                rooms: plugins("s=s,t:*")[0].1.clone(),
                ..log.newest().slots[0].clone()
            }],
            ..log.newest().successor()
        };
        let known = log.write(&wider);
        let mut left = log.lose(1);
        left.put("c=c");
        assert_eq!(left.is_read_by(&known), "s1=s,t:* c1=c");
    }

    /// Once, a node that was stopped since before a loss added a plugin again that was removed after it.
    #[test]
    fn what_was_removed_after_a_loss_does_not_come_back_from_a_node_that_knows_less() {
        let mut log = Log::begin();
        let stopped = log.put("s=s");
        let known = log.put("t=t");
        let mut left = Log::begin();
        assert_eq!(left.is_read_by(&known), "s1=s t1=t");
        left.remove("s");
        assert_eq!(left.is_read_by(&stopped), "t2=t");
        let knows_more = log.put("u=u");
        assert_eq!(
            left.is_read_by(&knows_more),
            "t2=t s1=s u1=u",
            "what it knows is not known to be unwanted"
        );
    }

    #[test]
    fn a_record_names_a_limited_number_of_ancestors() {
        let mut log = Log::begin();
        let first = log.put("s=s");
        log.put("t=t");
        for _ in 0..MAX_ANCESTORS / 2 {
            log.remove("t");
            log.put("t=t");
        }
        assert_eq!(log.newest().ancestors.len(), MAX_ANCESTORS);
        let known = log.remove("t");
        assert_eq!(log.is_read_by(&first), "s1=s", "it did not read for too long to know better");
        assert_eq!(
            log.lose(MAX_ANCESTORS + 2).is_read_by(&known),
            "s1=s",
            "too old to be anything but a loss"
        );
    }

    fn put(record: &Governance, plugin: &str) -> Governance {
        let [(name, rooms)] = &plugins(plugin)[..] else { panic!("one plugin") };
        let stored = StoredSettings { by: "ann".into(), ..Default::default() };
        let next = record.put_stored(name, rooms, stored, None, None, &live("ab")).unwrap();
        next.complete().settle()
    }
}
