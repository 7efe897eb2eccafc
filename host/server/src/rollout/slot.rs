//! One plugin of a node: its configuration, its versions here, and the locks under which those change. Does
//! not decide which version is active.

use super::{
    activity::SlotActivity,
    view::{FailedVersion, PluginState},
};
use crate::{
    blocking::{self, BlockingError},
    hub::{CompiledVersion, SlotId, cannot_start_thread},
};
use arc_swap::ArcSwap;
use bytes::Bytes;
use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};
use switchyard_plugin::{Plugin, PluginConfig, PluginFile, PluginSeries, Shadow, Trust};
use switchyard_process::{file::UnusableFile, lock::LockExt};
use switchyard_protocol::{ErrorCode, Refusal, room::RoomPattern};
use switchyard_store::VersionHistory;
use tokio_util::task::AbortOnDropHandle;

/// How many versions that were active before stay compiled, so that a rollback to them takes no time.
const MAX_EARLIER_VERSIONS: usize = 2;

/// A plugin and its versions on this node.
pub(crate) struct PluginSlot {
    /// Its slot in the hub.
    pub(super) id: SlotId,
    pub(super) created: Instant,
    pub(super) config: ArcSwap<PluginConfig>,
    /// Never held across an await.
    state: Mutex<SlotState>,
    /// What its versions have counted.
    pub(crate) series: PluginSeries,
    /// What was done with its versions.
    pub(crate) activity: SlotActivity,
    /// Held while a version is activated and recorded in the store, so that only one is at a time. Not held
    /// while a version is compiled, so that a rollback never waits for a compilation.
    pub(super) rollout_lock: tokio::sync::Mutex<()>,
    /// Held while the plugin's file is compared with the last one and deployed.
    pub(super) reload_lock: tokio::sync::Mutex<LoadedFile>,
    /// Held while a version is deployed, compilation included. Requests wait in order, and the last one wins.
    pub(super) deploy_lock: tokio::sync::Mutex<()>,
    /// Reads the plugin's file. No lock is held meanwhile, because a file system may never answer.
    reader: blocking::SerialRunner,
}

/// The file that was deployed last from the configured path. Another version may have been activated since.
#[derive(Default)]
pub(super) struct LoadedFile {
    /// The SHA-256 and the signature.
    pub identity: Option<(String, Option<String>)>,
}

#[derive(Default)]
pub(super) struct SlotState {
    /// `None` if no version is active; the plugin's rooms are closed then.
    pub active: Option<ActiveVersion>,
    /// The version history as this node last read or wrote it.
    pub history: VersionHistory,
    /// SHA-256 of a version that is being deployed.
    pub loading: Option<String>,
    /// The last version that could not be activated or was withdrawn.
    pub failed: Option<FailedVersion>,
    /// The versions that were active before, latest first.
    pub earlier: Vec<ActiveVersion>,
    pub probation: Option<Probation>,
    pub candidate: Option<Candidate>,
}

/// A compiled version and the configuration with which it was started.
#[derive(Clone)]
pub(super) struct ActiveVersion {
    pub plugin: Arc<Plugin>,
    pub config: Arc<PluginConfig>,
}

/// The time during which a new version is watched. Dropping this ends it.
pub(super) struct Probation {
    pub until: Instant,
    pub _watch: AbortOnDropHandle<()>,
}

/// A version that receives copies of the calls to the active one.
pub(super) struct Candidate {
    pub shadow: Shadow,
    pub code: Bytes,
    pub signature: Option<String>,
    /// Unix milliseconds.
    pub since: u64,
}

/// Shows a version as loading until it is dropped.
pub(super) struct LoadingGuard<'a> {
    slot: &'a PluginSlot,
    sha256: &'a str,
}

impl Drop for LoadingGuard<'_> {
    fn drop(&mut self) {
        self.slot.state().loading.take_if(|loading| loading == self.sha256);
    }
}

impl PluginSlot {
    pub(super) fn new(id: SlotId, config: PluginConfig) -> Self {
        Self {
            id,
            created: Instant::now(),
            config: ArcSwap::from_pointee(config),
            state: Mutex::default(),
            series: PluginSeries::default(),
            activity: SlotActivity::default(),
            rollout_lock: Default::default(),
            reload_lock: Default::default(),
            deploy_lock: Default::default(),
            reader: Default::default(),
        }
    }

    /// The plugin's name in the configuration.
    pub(crate) fn name(&self) -> String {
        self.config.load().name().to_owned()
    }

    pub(super) fn has_name(&self, name: &str) -> bool {
        self.config.load().name() == name
    }

    /// The configuration in effect.
    pub(crate) fn config(&self) -> PluginConfig {
        PluginConfig::clone(&self.config.load())
    }

    /// The active version.
    pub(crate) fn plugin(&self) -> Option<Arc<Plugin>> {
        self.state().active.as_ref().map(|active| active.plugin.clone())
    }

    pub(crate) fn plugin_state(&self) -> PluginState {
        self.state().plugin_state()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, SlotState> {
        self.state.locked()
    }

    pub(super) fn begin_loading<'a>(&'a self, sha256: &'a str) -> LoadingGuard<'a> {
        self.state().loading = Some(sha256.to_owned());
        LoadingGuard { slot: self, sha256 }
    }

    /// Records whether the version was activated, and otherwise why not. If the store did not answer, that says
    /// nothing about the version.
    pub(super) fn finish_loading<T>(&self, sha256: &str, outcome: &Result<T, Refusal>) {
        let mut state = self.state();
        state.loading.take_if(|loading| loading == sha256);
        state.failed = match outcome {
            Ok(_) => None,
            Err(refusal) if refusal.code == ErrorCode::StoreUnavailable => return,
            Err(refusal) => Some(FailedVersion::now(Some(sha256), &refusal.message)),
        };
    }

    /// A version that is still compiled here because it was active before.
    pub(super) fn earlier(&self, sha256: &str, config: &PluginConfig) -> Option<Arc<Plugin>> {
        let state = self.state();
        let version = state.earlier.iter().find(|version| version.is(sha256, config));
        version.map(|version| version.plugin.clone())
    }

    /// Whether this version is active with this configuration.
    pub(super) fn is_active(&self, sha256: &str, config: &PluginConfig) -> bool {
        self.state().active.as_ref().is_some_and(|active| active.is(sha256, config))
    }

    /// Verifies versions with these keys from now on. The active version stays, even if they do not admit it.
    pub(super) fn set_trust(&self, trust: &Arc<Trust>) {
        let before = self.config.load_full();
        if before.trust == *trust {
            return;
        }
        self.config
            .rcu(|config| Arc::new(PluginConfig { trust: trust.clone(), ..PluginConfig::clone(config) }));
        let info = self.plugin().map(|plugin| plugin.info().clone());
        let admitted = info.map(|info| trust.admit(&info.name, info.signed_by.as_deref()));
        if let Some(Err(error)) = admitted {
            tracing::error!("{error}; it stays active until another version replaces it");
        }
    }

    /// Records the configuration in effect, with the keys that are trusted and the rooms that are governed now:
    /// they may have changed since `config` was read.
    pub(super) fn store_config(&self, config: &Arc<PluginConfig>) {
        self.config.rcu(|current| match current.trust == config.trust && current.rooms == config.rooms {
            true => config.clone(),
            false => {
                let (trust, rooms) = (current.trust.clone(), current.rooms.clone());
                Arc::new(PluginConfig { trust, rooms, ..PluginConfig::clone(config) })
            }
        });
    }

    /// Records the rooms that are governed from now on.
    pub(super) fn set_rooms(&self, rooms: &[RoomPattern]) {
        if self.config.load().rooms != rooms {
            self.config.rcu(|config| {
                Arc::new(PluginConfig { rooms: rooms.to_vec(), ..PluginConfig::clone(config) })
            });
        }
    }

    /// Reads the plugin's file and its signature. If they cannot be read at this moment, or not within
    /// `timeout`, the error is `overloaded`: they may be readable later.
    pub(super) async fn read_file(
        &self,
        config: &Arc<PluginConfig>,
        timeout: Duration,
    ) -> Result<PluginFile, Refusal> {
        let read = config.clone();
        match self.reader.run("reads a plugin", timeout, move || read.read()).await {
            Ok(read) => read.map_err(|error| match error {
                UnusableFile::Temporary(why) => Refusal::new(ErrorCode::Overloaded, why),
                UnusableFile::Invalid(why) => Refusal::invalid(why),
            }),
            Err(BlockingError::TimedOut) => {
                let (name, file) = (config.name(), config.file.clone().unwrap_or_default());
                let why = format!("plugin '{name}': {}: {}", file.display(), BlockingError::TimedOut);
                Err(Refusal::new(ErrorCode::Overloaded, why))
            }
            Err(error) => Err(blocking_refusal("reads a plugin", error)),
        }
    }
}

impl SlotState {
    /// Makes a version the active one. This ends the probation and the candidate, which is returned.
    pub(super) fn set_active(
        &mut self,
        version: ActiveVersion,
        probation: Option<Probation>,
    ) -> Option<Candidate> {
        self.earlier.retain(|earlier| !earlier.is(version.sha256(), &version.config));
        self.earlier.splice(0..0, self.active.take());
        self.earlier.truncate(MAX_EARLIER_VERSIONS);
        (self.active, self.probation) = (Some(version), probation);
        self.candidate.take()
    }
}

impl ActiveVersion {
    pub(super) fn is(&self, sha256: &str, config: &PluginConfig) -> bool {
        self.sha256() == sha256 && self.config.has_same_runtime_settings(config)
    }

    pub(super) fn sha256(&self) -> &str {
        &self.plugin.info().sha256
    }

    pub(super) fn compiled(&self) -> CompiledVersion {
        CompiledVersion { plugin: self.plugin.clone(), on_failure: self.config.on_failure }
    }
}

/// The refusal if work on a thread of its own failed. `overloaded` if it may succeed later.
pub(super) fn blocking_refusal(work: &str, error: BlockingError) -> Refusal {
    match error {
        BlockingError::NoThread(error) => cannot_start_thread(&format!("that {work}"), error),
        error @ BlockingError::TimedOut => Refusal::new(ErrorCode::Overloaded, error.to_string()),
        BlockingError::Panicked => {
            Refusal::new(ErrorCode::Internal, format!("the thread that {work} panicked"))
        }
    }
}
