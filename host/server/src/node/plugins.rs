//! The tasks that keep the plugins of a running node up to date. Each plugin has one task that follows its
//! configuration and its file, and another that follows the versions that other nodes activate. So a plugin
//! that is slow to read or to compile delays nothing else.

use crate::{
    admin::Status,
    blocking::THREAD_RETRY_DELAY,
    config::Config,
    rollout::{PluginSlot, Rollout},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use switchyard_plugin::PluginConfig;
use switchyard_process::vital::VitalTasks;
use switchyard_protocol::ErrorCode;
use switchyard_store::{Revision, StoredPlugins};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// How often versions are read from the store, and how soon a request that the store did not answer is
/// repeated. A node must follow the others within a second.
const STORE_POLL_INTERVAL: Duration = Duration::from_millis(500);

/// How often this node reports its plugins to other nodes if nothing has changed.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// Receives the versions that are active on all nodes, as they were last read from the store.
type StoredVersions = watch::Receiver<Option<Arc<StoredPlugins>>>;

/// The tasks of all plugins. They end when this is dropped.
pub(super) struct PluginTasks {
    /// Sends each plugin its configuration, in the order of the slots.
    configs: Vec<watch::Sender<PluginConfig>>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl PluginTasks {
    /// Starts the tasks with the configuration from the start of the node. `host` is the address of the
    /// listener for operators. With `must_retry`, all plugins are read again soon, because one could not be
    /// loaded yet.
    pub(super) fn start(
        rollout: &Arc<Rollout>,
        vitals: &VitalTasks,
        configs: &[PluginConfig],
        host: String,
        must_retry: bool,
        status: &Arc<Status>,
    ) -> Self {
        let (sender, versions) = watch::channel(None);
        let polling = poll_versions(rollout.clone(), host, sender);
        let polling = vitals.spawn("the task that reads plugin versions from the store", polling);
        let (mut senders, mut tasks) = (vec![], vec![AbortOnDropHandle::new(polling)]);
        for (slot, config) in rollout.slots().iter().zip(configs) {
            let (sender, receiver) = watch::channel(config.clone());
            let reloading =
                reload_plugin(rollout.clone(), slot.clone(), receiver, must_retry, status.clone());
            let reloading = vitals.spawn("the task that reloads a plugin", reloading);
            let following = follow_versions(rollout.clone(), slot.clone(), versions.clone());
            let following = vitals.spawn("the task that follows the versions of a plugin", following);
            senders.push(sender);
            tasks.extend([reloading, following].map(AbortOnDropHandle::new));
        }
        Self { configs: senders, _tasks: tasks }
    }

    /// Reloads all plugins, with these configurations.
    pub(super) fn reload(&self, configs: Vec<PluginConfig>) {
        for (sender, config) in self.configs.iter().zip(configs) {
            sender.send_replace(config);
        }
    }
}

/// Applies a new configuration to the plugins that are running. Returns their new configurations, and a
/// description of each change that takes effect only after a restart: other rooms, another order, and plugins
/// that were added or removed. A plugin that was removed keeps running until then, with the new trusted keys.
pub(super) fn apply_config(running: &[PluginConfig], config: &Config) -> (Vec<PluginConfig>, Vec<String>) {
    let find = |plugins: &[PluginConfig], name: &str| plugins.iter().position(|plugin| plugin.name() == name);
    let mut after_restart = vec![];
    let apply = |plugin: &PluginConfig| {
        let name = plugin.name();
        let Some(at) = find(&config.plugins, name) else {
            after_restart.push(format!("plugin '{name}' was removed"));
            return PluginConfig { trust: config.signatures.clone(), ..plugin.clone() };
        };
        let new = config.plugins[at].clone();
        if new.rooms != plugin.rooms {
            after_restart.push(format!("the rooms of plugin '{name}' have changed"));
        }
        PluginConfig { rooms: plugin.rooms.clone(), ..new }
    };
    let applied = running.iter().map(apply).collect();
    let added = config.plugins.iter().filter(|plugin| find(running, plugin.name()).is_none());
    after_restart.extend(added.map(|plugin| format!("plugin '{}' was added", plugin.name())));
    let positions = running.iter().filter_map(|plugin| find(&config.plugins, plugin.name()));
    if !positions.is_sorted() {
        after_restart.push("the order of the plugins has changed".to_owned());
    }
    (applied, after_restart)
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
        let Some(stored) = stored else { continue };
        let is_anew = followed.as_ref().is_some_and(|known| known.epoch() != stored.revision.epoch());
        let outcome = rollout.follow(&slot, &stored, is_anew).await;
        must_retry = outcome.is_err();
        match outcome {
            Ok(()) => followed = Some(stored.revision.clone()),
            Err(refusal) => tracing::warn!("{}; trying again in {THREAD_RETRY_DELAY:?}", refusal.message),
        }
    }
}

/// Reads from the store which versions are active on all nodes, and reports those of this node, for ever.
async fn poll_versions(
    rollout: Arc<Rollout>,
    host: String,
    versions: watch::Sender<Option<Arc<StoredPlugins>>>,
) {
    let (mut known, mut last_report, mut reported_at) = (None::<Revision>, String::new(), Instant::now());
    loop {
        match rollout.registry().read(known.as_ref()).await {
            Ok(None) => {}
            Ok(Some(stored)) => {
                known = Some(stored.revision.clone());
                versions.send_replace(Some(Arc::new(stored)));
            }
            Err(error) => {
                tracing::debug!(%error, "plugin versions cannot be read from the store; the active ones stay")
            }
        }
        let report = serde_json::to_string(&rollout.report(&host)).expect("plain data");
        if (report != last_report || reported_at.elapsed() > REPORT_INTERVAL)
            && rollout.registry().report(&report).await.is_ok()
        {
            (last_report, reported_at) = (report, Instant::now());
        }
        tokio::time::sleep(STORE_POLL_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("s.toml");
        std::fs::write(&file, text).unwrap();
        Config::load(Some(&file), &vec![]).unwrap()
    }

    fn plugin(name: &str, room: &str, more: &str) -> String {
        format!("[[plugin]]\nname = \"{name}\"\nfile = \"a.wasm\"\nrooms = [\"{room}\"]\n{more}")
    }

    #[test]
    fn pinned_digests_and_trusted_keys_apply_even_if_other_changes_need_a_restart() {
        let running = config(&[plugin("a", "a", ""), plugin("b", "b", ""), plugin("c", "c", "")].concat());
        let [zeros, ones] = ["0", "1"].map(|digit| digit.repeat(64));
        let wanted = [
            plugin("new", "n", ""),
            plugin("b", "other", &format!("sha256 = \"{zeros}\"\n")),
            plugin("a", "a", &format!("sha256 = \"{ones}\"\nconfig = {{ depth = 5 }}\n")),
            "[signatures]\nkeys = [\"ed25519:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"]\n".to_owned(),
        ];
        let (plugins, after_restart) = apply_config(&running.plugins, &config(&wanted.concat()));
        let pin =
            |plugin: &PluginConfig| (plugin.name().to_owned(), plugin.sha256.clone().unwrap_or_default());
        let pins: Vec<_> = plugins.iter().map(pin).collect();
        let expected = [("a", &*ones), ("b", &zeros), ("c", "")];
        assert_eq!(pins, expected.map(|(name, pin)| (name.to_owned(), pin.to_owned())));
        assert!(plugins.iter().zip(&running.plugins).all(|(now, before)| now.rooms == before.rooms));
        assert!(plugins.iter().all(|plugin| plugin.trust.keys.len() == 1), "even the removed one");
        assert_eq!(plugins[0].config["depth"].as_integer(), Some(5));
        assert_eq!(
            after_restart,
            [
                "the rooms of plugin 'b' have changed",
                "plugin 'c' was removed",
                "plugin 'new' was added",
                "the order of the plugins has changed"
            ]
        );
        let (same, nothing) = apply_config(&running.plugins, &running);
        assert!(same == running.plugins && nothing.is_empty());
    }
}
