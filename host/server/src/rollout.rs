//! Which version of each plugin is active: deploying and activating versions, rolling back, following other
//! nodes, and comparing candidates. Serves no rooms: the hub has a slot for each plugin, and this module
//! decides what is in it.

mod activity;
mod audit;
mod deploy;
mod follow;
mod governance;
mod history_clearing;
mod new_candidates;
mod peers;
mod plugin_set;
mod preview;
mod probation;
mod record_changes;
mod rollback;
mod shadow;
mod shared_state;
mod slot;
mod staged_versions;
mod start;
mod stored_changes;
mod stored_plugins;
#[cfg(test)]
mod tests;
mod version_compiler;
mod view;

pub(crate) use deploy::Deployment;
pub(crate) use new_candidates::NewCandidateView;
pub(crate) use preview::{ChangePreview, PlannedChange, RoomTable};
pub(crate) use shared_state::share_states;
pub(crate) use slot::PluginSlot;
pub(crate) use stored_changes::{NO_SHARED_STORE, SlotChange, SlotRemoval};
pub(crate) use stored_plugins::StoredPlugin;
pub(crate) use view::{NodeReport, PluginReport, PluginState, PluginView};

use crate::{
    audit::{Actor, Audit, AuditAction, AuditEvent},
    hub::{Hub, Ungoverned},
};
use arc_swap::ArcSwap;
use governance::GovernanceState;
use history_clearing::HistoryClearing;
use new_candidates::NewCandidates;
use peers::Peers;
use serde_json::{Map, Value};
use shared_state::SharedState;
use staged_versions::StagedVersions;
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};
use switchyard_plugin::{Cache, Compiler, CopyBudget, PluginConfig, StateTables, Trust};
use switchyard_protocol::{ErrorCode, Refusal, room::RoomPattern};
use switchyard_store::PluginRegistry;
use tokio::sync::{Semaphore, watch};
use tokio_util::task::AbortOnDropHandle;
use version_compiler::VersionCompiler;

/// How often a change of the version history is attempted while other nodes change it, too.
const MAX_CHANGE_ATTEMPTS: usize = 20;

/// The plugins of a node, with their versions.
pub(crate) struct Rollout {
    hub: Arc<Hub>,
    /// The plugins of this node's configuration, in its order.
    configured: ArcSwap<Vec<Arc<PluginSlot>>>,
    /// The plugins that operators have added for all nodes, with the settings that they have now.
    stored: watch::Sender<Arc<[StoredPlugin]>>,
    /// The section `[signatures]`, for plugins of the store.
    trust: ArcSwap<Trust>,
    parse_settings: SettingsParser,
    /// Whether rooms are open that no plugin governs.
    ungoverned: Ungoverned,
    staged: StagedVersions,
    /// Loads plugins of the store.
    preparing: Mutex<Option<AbortOnDropHandle<()>>>,
    clearing: Mutex<Option<HistoryClearing>>,
    /// Whether the next change of the configured plugins clears the history of rooms that change their plugin.
    clears_history: AtomicBool,
    /// For copies of calls that candidates and recordings get.
    pub copy_budget: Arc<CopyBudget>,
    /// Candidates of plugins that have not been added yet.
    new_candidates: Mutex<NewCandidates>,
    /// Held while a preview is made.
    previews: Arc<Semaphore>,
    /// Held while plugins of the configuration are added and removed, or their rooms change.
    set_lock: tokio::sync::Mutex<()>,
    governance: GovernanceState,
    peers: Peers,
    compiler: VersionCompiler,
    shared_state: Arc<SharedState>,
}

/// Makes the configuration of a plugin of the store: of its name, its rooms and its settings. The error is a sentence
/// that names the key.
pub(crate) type SettingsParser =
    fn(&str, &[RoomPattern], &Map<String, Value>, &Arc<Trust>) -> Result<PluginConfig, String>;

/// What a rollout is made of.
pub(crate) struct RolloutConfig {
    /// The plugins of the configuration, in the order of precedence.
    pub plugins: Vec<PluginConfig>,
    pub trust: Arc<Trust>,
    pub parse_settings: SettingsParser,
    pub ungoverned: Ungoverned,
    pub cache: Option<Cache>,
    pub compiler: Compiler,
    /// The address of the admin listener.
    pub host: String,
}

impl Rollout {
    /// Makes a slot for each plugin. They govern no rooms until [`start`](Self::start).
    pub(crate) fn new(hub: Arc<Hub>, config: RolloutConfig) -> Arc<Self> {
        let RolloutConfig { plugins, trust, parse_settings, ungoverned, cache, compiler, host } = config;
        let slots = plugins.into_iter().map(|config| PluginSlot::new(hub.add_slot(config.name()), config));
        let configured = ArcSwap::from_pointee(slots.map(Arc::new).collect());
        let states = StateTables::new(hub.memory.clone());
        let copy_budget = CopyBudget::new(hub.memory.clone());
        let shared_state = Arc::new(SharedState::new(hub.store.shared_values.clone()));
        let compiler =
            VersionCompiler::new(hub.vitals.clone(), states, shared_state.clone(), cache, compiler);
        Arc::new(Self {
            hub,
            configured,
            stored: watch::Sender::new(Arc::new([])),
            trust: ArcSwap::new(trust),
            parse_settings,
            ungoverned,
            staged: StagedVersions::default(),
            preparing: Mutex::default(),
            clearing: Mutex::default(),
            clears_history: AtomicBool::new(false),
            copy_budget,
            new_candidates: Mutex::default(),
            previews: Arc::new(Semaphore::new(1)),
            set_lock: Default::default(),
            governance: GovernanceState::new(host),
            peers: Peers::default(),
            compiler,
            shared_state,
        })
    }

    /// All plugins: first those of the configuration, in its order, and then those of the store.
    pub(crate) fn slots(&self) -> Vec<Arc<PluginSlot>> {
        let stored = self.stored.borrow().clone();
        let configured = self.configured.load();
        configured.iter().chain(stored.iter().map(|stored| &stored.slot)).cloned().collect()
    }

    /// The plugins of the store, whenever they change.
    pub(crate) fn stored_plugins(&self) -> watch::Receiver<Arc<[StoredPlugin]>> {
        self.stored.subscribe()
    }

    /// Has the next change of the configured plugins clear the history of rooms that change their plugin.
    pub(crate) fn clear_history_with_next_change(&self) {
        self.clears_history.store(true, Ordering::Release);
    }

    /// Verifies versions with these keys from now on.
    pub(crate) fn set_trust(&self, trust: Arc<Trust>) {
        for stored in self.stored.borrow().iter() {
            stored.slot.set_trust(&trust);
        }
        self.trust.store(trust);
    }

    /// Returns when messages wait until the record of governance is read.
    pub(crate) async fn governance_wanted(&self) {
        self.hub.governance_wanted().await;
    }

    /// Forgets code that has waited too long for its slot.
    pub(crate) fn expire_staged(&self) {
        self.staged.expire();
    }

    /// The plugin with this name.
    pub(crate) fn slot(&self, name: &str) -> Result<Arc<PluginSlot>, Refusal> {
        let slots = self.slots();
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
        let plugins = self.slots().iter().map(|slot| (slot.name(), slot.report())).collect();
        let (host, instance) = (self.governance.host().to_owned(), self.governance.node().to_owned());
        let opens_ungoverned = self.ungoverned == Ungoverned::Open;
        NodeReport { host, instance, governance: self.governance.confirmed(), opens_ungoverned, plugins }
    }

    /// Where the versions of plugins are stored, for all nodes.
    pub(crate) fn registry(&self) -> &dyn PluginRegistry {
        &*self.hub.store.plugins
    }
}

/// Writes the audit line if the configuration has added a plugin, or changed its rooms.
fn log_set_change(audit: &Audit, slot: &Arc<PluginSlot>, before: &[Arc<PluginSlot>], config: &PluginConfig) {
    let rooms: Vec<_> = config.rooms.iter().map(ToString::to_string).collect();
    let rooms = rooms.join(" ");
    let is_new = !before.iter().any(|known| Arc::ptr_eq(known, slot));
    let action = match (is_new, slot.config.load().rooms == config.rooms) {
        (true, _) => AuditAction::PluginAdd,
        (false, false) => AuditAction::PluginConfigure,
        (false, true) => return,
    };
    let event = AuditEvent::new(Actor::Config, action, slot.name()).detail("config", config.digest());
    audit.record(&event.detail("rooms", rooms));
}
