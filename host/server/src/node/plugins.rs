//! The plugins of a running node. For each, one task follows its configuration and its file, and another the
//! versions that other nodes activate: a plugin that takes long to read or to compile delays nothing else.

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

/// How often the store is asked for versions, and how soon what it did not answer is tried again: a node
/// obeys within a second.
const ASK: Duration = Duration::from_millis(500);

/// How often other nodes are told of this node's plugins when nothing changed.
const REPORT: Duration = Duration::from_secs(5);

/// The versions that are active on all nodes, as the store last reported them.
type Versions = watch::Receiver<Option<Arc<StoredPlugins>>>;

pub(super) struct Plugins {
    /// What each is to be, by precedence.
    wanted: Vec<watch::Sender<PluginConfig>>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl Plugins {
    /// Those of the configuration that the node began with. `host` is where operators find this node.
    /// Where one of them `loads_later`, all are read again soon.
    pub(super) fn start(
        rollout: &Arc<Rollout>,
        vitals: &VitalTasks,
        configs: &[PluginConfig],
        host: String,
        loads_later: bool,
        status: &Arc<Status>,
    ) -> Self {
        let (told, versions) = watch::channel(None);
        let ask =
            vitals.spawn("the task that asks for versions of plugins", ask(rollout.clone(), host, told));
        let (mut wanted, mut tasks) = (vec![], vec![AbortOnDropHandle::new(ask)]);
        for (slot, config) in rollout.slots().iter().zip(configs) {
            let (sender, receiver) = watch::channel(config.clone());
            let keep = keep(rollout.clone(), slot.clone(), receiver, loads_later, status.clone());
            let keep = vitals.spawn("the task that keeps a plugin", keep);
            let follow = follow(rollout.clone(), slot.clone(), versions.clone());
            let follow = vitals.spawn("the task that follows a plugin", follow);
            wanted.push(sender);
            tasks.extend([keep, follow].map(AbortOnDropHandle::new));
        }
        Self { wanted, _tasks: tasks }
    }

    /// Has all of them read again, with these configurations.
    pub(super) fn configure(&self, configs: Vec<PluginConfig>) {
        for (wanted, config) in self.wanted.iter().zip(configs) {
            wanted.send_replace(config);
        }
    }
}

/// What a configuration makes of the plugins that run, and what of it takes a restart: their rooms and their
/// order, and those that come or go. Whom it trusts also those hold to that it has no more.
pub(super) fn in_force(running: &[PluginConfig], config: &Config) -> (Vec<PluginConfig>, Vec<String>) {
    let find = |plugins: &[PluginConfig], name: &str| plugins.iter().position(|plugin| plugin.name() == name);
    let mut later = vec![];
    let holds = |plugin: &PluginConfig| {
        let name = plugin.name();
        let Some(at) = find(&config.plugins, name) else {
            later.push(format!("plugin '{name}' is not configured any more"));
            return PluginConfig { trust: config.signatures.clone(), ..plugin.clone() };
        };
        let wanted = config.plugins[at].clone();
        if wanted.rooms != plugin.rooms {
            later.push(format!("plugin '{name}' is to govern other rooms"));
        }
        PluginConfig { rooms: plugin.rooms.clone(), ..wanted }
    };
    let holds = running.iter().map(holds).collect();
    let new = config.plugins.iter().filter(|plugin| find(running, plugin.name()).is_none());
    later.extend(new.map(|plugin| format!("plugin '{}' is new", plugin.name())));
    let places = running.iter().filter_map(|plugin| find(&config.plugins, plugin.name()));
    if !places.is_sorted() {
        later.push("the plugins are in another order".to_owned());
    }
    (holds, later)
}

/// Reads one plugin each time it is told to. If it cannot be read or activated at this moment, that is tried
/// again.
async fn keep(
    rollout: Arc<Rollout>,
    slot: Arc<PluginSlot>,
    mut wanted: watch::Receiver<PluginConfig>,
    loads_later: bool,
    status: Arc<Status>,
) {
    let (mut reads, mut pause) = (loads_later, THREAD_RETRY_DELAY);
    loop {
        let is_again = tokio::select! {
            changed = wanted.changed() => {
                let Ok(()) = changed else { return };
                false
            }
            () = tokio::time::sleep(pause), if reads => true,
        };
        let config = wanted.borrow_and_update().clone();
        let name = config.name().to_owned();
        let read = rollout.reload(&slot, config).await;
        let what = format!("plugin '{name}'");
        let why = read.as_ref().err().map(|refusal| {
            // Many a message begins with whose it is.
            let message = &refusal.message;
            message.strip_prefix(&format!("{what}: ")).unwrap_or(message).to_owned()
        });
        status.set_rejected(&what, why);
        let code = read.as_ref().err().map(|refusal| refusal.code);
        reads = matches!(code, Some(ErrorCode::StoreUnavailable | ErrorCode::Overloaded));
        pause = if code == Some(ErrorCode::Overloaded) { THREAD_RETRY_DELAY } else { ASK };
        if let Err(refusal) = read
            && !(reads && is_again)
        {
            tracing::error!("{}; plugin '{name}' stays as it was", refusal.message);
        }
    }
}

/// Follows the versions of one plugin that other nodes activate, whatever becomes of its file here.
async fn follow(rollout: Arc<Rollout>, slot: Arc<PluginSlot>, mut versions: Versions) {
    let (mut is_behind, mut followed) = (false, None::<Revision>);
    loop {
        tokio::select! {
            changed = versions.changed() => {
                let Ok(()) = changed else { return };
            }
            // Much may be sent each time, and a thread is not there at once.
            () = tokio::time::sleep(THREAD_RETRY_DELAY), if is_behind => {}
        }
        let stored = versions.borrow_and_update().clone();
        let Some(stored) = stored else { continue };
        let is_anew = followed.as_ref().is_some_and(|known| known.epoch() != stored.revision.epoch());
        let outcome = rollout.follow(&slot, &stored, is_anew).await;
        is_behind = outcome.is_err();
        match outcome {
            Ok(()) => followed = Some(stored.revision.clone()),
            Err(refusal) => tracing::warn!("{}; trying again in {THREAD_RETRY_DELAY:?}", refusal.message),
        }
    }
}

/// Asks the store which versions are active on all nodes, and reports those of this node, forever.
async fn ask(rollout: Arc<Rollout>, host: String, told: watch::Sender<Option<Arc<StoredPlugins>>>) {
    let (mut known, mut said, mut at) = (None::<Revision>, String::new(), Instant::now());
    loop {
        match rollout.registry().read(known.as_ref()).await {
            Ok(None) => {}
            Ok(Some(stored)) => {
                known = Some(stored.revision.clone());
                told.send_replace(Some(Arc::new(stored)));
            }
            Err(error) => tracing::debug!(%error, "plugins stay as they are"),
        }
        let report = serde_json::to_string(&rollout.report(&host)).expect("plain data");
        if (report != said || at.elapsed() > REPORT) && rollout.registry().report(&report).await.is_ok() {
            (said, at) = (report, Instant::now());
        }
        tokio::time::sleep(ASK).await;
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
    fn what_takes_a_restart_keeps_no_pin_and_no_trust_from_holding() {
        let running = config(&[plugin("a", "a", ""), plugin("b", "b", ""), plugin("c", "c", "")].concat());
        let wanted = [
            plugin("new", "n", ""),
            plugin("b", "other", "sha256 = \"00\"\n"),
            plugin("a", "a", "sha256 = \"11\"\nconfig = { depth = 5 }\n"),
            "[signatures]\nkeys = [\"ed25519:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"]\n".to_owned(),
        ];
        let (plugins, later) = in_force(&running.plugins, &config(&wanted.concat()));
        let holds =
            |plugin: &PluginConfig| (plugin.name().to_owned(), plugin.sha256.clone().unwrap_or_default());
        let held: Vec<_> = plugins.iter().map(holds).collect();
        assert_eq!(held, [("a", "11"), ("b", "00"), ("c", "")].map(|(a, b)| (a.to_owned(), b.to_owned())));
        assert!(plugins.iter().zip(&running.plugins).all(|(now, before)| now.rooms == before.rooms));
        assert!(plugins.iter().all(|plugin| plugin.trust.keys.len() == 1), "also the one that is gone");
        assert_eq!(plugins[0].config["depth"].as_integer(), Some(5));
        assert_eq!(
            later,
            [
                "plugin 'b' is to govern other rooms",
                "plugin 'c' is not configured any more",
                "plugin 'new' is new",
                "the plugins are in another order"
            ]
        );
        let (same, nothing) = in_force(&running.plugins, &running);
        assert!(same == running.plugins && nothing.is_empty());
    }
}
