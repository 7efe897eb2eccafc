//! Which plugin governs which rooms: what all nodes agree on, and how the configurations of several nodes become
//! one. Knows no versions of plugins.

use crate::Unavailable;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use switchyard_protocol::room::RoomPattern;

/// Where all nodes agree on which plugin governs which rooms.
#[async_trait::async_trait]
pub trait GovernanceRegistry: Send + Sync {
    /// The record, unless its revision is `known`. The revision is 0 if there is no record.
    async fn governance(&self, known: Option<u64>) -> Result<Option<Governance>, Unavailable>;

    /// Replaces the record if its revision is `expected`. Returns `false` and does nothing if it is another one.
    /// After an error, the change may have been made nevertheless; the record tells.
    async fn replace_governance(&self, expected: u64, next: &Governance) -> Result<bool, Unavailable>;
}

/// Which plugin governs which rooms. It is stored and replaced as a whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Governance {
    /// Increases with each change. 0 if no plugin was ever configured.
    pub revision: u64,
    /// The plugins in the order of precedence: the first one with a matching pattern governs a room.
    pub slots: Vec<GovernedSlot>,
    /// The plugins after a change that was announced. It takes effect when no node publishes to the rooms
    /// concerned any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announced: Option<Vec<GovernedSlot>>,
    /// The names of plugins that operators are adding just now, so that nobody else adds one of the same name
    /// and mixes their versions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reserved: BTreeMap<String, Reservation>,
}

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

/// A plugin and the rooms that it governs on all nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GovernedSlot {
    /// The name of the plugin.
    pub name: String,
    /// The rooms that it governs.
    pub rooms: Vec<RoomPattern>,
    /// Increases when its rooms or its precedence change.
    pub generation: u64,
    /// The nodes that have it in their configuration, with the addresses that operators know them by. A node
    /// that stops gives its claim up; the claim of a node that dies stays, so that its rooms do not open.
    pub claimed: BTreeMap<String, String>,
    /// The live nodes that have read their configuration without it since it was recorded. It is removed when
    /// all have and nobody claims it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub declined: BTreeSet<String>,
    /// What operators have set for all nodes. `None` for a plugin of configuration files. A plugin that has this
    /// needs no claims: it stays until an operator removes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<StoredSettings>,
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
    /// The settings of all plugins are too large.
    #[error(
        "the settings of all plugins would have more than {MAX_RECORD_BYTES} bytes; make some of them smaller"
    )]
    TooLarge,
}

/// Maximum size of the settings and rooms of all plugins, as JSON, in bytes. Every node reads them whenever one
/// changes.
pub const MAX_RECORD_BYTES: usize = 1 << 20;

/// How long a name is reserved at most. Storing code takes seconds.
const RESERVATION_MS: u64 = 120_000;

/// Maximum number of plugins of all nodes. With [`MAX_SETTINGS_BYTES`], it limits the size of the record.
pub const MAX_SLOTS: usize = 256;

/// Maximum size of the settings and rooms of a plugin of the store, as JSON, in bytes.
pub const MAX_SETTINGS_BYTES: usize = 64 << 10;

/// The plugins in the configuration of a node.
#[derive(Clone, Debug, PartialEq)]
pub struct NodePlugins {
    /// Identifies the process.
    pub node: String,
    /// The address of its admin listener. A claim of a dead node with the same address is given up.
    pub host: String,
    /// The names and rooms in the order of precedence.
    pub plugins: Vec<(String, Vec<RoomPattern>)>,
}

impl Governance {
    /// The record after a node has read its configuration. `live` are all nodes. Plugins of other nodes keep
    /// their places. If rooms change their governor, the change is only announced. A change that was announced
    /// before must have taken effect.
    pub fn configure(&self, configured: &NodePlugins, live: &BTreeSet<String>) -> Self {
        let NodePlugins { node, host, plugins } = configured;
        let mut slots = self.reordered(plugins);
        for slot in slots.iter_mut().filter(|slot| slot.stored.is_none()) {
            slot.claimed.retain(|claimer, at| claimer != node && (at != host || live.contains(claimer)));
            match plugins.iter().any(|(name, _)| *name == slot.name) {
                true => {
                    slot.claimed.insert(node.clone(), host.clone());
                    slot.declined.remove(node);
                }
                false => drop(slot.declined.insert(node.clone())),
            }
        }
        self.with_slots(slots, live)
    }

    /// The record in which a node that runs with these plugins claims them again, if the record has lost that, and
    /// in which claims of dead nodes with its address are gone. Rooms and order of what is recorded stay: another
    /// node may have changed them since. `None` if nothing is missing.
    pub fn claim(&self, running: &NodePlugins, live: &BTreeSet<String>) -> Option<Self> {
        let NodePlugins { node, host, plugins } = running;
        let mut slots = self.slots.clone();
        for slot in slots.iter_mut().filter(|slot| slot.stored.is_none()) {
            slot.claimed.retain(|claimer, at| claimer == node || at != host || live.contains(claimer));
            if plugins.iter().any(|(name, _)| *name == slot.name) {
                slot.claimed.insert(node.clone(), host.clone());
                slot.declined.remove(node);
            }
        }
        let missing = plugins.iter().filter(|(name, _)| !self.slots.iter().any(|slot| slot.name == *name));
        for (name, rooms) in missing {
            let claimed = BTreeMap::from([(node.clone(), host.clone())]);
            slots.push(GovernedSlot { rooms: rooms.clone(), claimed, ..GovernedSlot::new(name) });
        }
        (slots != self.slots).then(|| self.with_slots(slots, live))
    }

    /// The record after a node has stopped.
    pub fn leave(&self, node: &str, live: &BTreeSet<String>) -> Self {
        let mut slots = self.slots.clone();
        slots.iter_mut().for_each(|slot| drop(slot.claimed.remove(node)));
        let live = live.iter().filter(|live| *live != node).cloned().collect();
        self.with_slots(slots, &live)
    }

    fn with_slots(&self, mut slots: Vec<GovernedSlot>, live: &BTreeSet<String>) -> Self {
        slots.iter_mut().for_each(|slot| slot.declined.retain(|declined| live.contains(declined)));
        // Nobody is left who could say that it is not wanted any more.
        let is_unwanted = |slot: &GovernedSlot| {
            slot.stored.is_none()
                && slot.claimed.is_empty()
                && !live.is_empty()
                && live.iter().all(|node| slot.declined.contains(node))
        };
        slots.retain(|slot| !is_unwanted(slot));
        let is_same = |(slot, before): (&GovernedSlot, &GovernedSlot)| {
            slot.name == before.name && slot.rooms == before.rooms
        };
        let same = slots.iter().zip(&self.slots).take_while(|pair| is_same(*pair)).count();
        let changes_rooms = same < slots.len().max(self.slots.len());
        for slot in &mut slots[same..] {
            slot.generation += 1;
        }
        let revision = self.revision + 1;
        let reserved = self.reserved.clone();
        match changes_rooms {
            true => Self { revision, slots: self.slots.clone(), announced: Some(slots), reserved },
            false => Self { revision, slots, announced: None, reserved },
        }
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
        let reserved = self.reserved.get(name);
        if token.is_some() && reserved.map(|reservation| reservation.token) != token {
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
            None => GovernedSlot::new(name),
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

    /// The record after the announced change has taken effect.
    pub fn complete(&self) -> Self {
        let slots = self.announced.as_ref().unwrap_or(&self.slots).clone();
        Self { revision: self.revision + 1, slots, announced: None, reserved: self.reserved.clone() }
    }

    /// All slots with the configured rooms. The configured ones are in the configured order, in the places
    /// that they had; new ones follow the one before them.
    /// A plugin of the store is not touched, even if it is configured.
    fn reordered(&self, configured: &[(String, Vec<RoomPattern>)]) -> Vec<GovernedSlot> {
        let known = |name: &str| self.slots.iter().find(|slot| slot.name == name);
        let is_stored = |name: &str| known(name).is_some_and(|slot| slot.stored.is_some());
        let configured: Vec<_> = configured.iter().filter(|(name, _)| !is_stored(name)).collect();
        let mut known_in_order = configured.iter().filter_map(|(name, _)| known(name).cloned());
        let mut slots = vec![];
        for slot in &self.slots {
            match configured.iter().any(|(name, _)| *name == slot.name) {
                true => slots.extend(known_in_order.next()),
                false => slots.push(slot.clone()),
            }
        }
        let place = |slots: &[GovernedSlot], name: &str| slots.iter().position(|slot| slot.name == name);
        let first_stored = |slots: &[GovernedSlot]| {
            slots.iter().position(|slot| slot.stored.as_ref().is_some_and(|stored| stored.before.is_none()))
        };
        for (n, &(name, rooms)) in configured.iter().enumerate() {
            if let Some(at) = place(&slots, name) {
                slots[at].rooms.clone_from(rooms);
                continue;
            }
            let before = configured[..n].last().and_then(|(name, _)| place(&slots, name));
            let after = configured[n..].iter().find_map(|(name, _)| place(&slots, name));
            let last = || first_stored(&slots).unwrap_or(slots.len());
            let at = before.map(|at| at + 1).or(after).unwrap_or_else(last);
            slots.insert(at, GovernedSlot { rooms: rooms.clone(), ..GovernedSlot::new(name) });
        }
        slots
    }
}

impl GovernedSlot {
    fn new(name: &str) -> Self {
        let (claimed, declined) = (BTreeMap::new(), BTreeSet::new());
        Self { name: name.to_owned(), rooms: vec![], generation: 0, claimed, declined, stored: None }
    }

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
    use super::*;

    fn live(nodes: &str) -> BTreeSet<String> {
        nodes.chars().map(String::from).collect()
    }

    /// Plugins such as `x=a:* y=b`.
    fn plugins(text: &str) -> Vec<(String, Vec<RoomPattern>)> {
        let plugin = |text: &str| {
            let (name, rooms) = text.split_once('=').unwrap();
            let rooms = rooms.split(',').map(|room| RoomPattern::try_from(room.to_owned()).unwrap());
            (name.to_owned(), rooms.collect())
        };
        text.split_whitespace().map(plugin).collect()
    }

    fn shown(slots: &[GovernedSlot]) -> String {
        let rooms = |slot: &GovernedSlot| {
            let rooms: Vec<_> = slot.rooms.iter().map(ToString::to_string).collect();
            format!("{}{}={}", slot.name, slot.generation, rooms.join(","))
        };
        slots.iter().map(rooms).collect::<Vec<_>>().join(" ")
    }

    fn reads(record: &Governance, node: &str, configured: &str, nodes: &str) -> Governance {
        let (node, host) = (node.to_owned(), format!("{node}:9000"));
        record.configure(&NodePlugins { node, host, plugins: plugins(configured) }, &live(nodes))
    }

    /// The record after each node has read its configuration in turn, and every change has taken effect.
    fn after(steps: &[(&str, &str)], nodes: &str) -> Governance {
        let read = |record: Governance, (node, configured): &(&str, &str)| {
            reads(&record, node, configured, nodes).complete()
        };
        steps.iter().fold(Governance::default(), read)
    }

    #[test]
    fn a_change_of_rooms_is_announced_before_it_takes_effect() {
        let announced = reads(&Governance::default(), "a", "x=x:*", "ab");
        assert_eq!((announced.revision, announced.slots.len()), (1, 0));
        assert_eq!(shown(announced.announced.as_ref().unwrap()), "x1=x:*");
        let complete = announced.complete();
        assert_eq!((complete.revision, &*shown(&complete.slots)), (2, "x1=x:*"));
        let same = reads(&complete, "b", "x=x:*", "ab");
        assert_eq!((same.announced.is_none(), shown(&same.slots)), (true, shown(&complete.slots)));
    }

    #[test]
    fn plugins_of_other_nodes_keep_their_places() {
        for (steps, expected) in [
            (&[("a", "x=x y=y"), ("b", "x=x y=y")][..], "x1=x y1=y"),
            (&[("a", "x=x y=y"), ("b", "z=z")], "x1=x y1=y z1=z"),
            (&[("a", "x=x y=y"), ("b", "y=y x=x")], "y2=y x2=x"),
            (&[("a", "x=x y=y"), ("b", "x=x z=z y=y")], "x1=x z1=z y2=y"),
            (&[("a", "x=x y=y"), ("b", "z=z x=x")], "z1=z x2=x y2=y"),
            (&[("a", "x=x y=y z=z"), ("b", "z=z x=x")], "z2=z y2=y x2=x"),
            (&[("a", "x=x y=y"), ("b", "y=other")], "x1=x y2=other"),
        ] {
            assert_eq!(shown(&after(steps, "ab").slots), expected, "{steps:?}");
        }
    }

    #[test]
    fn a_plugin_is_removed_when_nobody_claims_it_and_all_live_nodes_read_their_configuration_without_it() {
        let slots = |steps: &[(&str, &str)], nodes: &str| shown(&after(steps, nodes).slots);
        assert_eq!(slots(&[("a", "x=x"), ("a", "")], "a"), "");
        assert_eq!(slots(&[("b", ""), ("a", "x=x"), ("a", "")], "ab"), "x1=x", "b read it before");
        assert_eq!(slots(&[("a", "x=x"), ("b", ""), ("a", "")], "ab"), "");
        assert_eq!(
            slots(&[("a", "x=x"), ("a", ""), ("a", "x=x"), ("b", "")], "ab"),
            "x1=x",
            "a has it again"
        );
    }

    #[test]
    fn a_dead_node_opens_nothing_and_one_that_stops_gives_its_claim_up() {
        let record = after(&[("a", "x=x"), ("b", "")], "ab");
        assert_eq!(shown(&reads(&record, "b", "", "b").slots), "x1=x", "a is dead");
        let successor = NodePlugins { node: "c".into(), host: "a:9000".into(), plugins: vec![] };
        let returned = record.configure(&successor, &live("bc"));
        assert_eq!(returned.announced, Some(vec![]), "a returned without it");
        assert_eq!(record.leave("a", &live("ab")).announced, Some(vec![]), "a has stopped");
        let alone = after(&[("a", "x=x")], "a");
        assert_eq!(shown(&alone.leave("a", &live("a")).slots), "x1=x", "nobody is left");
    }

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

    #[test]
    fn a_running_node_claims_again_what_the_record_has_lost_and_changes_nothing_else() {
        let record = after(&[("a", "x=x y=y"), ("b", "y=other")], "ab");
        let running = |node: &str, host: &str, configured: &str| NodePlugins {
            node: node.into(),
            host: host.into(),
            plugins: plugins(configured),
        };
        let a = running("a", "a:9000", "x=x y=y");
        assert_eq!(record.claim(&a, &live("ab")), None, "the rooms that b has read last stay");
        let mut lost = record.clone();
        lost.slots.iter_mut().for_each(|slot| drop(slot.claimed.remove("a")));
        let claimed = lost.claim(&a, &live("ab")).unwrap().complete();
        assert_eq!(shown(&claimed.slots), shown(&record.slots));
        assert!(claimed.slots.iter().all(|slot| slot.claimed.contains_key("a")));
        let successor = running("c", "a:9000", "z=z");
        let next = record.claim(&successor, &live("bc")).unwrap().complete();
        assert_eq!(shown(&next.slots), format!("{} z1=z", shown(&record.slots)));
        assert!(
            !next.slots.iter().any(|slot| slot.claimed.contains_key("a")),
            "a is dead, and c has its address"
        );
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
