//! Reloads the configuration of a running node, on SIGHUP and when files change, and passes the new settings
//! to the tasks that apply them: keys and tiers, the certificate, and plugins. Waits for none of these tasks.
//! An invalid file changes nothing, and what takes effect only after a restart is logged.

use super::{
    Node,
    config_source::ConfigSource,
    guard::{Guard, ProtectedSettings, ReloadCause},
    key_enforcer::{ConfiguredKeys, EnforcedStoredKeys, KeyChange, KeyEnforcer},
    plugins::PluginTasks,
    watcher::FileReader,
};
use crate::{
    admin::Status,
    blocking::THREAD_RETRY_DELAY,
    config::Config,
    listener::{Certificate, Tls, TlsConfig},
    metrics::Metrics,
};
use std::{path::PathBuf, sync::Arc, time::Duration};
use switchyard_plugin::PluginConfig;
use switchyard_process::file::UnusableFile;
use switchyard_protocol::unix_ms;
use switchyard_store::{KeyRegistry, StoredKeys};
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

/// How often keys are read from the store. A change must take effect within a second.
const KEY_POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Reloads files for ever.
pub(super) async fn run(node: Node, status: Arc<Status>) {
    let Node { config, mut source, services, rollout, stored, tls, has_plugin_to_retry, .. } = node;
    let (key_changes, changes) = mpsc::unbounded_channel();
    let enforcer = KeyEnforcer::new(ConfiguredKeys::of(&config), stored.keys.clone(), &services);
    let (enforced, certificate) = (enforcer.stored(), watch::Sender::new(None));
    let vitals = &services.hub.vitals;
    let mut tasks = vec![vitals.spawn("the task that enforces keys", enforcer.run(changes))];
    if let Some(keys) = &services.hub.store.keys {
        let polling = poll_keys(keys.clone(), stored, key_changes.clone());
        tasks.push(vitals.spawn("the task that reads keys from the store", polling));
    }
    if let Some(tls) = tls {
        let renewing =
            renew_certificate(tls, source.certificate_reader(), certificate.subscribe(), status.clone());
        tasks.push(vitals.spawn("the task that reads the certificate", renewing));
    }
    let _tasks: Vec<_> = tasks.into_iter().map(AbortOnDropHandle::new).collect();
    let plugins = PluginTasks::start(&rollout, vitals, &config.plugins, has_plugin_to_retry, &status);
    let metrics = services.hub.metrics.clone();
    let mut reloader = Reloader {
        config,
        key_changes,
        plugins,
        certificate,
        status,
        metrics,
        stored: enforced,
        guard: Guard::default(),
        retry: false,
    };
    loop {
        let cause = source.changed(reloader.retry).await;
        if cause == ReloadCause::Sighup {
            tracing::info!("SIGHUP: reloading configuration, keys, certificate and plugins");
        }
        reloader.reload(&source, cause).await;
    }
}

/// Reads keys from the store for ever, and sends them when they have changed.
async fn poll_keys(
    keys: Arc<dyn KeyRegistry>,
    mut known: StoredKeys,
    changes: mpsc::UnboundedSender<KeyChange>,
) {
    loop {
        tokio::time::sleep(KEY_POLL_INTERVAL).await;
        match keys.read(&known).await {
            Ok(None) => known.read_at = unix_ms(),
            Ok(Some(stored)) => {
                if stored.keys != known.keys {
                    changes.send(KeyChange::Stored(stored.keys.clone())).ok();
                }
                known = stored;
            }
            Err(error) => {
                tracing::debug!(%error, "keys cannot be read from the store; the previous ones stay valid")
            }
        }
    }
}

/// Reads the certificate from each set of files that is sent. If the files cannot be read at the moment,
/// tries again later.
async fn renew_certificate(
    tls: Arc<Tls>,
    reader: FileReader,
    mut requests: watch::Receiver<Option<TlsConfig>>,
    status: Arc<Status>,
) {
    let mut retry = false;
    loop {
        let is_retry = tokio::select! {
            changed = requests.changed() => {
                let Ok(()) = changed else { return };
                false
            }
            () = tokio::time::sleep(THREAD_RETRY_DELAY), if retry => true,
        };
        let Some(files) = requests.borrow_and_update().clone() else { continue };
        let read = reader.run(move || Certificate::read(&files)).await;
        let renewed =
            read.unwrap_or_else(|error| Err(error.into())).map(|certificate| tls.replace(certificate));
        retry = matches!(renewed, Err(UnusableFile::Temporary(_)));
        match &renewed {
            Ok(true) => {
                tracing::info!("the certificate was read again; it is {}", tls.validity());
                super::report_certificate(&tls, &status);
            }
            Ok(false) => {}
            // Logged at the first attempt only.
            Err(_) if retry && is_retry => {}
            Err(error) => tracing::error!("{error}; the certificate stays as it was"),
        }
        status.set_rejected("the certificate", renewed.err().map(|error| error.to_string()));
    }
}

struct Reloader {
    /// The settings in effect. Those that take effect after a restart are the ones from the start of the
    /// node.
    config: Config,
    guard: Guard,
    /// The configuration could not be read at the last attempt, and will be read again.
    retry: bool,
    stored: EnforcedStoredKeys,
    key_changes: mpsc::UnboundedSender<KeyChange>,
    plugins: PluginTasks,
    certificate: watch::Sender<Option<TlsConfig>>,
    status: Arc<Status>,
    metrics: Metrics,
}

impl Reloader {
    async fn reload(&mut self, source: &ConfigSource, cause: ReloadCause) {
        // Without a file, the generated key and the plugins that were found stay.
        let config = match source.file() {
            None => None,
            Some(file) => self.read(source, file.to_owned(), cause).await,
        };
        // Nothing is known about other files in this case.
        if cause == ReloadCause::Retry && config.is_none() {
            return;
        }
        // Keys first, so that they wait for nothing else.
        if let Some(config) = config {
            let mut changes = vec![];
            if self.apply_keys(&config) {
                changes.push("keys and tiers".to_owned());
            }
            self.report_restart_needed(&config);
            changes.extend(self.apply_plugins(config));
            match changes.is_empty() {
                false => tracing::info!("configuration reloaded; changed: {}", changes.join(", ")),
                // A file changes without a change of its settings whenever it is written again.
                true if cause != ReloadCause::Sighup => {}
                true => {
                    tracing::info!("configuration reloaded; no setting that takes effect now has changed")
                }
            }
        }
        // Before the files are read, so that no change is missed.
        if let Err(error) = source.watch(&self.config).await {
            tracing::error!("{error}; the files that the configuration names will be watched when it does");
        }
        // Even if the settings are the same, because the files may have changed.
        self.plugins.reload(self.config.plugins.clone());
        self.certificate.send_replace(self.config.server.tls.clone());
    }

    /// Reads the configuration; `None` if it is rejected, so that all settings stay as they were.
    async fn read(&mut self, source: &ConfigSource, file: PathBuf, cause: ReloadCause) -> Option<Config> {
        let shown = file.display().to_string();
        let reloaded = source.reload(file).await;
        let is_temporary = matches!(reloaded, Err(UnusableFile::Temporary(_)));
        let was_temporary = std::mem::replace(&mut self.retry, is_temporary);
        let read = match reloaded {
            Ok((config, digest)) => {
                let (before, after) = (ProtectedSettings::of(&self.config), ProtectedSettings::of(&config));
                let losses = before.losses(&after, &self.stored.load(), unix_ms());
                let checked = self.guard.check(&losses, digest, cause);
                checked.map(|()| config).map_err(|error| format!("{shown}: {error}"))
            }
            Err(error) => {
                self.guard = Guard::default();
                Err(error.to_string())
            }
        };
        // Logged at the first attempt only, and when an operator asks.
        if !(was_temporary && is_temporary && cause != ReloadCause::Sighup) {
            self.metrics.count_reload(read.is_ok());
            if let Err(error) = &read {
                tracing::error!("{error}; all settings stay as they were");
            }
        }
        self.status.set_rejected("the configuration", read.as_ref().err().cloned());
        read.ok()
    }

    /// Returns whether anything has changed.
    fn apply_keys(&mut self, config: &Config) -> bool {
        let configured = ConfiguredKeys::of(config);
        let has_changed = configured != ConfiguredKeys::of(&self.config);
        if has_changed {
            (self.config.keys, self.config.tiers) = (config.keys.clone(), config.tiers.clone());
            self.key_changes.send(KeyChange::Configured(configured)).ok();
        }
        has_changed
    }

    /// Returns what has changed.
    fn apply_plugins(&mut self, config: Config) -> Vec<String> {
        // The keys of [signatures] are a part of each plugin's settings.
        let is_resigned = self.config.signatures != config.signatures;
        let settings = |plugin: &PluginConfig| PluginConfig { trust: Arc::default(), ..plugin.clone() };
        let (before, after) = (&self.config.plugins, &config.plugins);
        let has_same = |plugins: &[PluginConfig], plugin: &PluginConfig| {
            plugins.iter().any(|other| settings(other) == settings(plugin))
        };
        let changed = after.iter().filter(|plugin| !has_same(before, plugin));
        let is_removed = |plugin: &&PluginConfig| !after.iter().any(|other| other.name() == plugin.name());
        let names = changed.chain(before.iter().filter(is_removed)).map(|plugin| plugin.name().to_owned());
        let mut changes: Vec<_> = names.map(|name| format!("plugin '{name}'")).collect();
        if changes.is_empty()
            && !before.iter().map(PluginConfig::name).eq(after.iter().map(PluginConfig::name))
        {
            changes.push("the order of the plugins".to_owned());
        }
        changes.extend(is_resigned.then(|| "signatures".to_owned()));
        (self.config.plugins, self.config.signatures) = (config.plugins, config.signatures);
        changes
    }

    fn report_restart_needed(&mut self, config: &Config) {
        // The paths of the certificate may change. Whether TLS is used at all may not.
        if self.config.server.tls.is_some() && config.server.tls.is_some() {
            self.config.server.tls = config.server.tls.clone();
        }
        for section in config.sections_that_need_restart(&self.config) {
            tracing::warn!("[{section}] was changed; restart the node to apply it");
        }
    }
}
