//! Asks Sentinels which server is the master: when a node starts, and every 2 s from then on. A master that
//! was replaced may still answer, and what is written to it then is lost.
//!
//! The client library is not used for this: it believes the first Sentinel that it reaches, and asks no other
//! if that one does not answer.

use super::{
    Call,
    connection::{ClientError, Common, NotConnected, RedisConnection, Role},
    endpoint::Endpoint,
};
use crate::redis::io_error::readable;
use fred::types::{
    RespVersion, Value,
    config::{Config, Server, ServerConfig},
};
use futures_util::future::join_all;
use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::time::{sleep, timeout};

/// How often the Sentinels are asked.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// How long a Sentinel may take to answer.
const REPLY_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct Sentinels {
    all: Vec<Arc<RedisConnection>>,
    call: Call,
    name: String,
}

/// Which servers the Sentinels name as the master.
struct Votes {
    /// How many name each server.
    masters: BTreeMap<Server, usize>,
    /// Why no server is named, if none is.
    error: String,
}

impl Votes {
    /// The server that most Sentinels name, and how many those are.
    fn winner(self) -> Result<(Server, usize), NotConnected> {
        self.masters.into_iter().max_by_key(|(_, votes)| *votes).ok_or(NotConnected(self.error))
    }
}

impl Sentinels {
    /// Starts connecting to the Sentinels in the configuration; `None` where there are none.
    pub(super) fn open(common: &Arc<Common>) -> Result<Option<Self>, ClientError> {
        let ServerConfig::Sentinel { hosts, service_name, username, password } = &common.config.server else {
            return Ok(None);
        };
        let open = |server: &Server| {
            let config = Config {
                server: ServerConfig::Centralized { server: server.clone() },
                database: None,
                // With RESP2, credentials are sent as they are, each with its length.
                version: RespVersion::RESP2,
                username: username.clone(),
                password: password.clone(),
                ..common.config.clone()
            };
            RedisConnection::open(common, config, Role::Sentinel, &common.closed)
        };
        let all = hosts.iter().map(open).collect::<Result<_, _>>()?;
        let name = service_name.clone();
        let arguments = vec!["GET-MASTER-ADDR-BY-NAME".into(), name.as_str().into()];
        Ok(Some(Self { all, call: Call { name: "SENTINEL", arguments }, name }))
    }

    async fn count_votes(&self) -> Votes {
        let replies = self.all.iter().map(|sentinel| timeout(REPLY_TIMEOUT, sentinel.send(&self.call)));
        let mut votes = Votes { masters: BTreeMap::new(), error: "no Sentinel answers".to_owned() };
        for reply in join_all(replies).await {
            match reply {
                Ok(Ok(Value::Null)) => {
                    votes.error = format!(
                        "the Sentinels know no master '{}'; check sentinelServiceName in store.url",
                        self.name
                    );
                }
                Ok(Ok(address)) => {
                    if let Ok((host, port)) = address.convert::<(String, u16)>() {
                        *votes.masters.entry(Server::new(host, port)).or_default() += 1;
                    }
                }
                Ok(Err(error)) => votes.error = format!("no Sentinel answers: {}", readable(error.details())),
                Err(_) => {}
            }
        }
        votes
    }

    /// The master that most of the answering Sentinels name.
    pub(super) async fn master(&self) -> Result<Server, NotConnected> {
        self.count_votes().await.winner().map(|(master, _)| master)
    }

    /// Asks again and again as long as the endpoint exists. If its server answers, it is replaced when more
    /// than half of all configured Sentinels name another one; otherwise when most of those that answer do.
    pub(super) fn watch(self, common: &Arc<Common>, endpoint: &Arc<Endpoint>) {
        let (endpoint, closed) = (Arc::downgrade(endpoint), common.closed.clone());
        common.vitals.spawn("the task that asks Sentinels", async move {
            closed.run_until_cancelled(self.follow_master(endpoint)).await;
        });
    }

    async fn follow_master(&self, endpoint: Weak<Endpoint>) {
        loop {
            sleep(POLL_INTERVAL).await;
            let Ok((master, votes)) = self.count_votes().await.winner() else { continue };
            let Some(endpoint) = endpoint.upgrade() else { return };
            if endpoint.is_connected() && 2 * votes <= self.all.len() {
                continue;
            }
            for connection in [&endpoint.commands, &endpoint.subscriber] {
                connection.move_to(&master);
            }
        }
    }
}
