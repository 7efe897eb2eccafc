//! Which plugins there are, and which rooms each of them governs: adding and removing plugins, and changing their
//! rooms and their order while the node runs. Does not decide which version of a plugin is active.

use super::{Rollout, deploy::FILE_READ_TIMEOUT, log_set_change, slot::PluginSlot};
use crate::{
    audit::{Actor, AuditAction, AuditEvent},
    hub::stopping,
};
use std::sync::{Arc, atomic::Ordering};
use switchyard_plugin::PluginConfig;
use switchyard_protocol::{ErrorCode, Refusal};

/// What a change of the set of plugins did.
#[derive(Default)]
pub(crate) struct PluginSetChange {
    /// The plugins that were added, and whether loading them has to be tried again.
    pub added: Vec<(Arc<PluginSlot>, bool)>,
    /// The names of those that were removed.
    pub removed: Vec<String>,
}

impl Rollout {
    /// Makes these the plugins of the node, in this order of precedence. Plugins that are new are loaded first;
    /// if that fails, their rooms are closed. Then all rooms that change their governor are handed over at
    /// once. A name that stays keeps its slot and its version; other settings than its rooms are applied by
    /// [`reload`](Self::reload).
    pub(crate) async fn set_plugins(
        self: &Arc<Self>,
        configs: Vec<PluginConfig>,
    ) -> Result<PluginSetChange, Refusal> {
        let rollout = self.clone();
        // On a task of its own: if the caller goes away, this must not stop halfway.
        let changed = tokio::spawn(async move { rollout.change_set(&configs).await });
        changed.await.map_err(|_| stopping())
    }

    async fn change_set(self: Arc<Self>, configs: &[PluginConfig]) -> PluginSetChange {
        let _changing = self.set_lock.lock().await;
        let clears_history = self.clears_history.swap(false, Ordering::AcqRel);
        let before = self.configured.load_full();
        let unchanged = before.iter().zip(configs).all(|(slot, config)| {
            let now = slot.config.load();
            now.name() == config.name() && now.rooms == config.rooms && self.check_name(slot).is_ok()
        });
        if unchanged && before.len() == configs.len() {
            return PluginSetChange::default();
        }
        let (mut next, mut change) = (vec![], PluginSetChange::default());
        for config in configs {
            let known = before.iter().find(|slot| slot.has_name(config.name())).cloned();
            next.push(match known {
                Some(slot) => slot,
                None => {
                    let slot = self.hub.add_slot(config.name());
                    let slot = Arc::new(PluginSlot::new(slot, config.clone()));
                    change.added.push((slot.clone(), false));
                    slot
                }
            });
        }
        let is_kept = |slot: &Arc<PluginSlot>| next.iter().any(|kept| Arc::ptr_eq(kept, slot));
        let removed: Vec<_> = before.iter().filter(|slot| !is_kept(slot)).cloned().collect();
        // Operators can see what is being loaded, and what is still governing.
        self.configured.store(Arc::new(next.iter().chain(&removed).cloned().collect()));
        for (slot, must_retry) in &mut change.added {
            if let Err(refusal) = self.check_name(slot) {
                tracing::error!("{}; the rooms of both are closed on this node", refusal.message);
                continue;
            }
            if let Err(refusal) = self.load_initial(slot, FILE_READ_TIMEOUT).await {
                *must_retry = matches!(refusal.code, ErrorCode::StoreUnavailable | ErrorCode::Overloaded);
                tracing::error!("{}; its rooms are closed", refusal.message);
            }
        }
        for (slot, config) in next.iter().zip(configs) {
            log_set_change(&self.hub.audit, slot, &before, config);
            slot.set_rooms(&config.rooms);
        }
        self.govern(next, configs, clears_history, |_| ()).await;
        for slot in removed {
            self.hub.remove_slot(slot.id).await;
            self.hub.audit.record(&AuditEvent::new(Actor::Config, AuditAction::PluginRemove, slot.name()));
            change.removed.push(slot.name());
        }
        change
    }
}
