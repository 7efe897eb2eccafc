//! One node, put together: store, hub, plugins, listeners; what changes while it runs; and how it stops.

mod access;
mod files;
mod guard;
mod plugins;
mod reload;
mod source;

pub use source::Source;

use crate::{
    admin::Admin,
    close::Close,
    config::Config,
    hub::{Hub, HubConfig},
    metrics::Metrics,
    server::{self, Tls},
    session::Services,
    store::{KEY_TTL, Memory, Redis, Retention, Store, StoredKeys},
    vital::Vitals,
};
use access::{Configured, all_keys};
use arc_swap::ArcSwap;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What connections may take to end when the node stops; it is gone within 10 s.
const DRAIN: Duration = Duration::from_secs(8);
/// What the store may take afterwards to record the last of it.
const RECORD: Duration = Duration::from_secs(1);
/// Milliseconds over which clients of a stopping node are told to spread their return.
const JITTER: u32 = 3000;
/// Between two attempts to ask the store when a node starts.
const AGAIN: Duration = Duration::from_millis(500);

/// Where a node is reached: bound by the caller, so that a test may take any free port. Operators are served before the node is ready.
pub struct Listeners {
    pub server: TcpListener,
    pub admin: Admin,
}

/// A node that is ready to be served.
pub struct Node {
    config: Config,
    source: Source,
    services: Services,
    /// The keys beside those of the configuration.
    stored: StoredKeys,
    tls: Option<Arc<Tls>>,
    draining: CancellationToken,
    /// A plugin could not be loaded for lack of a thread.
    lacks_thread: bool,
}

impl Node {
    /// Loads the certificate, waits for the store and puts plugins in charge. A plugin that fails closes its rooms; anything else that is
    /// wrong is an error. `None`: it was told to stop on the way.
    pub async fn start(
        config: Config,
        source: Source,
        admin: &Admin,
        stop: &CancellationToken,
    ) -> anyhow::Result<Option<Self>> {
        // Before they are read, so that no change is missed.
        source.follow(&config, config.plugins.iter()).await?;
        let tls = config.server.tls.clone().map(Tls::open).transpose().map_err(anyhow::Error::msg)?;
        let starting = Box::pin(start_hub(&config, admin));
        let Some(hub) = stop.run_until_cancelled(starting).await.transpose()? else { return Ok(None) };
        let beginning = async {
            let lacks_thread = hub.begin(|what| admin.status.waits(what)).await;
            (lacks_thread, first_keys(&hub, admin).await)
        };
        let Some((lacks_thread, stored)) = stop.run_until_cancelled(Box::pin(beginning)).await else {
            close(&hub).await;
            return Ok(None);
        };
        let keys = all_keys(&Configured::of(&config), &stored.keys);
        let keys = Arc::new(ArcSwap::from_pointee(keys));
        let services = Services { hub, keys, config: config.session };
        let draining = CancellationToken::new();
        Ok(Some(Self { config, source, services, stored, tls, draining, lacks_thread }))
    }

    /// Operators are served everything from now on.
    pub fn open(&self, admin: &Admin) {
        admin.open(self.services.clone(), self.draining.clone());
    }

    /// The tasks that this node cannot live without; whoever adds another starts it there.
    pub fn vitals(&self) -> &Vitals {
        &self.services.hub.vitals
    }

    /// Serves until `stop`, then drains: readiness fails, connections are told to come back elsewhere. An error: the node stopped by
    /// itself, because it could not go on without what failed.
    pub async fn run(self, listeners: Listeners, stop: CancellationToken) -> anyhow::Result<()> {
        let Listeners { server: listener, admin } = listeners;
        self.open(&admin);
        let Self { config, services, tls, draining, .. } = &self;
        let (hub, server, draining) = (services.hub.clone(), config.server.clone(), draining.clone());
        let vitals = hub.vitals.clone();
        let served = server::run(server, listener, tls.clone(), services.clone(), draining.clone());
        let served = vitals.task("the clients' listener", served);
        let watched = reload::watch(self, admin.status.clone(), host(admin.address));
        tokio::select! {
            () = vitals.for_ever("reading files again", watched) => {}
            () = vitals.failed() => {}
            () = stop.cancelled() => {}
        }
        tracing::info!(connections = hub.connections.len(), "draining");
        draining.cancel();
        hub.connections.close_all(|| Close::Draining(jitter()));
        if tokio::time::timeout(DRAIN, served).await.is_err() {
            tracing::warn!(connections = hub.connections.len(), "some connections did not end in time");
        }
        close(&hub).await;
        admin.end().await;
        match vitals.failure() {
            None => Ok(()),
            Some(failure) => anyhow::bail!("{failure}; the node has stopped, as it cannot go on without it"),
        }
    }
}

async fn start_hub(config: &Config, admin: &Admin) -> anyhow::Result<Arc<Hub>> {
    let cache = config.cache.open().map_err(anyhow::Error::msg)?;
    let hub = HubConfig {
        plugins: config.plugins.clone(),
        cache,
        ungoverned: config.rooms.ungoverned,
        message_bytes: config.session.message,
        vitals: admin.vitals.clone(),
    };
    let metrics: Metrics = admin.metrics.clone();
    let retention = Retention { history: config.rooms.history, session: config.session.ttl, key: KEY_TTL };
    let (site, counted, status) = (config.store.site(), metrics.store.clone(), admin.status.clone());
    let vitals = admin.vitals.clone();
    let store = move |feed| async move {
        let says = move |what: &str| status.waits(what);
        Ok::<_, String>(match site {
            None => Memory::new(retention, feed, &vitals) as Arc<dyn Store>,
            Some(site) => Redis::connect(&site, retention, counted, feed, says, &vitals).await?,
        })
    };
    Hub::start(hub, metrics, store).await.map_err(anyhow::Error::msg)
}

/// The keys that the store has, as soon as it says.
async fn first_keys(hub: &Hub, admin: &Admin) -> StoredKeys {
    loop {
        match hub.store.keys(&StoredKeys::default()).await {
            Ok(stored) => return stored.unwrap_or_default(),
            Err(error) => {
                tracing::warn!(%error, "waiting for the store's keys");
                admin.status.waits(format!("waiting for the store's keys: {error}"));
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

async fn close(hub: &Hub) {
    if tokio::time::timeout(RECORD, hub.store.close()).await.is_err() {
        tracing::warn!("the store does not answer; others find out that this node is gone");
    }
}

/// Where operators find this node: the machine's name and the port of their listener.
fn host(admin: SocketAddr) -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}:{}", name.trim(), admin.port())
}

fn jitter() -> u32 {
    getrandom::u32().unwrap_or(0) % JITTER
}
