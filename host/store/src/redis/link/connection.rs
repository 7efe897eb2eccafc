//! A connection to a server, which reconnects when it breaks or becomes silent: with a stopped process or a
//! network that drops all packets, a dead connection can stay open indefinitely.

use super::{
    Call,
    backoff::Backoff,
    events::{EventSender, LinkEvent},
};
use crate::{
    RESPONSE_TIMEOUT, StoreMetrics,
    redis::{open_error::OpenError, redis_errors::RedisErrors},
};
use arc_swap::ArcSwap;
use fred::{
    clients::Client,
    error::{Error, ErrorKind},
    interfaces::{ClientLike, EventInterface},
    types::{
        Builder, ClusterHash, CustomCommand, Value,
        config::{Config, Options, ReconnectPolicy, Server, ServerConfig},
    },
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use switchyard_process::vital::VitalTasks;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// Between two attempts to connect.
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// How long an attempt may take to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long it may take after that to set the connection up, which takes four replies.
const SETUP_TIMEOUT: Duration = Duration::from_secs(4);
/// How often a connection is probed.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// A connection that has received nothing for so long, although it was probed, reconnects.
const MAX_SILENCE: Duration = Duration::from_secs(3);
/// A client that cannot connect for so long is replaced by a new one, which has no state.
const MAX_UNREACHABLE: Duration = Duration::from_secs(10);
/// Messages that may wait to be read. More are dropped, and read from the logs.
const MAX_WAITING_MESSAGES: usize = 8192;

/// The client library does not accept a configuration. Holds its error.
#[derive(Debug, thiserror::Error)]
#[error("cannot create a Redis client: {0}")]
pub(super) struct ClientError(String);

impl From<ClientError> for OpenError {
    fn from(ClientError(error): ClientError) -> Self {
        Self::Client(error)
    }
}

/// Why a server is not connected, as far as that is known.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NotConnected(pub String);

/// What all connections of a link share.
pub(super) struct Common {
    /// The configuration of the client library, for any server.
    pub config: Config,
    pub metrics: StoreMetrics,
    pub vitals: VitalTasks,
    /// Why Redis does not serve this node.
    pub errors: Arc<RedisErrors>,
    pub closed: CancellationToken,
    pub events: EventSender,
    /// Told of each server that is connected for commands.
    pub connected: mpsc::UnboundedSender<Server>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Commands,
    Subscriber,
    /// To a Sentinel.
    Sentinel,
}

pub(super) struct RedisConnection {
    common: Arc<Common>,
    role: Role,
    /// With the address of the server.
    config: ArcSwap<Config>,
    client: ArcSwap<Client>,
    /// Counts replies and messages. While it rises the connection is not silent.
    received: Arc<AtomicU64>,
    /// When to send commands with a key again.
    backoff: Backoff,
    /// The server has refused a write, because it is a replica.
    is_replica: AtomicBool,
    /// Asks for another connection.
    reconnect: Notify,
    /// Why there is no connection, as far as that is known. Sent whenever it may have changed.
    state: watch::Sender<Option<String>>,
}

impl RedisConnection {
    /// Starts connecting.
    pub(super) fn open(
        common: &Arc<Common>,
        config: Config,
        role: Role,
        closed: &CancellationToken,
    ) -> Result<Arc<Self>, ClientError> {
        let client =
            new_client(&config, role).map_err(|error| ClientError(common.errors.redact(error.details())))?;
        let connection = Arc::new(Self {
            common: common.clone(),
            role,
            config: ArcSwap::from_pointee(config),
            client: ArcSwap::from_pointee(client),
            received: Arc::default(),
            backoff: Backoff::default(),
            is_replica: AtomicBool::new(false),
            reconnect: Notify::new(),
            state: watch::Sender::new(None),
        });
        common.vitals.spawn("a connection to Redis", connection.clone().run(closed.clone()));
        Ok(connection)
    }

    /// The host of the server.
    pub(super) fn host(&self) -> Option<String> {
        Some(self.config.load().server.hosts().first()?.host.to_string())
    }

    pub(super) fn client(&self) -> Arc<Client> {
        self.client.load_full()
    }

    pub(super) fn is_connected(&self) -> bool {
        self.client.load().is_connected()
    }

    /// Waits until it is connected. The error says why it cannot connect.
    pub(super) async fn opened(&self) -> Result<(), NotConnected> {
        let mut state = self.state.subscribe();
        loop {
            if self.is_connected() {
                return Ok(());
            }
            if let Some(error) = state.borrow_and_update().clone() {
                return Err(NotConnected(error));
            }
            state.changed().await.map_err(|_| NotConnected("the store is closed".to_owned()))?;
        }
    }

    /// The client, as soon as it is connected: waits a moment for one that reconnects.
    pub(super) async fn ready(&self) -> Result<Arc<Client>, Error> {
        let client = self.client();
        if client.is_connected() {
            return Ok(client);
        }
        let mut state = self.state.subscribe();
        let connected = async {
            loop {
                let client = self.client();
                if client.is_connected() || state.changed().await.is_err() {
                    return client;
                }
            }
        };
        let late = |_| {
            let why = self.state.borrow().as_ref().map_or(String::new(), |error| format!(": {error}"));
            Error::new(ErrorKind::IO, format!("Redis cannot be reached{why}"))
        };
        timeout(RESPONSE_TIMEOUT / 2, connected).await.map_err(late)
    }

    /// Sends a command and returns the reply.
    pub(super) async fn send(&self, call: &Call) -> Result<Value, Error> {
        let client = self.ready().await?;
        let options = Options { fail_fast: true, ..Options::default() };
        let answer = client.with_options(&options).custom(command(call), call.arguments.clone()).await;
        self.note_reply(&answer);
        answer
    }

    /// The same for a command with a key, which is refused while the Cluster is down.
    pub(super) async fn send_for_key(&self, call: &Call) -> Result<Value, Error> {
        self.backoff.check()?;
        let answer = self.send(call).await;
        self.backoff.answered(answer.as_ref().err());
        answer
    }

    /// Sends commands with nothing in between, and returns the reply to each.
    pub(super) async fn send_all(&self, calls: &[&Call]) -> Result<Vec<Result<Value, Error>>, Error> {
        let client = self.ready().await?;
        let pipeline = client.with_options(&Options { fail_fast: true, ..Options::default() }).pipeline();
        for call in calls {
            pipeline.custom::<(), Value>(command(call), call.arguments.clone()).await?;
        }
        let answers = pipeline.try_all().await;
        answers.iter().for_each(|answer| self.note_reply(answer));
        Ok(answers)
    }

    /// Notes what a reply tells about the connection.
    pub(super) fn note_reply(&self, answer: &Result<Value, Error>) {
        let is_answer =
            |error: &Error| !matches!(error.kind(), ErrorKind::Timeout | ErrorKind::IO | ErrorKind::Canceled);
        if answer.as_ref().err().is_none_or(is_answer) {
            self.received.fetch_add(1, Ordering::Relaxed);
        }
        if answer.as_ref().is_err_and(|error| error.details().starts_with("READONLY")) {
            self.is_replica.store(true, Ordering::Relaxed);
        }
    }

    /// Connects to this server from now on.
    pub(super) fn move_to(&self, server: &Server) {
        let config = self.config.load();
        let before = config.server.hosts().first().cloned();
        if before.as_ref() != Some(server) {
            let before = before.map(|server| server.to_string());
            tracing::warn!(before, %server, "the Sentinels name another master");
            let server = ServerConfig::Centralized { server: server.clone() };
            self.config.store(Arc::new(Config { server, ..Config::clone(&config) }));
            self.reconnect.notify_one();
        }
    }

    /// Keeps connected until `closed`.
    async fn run(self: Arc<Self>, closed: CancellationToken) {
        let mut is_first = true;
        loop {
            let client = self.client();
            if self.role == Role::Subscriber {
                self.common.events.add(client.message_rx(), self.received.clone());
            }
            tokio::select! {
                () = self.keep_connecting(&client, &mut is_first) => {}
                () = self.probe(&client) => {}
                () = self.reconnect.notified() => {}
                () = closed.cancelled() => return,
            }
            match new_client(&self.config.load(), self.role) {
                Ok(client) => self.client.store(Arc::new(client)),
                Err(error) => tracing::error!(
                    error = self.common.errors.redact(error.details()),
                    "cannot create a client for Redis"
                ),
            }
        }
    }

    /// Connects whenever there is no connection, and reports each change.
    async fn keep_connecting(&self, client: &Client, is_first: &mut bool) {
        let (mut connected, mut errors) = (client.reconnect_rx(), client.error_rx());
        loop {
            // The client reconnects by itself, but its first attempt may fail, and later its task may end
            // with an unexpected error.
            let mut connecting = AbortOnDropHandle::new(client.connect());
            let ended = loop {
                tokio::select! {
                    ended = &mut connecting => break ended,
                    Ok(server) = connected.recv() => {
                        wait_until_usable(client).await;
                        self.state.send_replace(None);
                        self.on_connected(server, std::mem::take(is_first));
                    }
                    Ok((error, _)) = errors.recv() => self.on_error(error.details()),
                }
            };
            match ended {
                Ok(Err(error)) => self.on_error(error.details()),
                Ok(Ok(())) => self.on_error("the connection ended"),
                Err(error) => self.on_error(&error.to_string()),
            }
            sleep(RETRY_DELAY).await;
        }
    }

    fn on_error(&self, error: &str) {
        let error = self.common.errors.redact(error);
        if self.role != Role::Sentinel {
            self.common.errors.unreachable(&error);
        }
        self.state.send_replace(Some(error));
    }

    fn on_connected(&self, server: Server, is_first: bool) {
        match self.role {
            Role::Sentinel => return,
            Role::Commands => drop(self.common.connected.send(server.clone())),
            // Before the first connection nothing was subscribed.
            Role::Subscriber if is_first => {}
            Role::Subscriber => self.common.events.send(LinkEvent::Reconnected(server.clone())),
        }
        if !is_first {
            tracing::info!(%server, "reconnected to Redis");
            self.common.metrics.reconnects.inc();
        }
    }

    /// Returns when another connection is needed, because this one is silent, the client cannot connect, or
    /// the server has become a replica.
    async fn probe(&self, client: &Client) {
        let options = Options { fail_fast: true, timeout: Some(2 * MAX_SILENCE), ..Options::default() };
        let began = Instant::now();
        let mut connected = began;
        loop {
            sleep(PROBE_INTERVAL).await;
            if !client.is_connected() {
                if connected.elapsed() > MAX_UNREACHABLE {
                    return;
                }
                continue;
            }
            connected = Instant::now();
            // The host name may lead to the new master by now. It is not tried too often, in case it does not.
            if self.is_replica.swap(false, Ordering::Relaxed) && began.elapsed() > MAX_SILENCE {
                return;
            }
            let before = self.received.load(Ordering::Relaxed);
            let ping = client.with_options(&options);
            if timeout(MAX_SILENCE, ping.ping::<Value>(None)).await.is_err()
                && self.received.load(Ordering::Relaxed) == before
            {
                let server = client.active_connections();
                tracing::warn!(?server, "Redis has been silent for 3 s; reconnecting");
                return;
            }
        }
    }
}

/// A client says that it is connected a moment before it takes commands.
async fn wait_until_usable(client: &Client) {
    for _ in 0..100 {
        if client.is_connected() {
            return;
        }
        timeout(Duration::from_millis(10), client.wait_for_connect()).await.ok();
    }
}

pub(super) fn command(call: &Call) -> CustomCommand {
    CustomCommand::new_static(call.name, ClusterHash::FirstKey, false)
}

fn new_client(config: &Config, role: Role) -> Result<Client, Error> {
    let mut builder = Builder::from_config(config.clone());
    builder.set_policy(ReconnectPolicy::new_constant(0, RETRY_DELAY.as_millis() as u32));
    builder.with_connection_config(|config| {
        config.connection_timeout = CONNECT_TIMEOUT;
        config.internal_command_timeout = SETUP_TIMEOUT;
        // A command is sent only once.
        config.max_command_attempts = 1;
        config.tcp.nodelay = Some(true);
    });
    builder.with_performance_config(|config| {
        config.default_command_timeout = RESPONSE_TIMEOUT;
        config.broadcast_channel_capacity = if role == Role::Subscriber { MAX_WAITING_MESSAGES } else { 32 };
    });
    builder.build()
}
