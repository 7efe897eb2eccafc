//! A node as a whole: starts its parts in order, runs them, and stops them. The parts themselves are in other
//! modules.

mod certificate;
mod config_source;
mod denials;
mod guard;
mod key_audit;
mod key_enforcer;
mod plugins;
mod reload;
mod reload_reporter;
mod watcher;

pub use config_source::ConfigSource;
pub use watcher::{FileReader, ReadError};

use crate::{
    admin::{AdminListener, ReloadHandle, ReloadRequest},
    audit::{Audit, AuditFileError},
    config::{Config, parse_stored_plugin},
    hub::{Hub, HubConfig, RoomPolicies, close_for_drain},
    limits::{Budgets, ClientLimits, FileBudget},
    listener::{self, Tls},
    metrics::Metrics,
    rollout::{Rollout, RolloutConfig},
    session::Services,
    token::TokenVerifier,
};
use arc_swap::ArcSwap;
use denials::DenialFollower;
use key_enforcer::{ConfiguredKeys, merge_keys};
use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};
use switchyard_plugin::CacheError;
use switchyard_process::{file::UnusableFile, memory::MemoryAccount, vital::VitalTasks};
use switchyard_store::{
    IDEMPOTENCY_KEY_TTL, MemoryStore, OpenError, RedisStore, Retention, Store, StoredKeys,
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::sync::CancellationToken;

/// How long connections may take to end when the node stops. Together with [`STORE_CLOSE_TIMEOUT`], the node
/// stops within 10 s.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(8);
/// How long a node that stops tries to give the claims of its plugins up.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the store may take to write its last changes.
const STORE_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// The pause between two attempts to read keys from the store at the start.
const STORE_RETRY_DELAY: Duration = Duration::from_millis(500);

/// The listeners of a node. The caller binds them, so that a test can use any free port. The one for
/// operators serves before the node is ready.
pub struct Listeners {
    /// For clients.
    pub server: TcpListener,
    /// For operators.
    pub admin: AdminListener,
}

/// Why a node cannot start, or has stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A file that the configuration names is unusable.
    #[error(transparent)]
    File(#[from] UnusableFile),
    /// A file that the configuration names could not be read in time.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The folder for compiled plugins is unusable.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The audit file cannot be written.
    #[error(transparent)]
    Audit(#[from] AuditFileError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// A vital task panicked.
    #[error("{0}; the node has stopped because it cannot run without it")]
    VitalTask(String),
}

/// A node that is ready to serve.
pub struct Node {
    config: Config,
    source: ConfigSource,
    services: Services,
    rollout: Arc<Rollout>,
    /// The keys in the store, in addition to those of the configuration.
    stored: StoredKeys,
    denials: DenialFollower,
    tls: Option<Arc<Tls>>,
    limits: Arc<ClientLimits>,
    /// The node reports that it is not ready.
    stopping: CancellationToken,
    /// The node accepts no more clients, and closes connections.
    draining: CancellationToken,
    /// A plugin could not be loaded for a temporary reason: no thread could be started, or its file could not
    /// be read.
    has_plugin_to_retry: bool,
    reload: ReloadHandle,
    reload_requests: mpsc::Receiver<ReloadRequest>,
}

impl Node {
    /// Starts a node: loads the certificate, waits for the store, and activates the plugins. Returns `None`
    /// if `stop` was cancelled before the node was ready.
    ///
    /// # Errors
    ///
    /// Fails if a file is unusable, or if a vital task panics. A plugin that cannot be loaded is not an
    /// error, but its rooms are closed.
    pub async fn start(
        config: Config,
        source: ConfigSource,
        admin: &AdminListener,
        stop: &CancellationToken,
    ) -> Result<Option<Self>, NodeError> {
        // Set as soon as there is something to close.
        let hub = OnceLock::new();
        let starting = Box::pin(Self::start_parts(config, source, admin, &hub));
        tokio::select! {
            biased;
            () = admin.vitals.failed() => {}
            () = stop.cancelled() => {}
            started = starting => return started.map(Some),
        }
        if let Some(hub) = hub.get() {
            close_store(hub).await;
        }
        check_vitals(&admin.vitals).map(|()| None)
    }

    async fn start_parts(
        config: Config,
        source: ConfigSource,
        admin: &AdminListener,
        started_hub: &OnceLock<Arc<Hub>>,
    ) -> Result<Self, NodeError> {
        admin.set_hosts(config.admin.hosts.clone());
        admin.status.set_waiting_for("waiting for the files that the configuration names");
        // Before the files are read, so that no change is missed.
        if let Err(error) = source.watch(&config).await {
            tracing::error!("{error}; the files that the configuration names will be watched when it does");
        }
        let reader = source.certificate_reader();
        let tls = match config.server.tls.clone() {
            Some(files) => Some(reader.run(|| Tls::open(files)).await??),
            None => None,
        };
        if let Some(tls) = &tls {
            certificate::report(tls, &admin.status);
        }
        admin.status.set_waiting_for("waiting for the store");
        let cache = config.cache.clone();
        let cache = reader.run(move || cache.open()).await??;
        let (audit, metrics) = (config.audit.clone(), admin.metrics.clone());
        let audit = reader.run(move || Audit::open(&audit, &metrics)).await??;
        let hub = start_hub(&config, admin, audit).await?;
        started_hub.set(hub.clone()).ok();
        let rollout = RolloutConfig {
            plugins: config.plugins.clone(),
            trust: config.signatures.clone(),
            parse_settings: parse_stored_plugin,
            ungoverned: config.rooms.ungoverned,
            cache,
            compiler: config.compiler,
            host: admin_host(admin.address),
        };
        let rollout = Rollout::new(hub.clone(), rollout);
        let has_plugin_to_retry = rollout.start(|what| admin.status.set_waiting_for(what)).await;
        let stored = read_stored_keys(&hub, admin).await;
        let keys = merge_keys(&ConfiguredKeys::of(&config), &stored.keys);
        if keys.is_empty() {
            report_missing_keys(hub.store.keys.is_some());
        }
        let keys = Arc::new(ArcSwap::from_pointee(keys));
        let tokens = Arc::<TokenVerifier>::default();
        tokens.set_issuers(&config.issuers);
        let budgets = Budgets::new(config.limits.mode, admin.metrics.clone());
        // After the store has opened its connections, which count.
        let limits = ClientLimits::new(&config.limits, FileBudget::of_process(), admin.metrics.clone());
        let denials = DenialFollower::start(&hub, &limits, &admin.status).await;
        let services = Services { hub, keys, tokens, budgets, config: config.session };
        let (stopping, draining) = Default::default();
        let (reload, reload_requests) = ReloadHandle::new();
        Ok(Self {
            config,
            source,
            services,
            rollout,
            stored,
            denials,
            tls,
            limits,
            stopping,
            draining,
            has_plugin_to_retry,
            reload,
            reload_requests,
        })
    }

    /// Lets the listener for operators serve all calls from now on.
    pub fn open(&self, admin: &AdminListener) {
        let (services, rollout) = (self.services.clone(), self.rollout.clone());
        admin.open(services, rollout, self.limits.clone(), self.stopping.clone(), self.reload.clone());
    }

    /// The vital tasks of this node, to which the caller may add more.
    pub fn vitals(&self) -> &VitalTasks {
        &self.services.hub.vitals
    }

    /// Serves until `stop` is cancelled, and then drains: the node reports that it is not ready, and asks
    /// clients to reconnect elsewhere.
    ///
    /// # Errors
    ///
    /// Fails if a vital task panics. The node has drained then, too.
    pub async fn run(self, listeners: Listeners, stop: CancellationToken) -> Result<(), NodeError> {
        let Listeners { server: listener, admin } = listeners;
        self.open(&admin);
        let Self { config, services, tls, limits, stopping, draining, .. } = &self;
        let (stopping, delay) = (stopping.clone(), config.server.drain_delay);
        let (hub, server, draining) = (services.hub.clone(), config.server.clone(), draining.clone());
        let vitals = hub.vitals.clone();
        let (tls, limits, clients) = (tls.clone(), limits.clone(), limits.clients.clone());
        let served = listener::run(server, listener, tls, services.clone(), limits, draining.clone());
        let served = vitals.spawn("the listener for clients", served);
        let rollout = self.rollout.clone();
        let reloading = reload::run(self, admin.status.clone());
        tokio::select! {
            () = vitals.run_forever("reloading files", reloading) => {}
            () = vitals.failed() => {}
            () = wait_for_stop(&stop, &stopping, delay) => {}
        }
        stopping.cancel();
        tracing::info!(connections = hub.connections.len(), "draining");
        draining.cancel();
        hub.connections.close_all(close_for_drain);
        if tokio::time::timeout(DRAIN_TIMEOUT, served).await.is_err() {
            // Those that have not authenticated, or are being closed, are in no session any more.
            let (connections, sessions) = (clients.len(), hub.connections.len());
            tracing::warn!(connections, sessions, "some connections did not end in time; dropping them");
        }
        // What changed in the last moments. If it cannot be sent in time, it is lost.
        tokio::time::timeout(LEAVE_TIMEOUT, rollout.exchange_states()).await.ok();
        // A short time only: if the claims stay, the rooms stay closed on nodes without the plugins.
        if !matches!(tokio::time::timeout(LEAVE_TIMEOUT, rollout.leave_governance()).await, Ok(Ok(()))) {
            tracing::warn!("the store did not take the claims of this node's plugins back");
        }
        close_store(&hub).await;
        admin.stop().await;
        // After the last call.
        hub.audit.flush().await;
        check_vitals(&vitals)
    }
}

/// Waits until the node is told to stop, and then for the time that load balancers need to notice that it is
/// not ready.
async fn wait_for_stop(stop: &CancellationToken, stopping: &CancellationToken, delay: Duration) {
    stop.cancelled().await;
    stopping.cancel();
    if !delay.is_zero() {
        tracing::info!(?delay, "not ready any more; still serving for server.drain_delay");
        tokio::time::sleep(delay).await;
    }
}

/// The result of a node that has stopped.
fn check_vitals(vitals: &VitalTasks) -> Result<(), NodeError> {
    match vitals.failure() {
        None => Ok(()),
        Some(failure) => Err(NodeError::VitalTask(failure.to_owned())),
    }
}

async fn start_hub(config: &Config, admin: &AdminListener, audit: Audit) -> Result<Arc<Hub>, NodeError> {
    let memory = MemoryAccount::new(config.memory.limit.bytes());
    let hub = HubConfig {
        ungoverned: config.rooms.ungoverned,
        message_bytes: config.session.message,
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory: memory.clone(),
        vitals: admin.vitals.clone(),
        policies: Arc::new(RoomPolicies::new(config.room_policies(), config.limits.mode)),
        audit,
    };
    let metrics: Metrics = admin.metrics.clone();
    let history = hub.policies.history();
    let retention =
        Retention { history, session_ttl: config.session.ttl, idempotency_key_ttl: IDEMPOTENCY_KEY_TTL };
    let (site, store_metrics, status) = (config.store.site(), metrics.store.clone(), admin.status.clone());
    let vitals = admin.vitals.clone();
    let store = move |feed| async move {
        let report = move |what: &str| status.set_waiting_for(what);
        Ok::<_, NodeError>(match site {
            None => {
                store_metrics.set_single_node();
                Store::from(MemoryStore::new(retention, feed, &memory, &vitals))
            }
            Some(site) => {
                let store =
                    RedisStore::connect(&site, retention, store_metrics, feed, &memory, report, &vitals)
                        .await;
                store?.into()
            }
        })
    };
    Hub::start(hub, metrics, store).await
}

/// Reads the keys in the store, and tries again until that succeeds.
async fn read_stored_keys(hub: &Hub, admin: &AdminListener) -> StoredKeys {
    let Some(keys) = &hub.store.keys else { return StoredKeys::default() };
    loop {
        match keys.read(&StoredKeys::default()).await {
            Ok(stored) => return stored.unwrap_or_default(),
            Err(error) => {
                tracing::warn!(%error, "waiting for the keys in the store");
                admin.status.set_waiting_for(format!("waiting for the keys in the store: {error}"));
                tokio::time::sleep(STORE_RETRY_DELAY).await;
            }
        }
    }
}

/// Warns that nobody can connect. `has_registry`: keys can be added to the store.
fn report_missing_keys(has_registry: bool) {
    let add_to_store = if has_registry { ", or add one to the store with `switchyard key add`" } else { "" };
    tracing::warn!(
        "there is no API key, so nobody can connect: run `switchyard key new` and put the [[key]] section that it prints \
         into the configuration{add_to_store}; or name an [[issuer]] of user tokens"
    );
}

async fn close_store(hub: &Hub) {
    let Some(remote) = &hub.store.remote else { return };
    if tokio::time::timeout(STORE_CLOSE_TIMEOUT, remote.close()).await.is_err() {
        tracing::warn!(
            "the store does not answer; other nodes will clean up after this one when its lease ends"
        );
    }
}

/// How operators reach this node: the name of the machine and the port of the listener.
fn admin_host(admin: SocketAddr) -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}:{}", name.trim(), admin.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::TlsConfig;
    use tokio::time::timeout;

    /// The parts of a node whose start never ends, because its store accepts connections and answers nothing.
    async fn waiting_node() -> (TcpListener, Config, ConfigSource, AdminListener) {
        let listen = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (silent, vitals) = (listen().await, VitalTasks::default());
        let url = format!("redis://{}", silent.local_addr().unwrap());
        let config = Config::load(None, &vec![("SWITCHYARD_STORE__URL".to_owned(), url)]).unwrap();
        let source = ConfigSource::open(None, &vitals).unwrap();
        (silent, config, source, AdminListener::start(listen().await, vitals).unwrap())
    }

    #[tokio::test]
    async fn a_failed_vital_task_ends_the_start() {
        let (_silent, config, source, admin) = waiting_node().await;
        let stop = CancellationToken::new();
        admin.vitals.spawn("a task", async { panic!("on purpose") }).await.unwrap();
        let started = timeout(Duration::from_secs(10), Node::start(config, source, &admin, &stop)).await;
        let error = started.unwrap().err().expect("it is not ready").to_string();
        assert_eq!(
            error,
            "a task panicked: on purpose; the node has stopped because it cannot run without it"
        );
    }

    #[tokio::test]
    async fn a_start_that_waits_for_a_file_can_be_stopped() {
        let (_silent, mut config, source, admin) = waiting_node().await;
        config.server.tls = Some(TlsConfig { certificate: "cert.pem".into(), key: "key.pem".into() });
        let (stop, reader) = (CancellationToken::new(), source.certificate_reader());
        let (end, ends) = std::sync::mpsc::channel::<()>();
        // Blocks like a file system that does not answer.
        let blocked = tokio::spawn(async move { reader.run(move || ends.recv().ok()).await });
        let starting = Node::start(config, source, &admin, &stop);
        tokio::pin!(starting);
        assert!(timeout(Duration::from_millis(100), &mut starting).await.is_err());
        stop.cancel();
        assert!(timeout(Duration::from_secs(10), starting).await.unwrap().unwrap().is_none());
        end.send(()).unwrap();
        blocked.await.unwrap().unwrap();
    }
}
