//! What changes while a node runs: keys, tiers, certificates and plugins, on SIGHUP and when their files change. The configuration is read
//! here, and what it says handed to the tasks that act on it; none of them is waited for. A wrong file changes nothing; what needs a restart is
//! said so.

use super::{
    Node,
    access::{Access, Change, Configured, Stored},
    files::Reader,
    guard::{Cause, Guard, Held},
    plugins::{Plugins, in_force},
    source::Source,
};
use crate::{
    admin::Status,
    blocking::AGAIN,
    config::Config,
    listener::{Certificate, Tls, TlsConfig},
    metrics::Metrics,
};
use std::{path::PathBuf, sync::Arc, time::Duration};
use switchyard_process::file::UnusableFile;
use switchyard_protocol::unix_ms;
use switchyard_store::{KeyRegistry, StoredKeys};
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

/// How often the store is asked for keys: a node obeys within a second.
const ASK: Duration = Duration::from_millis(500);

/// Takes up changes for ever. `host` is where operators find this node.
pub(super) async fn watch(node: Node, status: Arc<Status>, host: String) {
    let Node { config, mut source, services, stored, tls, loads_later, .. } = node;
    let (access, told) = mpsc::unbounded_channel();
    let enforcer = Access::new(Configured::of(&config), stored.keys.clone(), &services);
    let (held, certificate) = (enforcer.stored(), watch::Sender::new(None));
    let vitals = &services.hub.vitals;
    let mut tasks = vec![vitals.spawn("the task that holds everybody to their keys", enforcer.enforce(told))];
    if let Some(keys) = &services.hub.store.keys {
        tasks.push(vitals.spawn("the task that asks for keys", ask(keys.clone(), stored, access.clone())));
    }
    if let Some(tls) = tls {
        let renewing = renew(tls, source.certificate_reader(), certificate.subscribe(), status.clone());
        tasks.push(vitals.spawn("the task that reads certificates", renewing));
    }
    let _tasks: Vec<_> = tasks.into_iter().map(AbortOnDropHandle::new).collect();
    let plugins = Plugins::start(&services.hub, &config.plugins, host, loads_later, &status);
    let metrics = services.hub.metrics.clone();
    let mut reloader = Reloader {
        config,
        access,
        plugins,
        certificate,
        status,
        metrics,
        stored: held,
        guard: Guard::default(),
        is_unread: false,
    };
    loop {
        let cause = source.changed(reloader.is_unread).await;
        if cause == Cause::Hangup {
            tracing::info!("SIGHUP: reading configuration, keys, certificate and plugins again");
        }
        reloader.reload(&source, cause).await;
    }
}

/// Tells of keys that the store has anew, for ever.
async fn ask(keys: Arc<dyn KeyRegistry>, mut known: StoredKeys, told: mpsc::UnboundedSender<Change>) {
    loop {
        tokio::time::sleep(ASK).await;
        match keys.read(&known).await {
            Ok(None) => known.read_at = unix_ms(),
            Ok(Some(stored)) => {
                if stored.keys != known.keys {
                    told.send(Change::Stored(stored.keys.clone())).ok();
                }
                known = stored;
            }
            Err(error) => tracing::debug!(%error, "the store's keys stay as they were"),
        }
    }
}

/// Reads the certificate again each time it is told to, which may wait for its files, and until it can be read.
async fn renew(
    tls: Arc<Tls>,
    reader: Reader,
    mut told: watch::Receiver<Option<TlsConfig>>,
    status: Arc<Status>,
) {
    let mut is_unread = false;
    loop {
        let is_again = tokio::select! {
            changed = told.changed() => {
                let Ok(()) = changed else { return };
                false
            }
            () = tokio::time::sleep(AGAIN), if is_unread => true,
        };
        let Some(files) = told.borrow_and_update().clone() else { continue };
        let read = reader.run(move || Certificate::read(&files)).await;
        let renewed =
            read.unwrap_or_else(|fault| Err(fault.into())).map(|certificate| tls.renew(certificate));
        is_unread = matches!(renewed, Err(UnusableFile::Temporary(_)));
        match &renewed {
            Ok(true) => {
                tracing::info!("the certificate was read again; it is {}", tls.validity());
                super::show(&tls, &status);
            }
            Ok(false) => {}
            // What is tried again and again is said once.
            Err(_) if is_unread && is_again => {}
            Err(error) => tracing::error!("{error}; the certificate stays as it was"),
        }
        status.refused("the certificate", renewed.err().map(|error| error.to_string()));
    }
}

struct Reloader {
    /// As it holds: what takes a restart is as the node began with it.
    config: Config,
    guard: Guard,
    /// The configuration could not be read, and is tried again.
    is_unread: bool,
    stored: Stored,
    access: mpsc::UnboundedSender<Change>,
    plugins: Plugins,
    certificate: watch::Sender<Option<TlsConfig>>,
    status: Arc<Status>,
    metrics: Metrics,
}

impl Reloader {
    async fn reload(&mut self, source: &Source, cause: Cause) {
        // Without a file the key and the plugins of this run stay.
        let config = match source.file() {
            None => None,
            Some(file) => self.read(source, file.to_owned(), cause).await,
        };
        // Nothing is known of other files then.
        if cause == Cause::Again && config.is_none() {
            return;
        }
        // Keys first, and nothing waits for what comes after.
        if let Some(config) = config {
            self.take_keys(&config);
            self.restart_what_must(&config);
            self.take_plugins(config);
        }
        // Before they are read, so that no change is missed.
        if let Err(fault) = source.follow(&self.config).await {
            tracing::error!("{fault}; the files that the configuration names are watched again when it does");
        }
        // Also where their configuration is the same, for their files may have changed.
        self.plugins.configure(self.config.plugins.clone());
        self.certificate.send_replace(self.config.server.tls.clone());
    }

    /// `None`: it is not taken, and everything in it stays as it was.
    async fn read(&mut self, source: &Source, file: PathBuf, cause: Cause) -> Option<Config> {
        let shown = file.display().to_string();
        let reloaded = source.reload(file).await;
        let was_unread =
            std::mem::replace(&mut self.is_unread, matches!(reloaded, Err(UnusableFile::Temporary(_))));
        let read = match reloaded {
            Ok((config, text)) => {
                let (before, after) = (Held::of(&self.config), Held::of(&config));
                let losses = before.losses(&after, &self.stored.load(), unix_ms());
                let admitted = self.guard.admit(&losses, text, cause);
                admitted.map(|()| config).map_err(|why| format!("{shown}: {why}"))
            }
            Err(error) => {
                self.guard = Guard::default();
                Err(error.to_string())
            }
        };
        // What is tried again and again is said once.
        if !(was_unread && self.is_unread && cause != Cause::Hangup) {
            self.metrics.reload(read.is_ok());
            if let Err(error) = &read {
                tracing::error!("{error}; everything stays as it was");
            }
        }
        self.status.refused("the configuration", read.as_ref().err().cloned());
        read.ok()
    }

    fn take_keys(&mut self, config: &Config) {
        let configured = Configured::of(config);
        if configured != Configured::of(&self.config) {
            (self.config.keys, self.config.tiers) = (config.keys.clone(), config.tiers.clone());
            self.access.send(Change::Configured(configured)).ok();
        }
    }

    fn take_plugins(&mut self, config: Config) {
        let (plugins, later) = in_force(&self.config.plugins, &config);
        for what in later {
            tracing::warn!("{what}, which takes a restart to take effect");
        }
        (self.config.plugins, self.config.signatures) = (plugins, config.signatures);
    }

    fn restart_what_must(&mut self, config: &Config) {
        // The files of a certificate may move; whether there is one is the listener's affair.
        if self.config.server.tls.is_some() && config.server.tls.is_some() {
            self.config.server.tls = config.server.tls.clone();
        }
        for section in config.needs_restart(&self.config) {
            tracing::warn!("[{section}] changed, which takes a restart to take effect");
        }
    }
}
