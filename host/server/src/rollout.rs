//! Which version of each plugin is active: deploying and activating versions, rolling back, following other
//! nodes, and comparing candidates. Serves no rooms: the hub has a slot for each plugin, and this module
//! decides what is in it.

mod deploy;
mod follow;
mod probation;
mod rollback;
mod shadow;
mod slot;
mod start;
#[cfg(test)]
mod tests;
mod version_compiler;
mod view;

pub(crate) use deploy::Deployment;
pub(crate) use slot::PluginSlot;
pub(crate) use view::{NodeReport, PluginReport, PluginState, PluginView};

use crate::hub::Hub;
use std::sync::Arc;
use switchyard_plugin::{Cache, Compiler, Plugin, PluginConfig, StateTables};
use switchyard_protocol::{ErrorCode, Refusal};
use switchyard_store::PluginRegistry;
use version_compiler::VersionCompiler;

/// The target of the audit log: lines that say who did what.
pub(crate) const AUDIT_TARGET: &str = "switchyard::audit";

/// How often a change of the version history is attempted while other nodes change it, too.
const MAX_CHANGE_ATTEMPTS: usize = 20;

/// The plugins of a node, with their versions.
pub(crate) struct Rollout {
    hub: Arc<Hub>,
    /// In the order of the configuration, like the slots of the hub.
    slots: Vec<Arc<PluginSlot>>,
    compiler: VersionCompiler,
}

impl Rollout {
    /// Takes the plugins in the order of the hub's slots. No version is active until [`start`](Self::start).
    pub(crate) fn new(
        hub: Arc<Hub>,
        plugins: Vec<PluginConfig>,
        cache: Option<Cache>,
        compiler: Compiler,
    ) -> Arc<Self> {
        let slots = plugins.into_iter().enumerate().map(|(index, config)| PluginSlot::new(index, config));
        let slots = slots.map(Arc::new).collect();
        let states = StateTables::new(hub.memory.clone());
        let compiler = VersionCompiler::new(hub.vitals.clone(), states, cache, compiler);
        Arc::new(Self { hub, slots, compiler })
    }

    /// The plugins in the order of the configuration.
    pub(crate) fn slots(&self) -> &[Arc<PluginSlot>] {
        &self.slots
    }

    /// The plugin with this name in the configuration.
    pub(crate) fn slot(&self, name: &str) -> Result<&Arc<PluginSlot>, Refusal> {
        self.slots.iter().find(|slot| slot.has_name(name)).ok_or_else(|| {
            let message = format!("no plugin '{}' is configured here", name.escape_debug());
            Refusal::new(ErrorCode::NotFound, message)
        })
    }

    /// What this node reports about its plugins to other nodes. `host` is the address of its admin listener.
    pub(crate) fn report(&self, host: &str) -> NodeReport {
        let plugins = self.slots.iter().map(|slot| (slot.name(), slot.report())).collect();
        NodeReport { host: host.to_owned(), plugins }
    }

    /// Where the versions of plugins are stored, for all nodes.
    pub(crate) fn registry(&self) -> &dyn PluginRegistry {
        &*self.hub.store.plugins
    }
}

/// Writes the audit line of an activation.
fn log_activation(plugin: &Plugin, source: &str, by: Option<&str>) {
    let info = plugin.info();
    let (name, version, sha256) = (&info.name, &info.version, &info.sha256);
    tracing::info!(target: AUDIT_TARGET, plugin = %name, %version, %sha256, how = source, by, "version activated");
}
