//! Which plugin governs which rooms: what all nodes agree on, and how the configurations of several nodes become
//! one. What operators do to the plugins of the store is in `governance/stored.rs`, and what happens after a store has
//! lost a record in `governance/lineage.rs`. Knows no versions of plugins.

mod lineage;
mod stored;

pub use stored::{
    MAX_RECORD_BYTES, MAX_SETTINGS_BYTES, MAX_SLOTS, Reservation, SlotConflict, StoredSettings,
};

use crate::Unavailable;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use switchyard_protocol::room::{RoomPattern, any_governs};

/// Where all nodes agree on which plugin governs which rooms.
#[async_trait::async_trait]
pub trait GovernanceRegistry: Send + Sync {
    /// The record, unless it is the one with the id `known`. Its revision is 0 if there is
    /// none.
    async fn governance(&self, known: Option<u64>) -> Result<Option<Governance>, Unavailable>;

    /// Replaces the record if it is `expected`. Returns `false` and does nothing if it is another one. After an error, the
    /// change may have been made nevertheless; the record tells.
    async fn replace_governance(&self, expected: &Governance, next: &Governance)
    -> Result<bool, Unavailable>;
}

/// Which plugin governs which rooms. It is stored and replaced as a whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Governance {
    /// Increases with each change. 0 if no plugin was ever configured.
    pub revision: u64,
    /// A random number that identifies this record. 0 if it was not written yet. A store that loses the newest records may
    /// get others of the same revisions.
    #[serde(default)]
    pub id: u64,
    /// The newest records from which this one was made, as pairs of revision and random number.
    #[serde(default)]
    pub ancestors: BTreeSet<(u64, u64)>,
    /// The plugins in the order of precedence: the first one with a matching pattern governs a room.
    pub slots: Vec<GovernedSlot>,
    /// The plugins after a change that was announced. It takes effect when no node publishes to the rooms
    /// concerned any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announced: Option<Vec<GovernedSlot>>,
    /// The plugins before a change that has taken effect, perhaps not on all nodes yet. Until it has, the rooms
    /// concerned accept no messages: a node that is late would deliver them as its plugins before the change decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_from: Option<Vec<GovernedSlot>>,
    /// The node that clears the history of the rooms that change their plugin, before the announced change takes
    /// effect. If it is dead, another node does. `None`: the history stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history_cleared_by: Option<String>,
    /// The names of plugins that operators are adding just now, so that nobody else adds one of the same name
    /// and mixes their versions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reserved: BTreeMap<String, Reservation>,
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
    /// When a plugin of the store was added, in Unix milliseconds. Tells it from others that had its name before.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub added: u64,
    /// The nodes that have it in their configuration, with the addresses that operators know them by. A node
    /// that stops gives its claim up; the claim of a node that dies stays, so that its rooms do not open.
    pub claimed: BTreeMap<String, String>,
    /// The live nodes that have read their configuration without it since it was recorded. It is removed when
    /// all have and nobody claims it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub declined: BTreeSet<String>,
    /// Whether the version that is active on all nodes decides who may connect. A node on which the plugin has no
    /// version admits nobody then.
    #[serde(default, skip_serializing_if = "is_false")]
    pub has_connect_hook: bool,
    /// What operators have set for all nodes. `None` for a plugin of configuration files. A plugin that has this
    /// needs no claims: it stays until an operator removes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<StoredSettings>,
}

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
        for slot in &mut slots {
            slot.declined.retain(|declined| live.contains(declined));
            slot.limit_dead_claims(live);
        }
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
        let next = Self { slots, ..self.successor() };
        match changes_rooms {
            true => Self { slots: self.slots.clone(), announced: Some(next.slots), ..next },
            false => next,
        }
    }

    /// Whether no change is under way.
    pub fn is_settled(&self) -> bool {
        self.announced.is_none() && self.changed_from.is_none()
    }

    /// The record in which the announced change takes effect, because all nodes have closed the rooms concerned.
    pub fn complete(&self) -> Self {
        let slots = self.announced.as_ref().unwrap_or(&self.slots).clone();
        let changed_from = self.announced.is_some().then(|| self.slots.clone());
        Self { slots, changed_from, ..self.successor() }
    }

    /// The next record, in which no change is under way.
    fn successor(&self) -> Self {
        Self { revision: self.revision + 1, reserved: self.reserved.clone(), ..Self::default() }
    }

    /// This record as the first one of a store. `now` is in Unix milliseconds: no record that the store has lost had a
    /// higher revision.
    pub fn begun_at(self, now: u64) -> Self {
        Self { revision: now.max(self.revision), ..self }
    }

    /// The record in which the rooms concerned are open again, because all nodes have handed them over.
    pub fn settle(&self) -> Self {
        Self { revision: self.revision + 1, changed_from: None, ..self.clone() }
    }

    /// The same record, of which this node clears the history of the rooms that change their plugin, if any do.
    pub fn clearing_history(self, node: &str) -> Self {
        let history_cleared_by = self.announced.is_some().then(|| node.to_owned());
        Self { history_cleared_by, ..self }
    }

    /// The record with what is known of these plugins: whether the active version of each has a `connect` hook.
    /// `None` if the record says so already.
    pub fn with_connect_hooks(&self, known: &BTreeMap<String, bool>) -> Option<Self> {
        let mut next = Self { revision: self.revision + 1, ..self.clone() };
        for slot in &mut next.slots {
            slot.has_connect_hook = known.get(&slot.name).copied().unwrap_or(slot.has_connect_hook);
        }
        (next.slots != self.slots).then_some(next)
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

/// How many claims of dead nodes a plugin keeps. Each of them keeps its rooms from opening, so one would do.
const MAX_DEAD_CLAIMS: usize = 16;

impl GovernedSlot {
    /// Forgets claims of dead nodes beyond the limit: where every process has another address, each that is killed leaves
    /// one.
    fn limit_dead_claims(&mut self, live: &BTreeSet<String>) {
        let mut dead = 0;
        self.claimed.retain(|node, _| {
            dead += usize::from(!live.contains(node));
            live.contains(node) || dead <= MAX_DEAD_CLAIMS
        });
    }

    fn new(name: &str) -> Self {
        let (claimed, declined) = (BTreeMap::new(), BTreeSet::new());
        Self {
            name: name.to_owned(),
            rooms: vec![],
            generation: 0,
            claimed,
            declined,
            added: 0,
            has_connect_hook: false,
            stored: None,
        }
    }
}

/// The plugin that governs a room, if these are all plugins.
pub fn governing_slot<'a>(slots: &'a [GovernedSlot], room: &str) -> Option<&'a GovernedSlot> {
    slots.iter().find(|slot| any_governs(&slot.rooms, room))
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn live(nodes: &str) -> BTreeSet<String> {
        nodes.chars().map(String::from).collect()
    }

    /// Plugins such as `x=a:* y=b`.
    pub(super) fn plugins(text: &str) -> Vec<(String, Vec<RoomPattern>)> {
        let plugin = |text: &str| {
            let (name, rooms) = text.split_once('=').unwrap();
            let rooms = rooms.split(',').map(|room| RoomPattern::try_from(room.to_owned()).unwrap());
            (name.to_owned(), rooms.collect())
        };
        text.split_whitespace().map(plugin).collect()
    }

    pub(super) fn shown(slots: &[GovernedSlot]) -> String {
        let rooms = |slot: &GovernedSlot| {
            let rooms: Vec<_> = slot.rooms.iter().map(ToString::to_string).collect();
            format!("{}{}={}", slot.name, slot.generation, rooms.join(","))
        };
        slots.iter().map(rooms).collect::<Vec<_>>().join(" ")
    }

    pub(super) fn reads(record: &Governance, node: &str, configured: &str, nodes: &str) -> Governance {
        let (node, host) = (node.to_owned(), format!("{node}:9000"));
        record.configure(&NodePlugins { node, host, plugins: plugins(configured) }, &live(nodes))
    }

    /// The record after each node has read its configuration in turn, and every change has taken effect.
    pub(super) fn after(steps: &[(&str, &str)], nodes: &str) -> Governance {
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
        assert_eq!((complete.changed_from.as_deref(), complete.is_settled()), (Some(&[][..]), false));
        let complete = complete.settle();
        assert!(complete.revision == 3 && complete.is_settled());
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

    #[test]
    fn the_record_says_which_plugins_decide_who_may_connect() {
        let record = after(&[("a", "x=x y=y")], "ab");
        let known = BTreeMap::from([("x".to_owned(), true), ("z".to_owned(), true)]);
        let next = record.with_connect_hooks(&known).unwrap();
        let hooks: Vec<_> = next.slots.iter().map(|slot| slot.has_connect_hook).collect();
        assert_eq!((next.revision, hooks), (record.revision + 1, vec![true, false]));
        assert_eq!(next.with_connect_hooks(&known), None);
        let moved = reads(&next, "a", "y=y x=other", "ab").complete();
        assert_eq!(moved.slots.iter().filter(|slot| slot.has_connect_hook).count(), 1, "it stays known");
    }

    #[test]
    fn history_is_cleared_only_if_a_room_changes_its_plugin() {
        let record = after(&[("a", "x=x")], "ab");
        let cleared_by =
            |configured: &str| reads(&record, "a", configured, "ab").clearing_history("a").history_cleared_by;
        assert_eq!(cleared_by("x=other").as_deref(), Some("a"));
        assert_eq!(cleared_by("x=x"), None);
        let announced = reads(&record, "a", "x=other", "ab").clearing_history("a");
        assert_eq!(announced.complete().history_cleared_by, None);
    }

    #[test]
    fn killed_nodes_leave_a_limited_number_of_claims() {
        let mut record = Governance::default();
        let alone = |node: &str| BTreeSet::from([node.to_owned()]);
        for n in 0..3 * MAX_DEAD_CLAIMS {
            let node = format!("n{n}");
            let configured =
                NodePlugins { node: node.clone(), host: format!("{node}:9000"), plugins: plugins("x=x") };
            record = record.configure(&configured, &alone(&node)).complete();
        }
        assert_eq!(record.slots[0].claimed.len(), MAX_DEAD_CLAIMS + 1);
        let last = format!("n{}", 3 * MAX_DEAD_CLAIMS - 1);
        assert!(record.slots[0].claimed.contains_key(&last));
        assert_eq!(shown(&record.leave(&last, &alone(&last)).slots), "x1=x", "its rooms do not open");
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
}
