//! The connections to Redis: one for commands and one for what is published. Knows scripts and channels, no rooms.

use super::{RedisUrl, scripts::Script};
use crate::{
    metrics::StoreMetrics,
    store::{PATIENCE, Unavailable},
};
use fred::{
    clients::{Client, WithOptions},
    error::Error,
    interfaces::{ClientLike, EventInterface, LuaInterface, PubsubInterface},
    types::{
        Builder, ClusterHash, ClusterStateChange, ConnectHandle, CustomCommand, Message, Value,
        config::{Options, ReconnectPolicy, Server},
    },
};
use futures_util::FutureExt;
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};
use tokio::sync::broadcast::Receiver;
use tokio_util::sync::CancellationToken;

/// Between two attempts to reach a server.
const RETRY_MS: u32 = 200;
/// Until a Cluster whose slots change hands is asked again.
const AGAIN: Duration = Duration::from_millis(20);
/// A server from which an answer does not come for so long is connected anew.
const SILENCE: Duration = Duration::from_secs(3);
/// Publications that may wait for the task that takes them; beyond, some are missed and read from the logs.
const WAITING: usize = 8192;
/// Writes of one command: the first, and those after a slot of a Cluster turned out to have moved.
const WRITES: u32 = 5;

pub struct Link {
    commands: Client,
    subscriber: Client,
    metrics: StoreMetrics,
    /// Slots of a Cluster whose server cannot be reached.
    failing: AtomicU64,
    /// Nobody needs the connections any more.
    closed: CancellationToken,
    /// Instead of them.
    #[cfg(test)]
    wire: Option<super::model::Wire>,
}

/// What a link tells by itself.
pub struct Signals {
    pub messages: Receiver<Message>,
    /// A server is connected anew: what was subscribed there is not any more.
    pub reconnected: Receiver<Server>,
    /// Slots of a Cluster have moved.
    pub moved: Receiver<Vec<ClusterStateChange>>,
    /// A server is connected anew for commands.
    pub connected: Receiver<Server>,
}

impl Link {
    /// Connects as soon as Redis is there; `says` is told what is in the way. The signals are complete from the first
    /// subscription on.
    pub async fn open(
        url: &RedisUrl,
        metrics: StoreMetrics,
        mut says: impl FnMut(&str),
    ) -> Result<(Self, Signals), String> {
        let client = |waiting| {
            let mut builder = Builder::from_config(url.config()?);
            builder.set_policy(ReconnectPolicy::new_constant(0, RETRY_MS));
            builder.with_connection_config(|config| {
                config.connection_timeout = Duration::from_secs(2);
                config.internal_command_timeout = Duration::from_secs(2);
                config.max_command_attempts = WRITES;
                config.unresponsive.max_timeout = Some(SILENCE);
                config.unresponsive.interval = SILENCE / 3;
                config.tcp.nodelay = Some(true);
            });
            builder.with_performance_config(|config| {
                config.default_command_timeout = PATIENCE;
                config.broadcast_channel_capacity = waiting;
            });
            builder.build().map_err(|error| error.details().to_owned())
        };
        let (commands, subscriber) = (client(32)?, client(WAITING)?);
        let closed = CancellationToken::new();
        for client in [&commands, &subscriber] {
            let first = loop {
                match client.init().await {
                    Ok(connecting) => break connecting,
                    Err(error) => says(error.details()),
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            };
            tokio::spawn(keep_connected(client.clone(), first, closed.clone()));
        }
        let signals = Signals {
            messages: subscriber.message_rx(),
            reconnected: subscriber.reconnect_rx(),
            moved: commands.cluster_change_rx(),
            connected: commands.reconnect_rx(),
        };
        let link = Self {
            commands,
            subscriber,
            metrics,
            failing: AtomicU64::new(0),
            closed,
            #[cfg(test)]
            wire: None,
        };
        Ok((link, signals))
    }

    /// One that leads to the model's Redis.
    #[cfg(test)]
    pub fn modelled(client: &Client, metrics: StoreMetrics, wire: super::model::Wire) -> Self {
        Self {
            commands: client.clone(),
            subscriber: client.clone(),
            metrics,
            failing: AtomicU64::new(0),
            closed: CancellationToken::new(),
            wire: Some(wire),
        }
    }

    /// Runs a script, whose keys are all of one tag.
    pub async fn run(
        &self,
        script: &'static Script,
        keys: Vec<String>,
        arguments: Vec<Value>,
    ) -> Result<Value, Unavailable> {
        #[cfg(test)]
        if let Some(wire) = &self.wire {
            return wire.run(script, keys, arguments).await;
        }
        let commands = self.commands();
        self.asked(script.name, || async {
            let known = commands.evalsha(&script.sha1, keys.clone(), arguments.clone()).await;
            match known {
                Err(error) if error.details().starts_with("NOSCRIPT") => {
                    commands.eval(&script.code, keys.clone(), arguments.clone()).await
                }
                known => known,
            }
        })
        .await
    }

    /// One command, whose key comes first.
    pub async fn command(&self, name: &'static str, arguments: Vec<Value>) -> Result<Value, Unavailable> {
        #[cfg(test)]
        if let Some(wire) = &self.wire {
            return wire.command(name, arguments).await;
        }
        let commands = self.commands();
        self.asked(name, || {
            let command = CustomCommand::new_static(name, ClusterHash::FirstKey, false);
            commands.custom(command, arguments.clone())
        })
        .await
    }

    /// A command that was cut off is not sent again by itself: whether it was carried out is not known, and who asked
    /// decides.
    fn commands(&self) -> WithOptions<Client> {
        self.commands.with_options(&Options { fail_fast: true, ..Options::default() })
    }

    /// Asks, waiting a moment for a connection that is being made anew, and again where a Cluster says that nothing was
    /// done because slots are changing hands.
    async fn asked<T, Asked>(&self, name: &'static str, ask: impl Fn() -> Asked) -> Result<T, Unavailable>
    where
        Asked: Future<Output = Result<T, Error>>,
    {
        let began = Instant::now();
        let asking = async {
            if !self.commands.is_connected() {
                let waiting = tokio::time::timeout(PATIENCE / 2, self.commands.wait_for_connect());
                waiting
                    .await
                    .map_err(|_| Unavailable("Redis cannot be reached".to_owned()))?
                    .map_err(failed)?;
            }
            loop {
                match ask().await {
                    Err(error) if was_left_undone(&error) => tokio::time::sleep(AGAIN).await,
                    result => return result.map_err(failed),
                }
            }
        };
        let late = |_| Err(Unavailable("Redis does not answer".to_owned()));
        let result = tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(late);
        self.metrics.answered(name, began.elapsed(), result.is_ok());
        result
    }

    pub fn is_clustered(&self) -> bool {
        #[cfg(test)]
        if let Some(wire) = &self.wire {
            return wire.is_clustered();
        }
        self.commands.is_clustered()
    }

    /// The servers that commands go to.
    pub fn servers(&self) -> Vec<Server> {
        self.commands.active_connections()
    }

    /// What a server is: another after each start, and after each promotion of a replica.
    pub async fn identity(&self, server: &Server) -> Result<String, Unavailable> {
        let node = self.commands.is_clustered().then(|| server.clone());
        let commands = self.commands.with_options(&Options {
            fail_fast: true,
            cluster_node: node,
            ..Options::default()
        });
        let ask = || {
            let command = CustomCommand::new_static("INFO", ClusterHash::Random, false);
            commands.custom::<String, _>(command, vec!["server", "replication"])
        };
        let info = self.asked("INFO", ask).await?;
        let field = |name: &str| {
            info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
        };
        match (field("run_id"), field("master_replid")) {
            (Some(run), Some(replication)) => Ok(format!("{run} {replication}")),
            _ => Err(Unavailable("Redis does not say which it is".to_owned())),
        }
    }

    /// Sharded channels came with version 7.
    pub async fn check_version(&self) -> Result<(), String> {
        match self.commands.server_version() {
            Some(version) if version.major < 7 => {
                Err(format!("the store is Redis {version}; it must be Redis 7.0 or later, or Valkey"))
            }
            _ => Ok(()),
        }
    }

    pub async fn ping(&self) -> Result<(), Unavailable> {
        let commands = self.commands();
        self.asked("PING", || commands.ping::<Value>(None)).await?;
        match self.subscriber.is_connected() {
            true => Ok(()),
            false => Err(Unavailable("what is published cannot be heard: reconnecting".to_owned())),
        }
    }

    /// Rises when slots of a Cluster change hands; `None` where there is no Cluster.
    pub async fn topology(&self) -> Result<Option<u64>, Unavailable> {
        if !self.commands.is_clustered() {
            return Ok(None);
        }
        let commands = self.commands();
        let ask = || {
            let command = CustomCommand::new_static("CLUSTER", ClusterHash::Random, false);
            commands.custom::<String, _>(command, vec!["INFO"])
        };
        let info = self.asked("CLUSTER", ask).await?;
        let number = |name: &str| -> Option<u64> {
            info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
        };
        let failing = number("cluster_slots_pfail").unwrap_or(0) + number("cluster_slots_fail").unwrap_or(0);
        self.failing.store(failing, Ordering::Relaxed);
        Ok(number("cluster_current_epoch"))
    }

    /// How many slots of a Cluster have a server that others cannot reach, as one of them said last.
    pub fn failing_slots(&self) -> u64 {
        self.failing.load(Ordering::Relaxed)
    }

    /// When this returns, what is published to the channel is heard.
    pub async fn subscribe(&self, channel: String) -> Result<(), Unavailable> {
        let began = Instant::now();
        // One channel a command, so that each has one answer and they may follow one another.
        let command = CustomCommand::new_static("SSUBSCRIBE", ClusterHash::FirstKey, false);
        let result = self.subscriber.custom::<Value, _>(command, vec![channel]).await;
        self.metrics.answered("SSUBSCRIBE", began.elapsed(), result.is_ok());
        result.map(drop).map_err(failed)
    }

    /// Goes before every `subscribe` that begins later. Nothing is lost when it fails: what is heard is ignored.
    pub fn unsubscribe(&self, channel: String) {
        let sent = self.subscriber.sunsubscribe(channel).now_or_never();
        tracing::trace!(?sent, "unsubscribing");
    }

    pub fn close(&self) {
        self.closed.cancel();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.close();
    }
}

fn failed(error: Error) -> Unavailable {
    Unavailable(error.details().to_owned())
}

/// Nothing was done: keys of a slot that moves are partly here and partly there, or it moved while this was asked.
fn was_left_undone(error: &Error) -> bool {
    const UNDONE: [&str; 4] =
        ["TRYAGAIN", "Too many failed write attempts", "Max attempts reached", "Too many redirections"];
    UNDONE.iter().any(|undone| error.details().starts_with(undone))
}

/// The client reconnects by itself, but its task may end with an error that it did not expect.
async fn keep_connected(client: Client, mut connecting: ConnectHandle, closed: CancellationToken) {
    loop {
        tokio::select! {
            ended = &mut connecting => {
                let error = ended.map_err(|error| error.to_string()).and_then(|ended| match ended {
                    Ok(()) => Ok(()),
                    Err(error) => Err(error.details().to_owned()),
                });
                tracing::debug!(?error, "a connection's task ended; starting another");
                tokio::time::sleep(Duration::from_millis(RETRY_MS.into())).await;
                connecting = client.connect();
            }
            () = closed.cancelled() => {
                client.quit().await.ok();
                return;
            }
        }
    }
}
