//! What operators do to the plugins of the store in the record of governance: adding, changing and removing them,
//! and reserving their names meanwhile. Does not know the plugins of configuration files.

use super::{Governance, GovernedSlot};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use switchyard_protocol::room::RoomPattern;

/// Maximum size of the settings and rooms of all plugins, as JSON, in bytes. Every node reads them whenever one
/// changes.
pub const MAX_RECORD_BYTES: usize = 1 << 20;

/// Maximum number of patterns of all plugins. Configuration files may exceed it.
const MAX_PATTERNS: usize = 1024;

/// How long a name is reserved at most. Storing code takes seconds.
const RESERVATION_MS: u64 = 120_000;

/// Maximum number of plugins of all nodes. With [`MAX_SETTINGS_BYTES`], it limits the size of the record.
pub const MAX_SLOTS: usize = 256;

/// Maximum size of the settings and rooms of a plugin of the store, as JSON, in bytes.
pub const MAX_SETTINGS_BYTES: usize = 64 << 10;

/// The name of a plugin that an operator is adding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reservation {
    /// The principal who adds it.
    pub by: String,
    /// Tells this reservation from others of the same name.
    pub token: u64,
    /// Until when, in Unix milliseconds. A node that dies meanwhile does not reserve it for ever.
    pub until: u64,
}

/// The settings of a plugin that is not in the configuration of any node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StoredSettings {
    /// The keys of a `[[plugin]]`, without its name, its file and its rooms.
    pub settings: Map<String, Value>,
    /// The plugin that it precedes. Without it, it comes last when it is added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// The revision of the record in which these settings or rooms were written.
    pub revision: u64,
    /// The principal who wrote them.
    pub by: String,
    /// Unix milliseconds.
    pub at: u64,
}

/// Why a plugin of the store cannot be changed as an operator wants.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotConflict {
    /// Nodes have it in their configuration.
    #[error(
        "plugin '{name}' is in the configuration of {}; change it there, and reload the configuration",
        hosts.join(" and ")
    )]
    Configured {
        /// The plugin.
        name: String,
        /// The addresses of the nodes.
        hosts: Vec<String>,
    },
    /// It has been changed since the operator looked.
    #[error("plugin '{name}' was changed by {by} at the same time; look at it again and repeat the change")]
    Changed {
        /// The plugin.
        name: String,
        /// The principal who changed it.
        by: String,
    },
    /// It is gone, or has never been there.
    #[error("there is no plugin '{0}'")]
    Unknown(String),
    /// There is no plugin that it could precede.
    #[error("there is no plugin '{0}' that it could come before")]
    UnknownNext(String),
    /// There is no room for more.
    #[error("there are {MAX_SLOTS} plugins already; remove one first")]
    Full,
    /// The plugins have too many patterns.
    #[error(
        "the plugins would have more than {MAX_PATTERNS} room patterns in total; use fewer, broader ones"
    )]
    TooManyPatterns,
    /// The settings of all plugins are too large.
    #[error(
        "the settings of all plugins would have more than {MAX_RECORD_BYTES} bytes; make some of them smaller"
    )]
    TooLarge,
}

impl Governance {
    fn pattern_count(&self) -> usize {
        self.slots.iter().map(|slot| slot.rooms.len()).sum()
    }

    /// The record in which the name of a plugin that is to be added is reserved, until its code and its settings
    /// are stored. `now` is in Unix milliseconds.
    ///
    /// # Errors
    ///
    /// Fails if another operator is adding a plugin of this name.
    pub fn reserve(&self, name: &str, by: &str, token: u64, now: u64) -> Result<Self, SlotConflict> {
        let mut reserved = self.reserved.clone();
        reserved.retain(|_, reservation| now < reservation.until);
        let changed = |by: &str| SlotConflict::Changed { name: name.to_owned(), by: by.to_owned() };
        if let Some(other) = reserved.get(name) {
            return Err(changed(&other.by));
        }
        if let Some(slot) = self.slots.iter().find(|slot| slot.name == name) {
            return Err(slot.stored.as_ref().map_or_else(|| slot.configured(), |stored| changed(&stored.by)));
        }
        if self.slots.len() + reserved.len() >= MAX_SLOTS {
            return Err(SlotConflict::Full);
        }
        let until = now + RESERVATION_MS;
        reserved.insert(name.to_owned(), Reservation { by: by.to_owned(), token, until });
        Ok(Self { revision: self.revision + 1, reserved, ..self.clone() })
    }

    /// The record without a reservation. `None` if it has ended already.
    pub fn release(&self, name: &str, token: u64) -> Option<Self> {
        if self.reserved.get(name)?.token != token {
            return None;
        }
        let mut next = Self { revision: self.revision + 1, ..self.clone() };
        next.reserved.remove(name);
        Some(next)
    }

    /// The record after an operator has added a plugin for all nodes, or has changed its rooms or settings.
    /// `expected` is the revision of the settings that the operator has seen; `None` if there were none. `token` is
    /// that of the reservation under which the code was stored, if it was. If rooms change their governor, the
    /// change is only announced.
    ///
    /// # Errors
    ///
    /// Fails if the plugin is in the configuration of a node, or if another change came first.
    pub fn put_stored(
        &self,
        name: &str,
        rooms: &[RoomPattern],
        stored: StoredSettings,
        expected: Option<u64>,
        token: Option<u64>,
        live: &BTreeSet<String>,
    ) -> Result<Self, SlotConflict> {
        // A name that is reserved is being added, or its versions are being deleted.
        let reserved = self.reserved.get(name).filter(|reservation| stored.at < reservation.until);
        if reserved.map(|reservation| reservation.token) != token {
            let by = reserved.map_or_else(|| stored.by.clone(), |reservation| reservation.by.clone());
            return Err(SlotConflict::Changed { name: name.to_owned(), by });
        }
        let known = self.slots.iter().find(|slot| slot.name == name);
        match known.map(|slot| (slot, &slot.stored)) {
            Some((slot, None)) => return Err(slot.configured()),
            Some((_, Some(known))) if Some(known.revision) != expected => {
                return Err(SlotConflict::Changed { name: name.to_owned(), by: known.by.clone() });
            }
            None if expected.is_some() => return Err(SlotConflict::Unknown(name.to_owned())),
            None if self.slots.len() >= MAX_SLOTS => return Err(SlotConflict::Full),
            Some((_, Some(_))) | None => {}
        }
        let stays = known
            .is_some_and(|slot| slot.stored.as_ref().is_some_and(|before| before.before == stored.before));
        let mut slots = self.slots.clone();
        let at = slots.iter().position(|slot| slot.name == name);
        let mut slot = match at {
            Some(at) if stays => slots[at].clone(),
            Some(at) => slots.remove(at),
            None => GovernedSlot { added: stored.at, ..GovernedSlot::new(name) },
        };
        slot.rooms = rooms.to_vec();
        let before = stored.before.clone();
        slot.stored = Some(StoredSettings { revision: self.revision + 1, ..stored });
        match (at.filter(|_| stays), before) {
            (Some(at), _) => slots[at] = slot,
            (None, None) => slots.push(slot),
            (None, Some(next)) => {
                let next =
                    slots.iter().position(|slot| slot.name == next).ok_or(SlotConflict::UnknownNext(next))?;
                slots.insert(next, slot);
            }
        }
        let mut next = self.with_slots(slots, live);
        if token.is_some() {
            next.reserved.remove(name);
        }
        let slots = next.announced.as_ref().unwrap_or(&next.slots);
        // Every publish to a room without a plugin is compared with all of them.
        if slots.iter().map(|slot| slot.rooms.len()).sum::<usize>() > MAX_PATTERNS.max(self.pattern_count()) {
            return Err(SlotConflict::TooManyPatterns);
        }
        match serde_json::to_string(slots).map_or(usize::MAX, |json| json.len()) <= MAX_RECORD_BYTES {
            true => Ok(next),
            false => Err(SlotConflict::TooLarge),
        }
    }

    /// The record after an operator has removed a plugin: one of the store, or one that only dead nodes have in
    /// their configuration. If rooms change their governor, the change is only announced.
    ///
    /// # Errors
    ///
    /// Fails if a live node has the plugin in its configuration.
    pub fn remove(&self, name: &str, live: &BTreeSet<String>) -> Result<Self, SlotConflict> {
        let at = self.slots.iter().position(|slot| slot.name == name);
        let at = at.ok_or_else(|| SlotConflict::Unknown(name.to_owned()))?;
        let mut slots = self.slots.clone();
        let removed = slots.remove(at);
        if removed.stored.is_none() && removed.claimed.keys().any(|node| live.contains(node)) {
            return Err(removed.configured());
        }
        Ok(self.with_slots(slots, live))
    }
}

impl GovernedSlot {
    fn configured(&self) -> SlotConflict {
        let hosts: BTreeSet<_> = self.claimed.values().cloned().collect();
        let hosts = match hosts.is_empty() {
            true => vec!["a node".to_owned()],
            false => hosts.into_iter().collect(),
        };
        SlotConflict::Configured { name: self.name.clone(), hosts }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{after, live, plugins, reads, shown},
        *,
    };

    fn put(
        record: &Governance,
        slot: &str,
        before: Option<&str>,
        expected: Option<u64>,
    ) -> Result<Governance, SlotConflict> {
        let [(name, rooms)] = plugins(slot).try_into().unwrap();
        let stored =
            StoredSettings { before: before.map(str::to_owned), by: "ann".into(), ..Default::default() };
        record.put_stored(&name, &rooms, stored, expected, None, &live("ab")).map(|next| next.complete())
    }

    #[test]
    fn plugins_of_the_store_follow_those_of_files_unless_they_say_otherwise() {
        let record = after(&[("a", "x=x y=y"), ("b", "x=x y=y")], "ab");
        let record = put(&record, "s=s", None, None).unwrap();
        let record = put(&record, "t=t", Some("y"), None).unwrap();
        assert_eq!(shown(&record.slots), "x1=x t1=t y2=y s2=s");
        assert_eq!(
            shown(&reads(&record, "a", "x=x y=y z=z", "ab").complete().slots),
            "x1=x t1=t y2=y z1=z s3=s"
        );
        assert_eq!(shown(&reads(&record, "a", "n=n", "ab").complete().slots), "x1=x t1=t y2=y n1=n s3=s");
        let unknown = put(&record, "u=u", Some("q"), None);
        assert_eq!(unknown, Err(SlotConflict::UnknownNext("q".into())));
        // A change without another place leaves it where it is.
        let seen = |record: &Governance, name: &str| {
            let slot = record.slots.iter().find(|slot| slot.name == name).unwrap();
            slot.stored.as_ref().unwrap().revision
        };
        let moved = put(&record, "t=u", Some("y"), Some(seen(&record, "t"))).unwrap();
        assert_eq!(shown(&moved.slots), "x1=x t2=u y3=y s3=s");
        let last = put(&moved, "t=u", None, Some(seen(&moved, "t"))).unwrap();
        assert_eq!(shown(&last.slots), "x1=x y4=y s4=s t3=u");
    }

    #[test]
    fn of_two_changes_of_one_plugin_the_second_is_a_conflict() {
        let record = put(&Governance::default(), "s=s", None, None).unwrap();
        let seen = record.slots[0].stored.as_ref().unwrap().revision;
        let changed = put(&record, "s=other", None, Some(seen)).unwrap();
        let conflict = Err(SlotConflict::Changed { name: "s".into(), by: "ann".into() });
        assert_eq!(put(&changed, "s=third", None, Some(seen)), conflict);
        assert_eq!(put(&changed, "s=third", None, None), conflict, "somebody else has added it");
        assert_eq!(put(&record, "t=t", None, Some(1)), Err(SlotConflict::Unknown("t".into())));
        assert!(put(&changed, "t=t", None, None).is_ok(), "another plugin");
    }

    #[test]
    fn a_name_is_reserved_until_its_plugin_is_added_or_the_time_is_over() {
        let record = Governance::default().reserve("s", "ann", 7, 1000).unwrap();
        let taken = Err(SlotConflict::Changed { name: "s".into(), by: "ann".into() });
        assert_eq!(record.reserve("s", "bob", 8, 2000), taken);
        assert!(record.reserve("t", "bob", 8, 2000).is_ok(), "another name");
        assert!(record.reserve("s", "bob", 8, 1000 + RESERVATION_MS).is_ok());
        assert!(record.release("s", 7).unwrap().reserve("s", "bob", 8, 2000).is_ok());
        assert_eq!(record.release("s", 8), None, "somebody else's");
        let add = |record: &Governance, token| {
            let stored = StoredSettings { by: "ann".into(), ..Default::default() };
            record.put_stored("s", &plugins("s=s")[0].1, stored, None, Some(token), &live("ab"))
        };
        assert_eq!(add(&record, 8), taken, "the reservation is another one");
        let added = add(&record, 7).unwrap().complete();
        assert!(added.reserved.is_empty());
        assert_eq!(added.reserve("s", "bob", 8, 2000), taken, "it was added meanwhile");
    }

    #[test]
    fn a_name_is_in_files_or_in_the_store() {
        let record = after(&[("a", "x=x")], "ab");
        let hosts = vec!["a:9000".to_owned()];
        let configured = SlotConflict::Configured { name: "x".into(), hosts };
        assert_eq!(put(&record, "x=y", None, None), Err(configured.clone()));
        assert_eq!(record.remove("x", &live("ab")), Err(configured));
        assert_eq!(
            record.remove("x", &live("b")).unwrap().announced,
            Some(vec![]),
            "only a dead node has it"
        );
        let stored = put(&Governance::default(), "x=x", None, None).unwrap();
        let read = reads(&stored, "a", "x=y z=z", "ab").complete();
        assert_eq!(shown(&read.slots), "z1=z x2=x", "the store's plugin stays as it is");
    }

    #[test]
    fn a_plugin_of_the_store_stays_until_an_operator_removes_it() {
        let record = put(&Governance::default(), "s=s", None, None).unwrap();
        let read = reads(&reads(&record, "a", "", "ab"), "b", "", "ab");
        assert_eq!(shown(&read.slots), "s1=s");
        assert_eq!(read.remove("s", &live("ab")).unwrap().announced, Some(vec![]));
        assert_eq!(read.remove("t", &live("ab")), Err(SlotConflict::Unknown("t".into())));
    }

    /// Once, a plugin that was changed while somebody else removed it was recorded without its code.
    #[test]
    fn a_plugin_is_not_put_under_a_name_that_somebody_else_has_reserved() {
        let record = Governance::default().reserve("s", "ann", 7, 1000).unwrap();
        let put = |at: u64| {
            let stored = StoredSettings { by: "bob".into(), at, ..Default::default() };
            record.put_stored("s", &plugins("s=s")[0].1, stored, None, None, &live("ab")).map(drop)
        };
        assert_eq!(put(2000), Err(SlotConflict::Changed { name: "s".into(), by: "ann".into() }));
        assert_eq!(put(1000 + RESERVATION_MS), Ok(()), "the reservation is over");
    }

    #[test]
    fn the_number_of_patterns_is_limited() {
        let rooms = |count: usize| -> Vec<_> {
            (0..count).map(|n| RoomPattern::try_from(format!("r{n}:*")).unwrap()).collect()
        };
        let put = |count| {
            let stored = StoredSettings { by: "ann".into(), ..Default::default() };
            Governance::default().put_stored("s", &rooms(count), stored, None, None, &live("a")).map(drop)
        };
        assert_eq!(put(MAX_PATTERNS), Ok(()));
        assert_eq!(put(MAX_PATTERNS + 1), Err(SlotConflict::TooManyPatterns));
    }

    #[test]
    fn the_settings_of_all_plugins_are_limited() {
        let mut record = Governance::default();
        let add = |record: &Governance, n: usize| {
            let settings = Map::from_iter([("config".to_owned(), Value::from("x".repeat(60 << 10)))]);
            let stored = StoredSettings { settings, by: "ann".into(), ..Default::default() };
            record.put_stored(&format!("p{n}"), &[], stored, None, None, &live("a"))
        };
        for n in 0..17 {
            record = add(&record, n).unwrap().complete();
        }
        assert_eq!(add(&record, 17).map(drop), Err(SlotConflict::TooLarge));
    }
}
