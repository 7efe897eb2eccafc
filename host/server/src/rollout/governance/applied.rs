//! What a record of governance means for the rooms of this node: who governs them here, which of them are closed
//! here, and how this node differs from the record. Does not change the record.

use super::Rollout;
use crate::{
    hub::{RoomSelector, SlotId, SlotRooms, conflict},
    rollout::{PluginSlot, StoredPlugin},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use switchyard_protocol::{Refusal, unix_ms};
use switchyard_store::{Governance, GovernedSlot, governing_slot};
use tokio::time::timeout;

/// How often the record is read while rooms are handed over.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(1);

impl Rollout {
    /// Whether other rooms were handed over last than those of the record, without the change that it announces.
    pub(super) fn is_behind(&self, record: &Governance) -> bool {
        let rooms = |record: &Governance| -> Vec<_> {
            record
                .slots
                .iter()
                .map(|slot| (slot.name.clone(), slot.rooms.clone(), slot.stored.is_some(), slot.added))
                .collect()
        };
        rooms(&self.governance.known().applied_record) != rooms(record)
    }

    /// Hands rooms over, unless they have the right governors already, and forgets plugins that are gone.
    pub(super) async fn apply(&self, record: &Arc<Governance>) {
        // While a change is announced, it may be the one that brings them.
        let is_settled = record.is_settled() && self.governance.known().is_recorded;
        // Before rooms are handed over, which would open them.
        self.hub.keep_closed(changed_rooms(record));
        let routes = self.routes(&record.slots, is_settled);
        // A change that this node has closed rooms for may have been taken back while it was stopped.
        if self.governance.known().applied != routes || self.hub.is_change_announced() {
            self.hub.close_changing_rooms(routes.clone()).await;
            self.hand_rooms_over(record).await;
        }
        {
            let mut known = self.governance.known();
            (known.applied, known.applied_record) = (routes, record.clone());
        }
        self.configure_stored_plugins(record).await;
        let unused: Vec<_> = {
            let mut known = self.governance.known();
            let applied = known.applied.clone();
            let is_unused = |slot: &SlotId| !applied.iter().any(|routed| routed.slot == *slot);
            known.absent.extract_if(.., |_, slot| is_unused(slot)).map(|(_, slot)| slot).collect()
        };
        for slot in unused {
            self.hub.remove_slot(slot).await;
        }
    }

    /// Hands rooms over. If slow plugins delay that, the other rooms of this node go on as long as nobody changes the
    /// record.
    async fn hand_rooms_over(&self, record: &Governance) {
        let begun = self.hub.begin_handover().await;
        let handed_over = begun.completed();
        tokio::pin!(handed_over);
        while timeout(RENEWAL_INTERVAL, &mut handed_over).await.is_err() {
            let began = Instant::now();
            let is_reported = self.send_report().await.is_ok();
            let read = self.governance_registry().governance(Some(record.id)).await;
            if is_reported && matches!(read, Ok(None)) {
                self.hub.renew_governance(began);
            }
        }
    }

    /// The slots that govern these rooms on this node, those of absent plugins included. The rooms of a plugin of this
    /// node are closed if its name belongs to one of the store and, with `is_settled`, if the record has lost it.
    pub(super) fn routes(&self, slots: &[GovernedSlot], is_settled: bool) -> Vec<SlotRooms> {
        let mut known = self.governance.known();
        let mut absent = |name: &str| {
            *known.absent.entry(name.to_owned()).or_insert_with(|| self.hub.add_absent_slot(name))
        };
        let route = |slot: &GovernedSlot| SlotRooms {
            slot: self.own_slot(slot).map_or_else(|| absent(&slot.name), |own| own.id),
            patterns: slot.rooms.as_slice().into(),
        };
        let mut routes: Vec<_> = slots.iter().map(route).collect();
        let mine = known.configured.clone();
        for (name, patterns) in mine.iter().flat_map(|mine| &mine.plugins) {
            let recorded = slots.iter().find(|slot| slot.name == *name);
            if recorded.map_or(is_settled, |slot| slot.stored.is_some()) {
                let slot =
                    *known.absent.entry(name.clone()).or_insert_with(|| self.hub.add_absent_slot(name));
                routes.push(SlotRooms { slot, patterns: patterns.as_slice().into() });
            }
        }
        routes
    }

    /// This node's slot for a plugin of the record.
    pub(in crate::rollout) fn own_slot(&self, slot: &GovernedSlot) -> Option<Arc<PluginSlot>> {
        match slot.stored {
            None => self.configured.load().iter().find(|own| own.has_name(&slot.name)).cloned(),
            Some(_) => {
                let is_own = |own: &&StoredPlugin| own.is_plugin_of(slot);
                self.stored.borrow().iter().find(is_own).map(|own| own.slot.clone())
            }
        }
    }

    /// Refuses to load a plugin of the configuration whose name belongs to a plugin of the store, because both
    /// would share their versions.
    pub(in crate::rollout) fn check_name(&self, slot: &PluginSlot) -> Result<(), Refusal> {
        let name = slot.name();
        match slot.config.load().file.is_some() && is_of_store(&self.governance.record(), &name) {
            true => Err(conflict(name_of_store(&name))),
            false => Ok(()),
        }
    }

    /// Refuses names of plugins in a configuration that belong to plugins of the store, or are reserved for one that is
    /// being added.
    pub(crate) fn check_names<'a>(&self, mut names: impl Iterator<Item = &'a str>) -> Result<(), Refusal> {
        let (record, now) = (self.governance.record(), unix_ms());
        let is_reserved = |name: &str| record.reserved.get(name).is_some_and(|reserved| now < reserved.until);
        match names.find(|name| is_of_store(&record, name) || is_reserved(name)) {
            Some(name) => Err(conflict(name_of_store(name))),
            None => Ok(()),
        }
    }

    /// What clients are refused while this plugin does not run here.
    fn describe_closure(&self, slot: &GovernedSlot) -> &'static str {
        match self.lacks_connect_hook(slot) {
            true => {
                "its rooms are closed here, and no client is admitted, because it decides who may connect"
            }
            false => "its rooms are closed here",
        }
    }

    /// How the plugins of this node differ from the record and from those of other nodes, one sentence each.
    pub(crate) fn governance_drift(&self) -> Vec<String> {
        let record = self.governance.record();
        let differs = |slot: &GovernedSlot| {
            let name = &slot.name;
            let is_configured = self.configured.load().iter().any(|own| own.has_name(name));
            match self.own_slot(slot) {
                None if is_configured => Some(format!("{}; its rooms are closed here", name_of_store(name))),
                None if slot.stored.is_some() => {
                    let reason = self.settings_error(slot).unwrap_or_else(|| "it is being loaded".to_owned());
                    Some(format!(
                        "plugin '{name}' of the store does not run here: {reason}; {}",
                        self.describe_closure(slot)
                    ))
                }
                None => Some(format!(
                    "plugin '{name}' governs rooms on other nodes and is not configured here; {}",
                    self.describe_closure(slot)
                )),
                Some(own) if own.config().rooms != slot.rooms => Some(format!(
                    "plugin '{name}' governs other rooms than those in the configuration of this node"
                )),
                Some(_) => None,
            }
        };
        let mine = self.governance.known().configured.clone();
        let names: Vec<_> =
            mine.iter().flat_map(|mine| &mine.plugins).map(|(name, _)| name.clone()).collect();
        let lost =
            names.iter().filter(|name| !record.slots.iter().any(|slot| slot.name == **name)).map(|name| {
                format!("plugin '{name}' is not in the record of all nodes yet; its rooms are closed here")
            });
        record.slots.iter().filter_map(differs).chain(lost).chain(self.peers.drift()).collect()
    }
}

/// The rooms that stay closed to messages until all nodes have handed them over.
fn changed_rooms(record: &Arc<Governance>) -> Option<RoomSelector> {
    record.changed_from.as_ref()?;
    let record = record.clone();
    Some(Arc::new(move |room: &str| {
        let governor = |slots| governing_slot(slots, room).map(|slot| (&slot.name, slot.stored.is_some()));
        record.changed_from.as_deref().is_some_and(|before| governor(before) != governor(&record.slots))
    }))
}

/// Whether this is a plugin of the store.
fn is_of_store(record: &Governance, name: &str) -> bool {
    let mut slots = record.slots.iter().chain(record.announced.iter().flatten());
    slots.any(|slot| slot.name == name && slot.stored.is_some())
}

fn name_of_store(name: &str) -> String {
    format!(
        "plugin '{name}' is in the configuration of this node and in the store; rename it here, or remove the one in the \
         store with `switchyard plugin remove {name}`"
    )
}
