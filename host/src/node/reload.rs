//! What changes while a node runs: keys, tiers, certificates and plugins, on SIGHUP and when their files change.
//! A wrong file changes nothing; what needs a restart is said so.

use super::{Node, all_keys};
use crate::{
    config::Config,
    hub::Hub,
    key::KeyConfig,
    plugin::PluginConfig,
    protocol::unix_ms,
    store::{Revision, Store, StoredKeys},
};
use notify::{
    EventKind, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};
use std::{
    collections::HashSet,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// Files are read once nothing happened to them for so long, so that several writes are one change.
const SETTLE: Duration = Duration::from_millis(200);

/// How often the store is asked for keys and versions of plugins: a node obeys within a second.
const ASK: Duration = Duration::from_millis(500);

/// How often other nodes are told of this node's plugins when nothing changed.
const REPORT: Duration = Duration::from_secs(5);

/// Runs for ever. `host` is where operators find this node.
pub async fn watch(mut node: Node, host: String) {
    let (told, mut stored) = mpsc::unbounded_channel();
    let hub = node.services.hub.clone();
    let _asking = [
        AbortOnDropHandle::new(tokio::spawn(ask(hub.store.clone(), node.stored.clone(), told))),
        AbortOnDropHandle::new(tokio::spawn(follow(hub, host))),
    ];
    loop {
        let expiry = next_expiry(node.config.keys.iter().chain(&node.stored.keys));
        tokio::select! {
            _ = node.hangups.recv() => tracing::info!("SIGHUP: reading configuration, keys, certificate and plugins again"),
            Some(()) = node.changes.told.recv() => {
                while let Ok(Some(())) = tokio::time::timeout(SETTLE, node.changes.told.recv()).await {}
            }
            Some(keys) = stored.recv() => {
                node.stored = keys;
                node.take_keys();
                continue;
            }
            () = expiry => {
                let services = &node.services;
                services.hub.connections.recheck(&services.keys.load());
                continue;
            }
        }
        node.reload().await;
    }
}

/// Tells of changes to the configuration's own files, from before they are read, so that none is missed.
pub struct Changes {
    told: mpsc::UnboundedReceiver<()>,
    _watcher: Option<notify::RecommendedWatcher>,
}

impl Changes {
    pub fn new(config: &Config, file: Option<&Path>) -> Self {
        let (changed, told) = mpsc::unbounded_channel();
        Self { told, _watcher: watcher(config, file, changed) }
    }
}

/// Folders are watched, because a file that is replaced is another file.
fn watcher(
    config: &Config,
    file: Option<&Path>,
    changed: mpsc::UnboundedSender<()>,
) -> Option<notify::RecommendedWatcher> {
    let mut files: HashSet<PathBuf> = config.plugins.iter().flat_map(PluginConfig::files).collect();
    files.extend(file.map(Path::to_owned));
    files.extend(config.server.tls.iter().flat_map(|tls| [tls.certificate.clone(), tls.key.clone()]));
    let absolute = |file: &PathBuf| std::path::absolute(file).ok();
    let files: HashSet<PathBuf> = files.iter().filter_map(absolute).collect();
    let folders: HashSet<PathBuf> = files.iter().filter_map(|file| Some(file.parent()?.to_owned())).collect();
    // Mounted secrets are replaced by moving the link `..data` beside them.
    let concerns = move |path: &PathBuf| {
        files.contains(path)
            || path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".."))
    };
    let handler = move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return };
        if event.paths.iter().any(|path| concerns(path) && is_whole(&event, path)) {
            changed.send(()).ok();
        }
    };
    let started = notify::recommended_watcher(handler).and_then(|mut watcher| {
        folders.iter().try_for_each(|folder| watcher.watch(folder, RecursiveMode::NonRecursive))?;
        Ok(watcher)
    });
    started
        .inspect_err(|error| tracing::warn!(%error, "files are not watched; send SIGHUP after a change"))
        .ok()
}

/// Whether a file may be read now. One that is being written is not: it is when it is closed or renamed, or appears as a link.
fn is_whole(event: &notify::Event, path: &Path) -> bool {
    match event.kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        EventKind::Modify(ModifyKind::Name(_)) => true,
        EventKind::Create(_) => {
            path.symlink_metadata().is_ok_and(|file| file.is_symlink() || file.nlink() > 1)
        }
        // Elsewhere nobody tells when a file is closed.
        _ => !cfg!(target_os = "linux") || event.need_rescan(),
    }
}

/// Tells of keys that the store has anew, for ever.
async fn ask(store: Arc<dyn Store>, mut known: StoredKeys, told: mpsc::UnboundedSender<StoredKeys>) {
    loop {
        tokio::time::sleep(ASK).await;
        match store.keys(&known).await {
            Ok(None) => {}
            Ok(Some(stored)) => {
                let is_changed = stored.keys != known.keys;
                known = stored;
                if is_changed {
                    told.send(known.clone()).ok();
                }
            }
            Err(error) => tracing::debug!(%error, "the store's keys stay as they were"),
        }
    }
}

/// Follows the versions of plugins that others put in charge, and tells others of this node's, for ever.
async fn follow(hub: Arc<Hub>, host: String) {
    let (mut known, mut said, mut at) = (None::<Revision>, String::new(), Instant::now());
    loop {
        match hub.store.plugins(known.as_ref()).await {
            Ok(None) => {}
            Ok(Some(stored)) => {
                let is_anew = known.as_ref().is_some_and(|known| known.epoch() != stored.revision.epoch());
                // What could not be asked for is asked for again.
                if hub.follow_plugins(&stored, is_anew).await.is_ok() {
                    known = Some(stored.revision);
                }
            }
            Err(error) => tracing::debug!(%error, "plugins stay as they are"),
        }
        let report = serde_json::to_string(&hub.report(&host)).expect("plain data");
        if (report != said || at.elapsed() > REPORT) && hub.store.report_plugins(&report).await.is_ok() {
            (said, at) = (report, Instant::now());
        }
        tokio::time::sleep(ASK).await;
    }
}

/// When the next key ends.
async fn next_expiry(keys: impl Iterator<Item = &KeyConfig>) {
    let now = unix_ms();
    let next = keys.filter_map(|key| key.expires).map(|at| at.0).filter(|at| *at > now).min();
    match next {
        // A millisecond later it surely has; long waits are cut, as the clock may be set.
        Some(at) => tokio::time::sleep(Duration::from_millis((at - now + 1).min(60_000))).await,
        None => std::future::pending().await,
    }
}

impl Node {
    async fn reload(&mut self) {
        let environment = crate::config::environment();
        let config = match Config::load(self.file.as_deref(), &environment) {
            Ok(config) => config,
            Err(error) => return tracing::error!("{error}; everything stays as it was"),
        };
        // Without a file the key of this run stays.
        if self.file.is_some() {
            self.reload_keys(&config);
            for section in config.needs_restart(&self.config) {
                tracing::warn!("[{section}] changed, which takes a restart to take effect");
            }
        }
        if let Some(Err(error)) = self.tls.as_ref().map(|tls| tls.reload()) {
            tracing::error!("{error}; the certificate stays as it was");
        }
        self.reload_plugins(&config).await;
    }

    fn reload_keys(&mut self, config: &Config) {
        if config.keys != self.config.keys || config.tiers != self.config.tiers {
            (self.config.keys, self.config.tiers) = (config.keys.clone(), config.tiers.clone());
            self.take_keys();
        }
    }

    fn take_keys(&self) {
        let services = &self.services;
        services.keys.store(Arc::new(all_keys(&self.config, &self.stored.keys)));
        services.hub.connections.recheck(&services.keys.load());
        let (keys, stored) = (self.config.keys.len(), self.stored.keys.len());
        tracing::info!(keys, stored, "keys and tiers were read again");
    }

    async fn reload_plugins(&mut self, config: &Config) {
        let plugins = if self.file.is_some() { &config.plugins } else { &self.config.plugins }.clone();
        let place = |plugin: &PluginConfig| (plugin.name().to_owned(), plugin.rooms.clone());
        if !plugins.iter().map(place).eq(self.config.plugins.iter().map(place)) {
            return tracing::warn!(
                "the plugins' names, rooms or order changed, which takes a restart to take effect"
            );
        }
        for (index, plugin) in plugins.into_iter().enumerate() {
            let name = plugin.name().to_owned();
            match self.services.hub.reread(index, plugin.clone()).await {
                Ok(()) => self.config.plugins[index] = plugin,
                Err(refusal) => tracing::error!("{}; plugin '{name}' stays as it was", refusal.message),
            }
        }
    }
}
