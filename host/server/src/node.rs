//! One node, put together: store, hub, plugins, listeners; what changes while it runs; and how it stops.

mod access;
mod files;
mod guard;
mod plugins;
mod reload;
mod source;

pub use source::Source;

use crate::{
    admin::{Admin, Status},
    config::Config,
    hub::{Hub, HubConfig},
    limits::{Files, Limits},
    listener::{self, Tls},
    metrics::Metrics,
    session::Services,
};
use access::{Configured, all_keys};
use arc_swap::ArcSwap;
use files::Reader;
use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};
use switchyard_process::{memory::MemoryAccount, vital::VitalTasks};
use switchyard_protocol::{Close, unix_ms};
use switchyard_store::{KEY_TTL, Memory, Redis, Retention, Store, StoredKeys};
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
    limits: Arc<Limits>,
    /// It says that it is not ready.
    stopping: CancellationToken,
    /// It takes nobody in any more.
    draining: CancellationToken,
    /// A plugin could not be loaded, and may be a moment later: there was no thread for it, or its file could not be read just then.
    loads_later: bool,
}

impl Node {
    /// Loads the certificate, waits for the store and puts plugins in charge. A plugin that fails closes its rooms; anything else that is
    /// wrong is an error, and so is a failure of what it cannot live without. `None`: it was told to stop on the way.
    pub async fn start(
        config: Config,
        source: Source,
        admin: &Admin,
        stop: &CancellationToken,
    ) -> anyhow::Result<Option<Self>> {
        // What there is of it when the start is given up.
        let started = OnceLock::new();
        let starting = Box::pin(Self::make(config, source, admin, &started));
        tokio::select! {
            biased;
            () = admin.vitals.failed() => {}
            () = stop.cancelled() => {}
            made = starting => return made.map(Some),
        }
        if let Some(hub) = started.get() {
            close(hub).await;
        }
        outcome(&admin.vitals).map(|()| None)
    }

    async fn make(
        config: Config,
        source: Source,
        admin: &Admin,
        started: &OnceLock<Arc<Hub>>,
    ) -> anyhow::Result<Self> {
        admin.known_as(config.admin.hosts.clone());
        admin.status.waits("waiting for the files that the configuration names");
        // Before they are read, so that no change is missed.
        if let Err(fault) = source.follow(&config).await {
            tracing::error!("{fault}; the files that the configuration names are watched when it does");
        }
        let reader = source.certificate_reader();
        let tls = match config.server.tls.clone() {
            Some(files) => Some(reader.run(|| Tls::open(files)).await?.map_err(anyhow::Error::msg)?),
            None => None,
        };
        if let Some(tls) = &tls {
            show(tls, &admin.status);
        }
        admin.status.waits("waiting for the store");
        let hub = start_hub(&config, &reader, admin).await?;
        started.set(hub.clone()).ok();
        let loads_later = hub.begin(|what| admin.status.waits(what)).await;
        let stored = first_keys(&hub, admin).await;
        let keys = all_keys(&Configured::of(&config), &stored.keys);
        let keys = Arc::new(ArcSwap::from_pointee(keys));
        let services = Services { hub, keys, config: config.session };
        let (stopping, draining) = Default::default();
        // With the store's connections, which are there by now.
        let limits = Limits::new(&config.limits, Files::of_process(), admin.metrics.clone());
        Ok(Self { config, source, services, stored, tls, limits, stopping, draining, loads_later })
    }

    /// Operators are served everything from now on.
    pub fn open(&self, admin: &Admin) {
        admin.open(self.services.clone(), self.limits.clone(), self.stopping.clone());
    }

    /// The tasks that this node cannot live without; whoever adds another starts it there.
    pub fn vitals(&self) -> &VitalTasks {
        &self.services.hub.vitals
    }

    /// Serves until `stop`, then drains: readiness fails, connections are told to come back elsewhere. An error: the node stopped by
    /// itself, because it could not go on without what failed.
    pub async fn run(self, listeners: Listeners, stop: CancellationToken) -> anyhow::Result<()> {
        let Listeners { server: listener, admin } = listeners;
        self.open(&admin);
        let Self { config, services, tls, limits, stopping, draining, .. } = &self;
        let (stopping, delay) = (stopping.clone(), config.server.drain_delay);
        let (hub, server, draining) = (services.hub.clone(), config.server.clone(), draining.clone());
        let vitals = hub.vitals.clone();
        let (tls, limits) = (tls.clone(), limits.clone());
        let served = listener::run(server, listener, tls, services.clone(), limits, draining.clone());
        let served = vitals.spawn("the clients' listener", served);
        let watched = reload::watch(self, admin.status.clone(), host(admin.address));
        tokio::select! {
            () = vitals.run_forever("reading files again", watched) => {}
            () = vitals.failed() => {}
            () = served_until(&stop, &stopping, delay) => {}
        }
        stopping.cancel();
        tracing::info!(connections = hub.connections.len(), "draining");
        draining.cancel();
        hub.connections.close_all(|| Close::Draining(jitter()));
        if tokio::time::timeout(DRAIN, served).await.is_err() {
            tracing::warn!(connections = hub.connections.len(), "some connections did not end in time");
        }
        close(&hub).await;
        admin.end().await;
        outcome(&vitals)
    }
}

/// Says when the certificate is good, and warns where that is not now.
fn show(tls: &Tls, status: &Status) {
    let certificate = tls.validity();
    status.shows(certificate);
    if let Some(wrong) = certificate.wrong((unix_ms() / 1000) as i64) {
        tracing::warn!("{wrong}: clients refuse it until another takes its place");
    }
}

/// Until it is told to stop, and then as long as load balancers may take to see that it is not ready.
async fn served_until(stop: &CancellationToken, stopping: &CancellationToken, delay: Duration) {
    stop.cancelled().await;
    stopping.cancel();
    if !delay.is_zero() {
        tracing::info!(?delay, "not ready from now on; it serves on for server.drain_delay");
        tokio::time::sleep(delay).await;
    }
}

/// Of a node that has stopped.
fn outcome(vitals: &VitalTasks) -> anyhow::Result<()> {
    match vitals.failure() {
        None => Ok(()),
        Some(failure) => anyhow::bail!("{failure}; the node has stopped, as it cannot go on without it"),
    }
}

async fn start_hub(config: &Config, reader: &Reader, admin: &Admin) -> anyhow::Result<Arc<Hub>> {
    let cache = config.cache.clone();
    let cache = reader.run(move || cache.open()).await?.map_err(anyhow::Error::msg)?;
    let memory = MemoryAccount::new(config.memory.limit.bytes());
    let hub = HubConfig {
        plugins: config.plugins.clone(),
        cache,
        compiler: config.compiler,
        ungoverned: config.rooms.ungoverned,
        message_bytes: config.session.message,
        memory: memory.clone(),
        vitals: admin.vitals.clone(),
    };
    let metrics: Metrics = admin.metrics.clone();
    let retention = Retention { history: config.rooms.history, session: config.session.ttl, key: KEY_TTL };
    let (site, counted, status) = (config.store.site(), metrics.store.clone(), admin.status.clone());
    let vitals = admin.vitals.clone();
    let store = move |feed| async move {
        let says = move |what: &str| status.waits(what);
        Ok::<_, String>(match site {
            None => Store::from(Memory::new(retention, feed, &memory, &vitals)),
            Some(site) => {
                Redis::connect(&site, retention, counted, feed, &memory, says, &vitals).await?.into()
            }
        })
    };
    Hub::start(hub, metrics, store).await.map_err(anyhow::Error::msg)
}

/// The keys that the store has, as soon as it says.
async fn first_keys(hub: &Hub, admin: &Admin) -> StoredKeys {
    let Some(keys) = &hub.store.keys else { return StoredKeys::default() };
    loop {
        match keys.read(&StoredKeys::default()).await {
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
    let Some(remote) = &hub.store.remote else { return };
    if tokio::time::timeout(RECORD, remote.close()).await.is_err() {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::TlsConfig;
    use tokio::time::timeout;

    /// A node whose start never ends: its store listens and answers nothing.
    async fn waiting() -> (TcpListener, Config, Source, Admin) {
        let listen = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (silent, vitals) = (listen().await, VitalTasks::default());
        let url = format!("redis://{}", silent.local_addr().unwrap());
        let config = Config::load(None, &vec![("SWITCHYARD_STORE__URL".to_owned(), url)]).unwrap();
        let source = Source::open(None, &vitals).unwrap();
        (silent, config, source, Admin::start(listen().await, vitals).unwrap())
    }

    #[tokio::test]
    async fn a_start_ends_with_what_it_cannot_live_without() {
        let (_silent, config, source, admin) = waiting().await;
        let stop = CancellationToken::new();
        admin.vitals.spawn("a task", async { panic!("on purpose") }).await.unwrap();
        let started = timeout(Duration::from_secs(10), Node::start(config, source, &admin, &stop)).await;
        let error = started.unwrap().err().expect("it is not ready").to_string();
        assert_eq!(error, "a task panicked: on purpose; the node has stopped, as it cannot go on without it");
    }

    #[tokio::test]
    async fn a_start_that_waits_for_a_file_ends_when_it_is_told_to() {
        let (_silent, mut config, source, admin) = waiting().await;
        config.server.tls = Some(TlsConfig { certificate: "cert.pem".into(), key: "key.pem".into() });
        let (stop, reader) = (CancellationToken::new(), source.certificate_reader());
        let (end, ends) = std::sync::mpsc::channel::<()>();
        // As a file system that does not answer.
        let stuck = tokio::spawn(async move { reader.run(move || ends.recv().ok()).await });
        let starting = Node::start(config, source, &admin, &stop);
        tokio::pin!(starting);
        assert!(timeout(Duration::from_millis(100), &mut starting).await.is_err());
        stop.cancel();
        assert!(timeout(Duration::from_secs(10), starting).await.unwrap().unwrap().is_none());
        end.send(()).unwrap();
        stuck.await.unwrap().unwrap();
    }
}
