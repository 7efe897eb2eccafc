//! Reloads the configuration of a running node, on SIGHUP and when files change, and passes the new settings
//! to what applies them: keys and tiers, the policies of rooms, the certificate, and plugins. Waits for none of these tasks.
//! An invalid file changes nothing, and what takes effect only after a restart is logged.

use super::{
    Node, certificate,
    config_source::ConfigSource,
    guard::{Guard, ProtectedSettings, ReloadCause},
    key_enforcer::{ConfiguredKeys, EnforcedStoredKeys, KeyChange, KeyEnforcer},
    plugins::PluginTasks,
    reload_reporter::ReloadReporter,
};
use crate::{
    admin::{ReloadOptions, ReloadReport, ReloadRequest, Status},
    audit::Actor,
    config::Config,
    hub::{RoomPolicies, conflict},
    listener::TlsConfig,
    metrics::Metrics,
    rollout::Rollout,
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use switchyard_plugin::PluginConfig;
use switchyard_process::file::UnusableFile;
use switchyard_protocol::unix_ms;
use switchyard_store::{KeyRegistry, StoredKeys};
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

/// How often keys are read from the store. A change must take effect within a second.
const KEY_POLL_INTERVAL: Duration = Duration::from_millis(500);

/// What a changed `[[room]]` entry is called.
const ROOM_POLICIES: &str = "policies of rooms";

/// Reloads files for ever.
pub(super) async fn run(node: Node, status: Arc<Status>) {
    let Node {
        config, mut source, services, rollout, stored, tls, has_plugin_to_retry, reload_requests, ..
    } = node;
    let mut requests = reload_requests;
    let (key_changes, changes) = mpsc::unbounded_channel();
    let enforcer = KeyEnforcer::new(ConfiguredKeys::of(&config), stored.keys.clone(), &services);
    let (enforced, certificate) = (enforcer.stored(), watch::Sender::new(None));
    let vitals = &services.hub.vitals;
    let mut tasks = vec![vitals.spawn("the task that enforces keys", enforcer.run(changes))];
    let following = node.denials.run(key_changes.clone());
    tasks.push(vitals.spawn("the task that reads bans from the store", following));
    if let Some(keys) = &services.hub.store.keys {
        let polling = poll_keys(keys.clone(), stored, key_changes.clone());
        tasks.push(vitals.spawn("the task that reads keys from the store", polling));
    }
    if let Some(tls) = tls {
        let renewing =
            certificate::renew(tls, source.certificate_reader(), certificate.subscribe(), status.clone());
        tasks.push(vitals.spawn("the task that reads the certificate", renewing));
    }
    let _tasks: Vec<_> = tasks.into_iter().map(AbortOnDropHandle::new).collect();
    let plugins = PluginTasks::start(&rollout, vitals, &config.plugins, has_plugin_to_retry, &status);
    let metrics = services.hub.metrics.clone();
    let mut reloader = Reloader {
        config,
        key_changes,
        plugins,
        policies: services.hub.policies.clone(),
        certificate,
        status,
        metrics,
        stored: enforced,
        guard: Guard::default(),
        retry: false,
        report: ReloadReporter::new(&services.hub.audit),
        restart_needed: vec![],
        rollout: rollout.clone(),
    };
    loop {
        let cause = tokio::select! {
            cause = source.changed(reloader.retry) => cause,
            request = requests.recv() => {
                // The node keeps a handle, so the channel does not end.
                if let Some(request) = request {
                    reloader.handle(&source, request).await;
                }
                continue;
            }
        };
        if cause == ReloadCause::Sighup {
            tracing::info!("SIGHUP: reloading configuration, keys, certificate and plugins");
            services.hub.audit.reopen();
        }
        let by = if cause == ReloadCause::Sighup { Actor::Signal } else { Actor::Config };
        reloader.reload(&source, cause, &by).await.ok();
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

struct Reloader {
    /// The settings in effect. Those that take effect after a restart are the ones from the start of the
    /// node.
    config: Config,
    guard: Guard,
    /// The configuration could not be read at the last attempt, and will be read again.
    retry: bool,
    report: ReloadReporter,
    /// The sections that were changed and take effect after a restart only.
    restart_needed: Vec<&'static str>,
    stored: EnforcedStoredKeys,
    key_changes: mpsc::UnboundedSender<KeyChange>,
    plugins: PluginTasks,
    policies: Arc<RoomPolicies>,
    rollout: Arc<Rollout>,
    certificate: watch::Sender<Option<TlsConfig>>,
    status: Arc<Status>,
    metrics: Metrics,
}

impl Reloader {
    /// Returns what has changed, or why the configuration was rejected.
    async fn reload(
        &mut self,
        source: &ConfigSource,
        cause: ReloadCause,
        by: &Actor,
    ) -> Result<Vec<String>, String> {
        // Without a file, the generated key and the plugins that were found stay.
        let read = match source.file() {
            None => None,
            Some(file) => Some(self.read(source, file.to_owned(), cause, by).await),
        };
        // Nothing is known about other files in this case.
        if cause == ReloadCause::Retry && !matches!(read, Some(Ok(_))) {
            return Ok(vec![]);
        }
        let (mut changes, mut rejected) = (vec![], None);
        // Keys first, so that they wait for nothing else.
        match read {
            None => {}
            Some(Err(error)) => rejected = Some(error),
            Some(Ok(config)) => {
                if self.apply_keys(&config) {
                    changes.push("keys and tiers".to_owned());
                }
                changes.extend(self.apply_rooms(&config));
                self.report_restart_needed(&config);
                if matches!(cause, ReloadCause::Call { clears_history: true, .. }) {
                    self.rollout.clear_history_with_next_change();
                }
                changes.extend(self.apply_plugins(config));
                self.report.applied(by, source.file(), &changes, cause);
            }
        }
        self.reload_files(source).await;
        rejected.map_or(Ok(changes), Err)
    }

    /// Reads the files that the configuration names.
    async fn reload_files(&self, source: &ConfigSource) {
        // Before the files are read, so that no change is missed.
        if let Err(error) = source.watch(&self.config).await {
            tracing::error!("{error}; the files that the configuration names will be watched when it does");
        }
        // Even if the settings are the same, because the files may have changed.
        self.plugins.reload(self.config.plugins.clone(), self.config.signatures.clone());
        self.certificate.send_replace(self.config.server.tls.clone());
    }

    /// Answers a request of an operator.
    async fn handle(&mut self, source: &ConfigSource, request: ReloadRequest) {
        let ReloadRequest { options, by, reply } = request;
        let ReloadOptions { dry_run, is_confirmed, clears_history } = options;
        let Some(file) = source.file().map(Path::to_owned) else {
            let message = "this node has no configuration file: start it with --config FILE";
            reply.send(Err(conflict(message.to_owned()))).ok();
            return;
        };
        if !dry_run {
            tracing::info!("an operator asks: reloading configuration, keys, certificate and plugins");
            let cause = ReloadCause::Call { is_confirmed, clears_history };
            let changed = self.reload(source, cause, &by).await.map_err(conflict);
            let report = |changes| ReloadReport {
                dry_run,
                changes,
                restart: self.restart_needed.clone(),
                losses: vec![],
                preview: None,
            };
            reply.send(changed.map(report)).ok();
            return;
        }
        let (config, _) = match source.reload(file).await {
            Ok(read) => read,
            Err(error) => return drop(reply.send(Err(conflict(error.to_string())))),
        };
        let losses = self.losses(&config);
        if let Err(error) = self.plugins.check_names(&config.plugins) {
            return drop(reply.send(Err(conflict(error))));
        }
        let report = ReloadReport {
            dry_run,
            changes: self.changes(&config),
            restart: config.sections_that_need_restart(&self.config),
            losses,
            preview: None,
        };
        // Plugins are compiled for this. A file must be read meanwhile: it may revoke a key.
        let rollout = self.rollout.clone();
        tokio::spawn(async move {
            let preview = rollout.preview_configuration(&config.plugins).await;
            reply.send(preview.map(|preview| ReloadReport { preview: Some(preview), ..report })).ok();
        });
    }

    fn losses(&self, config: &Config) -> Vec<String> {
        let (before, after) = (ProtectedSettings::of(&self.config), ProtectedSettings::of(config));
        let before = ProtectedSettings { opens_ungoverned: self.rollout.opens_ungoverned(), ..before };
        before.losses(&after, &self.stored.load(), unix_ms())
    }

    /// Reads the configuration. If it is rejected, all settings stay as they were.
    async fn read(
        &mut self,
        source: &ConfigSource,
        file: PathBuf,
        cause: ReloadCause,
        by: &Actor,
    ) -> Result<Config, String> {
        let shown = file.display().to_string();
        self.report.digest = None;
        let reloaded = source.reload(file).await;
        let is_temporary = matches!(reloaded, Err(UnusableFile::Temporary(_)));
        let was_temporary = std::mem::replace(&mut self.retry, is_temporary);
        let read = match reloaded {
            Ok((config, digest)) => {
                self.report.digest = Some(digest);
                let losses = self.losses(&config);
                let checked = self.guard.check(&losses, digest, cause).map_err(|error| error.to_string());
                let checked = checked.and_then(|()| self.plugins.check_names(&config.plugins));
                checked.map(|()| config).map_err(|error| format!("{shown}: {error}"))
            }
            Err(error) => {
                self.guard = Guard::default();
                Err(error.to_string())
            }
        };
        // Logged at the first attempt only, and when an operator asks.
        if !(was_temporary && is_temporary && !cause.is_of_operator()) {
            self.metrics.count_reload(read.is_ok());
            if let Err(error) = &read {
                self.report.refused(by, source.file(), error);
            }
        }
        self.status.set_rejected("the configuration", read.as_ref().err().cloned());
        read
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
    fn apply_rooms(&mut self, config: &Config) -> Option<String> {
        let has_changed = config.room_entries != self.config.room_entries;
        if has_changed {
            self.config.room_entries = config.room_entries.clone();
            // What entries inherit is as the node has started with it.
            self.policies.replace(self.config.room_policies());
        }
        has_changed.then(|| ROOM_POLICIES.to_owned())
    }

    /// Returns what has changed.
    fn apply_plugins(&mut self, config: Config) -> Vec<String> {
        let changes = self.changed_plugins(&config);
        (self.config.plugins, self.config.signatures) = (config.plugins, config.signatures);
        changes
    }

    /// What a configuration changes, except for what needs a restart.
    fn changes(&self, config: &Config) -> Vec<String> {
        let keys = ConfiguredKeys::of(config) != ConfiguredKeys::of(&self.config);
        let keys = keys.then(|| "keys and tiers".to_owned());
        let rooms = config.room_entries != self.config.room_entries;
        let rooms = rooms.then(|| ROOM_POLICIES.to_owned());
        keys.into_iter().chain(rooms).chain(self.changed_plugins(config)).collect()
    }

    fn changed_plugins(&self, config: &Config) -> Vec<String> {
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
        changes
    }

    fn report_restart_needed(&mut self, config: &Config) {
        // The paths of the certificate may change. Whether TLS is used at all may not.
        if self.config.server.tls.is_some() && config.server.tls.is_some() {
            self.config.server.tls = config.server.tls.clone();
        }
        self.restart_needed = config.sections_that_need_restart(&self.config);
        for section in &self.restart_needed {
            tracing::warn!("[{section}] was changed; restart the node to apply it");
        }
    }
}
