//! The connections to Redis: to each server one for commands and one for what is published. Knows scripts, slots and channels, no
//! rooms.
//!
//! A client of fred routes a Cluster's commands in one task, which stops for all servers while one of them does not answer. So each
//! server has clients of its own here, and a slot leads to a server.

mod backoff;
mod call;
mod cluster;
mod connection;
mod events;
mod replication;
mod script;
mod sentinels;
mod server_info;

pub(super) use events::{LinkEvent, LinkEvents};
pub use replication::Replication;
pub(super) use script::Script;

use crate::{
    PATIENCE, StoreMetrics, Unavailable,
    redis::{trouble::Trouble, url::RedisUrl},
};
use call::{Call, Redirection};
use cluster::Cluster;
use connection::{Common, Connection, Endpoint, Role};
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
pub(super) const PAUSE: Duration = Duration::from_secs(1);
/// Until a Cluster whose slots change hands is asked again.
const AGAIN: Duration = Duration::from_millis(20);
/// Twice as long each time, up to this.
const LONGEST: Duration = Duration::from_millis(500);
/// How long replicas are waited for, where somebody wants to know.
const REPLICAS: Duration = Duration::from_secs(1);

pub(super) struct Link {
    servers: Servers,
    metrics: StoreMetrics,
    /// Nobody needs the connections any more.
    closed: CancellationToken,
    /// Why Redis does not do what it is asked.
    pub trouble: Arc<Trouble>,
}

enum Servers {
    /// One server, or whichever is the master now according to Sentinels.
    Single(Arc<Endpoint>),
    Cluster(Cluster),
    /// The model's Redis.
    #[cfg(test)]
    Model(crate::redis::model::Wire),
}

impl Link {
    /// Connects as soon as Redis is there; `says` is told what is in the way. The receiver is told of servers that are connected
    /// for commands from then on.
    pub(super) async fn open(
        url: &RedisUrl,
        metrics: StoreMetrics,
        vitals: &VitalTasks,
        mut says: impl FnMut(&str),
    ) -> Result<(Self, LinkEvents, mpsc::UnboundedReceiver<Server>), String> {
        let (config, closed) = (url.config()?, CancellationToken::new());
        let trouble = Arc::new(Trouble::new(url.secrets().clone()));
        let (events, sender) = events::channel();
        let (connected, connections) = mpsc::unbounded_channel();
        let server = config.server.clone();
        let (metric, token) = (metrics.clone(), closed.clone());
        let common = Arc::new(Common {
            config,
            metrics: metric,
            vitals: vitals.clone(),
            trouble: trouble.clone(),
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
                            Err(error) => says(&common.trouble.hidden(&error)),
                        }
                        tokio::time::sleep(PAUSE).await;
                    };
                    let endpoint = Endpoint::open(&common, &ServerConfig::Centralized { server })?;
                    sentinels.watch(&common, &endpoint);
                    endpoint
                }
            }),
        };
        let link = Self { servers, metrics, closed, trouble };
        while let Err(error) = link.opened().boxed().await {
            says(&error);
            tokio::time::sleep(PAUSE).await;
        }
        Ok((link, events, connections))
    }

    /// Whether every server is connected; waits a while for it.
    async fn opened(&self) -> Result<(), String> {
        match &self.servers {
            Servers::Single(endpoint) => endpoint.opened().await,
            Servers::Cluster(cluster) => cluster.opened().await,
            #[cfg(test)]
            Servers::Model(_) => Ok(()),
        }
    }

    /// One that leads to the model's Redis.
    #[cfg(test)]
    pub(super) fn modelled(metrics: StoreMetrics, wire: crate::redis::model::Wire) -> Self {
        let (closed, trouble) = (CancellationToken::new(), Arc::default());
        Self { servers: Servers::Model(wire), metrics, closed, trouble }
    }

    /// Runs a script, whose keys are all of one tag.
    pub(super) async fn run(
        &self,
        script: &'static Script,
        keys: Vec<String>,
        arguments: Vec<Value>,
    ) -> Result<Value, Unavailable> {
        #[cfg(test)]
        if let Servers::Model(wire) = &self.servers {
            return wire.run(script, keys, arguments).await;
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

    /// One command, whose key comes first.
    pub(super) async fn command(
        &self,
        name: &'static str,
        arguments: Vec<Value>,
    ) -> Result<Value, Unavailable> {
        #[cfg(test)]
        if let Servers::Model(wire) = &self.servers {
            return wire.command(name, arguments).await;
        }
        let key = arguments.first().and_then(Value::as_string).unwrap_or_default();
        let call = Call { name, arguments };
        self.timed(name, self.carry_out(&key, Role::Commands, &call)).await
    }

    /// Bounds what is asked of Redis and counts it. What is asked is boxed: it is much larger than whoever waits for it.
    async fn timed(
        &self,
        name: &'static str,
        asked: impl Future<Output = Result<Value, Error>> + Send,
    ) -> Result<Value, Unavailable> {
        let began = Instant::now();
        let result = match tokio::time::timeout(PATIENCE, asked.boxed()).await {
            Ok(result) => result.map_err(|error| Unavailable(self.trouble.hidden(error.details()))),
            Err(_) => Err(Unavailable("Redis does not answer".to_owned())),
        };
        self.metrics.answered(name, began.elapsed(), result.is_ok());
        self.trouble.answered(name, result.as_ref().err().map(|error| &*error.0));
        result
    }

    /// Has a command carried out where its key is, and again where a Cluster says that nothing was done because slots are changing
    /// hands. A command that was cut off is not sent again: whether it was carried out is not known, and who asked decides.
    async fn carry_out(&self, key: &str, role: Role, call: &Call) -> Result<Value, Error> {
        let (mut target, mut pause) = (None::<Arc<Endpoint>>, AGAIN);
        loop {
            let (endpoint, answer) = match target.take() {
                None => {
                    let endpoint = self.endpoint_of(key)?;
                    let answer = endpoint.connection(role).ask_for_key(call).await;
                    (endpoint, answer)
                }
                Some(endpoint) => {
                    let asking = Call { name: "ASKING", arguments: vec![] };
                    let mut answers = endpoint.connection(role).ask_all(&[&asking, call]).await?;
                    (endpoint, answers.pop().unwrap_or(Ok(Value::Null)))
                }
            };
            match answer {
                Ok(value) => return Ok(value),
                Err(error) => {
                    target = self.redirected(error, endpoint.connection(role), pause).await?;
                    pause = (2 * pause).min(LONGEST);
                }
            }
        }
    }

    /// Does what a server of a Cluster says instead of carrying a command out, after which it can be asked for again; maybe of
    /// another server, which is about to get the slot. Where nothing else is known than before, that is after a pause. Any other
    /// error is one.
    async fn redirected(
        &self,
        error: Error,
        by: &Connection,
        pause: Duration,
    ) -> Result<Option<Arc<Endpoint>>, Error> {
        let Servers::Cluster(cluster) = &self.servers else { return Err(error) };
        match Redirection::read(error.details(), by) {
            Some(Redirection::Moved(server)) => {
                let before = cluster.slots();
                cluster.refresh(Some(&server)).await?;
                if cluster.slots() == before {
                    // It does not show yet, or the servers do not agree.
                    tokio::time::sleep(pause).await;
                }
            }
            Some(Redirection::Ask(server)) => return cluster.temporary(&server).map(Some),
            Some(Redirection::TryAgain) => tokio::time::sleep(pause).await,
            None => return Err(error),
        }
        Ok(None)
    }

    /// The server that has a key or channel.
    fn endpoint_of(&self, key: &str) -> Result<Arc<Endpoint>, Error> {
        match &self.servers {
            Servers::Single(endpoint) => Ok(endpoint.clone()),
            Servers::Cluster(cluster) => cluster.endpoint_of(key),
            #[cfg(test)]
            Servers::Model(_) => Err(Error::new(fred::error::ErrorKind::IO, "the model has no connections")),
        }
    }

    /// Which server of a Cluster has a key or channel; `None` where servers are not told apart.
    pub(super) fn server_of(&self, key: &str) -> Option<Server> {
        match &self.servers {
            Servers::Cluster(cluster) => cluster.server_of(key),
            _ => None,
        }
    }

    pub(super) fn is_clustered(&self) -> bool {
        #[cfg(test)]
        if let Servers::Model(wire) = &self.servers {
            return wire.is_clustered();
        }
        matches!(self.servers, Servers::Cluster(_))
    }

    /// The servers that commands go to.
    pub(super) fn servers(&self) -> Vec<Server> {
        match &self.servers {
            Servers::Single(endpoint) => endpoint.commands.client().active_connections(),
            Servers::Cluster(cluster) => cluster.endpoints().into_iter().map(|(server, _)| server).collect(),
            #[cfg(test)]
            Servers::Model(_) => vec![],
        }
    }

    /// One that answers for all: the only one, or any of a Cluster.
    fn any(&self) -> Result<Arc<Endpoint>, Unavailable> {
        match &self.servers {
            Servers::Single(endpoint) => Ok(endpoint.clone()),
            Servers::Cluster(cluster) => cluster.any(),
            #[cfg(test)]
            Servers::Model(_) => Err(Unavailable("the model has no connections".to_owned())),
        }
    }

    /// Sharded channels came with version 7.
    pub(super) async fn check_version(&self) -> Result<(), String> {
        match self.any().ok().and_then(|endpoint| endpoint.commands.client().server_version()) {
            Some(version) if version.major < 7 => {
                Err(format!("the store is Redis {version}; it must be Redis 7.0 or later, or Valkey"))
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn ping(&self) -> Result<(), Unavailable> {
        let call = Call { name: "PING", arguments: vec![] };
        let mut endpoint = self.any()?;
        let mut answer = self.timed("PING", endpoint.commands.ask(&call)).await;
        // Another server of a Cluster may answer where this one does not.
        if answer.is_err() && self.is_clustered() {
            endpoint = self.any()?;
            answer = self.timed("PING", endpoint.commands.ask(&call)).await;
        }
        answer?;
        let is_heard = match &self.servers {
            Servers::Cluster(cluster) => {
                cluster.endpoints().iter().any(|(_, endpoint)| endpoint.subscriber.is_connected())
            }
            _ => endpoint.subscriber.is_connected(),
        };
        match is_heard {
            true => Ok(()),
            false => {
                Err(Unavailable(self.trouble.because("what is published cannot be heard: reconnecting")))
            }
        }
    }

    /// Rises when slots of a Cluster change hands; `None` where there is no Cluster.
    pub(super) async fn topology(&self, known: Option<u64>) -> Result<Option<u64>, Unavailable> {
        let Servers::Cluster(cluster) = &self.servers else { return Ok(None) };
        let look = tokio::time::timeout(PATIENCE, cluster.topology(known)).await;
        look.unwrap_or_else(|_| Err(Unavailable("the Cluster does not say where its slots are".to_owned())))
    }

    /// How many slots of a Cluster have a server that others cannot reach, as one of them said last.
    pub(super) fn failing_slots(&self) -> u64 {
        match &self.servers {
            Servers::Cluster(cluster) => cluster.failing_slots(),
            _ => 0,
        }
    }

    /// When this returns, what is published to the channel is heard.
    pub(super) async fn subscribe(&self, channel: String) -> Result<(), Unavailable> {
        // One channel a command, so that each has one answer and they may follow one another.
        let call = Call { name: "SSUBSCRIBE", arguments: vec![channel.as_str().into()] };
        self.timed("SSUBSCRIBE", self.carry_out(&channel, Role::Subscriber, &call)).await.map(drop)
    }

    /// Goes before every `subscribe` that begins later. Nothing is lost when it fails: what is heard is ignored.
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
