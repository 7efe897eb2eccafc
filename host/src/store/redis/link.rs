//! The connections to Redis: one for commands and one for what is published. Knows scripts and channels, no rooms.

use super::{RedisUrl, scripts::Script};
use crate::{
    metrics::StoreMetrics,
    store::{PATIENCE, Unavailable},
};
use fred::{
    clients::Client,
    interfaces::{ClientLike, EventInterface, LuaInterface, PubsubInterface},
    types::{
        Builder, ClusterHash, ClusterStateChange, CustomCommand, Message, Value,
        config::{ReconnectPolicy, Server},
    },
};
use futures_util::FutureExt;
use std::time::{Duration, Instant};
use tokio::sync::broadcast::Receiver;

/// Between two attempts to reach a server.
const RETRY_MS: u32 = 200;
/// A server from which an answer does not come for so long is connected anew.
const SILENCE: Duration = Duration::from_secs(3);
/// Publications that may wait for the task that takes them; beyond, some are missed and read from the logs.
const WAITING: usize = 8192;

pub struct Link {
    commands: Client,
    subscriber: Client,
    metrics: StoreMetrics,
}

/// What a link tells by itself.
pub struct Signals {
    pub messages: Receiver<Message>,
    /// A server is connected anew: what was subscribed there is not any more.
    pub reconnected: Receiver<Server>,
    /// Slots of a Cluster have moved.
    pub moved: Receiver<Vec<ClusterStateChange>>,
}

impl Link {
    /// Connects as soon as Redis is there; `says` is told what is in the way. The signals are complete from the first
    /// subscription on.
    pub async fn open(
        url: &RedisUrl,
        metrics: StoreMetrics,
        says: impl Fn(&str),
    ) -> Result<(Self, Signals), String> {
        let client = |waiting| {
            let mut builder = Builder::from_config(url.config()?);
            builder.set_policy(ReconnectPolicy::new_constant(0, RETRY_MS));
            builder.with_connection_config(|config| {
                config.connection_timeout = Duration::from_secs(2);
                config.internal_command_timeout = Duration::from_secs(2);
                // Whether a command that was cut off was carried out is not known: who asked decides.
                config.max_command_attempts = 1;
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
        for client in [&commands, &subscriber] {
            while let Err(error) = client.init().await {
                says(error.details());
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        let signals = Signals {
            messages: subscriber.message_rx(),
            reconnected: subscriber.reconnect_rx(),
            moved: commands.cluster_change_rx(),
        };
        Ok((Self { commands, subscriber, metrics }, signals))
    }

    /// Runs a script, whose keys are all of one tag.
    pub async fn run(
        &self,
        script: &'static Script,
        keys: Vec<String>,
        arguments: Vec<Value>,
    ) -> Result<Value, Unavailable> {
        let began = Instant::now();
        let result = async {
            let known: Result<Value, _> =
                self.commands.evalsha(&script.sha1, keys.clone(), arguments.clone()).await;
            match known {
                Err(error) if error.details().starts_with("NOSCRIPT") => {
                    self.commands.eval(&script.code, keys, arguments).await
                }
                known => known,
            }
        };
        let result = result.await;
        self.measured(script.name, began, result)
    }

    /// One command, whose key comes first.
    pub async fn command(&self, name: &'static str, arguments: Vec<Value>) -> Result<Value, Unavailable> {
        let began = Instant::now();
        let command = CustomCommand::new_static(name, ClusterHash::FirstKey, false);
        let result = self.commands.custom(command, arguments).await;
        self.measured(name, began, result)
    }

    fn measured<T>(
        &self,
        name: &'static str,
        began: Instant,
        result: Result<T, fred::error::Error>,
    ) -> Result<T, Unavailable> {
        self.metrics.answered(name, began.elapsed(), result.is_ok());
        result.map_err(|error| Unavailable(error.details().to_owned()))
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
        let began = Instant::now();
        let result = self.commands.ping::<Value>(None).await;
        self.measured("PING", began, result)?;
        match self.subscriber.is_connected() {
            true => Ok(()),
            false => Err(Unavailable("what is published cannot be heard: reconnecting".to_owned())),
        }
    }

    /// When this returns, what is published to the channel is heard.
    pub async fn subscribe(&self, channel: String) -> Result<(), Unavailable> {
        let began = Instant::now();
        // One channel a command, so that each has one answer and they may follow one another.
        let command = CustomCommand::new_static("SSUBSCRIBE", ClusterHash::FirstKey, false);
        let result = self.subscriber.custom::<Value, _>(command, vec![channel]).await.map(drop);
        self.measured("SSUBSCRIBE", began, result)
    }

    /// Goes before every `subscribe` that begins later. Nothing is lost when it fails: what is heard is ignored.
    pub fn unsubscribe(&self, channel: String) {
        let sent = self.subscriber.sunsubscribe(channel).now_or_never();
        tracing::trace!(?sent, "unsubscribing");
    }

    pub async fn close(&self) {
        self.commands.quit().await.ok();
        self.subscriber.quit().await.ok();
    }
}
