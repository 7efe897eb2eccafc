//! The connections to Redis: to each server one for commands and one for subscriptions. Knows scripts, slots
//! and channels, but no rooms.
//!
//! fred, the client library, routes all commands of a Cluster in one task, which stops for all servers while
//! one of them does not answer. So each server has clients of its own here, and this module finds the server
//! that has a slot.

mod backoff;
mod call;
mod cluster;
mod cluster_epoch;
mod connection;
mod endpoint;
mod events;
mod replication;
mod script;
mod sentinels;
mod server_info;

pub(super) use events::{LinkEvent, LinkEvents};
pub use replication::Replication;
pub(super) use script::Script;

use crate::{
    RESPONSE_TIMEOUT, StoreMetrics, Unavailable,
    redis::{open_error::OpenError, redis_errors::RedisErrors, timeouts::no_answer, url::RedisUrl},
};
use call::{Call, Redirection};
use cluster::Cluster;
use connection::{Common, NotConnected, RedisConnection, Role};
use endpoint::Endpoint;
use fred::{
    error::Error,
    interfaces::{ClientLike, PubsubInterface},
    types::{
        Value,
        config::{Server, ServerConfig},
    },
};
use futures_util::FutureExt;
use sentinels::Sentinels;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use switchyard_process::vital::VitalTasks;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Between two attempts of a node that starts.
pub(super) const START_RETRY_DELAY: Duration = Duration::from_secs(1);
/// Before a command is sent again because slots are moving. It doubles with each attempt, from the first to
/// the second.
const MIN_REDIRECT_DELAY: Duration = Duration::from_millis(20);
const MAX_REDIRECT_DELAY: Duration = Duration::from_millis(500);
/// How long a write waits for replicas to confirm it.
const REPLICA_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct Link {
    servers: Servers,
    metrics: StoreMetrics,
    /// Closes all connections.
    closed: CancellationToken,
    /// Why Redis does not serve this node.
    pub errors: Arc<RedisErrors>,
}

enum Servers {
    /// One server: that of the URL, or the master that Sentinels name.
    Single(Arc<Endpoint>),
    Cluster(Cluster),
    /// The Redis of the model.
    #[cfg(test)]
    Model(crate::redis::model::NetworkEnd),
}

impl Link {
    /// Connects as soon as Redis can be reached, and calls `report` with each error until then. The receiver
    /// gets each server whose connection for commands is established from then on.
    pub(super) async fn open(
        url: &RedisUrl,
        metrics: StoreMetrics,
        vitals: &VitalTasks,
        mut report: impl FnMut(&str),
    ) -> Result<(Self, LinkEvents, mpsc::UnboundedReceiver<Server>), OpenError> {
        let (config, closed) = (url.config()?, CancellationToken::new());
        let errors = Arc::new(RedisErrors::new(url.secrets().clone()));
        let (events, sender) = events::channel();
        let (connected, connections) = mpsc::unbounded_channel();
        let server = config.server.clone();
        let (metric, token) = (metrics.clone(), closed.clone());
        let common = Arc::new(Common {
            config,
            metrics: metric,
            vitals: vitals.clone(),
            errors: errors.clone(),
            closed: token,
            events: sender,
            connected,
        });
        let servers = match server {
            ServerConfig::Clustered { hosts, .. } => Servers::Cluster(Cluster::new(common, hosts)?),
            server => Servers::Single(match Sentinels::open(&common)? {
                None => Endpoint::open(&common, &server)?,
                Some(sentinels) => {
                    let server = loop {
                        match sentinels.master().boxed().await {
                            Ok(server) => break server,
                            Err(error) => report(&common.errors.redact(&error.to_string())),
                        }
                        tokio::time::sleep(START_RETRY_DELAY).await;
                    };
                    let endpoint = Endpoint::open(&common, &ServerConfig::Centralized { server })?;
                    sentinels.watch(&common, &endpoint);
                    endpoint
                }
            }),
        };
        let link = Self { servers, metrics, closed, errors };
        while let Err(error) = link.opened().boxed().await {
            report(&error.to_string());
            tokio::time::sleep(START_RETRY_DELAY).await;
        }
        Ok((link, events, connections))
    }

    /// Waits a while until every server is connected. The error says why one is not.
    async fn opened(&self) -> Result<(), NotConnected> {
        match &self.servers {
            Servers::Single(endpoint) => endpoint.opened().await,
            Servers::Cluster(cluster) => cluster.opened().await,
            #[cfg(test)]
            Servers::Model(_) => Ok(()),
        }
    }

    /// A link to the Redis of the model.
    #[cfg(test)]
    pub(super) fn modelled(metrics: StoreMetrics, end: crate::redis::model::NetworkEnd) -> Self {
        let (closed, errors) = (CancellationToken::new(), Arc::default());
        Self { servers: Servers::Model(end), metrics, closed, errors }
    }

    /// Runs a script. All its keys must have the same hash tag.
    pub(super) async fn run(
        &self,
        script: &'static Script,
        keys: Vec<String>,
        arguments: Vec<Value>,
    ) -> Result<Value, Unavailable> {
        #[cfg(test)]
        if let Servers::Model(end) = &self.servers {
            return end.run(script, keys, arguments).await;
        }
        let key = keys.first().cloned().unwrap_or_default();
        let mut call = Call::script("EVALSHA", &script.sha1, keys, arguments);
        self.timed(script.name, async {
            match self.carry_out(&key, Role::Commands, &call).await {
                Err(error) if error.details().starts_with("NOSCRIPT") => {
                    call.name = "EVAL";
                    call.arguments[0] = Value::from(script.code.as_str());
                    self.carry_out(&key, Role::Commands, &call).await
                }
                known => known,
            }
        })
        .await
    }

    /// Runs a command whose first argument is its key.
    pub(super) async fn command(
        &self,
        name: &'static str,
        arguments: Vec<Value>,
    ) -> Result<Value, Unavailable> {
        #[cfg(test)]
        if let Servers::Model(end) = &self.servers {
            return end.command(name, arguments).await;
        }
        let key = arguments.first().and_then(Value::as_string).unwrap_or_default();
        let call = Call { name, arguments };
        self.timed(name, self.carry_out(&key, Role::Commands, &call)).await
    }

    /// Limits the time of a command, and measures it. The future is boxed because it is much larger than its
    /// callers.
    async fn timed(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<Value, Error>> + Send,
    ) -> Result<Value, Unavailable> {
        let began = Instant::now();
        let result = match tokio::time::timeout(RESPONSE_TIMEOUT, work.boxed()).await {
            Ok(result) => result.map_err(|error| Unavailable(self.errors.redact(error.details()))),
            Err(_) => Err(no_answer()),
        };
        self.metrics.record_command(name, began.elapsed(), result.is_ok());
        self.errors.answered(name, result.as_ref().err().map(|error| &*error.0));
        result
    }

    /// Sends a command to the server that has its key, and again if a Cluster did nothing because slots are
    /// moving. A command whose connection broke is not sent again: nobody knows whether it was carried out,
    /// so the caller must decide.
    async fn carry_out(&self, key: &str, role: Role, call: &Call) -> Result<Value, Error> {
        let (mut target, mut delay) = (None::<Arc<Endpoint>>, MIN_REDIRECT_DELAY);
        loop {
            let (endpoint, answer) = match target.take() {
                None => {
                    let endpoint = self.endpoint_of(key)?;
                    let answer = endpoint.connection(role).send_for_key(call).await;
                    (endpoint, answer)
                }
                Some(endpoint) => {
                    let asking = Call { name: "ASKING", arguments: vec![] };
                    let mut answers = endpoint.connection(role).send_all(&[&asking, call]).await?;
                    (endpoint, answers.pop().unwrap_or(Ok(Value::Null)))
                }
            };
            match answer {
                Ok(value) => return Ok(value),
                Err(error) => {
                    target = self.redirected(error, endpoint.connection(role), delay).await?;
                    delay = (2 * delay).min(MAX_REDIRECT_DELAY);
                }
            }
        }
    }

    /// Follows a redirection, after which the command can be sent again: to the server that is returned,
    /// which is about to get the slot, or else to the one that has it. Waits first if nothing has changed.
    /// Returns any other error.
    async fn redirected(
        &self,
        error: Error,
        by: &RedisConnection,
        delay: Duration,
    ) -> Result<Option<Arc<Endpoint>>, Error> {
        let Servers::Cluster(cluster) = &self.servers else { return Err(error) };
        match Redirection::read(error.details(), by) {
            Some(Redirection::Moved(server)) => {
                let before = cluster.slots();
                cluster.refresh(Some(&server)).await?;
                if cluster.slots() == before {
                    // The slots have not moved yet, or the servers do not agree.
                    tokio::time::sleep(delay).await;
                }
            }
            Some(Redirection::Ask(server)) => return cluster.temporary(&server).map(Some),
            Some(Redirection::TryAgain) => tokio::time::sleep(delay).await,
            None => return Err(error),
        }
        Ok(None)
    }

    /// The connections to the server that has a key or channel.
    fn endpoint_of(&self, key: &str) -> Result<Arc<Endpoint>, Error> {
        match &self.servers {
            Servers::Single(endpoint) => Ok(endpoint.clone()),
            Servers::Cluster(cluster) => cluster.endpoint_of(key),
            #[cfg(test)]
            Servers::Model(_) => Err(Error::new(fred::error::ErrorKind::IO, "the model has no connections")),
        }
    }

    /// The server of a Cluster that has a key or channel; `None` without a Cluster.
    pub(super) fn server_of(&self, key: &str) -> Option<Server> {
        match &self.servers {
            Servers::Cluster(cluster) => cluster.server_of(key),
            _ => None,
        }
    }

    pub(super) fn is_clustered(&self) -> bool {
        #[cfg(test)]
        if let Servers::Model(end) = &self.servers {
            return end.is_clustered();
        }
        matches!(self.servers, Servers::Cluster(_))
    }

    /// All servers that receive commands.
    pub(super) fn servers(&self) -> Vec<Server> {
        match &self.servers {
            Servers::Single(endpoint) => endpoint.commands.client().active_connections(),
            Servers::Cluster(cluster) => cluster.endpoints().into_iter().map(|(server, _)| server).collect(),
            #[cfg(test)]
            Servers::Model(_) => vec![],
        }
    }

    /// A server that answers for all: the only one, or one of a Cluster.
    fn any(&self) -> Result<Arc<Endpoint>, Unavailable> {
        match &self.servers {
            Servers::Single(endpoint) => Ok(endpoint.clone()),
            Servers::Cluster(cluster) => cluster.any(),
            #[cfg(test)]
            Servers::Model(_) => Err(Unavailable("the model has no connections".to_owned())),
        }
    }

    /// Fails if Redis has no sharded channels, which came with version 7.
    pub(super) async fn check_version(&self) -> Result<(), OpenError> {
        match self.any().ok().and_then(|endpoint| endpoint.commands.client().server_version()) {
            Some(version) if version.major < 7 => Err(OpenError::Version(version.to_string())),
            _ => Ok(()),
        }
    }

    /// Checks that Redis answers, and that a connection for subscriptions is established.
    pub(super) async fn ping(&self) -> Result<(), Unavailable> {
        let call = Call { name: "PING", arguments: vec![] };
        let mut endpoint = self.any()?;
        let mut answer = self.timed("PING", endpoint.commands.send(&call)).await;
        // Another server of a Cluster may answer.
        if answer.is_err() && self.is_clustered() {
            endpoint = self.any()?;
            answer = self.timed("PING", endpoint.commands.send(&call)).await;
        }
        answer?;
        let is_subscriber_connected = match &self.servers {
            Servers::Cluster(cluster) => {
                cluster.endpoints().iter().any(|(_, endpoint)| endpoint.subscriber.is_connected())
            }
            _ => endpoint.subscriber.is_connected(),
        };
        match is_subscriber_connected {
            true => Ok(()),
            false => Err(Unavailable(self.errors.because("no connection for subscriptions"))),
        }
    }

    /// The newest epoch of a Cluster, which rises when slots move; `None` without a Cluster.
    pub(super) async fn topology(&self, known: Option<u64>) -> Result<Option<u64>, Unavailable> {
        let Servers::Cluster(cluster) = &self.servers else { return Ok(None) };
        let topology = tokio::time::timeout(RESPONSE_TIMEOUT, cluster.topology(known)).await;
        topology.unwrap_or_else(|_| Err(Unavailable("the Cluster does not answer".to_owned())))
    }

    /// How many slots of a Cluster have a server that others cannot reach, as one of them reported last.
    pub(super) fn failing_slots(&self) -> u64 {
        match &self.servers {
            Servers::Cluster(cluster) => cluster.failing_slots(),
            _ => 0,
        }
    }

    /// Subscribes to a channel. All messages that are published after this returns are received.
    pub(super) async fn subscribe(&self, channel: String) -> Result<(), Unavailable> {
        // One channel for each command, so that each has one reply.
        let call = Call { name: "SSUBSCRIBE", arguments: vec![channel.as_str().into()] };
        self.timed("SSUBSCRIBE", self.carry_out(&channel, Role::Subscriber, &call)).await.map(drop)
    }

    /// Is sent before any `subscribe` that is called later. It may fail: messages of the channel are ignored
    /// then.
    pub(super) fn unsubscribe(&self, channel: String) {
        let Ok(endpoint) = self.endpoint_of(&channel) else { return };
        let sent = endpoint.subscriber.client().sunsubscribe(channel).now_or_never();
        tracing::trace!(?sent, "unsubscribing");
    }

    pub(super) fn close(&self) {
        self.closed.cancel();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.close();
    }
}
