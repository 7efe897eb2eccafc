//! The plugins that operators have added for all nodes, as this node runs them: what the record of governance says
//! of them becomes slots, configurations and versions here. Does not change the record.

use super::{Rollout, slot::PluginSlot, view::FailedVersion};
use crate::{
    audit::{Actor, AuditAction, AuditEvent},
    hub::{conflict, unavailable},
};
use std::sync::Arc;
use switchyard_plugin::PluginConfig;
use switchyard_process::lock::LockExt;
use switchyard_protocol::Refusal;
use switchyard_store::{Governance, GovernedSlot};
use tokio_util::task::AbortOnDropHandle;

/// A plugin of the store on this node.
#[derive(Clone)]
pub(crate) struct StoredPlugin {
    pub slot: Arc<PluginSlot>,
    /// The settings that it has now. Those in effect may be older: they stay if a version cannot be started
    /// with new ones.
    pub config: PluginConfig,
    /// The revision of these settings.
    revision: u64,
    /// When it was added, in Unix milliseconds.
    added: u64,
    /// Whether loading it has to be tried again.
    pub must_retry: bool,
}

impl StoredPlugin {
    /// Whether this is the plugin of the record, and not one that had its name before.
    pub(super) fn is_plugin_of(&self, governed: &GovernedSlot) -> bool {
        self.added == governed.added && self.slot.has_name(&governed.name)
    }
}

impl Rollout {
    /// Whether the plugins of the store among these run here, with the settings that the record has. If not, starts
    /// to load them in the background: call this again. One that cannot be loaded counts; its rooms are closed.
    pub(super) fn prepare_stored_plugins(self: &Arc<Self>, slots: &[GovernedSlot]) -> bool {
        let missing: Vec<_> = slots.iter().filter(|slot| self.needs_preparing(slot)).cloned().collect();
        if missing.is_empty() {
            return true;
        }
        let mut preparing = self.preparing.locked();
        if preparing.as_ref().is_none_or(|preparing| preparing.is_finished()) {
            let rollout = self.clone();
            let prepare = async move {
                for slot in missing {
                    rollout.prepare_stored_plugin(&slot).await;
                }
            };
            *preparing = Some(AbortOnDropHandle::new(tokio::spawn(prepare)));
        }
        false
    }

    fn needs_preparing(&self, governed: &GovernedSlot) -> bool {
        let Some(stored) = &governed.stored else { return false };
        let is_configured = self.configured.load().iter().any(|own| own.has_name(&governed.name));
        let is_own = |own: &&StoredPlugin| own.is_plugin_of(governed);
        let revision = self.stored.borrow().iter().find(is_own).map(|own| own.revision);
        !is_configured && revision != Some(stored.revision) && self.settings_error(governed).is_none()
    }

    /// Loads a plugin of the store, or starts it again with other settings.
    async fn prepare_stored_plugin(self: &Arc<Self>, governed: &GovernedSlot) {
        let (Some(stored), Ok(config)) = (&governed.stored, self.stored_config(governed)) else { return };
        let (plugin, revision) = (&governed.name, stored.revision);
        let event = |action| {
            let by = Actor::Store(Some(stored.by.as_str().into()));
            AuditEvent::new(by, action, plugin).detail("config", config.digest())
        };
        if let Some(slot) = self.own_slot(governed) {
            self.hub.audit.record(&event(AuditAction::PluginConfigure));
            if let Err(refusal) = self.reload(&slot, config.clone()).await {
                tracing::error!("{}; plugin '{plugin}' stays as it was", refusal.message);
            }
            self.stored.send_modify(|all| {
                let apply = |known: &StoredPlugin| match Arc::ptr_eq(&known.slot, &slot) {
                    true => StoredPlugin { config: config.clone(), revision, ..known.clone() },
                    false => known.clone(),
                };
                *all = all.iter().map(apply).collect();
            });
            return;
        }
        let rooms: Vec<_> = governed.rooms.iter().map(ToString::to_string).collect();
        self.hub.audit.record(&event(AuditAction::PluginAdd).detail("rooms", rooms.join(" ")));
        let slot = Arc::new(PluginSlot::new(self.hub.add_slot(plugin), config.clone()));
        let loaded = self.load_stored_plugin(&slot).await;
        if let Err(refusal) = &loaded {
            tracing::error!("{}; its rooms are closed", refusal.message);
        }
        let must_retry = loaded.is_err();
        let added = StoredPlugin { slot, config, revision, added: governed.added, must_retry };
        self.stored.send_modify(|all| *all = all.iter().cloned().chain([added]).collect());
    }

    /// Loads the version of a plugin of the store that is active on all nodes.
    pub(super) async fn load_stored_plugin(self: &Arc<Self>, slot: &Arc<PluginSlot>) -> Result<(), Refusal> {
        let _deploying = slot.deploy_lock.lock().await;
        let history = self.registry().history(&slot.name()).await.map_err(unavailable)?;
        if history.generation == 0 {
            let reason = format!("plugin '{}' has no version in the store; load one", slot.name());
            slot.state().failed = Some(FailedVersion::now(None, &reason));
            return Err(conflict(reason));
        }
        self.follow_history(slot, history).await
    }

    /// Whether an operator has removed this plugin of the store, so that its versions are not written again.
    pub(super) fn is_being_removed(&self, slot: &PluginSlot) -> bool {
        let record = self.governance.record();
        let slots = record.announced.as_ref().unwrap_or(&record.slots);
        let stored = self.stored.borrow().clone();
        let own = stored.iter().find(|own| std::ptr::eq(&*own.slot, slot));
        own.is_some_and(|own| !slots.iter().any(|governed| own.is_plugin_of(governed)))
    }

    /// Applies the record to the plugins of the store that this node has: their rooms, which were handed over
    /// already, their order, and which of them are gone. The caller holds the governance lock.
    pub(super) async fn configure_stored_plugins(&self, record: &Governance) {
        let is_governing = |plugin: &StoredPlugin| {
            let is_same = |slot: &GovernedSlot| slot.stored.is_some() && plugin.is_plugin_of(slot);
            let announced = record.announced.iter().flatten();
            record.slots.iter().chain(announced).any(is_same)
        };
        let place =
            |plugin: &StoredPlugin| record.slots.iter().position(|slot| plugin.slot.has_name(&slot.name));
        let mut removed = vec![];
        self.stored.send_if_modified(|all| {
            let (mut kept, gone): (Vec<_>, Vec<_>) = all.iter().cloned().partition(is_governing);
            removed = gone;
            kept.sort_by_key(|plugin| (place(plugin).is_none(), place(plugin)));
            let is_same = kept.len() == all.len()
                && kept.iter().zip(all.iter()).all(|(kept, known)| Arc::ptr_eq(&kept.slot, &known.slot));
            *all = kept.into();
            !is_same
        });
        for governed in record.slots.iter().filter(|slot| slot.stored.is_some()) {
            if let Some(own) = self.own_slot(governed) {
                own.set_rooms(&governed.rooms);
            }
        }
        for StoredPlugin { slot, .. } in removed {
            self.hub.remove_slot(slot.id).await;
            let state_bytes = self.remove_state(&slot.name()).bytes;
            let event = AuditEvent::new(Actor::Store(None), AuditAction::PluginRemove, slot.name());
            let event = event.detail("state_bytes", state_bytes);
            self.hub.audit.record(&match slot.plugin() {
                Some(plugin) => event.digest(&plugin.info().sha256),
                None => event,
            });
        }
    }

    /// Why the settings of a plugin of the store are invalid here. A newer release may have written them.
    pub(super) fn settings_error(&self, governed: &GovernedSlot) -> Option<String> {
        self.stored_config(governed).err()
    }

    /// The configuration of a plugin of the store.
    fn stored_config(&self, governed: &GovernedSlot) -> Result<PluginConfig, String> {
        let settings = governed.stored.as_ref().map(|stored| &stored.settings);
        let (trust, none) = (self.trust.load_full(), Default::default());
        (self.parse_settings)(&governed.name, &governed.rooms, settings.unwrap_or(&none), &trust)
    }
}
