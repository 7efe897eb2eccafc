//! What changes while a node runs: keys, tiers, certificates and plugins, on SIGHUP and when their files change. The configuration is read
//! here, and what it says handed to the tasks that act on it; none of them is waited for. A wrong file changes nothing; what needs a restart is
//! said so.

use super::{
    Node,
    access::{Access, Change, Configured},
    files::Changes,
    plugins::Plugins,
};
use crate::{
    config::{Config, Text, environment},
    file,
    server::{Tls, TlsConfig},
    store::Store,
};
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    signal::unix::Signal,
    sync::{mpsc, watch},
};
use tokio_util::task::AbortOnDropHandle;

/// Files are read once nothing happened to them for so long, so that several writes are one change.
const SETTLE: Duration = Duration::from_millis(200);
/// And after so long in any case.
const UNSETTLED: Duration = Duration::from_secs(1);

/// How often the store is asked for keys: a node obeys within a second.
const ASK: Duration = Duration::from_millis(500);

/// Takes up changes for ever. `host` is where operators find this node.
pub async fn watch(node: Node, host: String) {
    let Node { config, file, services, stored, tls, hangups, changes } = node;
    let (access, told) = mpsc::unbounded_channel();
    let version = stored.version;
    let enforcer = Access::new(Configured::of(&config), stored, &services);
    let certificate = watch::Sender::new(None);
    let mut tasks = vec![
        tokio::spawn(enforcer.enforce(told)),
        tokio::spawn(ask(services.hub.store.clone(), version, access.clone())),
    ];
    if let Some(tls) = tls {
        tasks.push(tokio::spawn(renew(tls, certificate.subscribe())));
    }
    let _tasks: Vec<_> = tasks.into_iter().map(AbortOnDropHandle::new).collect();
    let plugins = Plugins::start(&services.hub, &config.plugins, host);
    let mut signs = Signs { hangups, changes };
    let mut reloader = Reloader { config, file, access, plugins, certificate };
    loop {
        signs.next().await;
        reloader.reload().await;
    }
}

/// What makes a node read its files again.
struct Signs {
    hangups: Signal,
    changes: Changes,
}

impl Signs {
    async fn next(&mut self) {
        tokio::select! {
            _ = self.hangups.recv() => return hung_up(),
            Some(()) = self.changes.told.recv() => {}
        }
        let latest = tokio::time::sleep(UNSETTLED);
        tokio::pin!(latest);
        loop {
            tokio::select! {
                biased;
                () = &mut latest => return,
                _ = self.hangups.recv() => return hung_up(),
                more = tokio::time::timeout(SETTLE, self.changes.told.recv()) => match more {
                    Ok(Some(())) => {}
                    _ => return,
                }
            }
        }
    }
}

fn hung_up() {
    tracing::info!("SIGHUP: reading configuration, keys, certificate and plugins again");
}

/// Tells of keys that the store has anew, for ever.
async fn ask(store: Arc<dyn Store>, mut known: u64, told: mpsc::UnboundedSender<Change>) {
    loop {
        tokio::time::sleep(ASK).await;
        match store.keys(known).await {
            Ok(None) => {}
            Ok(Some(keys)) => {
                known = keys.version;
                told.send(Change::Stored(keys)).ok();
            }
            Err(error) => tracing::debug!(%error, "the store's keys stay as they were"),
        }
    }
}

/// Reads the certificate again each time it is told to, which may wait for its files.
async fn renew(tls: Arc<Tls>, mut told: watch::Receiver<Option<TlsConfig>>) {
    while told.changed().await.is_ok() {
        let Some(files) = told.borrow_and_update().clone() else { continue };
        let tls = tls.clone();
        let renewed = file::aside(move || tls.reload(&files)).await;
        if let Some(Err(error)) = renewed {
            tracing::error!("{error}; the certificate stays as it was");
        }
    }
}

struct Reloader {
    /// As it holds: what takes a restart is as the node began with it.
    config: Config,
    /// Where it came from.
    file: Option<PathBuf>,
    access: mpsc::UnboundedSender<Change>,
    plugins: Plugins,
    certificate: watch::Sender<Option<TlsConfig>>,
}

impl Reloader {
    async fn reload(&mut self) {
        // Without a file the key and the plugins of this run stay.
        let config = match self.file.clone() {
            None => None,
            Some(file) => read(file)
                .await
                .inspect_err(|error| tracing::error!("{error}; everything stays as it was"))
                .ok(),
        };
        match config {
            Some(config) => self.take(config),
            None => self.plugins.reread(),
        }
        self.certificate.send_replace(self.config.server.tls.clone());
    }

    fn take(&mut self, config: Config) {
        // Keys first, and nothing waits for what comes after.
        let configured = Configured::of(&config);
        if configured != Configured::of(&self.config) {
            (self.config.keys, self.config.tiers) = (config.keys.clone(), config.tiers.clone());
            self.access.send(Change::Configured(configured)).ok();
        }
        // The files of a certificate may move; whether there is one is the listener's affair.
        if self.config.server.tls.is_some() && config.server.tls.is_some() {
            self.config.server.tls = config.server.tls.clone();
        }
        for section in config.needs_restart(&self.config) {
            tracing::warn!("[{section}] changed, which takes a restart to take effect");
        }
        if !self.plugins.configure(&config.plugins) {
            tracing::warn!(
                "the plugins' names, rooms or order changed, which takes a restart to take effect"
            );
            self.plugins.reread();
        }
    }
}

async fn read(file: PathBuf) -> Result<Config, String> {
    let path = file.clone();
    let read = file::aside(move || Text::again(&path)?.config(&environment())).await;
    read.unwrap_or_else(|| Err(format!("{}: reading was interrupted", file.display())))
}
