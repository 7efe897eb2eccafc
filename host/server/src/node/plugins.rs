//! The tasks that keep the plugins of a running node up to date. One adds and removes plugins. Each plugin has
//! one that follows its configuration and its file, and another that follows the versions that other nodes
//! activate. So a plugin that is slow to read or to compile delays no other one that is there already.

use crate::{
    admin::Status,
    blocking::THREAD_RETRY_DELAY,
    rollout::{PluginSlot, Rollout, StoredPlugin, share_states},
};
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};
use switchyard_plugin::{PluginConfig, Trust};
use switchyard_process::vital::VitalTasks;
use switchyard_protocol::ErrorCode;
use switchyard_store::{Revision, StoredPlugins};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// How often versions are read from the store, and how soon a request that the store did not answer is
/// repeated. A node must follow the others within a second.
const STORE_POLL_INTERVAL: Duration = Duration::from_millis(500);

/// How often the record of governance is read while it changes: the rooms concerned are closed to messages.
const CHANGE_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How often this node reports its plugins to other nodes if nothing has changed.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// Receives the versions that are active on all nodes, as they were last read from the store.
type StoredVersions = watch::Receiver<Option<ReadVersions>>;

/// What was read from the store, and when reading began.
#[derive(Clone)]
struct ReadVersions {
    stored: Arc<StoredPlugins>,
    began: Instant,
}

/// The tasks of all plugins. They end when this is dropped.
pub(super) struct PluginTasks {
    /// Sends the plugins that the configuration names, in its order.
    configs: watch::Sender<Vec<PluginConfig>>,
    rollout: Arc<Rollout>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

/// Starts and ends the tasks of single plugins when they are added or removed.
struct SlotTasks {
    rollout: Arc<Rollout>,
    vitals: VitalTasks,
    versions: StoredVersions,
    status: Arc<Status>,
    running: HashMap<String, RunningSlot>,
}

/// The tasks of one plugin.
struct RunningSlot {
    slot: Arc<PluginSlot>,
    config: watch::Sender<PluginConfig>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

impl PluginTasks {
    /// Starts the tasks with the configuration from the start of the node. With `must_retry`, all plugins are
    /// read again soon, because one could not be loaded yet.
    pub(super) fn start(
        rollout: &Arc<Rollout>,
        vitals: &VitalTasks,
        configs: &[PluginConfig],
        must_retry: bool,
        status: &Arc<Status>,
    ) -> Self {
        let (sender, versions) = watch::channel(None);
        let polling = poll_versions(rollout.clone(), sender);
        let polling = vitals.spawn("the task that reads plugin versions from the store", polling);
        let following = follow_governance(rollout.clone());
        let following = vitals.spawn("the task that follows which plugin governs which rooms", following);
        let sharing = share_states(rollout.clone());
        let sharing = vitals.spawn("the task that shares the state of plugins", sharing);
        let mut slots = SlotTasks {
            rollout: rollout.clone(),
            vitals: vitals.clone(),
            versions,
            status: status.clone(),
            running: HashMap::new(),
        };
        for slot in rollout.slots() {
            if let Some(config) = configs.iter().find(|config| config.name() == slot.name()) {
                slots.start(slot, config.clone(), must_retry);
            }
        }
        let (configs, receiver) = watch::channel(configs.to_vec());
        let managing = vitals.spawn("the task that adds and removes plugins", slots.run(receiver));
        let rollout = rollout.clone();
        let tasks = [polling, following, sharing, managing].map(AbortOnDropHandle::new);
        Self { configs, rollout, _tasks: tasks.into() }
    }

    /// Fails if a plugin has the name of one of the store.
    pub(super) fn check_names(&self, configs: &[PluginConfig]) -> Result<(), String> {
        let names = configs.iter().map(PluginConfig::name);
        self.rollout.check_names(names).map_err(|refusal| refusal.message)
    }

    /// Reloads all plugins, with these configurations. Versions are verified with `trust` from now on.
    pub(super) fn reload(&self, configs: Vec<PluginConfig>, trust: Arc<Trust>) {
        self.rollout.set_trust(trust);
        self.configs.send_replace(configs);
    }
}

impl SlotTasks {
    fn start(&mut self, slot: Arc<PluginSlot>, config: PluginConfig, must_retry: bool) {
        let (name, (sender, receiver)) = (slot.name(), watch::channel(config));
        let (rollout, status) = (&self.rollout, &self.status);
        let reloading = reload_plugin(rollout.clone(), slot.clone(), receiver, must_retry, status.clone());
        let reloading = self.vitals.spawn("the task that reloads a plugin", reloading);
        let following = follow_versions(rollout.clone(), slot.clone(), self.versions.clone());
        let following = self.vitals.spawn("the task that follows the versions of a plugin", following);
        let tasks = [reloading, following].map(AbortOnDropHandle::new);
        self.running.insert(name, RunningSlot { slot, config: sender, _tasks: tasks });
    }

    async fn run(mut self, mut configs: watch::Receiver<Vec<PluginConfig>>) {
        let mut stored = self.rollout.stored_plugins();
        stored.mark_changed();
        loop {
            tokio::select! {
                changed = stored.changed() => {
                    let Ok(()) = changed else { return };
                    let stored = stored.borrow_and_update().clone();
                    self.follow_stored(&stored);
                    continue;
                }
                changed = configs.changed() => {
                    let Ok(()) = changed else { return };
                }
            }
            let configs = configs.borrow_and_update().clone();
            // First what needs no new plugin to be loaded.
            for config in &configs {
                if let Some(running) = self.running.get(config.name()) {
                    running.config.send_replace(config.clone());
                }
            }
            let Ok(change) = self.rollout.set_plugins(configs).await else { return };
            for name in change.removed {
                self.running.remove(&name);
                self.status.set_rejected(&format!("plugin '{name}'"), None);
            }
            for (slot, must_retry) in change.added {
                let config = slot.config();
                self.start(slot, config, must_retry);
            }
        }
    }

    /// Runs the tasks of these plugins of the store, and of no others.
    fn follow_stored(&mut self, stored: &[StoredPlugin]) {
        let is_there = |slot: &Arc<PluginSlot>| stored.iter().any(|plugin| Arc::ptr_eq(&plugin.slot, slot));
        self.running.retain(|_, running| running.slot.config().file.is_some() || is_there(&running.slot));
        for StoredPlugin { slot, config, must_retry, .. } in stored {
            match self.running.get(&slot.name()) {
                Some(running) => drop(running.config.send_if_modified(|before| {
                    let is_other = before != config;
                    before.clone_from(config);
                    is_other
                })),
                None => self.start(slot.clone(), config.clone(), *must_retry),
            }
        }
    }
}

/// Reloads one plugin with each configuration that is sent. If it cannot be read or activated at the moment,
/// tries again later.
async fn reload_plugin(
    rollout: Arc<Rollout>,
    slot: Arc<PluginSlot>,
    mut configs: watch::Receiver<PluginConfig>,
    must_retry: bool,
    status: Arc<Status>,
) {
    let (mut must_retry, mut delay) = (must_retry, THREAD_RETRY_DELAY);
    loop {
        let is_retry = tokio::select! {
            changed = configs.changed() => {
                let Ok(()) = changed else { return };
                false
            }
            () = tokio::time::sleep(delay), if must_retry => true,
        };
        let config = configs.borrow_and_update().clone();
        let name = config.name().to_owned();
        let reloaded = rollout.reload(&slot, config).await;
        let what = format!("plugin '{name}'");
        let reason = reloaded.as_ref().err().map(|refusal| {
            // Many messages name the plugin already.
            let message = &refusal.message;
            message.strip_prefix(&format!("{what}: ")).unwrap_or(message).to_owned()
        });
        status.set_rejected(&what, reason);
        let code = reloaded.as_ref().err().map(|refusal| refusal.code);
        must_retry = matches!(code, Some(ErrorCode::StoreUnavailable | ErrorCode::Overloaded));
        delay = if code == Some(ErrorCode::Overloaded) { THREAD_RETRY_DELAY } else { STORE_POLL_INTERVAL };
        // Logged at the first attempt only.
        if let Err(refusal) = reloaded
            && !(must_retry && is_retry)
        {
            tracing::error!("{}; plugin '{name}' stays as it was", refusal.message);
        }
    }
}

/// Activates the versions of one plugin that other nodes activate, whether or not its file can be read here.
async fn follow_versions(rollout: Arc<Rollout>, slot: Arc<PluginSlot>, mut versions: StoredVersions) {
    let (mut must_retry, mut followed) = (false, None::<Revision>);
    loop {
        tokio::select! {
            changed = versions.changed() => {
                let Ok(()) = changed else { return };
            }
            // Not sooner: each attempt may read much from the store, and the system may lack threads for a
            // while.
            () = tokio::time::sleep(THREAD_RETRY_DELAY), if must_retry => {}
        }
        let stored = versions.borrow_and_update().clone();
        let Some(ReadVersions { stored, began }) = stored else { continue };
        let is_anew = followed.as_ref().is_some_and(|known| known.epoch() != stored.revision.epoch());
        let outcome = rollout.follow(&slot, &stored, began, is_anew).await;
        must_retry = outcome.is_err();
        match outcome {
            Ok(()) => followed = Some(stored.revision.clone()),
            Err(refusal) => tracing::warn!("{}; trying again in {THREAD_RETRY_DELAY:?}", refusal.message),
        }
    }
}

/// Reads from the store which versions are active on all nodes, reports those of this node, and reads what other nodes
/// report, for ever.
async fn poll_versions(rollout: Arc<Rollout>, versions: watch::Sender<Option<ReadVersions>>) {
    let (mut known, mut last_report, mut reported_at) = (None::<Revision>, String::new(), Instant::now());
    let mut peers_read_at = Instant::now();
    loop {
        let began = Instant::now();
        match rollout.registry().read(known.as_ref()).await {
            Ok(None) => {}
            Ok(Some(stored)) => {
                known = Some(stored.revision.clone());
                versions.send_replace(Some(ReadVersions { stored: Arc::new(stored), began }));
            }
            Err(error) => {
                tracing::debug!(%error, "plugin versions cannot be read from the store; the active ones stay")
            }
        }
        let report = serde_json::to_string(&rollout.report()).expect("plain data");
        if (report != last_report || reported_at.elapsed() > REPORT_INTERVAL)
            && rollout.registry().report(&report).await.is_ok()
        {
            (last_report, reported_at) = (report, Instant::now());
        }
        if peers_read_at.elapsed() > REPORT_INTERVAL && rollout.read_peers().await.is_ok() {
            peers_read_at = Instant::now();
        }
        tokio::time::sleep(STORE_POLL_INTERVAL).await;
    }
}

/// Follows which plugin governs which rooms on all nodes, for ever.
async fn follow_governance(rollout: Arc<Rollout>) {
    let (mut known_drift, mut interval) = (vec![], STORE_POLL_INTERVAL);
    loop {
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = rollout.governance_wanted() => {}
        }
        rollout.expire_staged();
        let followed = rollout.poll_governance().await;
        let is_changing = followed.as_ref().is_ok_and(|record| !record.is_settled());
        interval = if is_changing { CHANGE_POLL_INTERVAL } else { STORE_POLL_INTERVAL };
        if let Err(refusal) = followed {
            tracing::debug!("{}; rooms keep their governors", refusal.message);
        }
        let drift = rollout.governance_drift();
        for difference in drift.iter().filter(|difference| !known_drift.contains(*difference)) {
            tracing::warn!("{difference}");
        }
        known_drift = drift;
    }
}
