//! One connection to one server. It is made anew when it breaks, and when nothing comes over it any more: a stopped process and a
//! network that swallows everything keep a connection open for as long as they like.

use super::{
    Call,
    backoff::Backoff,
    signals::{Publisher, Signal},
};
use crate::{PATIENCE, StoreMetrics, redis::trouble::Trouble};
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

/// Between two attempts to reach a server.
const RETRY: Duration = Duration::from_millis(200);
/// What one attempt may take to connect, and then to greet, which takes four answers.
const CONNECT: Duration = Duration::from_secs(2);
const GREET: Duration = Duration::from_secs(4);
/// How often a connection is probed.
const PROBE: Duration = Duration::from_secs(1);
/// A connection over which nothing came for so long, though it was probed, is made anew.
const SILENCE: Duration = Duration::from_secs(3);
/// A client that has not reached its server for so long makes room for another, which knows nothing of before.
const UNREACHED: Duration = Duration::from_secs(10);
/// Publications that may wait for the task that takes them; beyond, some are missed and read from the logs.
const WAITING: usize = 8192;

/// What all connections of a link have in common.
pub(super) struct Common {
    /// How Redis is spoken to, whichever server it is.
    pub config: Config,
    pub metrics: StoreMetrics,
    pub vitals: VitalTasks,
    /// Why Redis does not do what it is asked.
    pub trouble: Arc<Trouble>,
    pub closed: CancellationToken,
    pub signals: Publisher,
    /// Told of each server that is connected for commands.
    pub connected: mpsc::UnboundedSender<Server>,
}

/// A server: its connection for commands, and the one for what is published there. Both end when this is dropped.
pub(super) struct Endpoint {
    pub commands: Arc<Connection>,
    pub subscriber: Arc<Connection>,
    closed: CancellationToken,
}

impl Endpoint {
    /// Begins to connect.
    pub(super) fn open(common: &Arc<Common>, server: &ServerConfig) -> Result<Arc<Self>, String> {
        let closed = common.closed.child_token();
        let config = Config { server: server.clone(), ..common.config.clone() };
        let open = |role| Connection::open(common, config.clone(), role, &closed);
        let (commands, subscriber) = (open(Role::Commands)?, open(Role::Subscriber)?);
        Ok(Arc::new(Self { commands, subscriber, closed }))
    }

    /// Waits until both are connected; or why one is not.
    pub(super) async fn opened(&self) -> Result<(), String> {
        self.commands.opened().await?;
        self.subscriber.opened().await
    }

    pub(super) fn is_connected(&self) -> bool {
        self.commands.is_connected() && self.subscriber.is_connected()
    }

    pub(super) fn connection(&self, role: Role) -> &Connection {
        match role {
            Role::Subscriber => &self.subscriber,
            _ => &self.commands,
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Commands,
    Subscriber,
    /// It leads to a Sentinel.
    Sentinel,
}

pub(super) struct Connection {
    common: Arc<Common>,
    role: Role,
    /// How the server is spoken to, and which it is.
    config: ArcSwap<Config>,
    client: ArcSwap<Client>,
    /// Answers and messages that came. While it rises the connection is not silent.
    heard: Arc<AtomicU64>,
    /// When to ask it again for what has a key.
    backoff: Backoff,
    /// It said that it takes no writes.
    is_replica: AtomicBool,
    /// It is to be made anew.
    outdated: Notify,
    /// Why there is no connection, as far as it is known. Sent whenever that may have changed.
    state: watch::Sender<Option<String>>,
}

impl Connection {
    /// Begins to connect.
    pub(super) fn open(
        common: &Arc<Common>,
        config: Config,
        role: Role,
        closed: &CancellationToken,
    ) -> Result<Arc<Self>, String> {
        let client = new_client(&config, role).map_err(|error| common.trouble.hidden(error.details()))?;
        let connection = Arc::new(Self {
            common: common.clone(),
            role,
            config: ArcSwap::from_pointee(config),
            client: ArcSwap::from_pointee(client),
            heard: Arc::default(),
            backoff: Backoff::default(),
            is_replica: AtomicBool::new(false),
            outdated: Notify::new(),
            state: watch::Sender::new(None),
        });
        common.vitals.spawn("a connection to Redis", connection.clone().run(closed.clone()));
        Ok(connection)
    }

    /// Of the server that it leads to.
    pub(super) fn host(&self) -> Option<String> {
        Some(self.config.load().server.hosts().first()?.host.to_string())
    }

    pub(super) fn client(&self) -> Arc<Client> {
        self.client.load_full()
    }

    pub(super) fn is_connected(&self) -> bool {
        self.client.load().is_connected()
    }

    /// Waits until it is connected; or why it is not.
    async fn opened(&self) -> Result<(), String> {
        let mut state = self.state.subscribe();
        loop {
            if self.is_connected() {
                return Ok(());
            }
            if let Some(error) = state.borrow_and_update().clone() {
                return Err(error);
            }
            state.changed().await.map_err(|_| "the store is closed".to_owned())?;
        }
    }

    /// The client, when it is connected; waits a moment for one that is being connected anew.
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
        timeout(PATIENCE / 2, connected).await.map_err(late)
    }

    /// Has a command carried out.
    pub(super) async fn ask(&self, call: &Call) -> Result<Value, Error> {
        let client = self.ready().await?;
        let options = Options { fail_fast: true, ..Options::default() };
        let answer = client.with_options(&options).custom(command(call), call.arguments.clone()).await;
        self.hears(&answer);
        answer
    }

    /// The same for a command with a key, which a Cluster that is down refuses.
    pub(super) async fn ask_for_key(&self, call: &Call) -> Result<Value, Error> {
        self.backoff.check()?;
        let answer = self.ask(call).await;
        self.backoff.answered(answer.as_ref().err());
        answer
    }

    /// Has commands carried out with nothing in between, and gives the answer to each.
    pub(super) async fn ask_all(&self, calls: &[&Call]) -> Result<Vec<Result<Value, Error>>, Error> {
        let client = self.ready().await?;
        let pipeline = client.with_options(&Options { fail_fast: true, ..Options::default() }).pipeline();
        for call in calls {
            pipeline.custom::<(), Value>(command(call), call.arguments.clone()).await?;
        }
        let answers = pipeline.try_all().await;
        answers.iter().for_each(|answer| self.hears(answer));
        Ok(answers)
    }

    pub(super) fn hears(&self, answer: &Result<Value, Error>) {
        let is_answer =
            |error: &Error| !matches!(error.kind(), ErrorKind::Timeout | ErrorKind::IO | ErrorKind::Canceled);
        if answer.as_ref().err().is_none_or(is_answer) {
            self.heard.fetch_add(1, Ordering::Relaxed);
        }
        if answer.as_ref().is_err_and(|error| error.details().starts_with("READONLY")) {
            self.is_replica.store(true, Ordering::Relaxed);
        }
    }

    /// From now on it leads to this server.
    pub(super) fn lead_to(&self, server: &Server) {
        let config = self.config.load();
        let before = config.server.hosts().first().cloned();
        if before.as_ref() != Some(server) {
            let before = before.map(|server| server.to_string());
            tracing::warn!(before, %server, "Sentinels name another master");
            let server = ServerConfig::Centralized { server: server.clone() };
            self.config.store(Arc::new(Config { server, ..Config::clone(&config) }));
            self.outdated.notify_one();
        }
    }

    /// Keeps the connection until nobody needs it.
    async fn run(self: Arc<Self>, closed: CancellationToken) {
        let mut is_first = true;
        loop {
            let client = self.client();
            if self.role == Role::Subscriber {
                self.common.signals.add(client.message_rx(), self.heard.clone());
            }
            tokio::select! {
                () = self.drive(&client, &mut is_first) => {}
                () = self.silence(&client) => {}
                () = self.outdated.notified() => {}
                () = closed.cancelled() => return,
            }
            match new_client(&self.config.load(), self.role) {
                Ok(client) => self.client.store(Arc::new(client)),
                Err(error) => tracing::error!(error = error.details(), "no other connection to Redis"),
            }
        }
    }

    /// Connects, again and again where it fails or breaks, and tells of it.
    async fn drive(&self, client: &Client, is_first: &mut bool) {
        let (mut made, mut errors) = (client.reconnect_rx(), client.error_rx());
        loop {
            // The client connects anew by itself, but its first attempt may fail, and later its task may end with an error that it
            // did not expect.
            let mut connecting = AbortOnDropHandle::new(client.connect());
            let ended = loop {
                tokio::select! {
                    ended = &mut connecting => break ended,
                    Ok(server) = made.recv() => {
                        takes_commands(client).await;
                        self.state.send_replace(None);
                        self.is_made(server, std::mem::take(is_first));
                    }
                    Ok((error, _)) = errors.recv() => self.is_away(error.details()),
                }
            };
            match ended {
                Ok(Err(error)) => self.is_away(error.details()),
                Ok(Ok(())) => self.is_away("the connection ended"),
                Err(error) => self.is_away(&error.to_string()),
            }
            sleep(RETRY).await;
        }
    }

    fn is_away(&self, error: &str) {
        let error = self.common.trouble.hidden(error);
        if self.role != Role::Sentinel {
            self.common.trouble.unreachable(&error);
        }
        self.state.send_replace(Some(error));
    }

    fn is_made(&self, server: Server, is_first: bool) {
        match self.role {
            Role::Sentinel => return,
            Role::Commands => drop(self.common.connected.send(server.clone())),
            // Nothing was subscribed before the first.
            Role::Subscriber if is_first => {}
            Role::Subscriber => self.common.signals.send(Signal::Reconnected(server.clone())),
        }
        if !is_first {
            tracing::info!(%server, "connected to Redis anew");
            self.common.metrics.reconnects.inc();
        }
    }

    /// Returns when the connection is to be made anew, because nothing comes over it, the client does not get through, or the server
    /// is a replica by now.
    async fn silence(&self, client: &Client) {
        let options = Options { fail_fast: true, timeout: Some(2 * SILENCE), ..Options::default() };
        let began = Instant::now();
        let mut connected = began;
        loop {
            sleep(PROBE).await;
            if !client.is_connected() {
                if connected.elapsed() > UNREACHED {
                    return;
                }
                continue;
            }
            connected = Instant::now();
            // The name that it was reached by may lead to the master by now; it is not asked too often.
            if self.is_replica.swap(false, Ordering::Relaxed) && began.elapsed() > SILENCE {
                return;
            }
            let before = self.heard.load(Ordering::Relaxed);
            let ping = client.with_options(&options);
            if timeout(SILENCE, ping.ping::<Value>(None)).await.is_err()
                && self.heard.load(Ordering::Relaxed) == before
            {
                let server = client.active_connections();
                tracing::warn!(?server, "Redis has been silent for 3 s; connecting anew");
                return;
            }
        }
    }
}

/// A client says that it is connected a moment before it takes commands.
async fn takes_commands(client: &Client) {
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
    builder.set_policy(ReconnectPolicy::new_constant(0, RETRY.as_millis() as u32));
    builder.with_connection_config(|config| {
        config.connection_timeout = CONNECT;
        config.internal_command_timeout = GREET;
        // A command that was written once is not written again.
        config.max_command_attempts = 1;
        config.tcp.nodelay = Some(true);
    });
    builder.with_performance_config(|config| {
        config.default_command_timeout = PATIENCE;
        config.broadcast_channel_capacity = if role == Role::Subscriber { WAITING } else { 32 };
    });
    builder.build()
}
