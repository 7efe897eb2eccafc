//! Which version of each plugin is active: deploying and activating versions, rolling back, following other
//! nodes, and comparing candidates. Serves no rooms: the hub has a slot for each plugin, and this module
//! decides what is in it.

mod activity;
mod audit;
mod deploy;
mod follow;
mod governance;
mod plugin_set;
mod probation;
mod rollback;
mod shadow;
mod shared_state;
mod slot;
mod start;
#[cfg(test)]
mod tests;
mod version_compiler;
mod view;

pub(crate) use deploy::Deployment;
pub(crate) use shared_state::share_states;
pub(crate) use slot::PluginSlot;
pub(crate) use switchyard_process::log::AUDIT_TARGET;
pub(crate) use view::{NodeReport, PluginReport, PluginState, PluginView};

use crate::hub::Hub;
use arc_swap::ArcSwap;
use governance::GovernanceState;
use shared_state::SharedState;
use std::sync::Arc;
use switchyard_plugin::{Cache, Compiler, PluginConfig, StateTables};
use switchyard_protocol::{ErrorCode, Refusal};
use switchyard_store::PluginRegistry;
use version_compiler::VersionCompiler;

/// How often a change of the version history is attempted while other nodes change it, too.
const MAX_CHANGE_ATTEMPTS: usize = 20;

/// The plugins of a node, with their versions.
pub(crate) struct Rollout {
    hub: Arc<Hub>,
    /// In the order of precedence: the first plugin with a matching pattern governs a room.
    slots: ArcSwap<Vec<Arc<PluginSlot>>>,
    /// Held while plugins are added and removed, or their rooms change.
    set_lock: tokio::sync::Mutex<()>,
    governance: GovernanceState,
    compiler: VersionCompiler,
    shared_state: Arc<SharedState>,
}

impl Rollout {
    /// Makes a slot for each plugin. They govern no rooms until [`start`](Self::start). `host` is the address of
    /// the admin listener.
    pub(crate) fn new(
        hub: Arc<Hub>,
        plugins: Vec<PluginConfig>,
        cache: Option<Cache>,
        compiler: Compiler,
        host: String,
    ) -> Arc<Self> {
        let slots = plugins.into_iter().map(|config| PluginSlot::new(hub.add_slot(config.name()), config));
        let slots = ArcSwap::from_pointee(slots.map(Arc::new).collect());
        let states = StateTables::new(hub.memory.clone());
        let shared_state = Arc::new(SharedState::new(hub.store.shared_values.clone()));
        let compiler =
            VersionCompiler::new(hub.vitals.clone(), states, shared_state.clone(), cache, compiler);
        let governance = GovernanceState::new(host);
        Arc::new(Self { hub, slots, set_lock: Default::default(), governance, compiler, shared_state })
    }

    /// The plugins in the order of precedence.
    pub(crate) fn slots(&self) -> Arc<Vec<Arc<PluginSlot>>> {
        self.slots.load_full()
    }

    /// The plugin with this name in the configuration.
    pub(crate) fn slot(&self, name: &str) -> Result<Arc<PluginSlot>, Refusal> {
        let slots = self.slots.load();
        slots.iter().find(|slot| slot.has_name(name)).cloned().ok_or_else(|| {
            let names: Vec<_> = slots.iter().map(|slot| slot.name()).collect();
            let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            let name = name.escape_debug();
            Refusal::new(
                ErrorCode::NotFound,
                format!("no plugin '{name}' is configured here (configured: {known})"),
            )
        })
    }

    /// What this node reports about its plugins to other nodes.
    pub(crate) fn report(&self) -> NodeReport {
        let plugins = self.slots.load().iter().map(|slot| (slot.name(), slot.report())).collect();
        let (host, instance) = (self.governance.host().to_owned(), self.governance.node().to_owned());
        NodeReport { host, instance, governance: self.governance.confirmed(), plugins }
    }

    /// Where the versions of plugins are stored, for all nodes.
    pub(crate) fn registry(&self) -> &dyn PluginRegistry {
        &*self.hub.store.plugins
    }
}

/// Writes the audit line if a plugin was added, or its rooms have changed.
fn log_set_change(slot: &Arc<PluginSlot>, before: &[Arc<PluginSlot>], config: &PluginConfig) {
    let rooms: Vec<_> = config.rooms.iter().map(ToString::to_string).collect();
    let rooms = rooms.join(" ");
    let is_new = !before.iter().any(|known| Arc::ptr_eq(known, slot));
    let what = match (is_new, slot.config.load().rooms == config.rooms) {
        (true, _) => "plugin added",
        (false, false) => "rooms of the plugin changed",
        (false, true) => return,
    };
    tracing::info!(target: AUDIT_TARGET, plugin = slot.name(), rooms, config = config.digest(), "{what}");
}
