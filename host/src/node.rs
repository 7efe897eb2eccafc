//! One node, put together: store, hub, plugins, listeners; what changes while it runs; and how it stops.

mod access;
mod files;
mod plugins;
mod reload;

use crate::{
    admin,
    close::Close,
    config::Config,
    hub::{Hub, HubConfig},
    metrics::Metrics,
    plugin::Engine,
    server::{self, Tls},
    session::Services,
    store::{KEY_TTL, Memory, Redis, Retention, Store, StoredKeys},
};
use access::{Configured, all_keys};
use arc_swap::ArcSwap;
use files::Changes;
use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

/// What connections may take to end when the node stops; it is gone within 10 s.
const DRAIN: Duration = Duration::from_secs(8);
/// What the store may take afterwards to record the last of it.
const RECORD: Duration = Duration::from_secs(1);
/// Milliseconds over which clients of a stopping node are told to spread their return.
const JITTER: u32 = 3000;

/// Where a node is reached: bound by the caller, so that a test may take any free port.
pub struct Listeners {
    pub server: TcpListener,
    pub admin: TcpListener,
}

/// A node that is ready to be served.
pub struct Node {
    config: Config,
    /// Where the configuration came from, to be read again.
    file: Option<PathBuf>,
    services: Services,
    /// The keys beside those of the configuration.
    stored: StoredKeys,
    tls: Option<Arc<Tls>>,
    /// Awaited from the start: a SIGHUP that nobody awaits ends the process.
    hangups: Signal,
    changes: Changes,
}

impl Node {
    /// Loads the certificate, waits for the store and puts plugins in charge. A plugin that fails closes its rooms; anything else that is
    /// wrong is an error.
    pub async fn new(config: Config, file: Option<PathBuf>) -> anyhow::Result<Self> {
        let hangups = signal(SignalKind::hangup())?;
        let changes = Changes::new(&config, file.as_deref());
        let tls = config.server.tls.clone().map(Tls::open).transpose().map_err(anyhow::Error::msg)?;
        let cache = config.cache.open().map_err(anyhow::Error::msg)?;
        let engine = if config.plugins.is_empty() { None } else { Some(Engine::new()?.cached(cache)) };
        let hub = HubConfig {
            plugins: config.plugins.clone(),
            engine,
            ungoverned: config.rooms.ungoverned,
            message_bytes: config.session.message,
        };
        let metrics = Metrics::default();
        let retention =
            Retention { history: config.rooms.history, session: config.session.ttl, key: KEY_TTL };
        let (site, counted) = (config.store.site(), metrics.store.clone());
        let store = move |feed| async move {
            Ok::<_, String>(match site {
                None => Memory::new(retention, feed) as Arc<dyn Store>,
                Some(site) => Redis::connect(&site, retention, counted, feed).await?,
            })
        };
        let hub = Hub::start(hub, metrics, store).await.map_err(anyhow::Error::msg)?;
        hub.begin().await;
        let stored = hub.store.keys(0).await?.unwrap_or_default();
        let keys = Arc::new(ArcSwap::from_pointee(all_keys(&Configured::of(&config), &stored.keys)));
        let services = Services { hub, keys, config: config.session };
        Ok(Self { config, file, services, stored, tls, hangups, changes })
    }

    /// Serves until `stop`, then drains: readiness fails, connections are told to come back elsewhere.
    pub async fn run(self, listeners: Listeners, stop: CancellationToken) {
        let (draining, ended) = (CancellationToken::new(), CancellationToken::new());
        let Self { config, services, tls, .. } = &self;
        let (hub, server) = (services.hub.clone(), config.server.clone());
        let host = host(listeners.admin.local_addr().ok());
        let admin = admin::run(listeners.admin, services.clone(), draining.clone(), ended.clone());
        let admin = tokio::spawn(admin);
        let served = server::run(server, listeners.server, tls.clone(), services.clone(), draining.clone());
        let served = tokio::spawn(served);
        tokio::select! {
            () = reload::watch(self, host) => unreachable!("watching goes on"),
            () = stop.cancelled() => {}
        }
        tracing::info!(connections = hub.connections.len(), "draining");
        draining.cancel();
        hub.connections.close_all(|| Close::Draining(jitter()));
        if tokio::time::timeout(DRAIN, served).await.is_err() {
            tracing::warn!(connections = hub.connections.len(), "some connections did not end in time");
        }
        if tokio::time::timeout(RECORD, hub.store.close()).await.is_err() {
            tracing::warn!("the store does not answer; others find out that this node is gone");
        }
        ended.cancel();
        admin.await.ok();
    }
}

/// Where operators find this node: the machine's name and the port of their listener.
fn host(admin: Option<SocketAddr>) -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let port = admin.map_or(0, |address| address.port());
    format!("{}:{port}", name.trim())
}

fn jitter() -> u32 {
    getrandom::u32().unwrap_or(0) % JITTER
}
