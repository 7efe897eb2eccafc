//! Which server is the master, as Sentinels say: when a node starts, and every 2 s from then on. A master that was replaced may go on
//! answering, and what it is told then is lost.
//!
//! They are asked here and not by the client library, which takes the word of the first that it reaches, and asks no other when that
//! one does not answer.

use super::{
    Call,
    connection::{Common, Connection, Endpoint, Role},
};
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

/// How often Sentinels are asked, and how long one may take to answer.
const ASK: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(1);

pub(super) struct Sentinels {
    all: Vec<Arc<Connection>>,
    call: Call,
    name: String,
}

/// What Sentinels say.
struct Votes {
    /// How many name each server.
    masters: BTreeMap<Server, usize>,
    /// Why there is no master, where none is named.
    trouble: String,
}

impl Votes {
    /// The one that most of them name.
    fn first(self) -> Result<(Server, usize), String> {
        self.masters.into_iter().max_by_key(|(_, votes)| *votes).ok_or(self.trouble)
    }
}

impl Sentinels {
    /// Begins to connect to those that are configured; `None` where there are none.
    pub(super) fn open(common: &Arc<Common>) -> Result<Option<Self>, String> {
        let ServerConfig::Sentinel { hosts, service_name, username, password } = &common.config.server else {
            return Ok(None);
        };
        let open = |server: &Server| {
            let config = Config {
                server: ServerConfig::Centralized { server: server.clone() },
                database: None,
                // With which credentials go in parts, as they are.
                version: RespVersion::RESP2,
                username: username.clone(),
                password: password.clone(),
                ..common.config.clone()
            };
            Connection::open(common, config, Role::Sentinel, &common.closed)
        };
        let all = hosts.iter().map(open).collect::<Result<_, _>>()?;
        let name = service_name.clone();
        let arguments = vec!["GET-MASTER-ADDR-BY-NAME".into(), name.as_str().into()];
        Ok(Some(Self { all, call: Call { name: "SENTINEL", arguments }, name }))
    }

    async fn ask(&self) -> Votes {
        let asked = self.all.iter().map(|sentinel| timeout(ANSWER, sentinel.ask(&self.call)));
        let mut votes = Votes { masters: BTreeMap::new(), trouble: "no Sentinel answers".to_owned() };
        for answer in join_all(asked).await {
            match answer {
                Ok(Ok(Value::Null)) => {
                    votes.trouble =
                        format!("Sentinels know no master '{}': see sentinelServiceName", self.name);
                }
                Ok(Ok(answer)) => {
                    if let Ok((host, port)) = answer.convert::<(String, u16)>() {
                        *votes.masters.entry(Server::new(host, port)).or_default() += 1;
                    }
                }
                Ok(Err(error)) => votes.trouble = format!("no Sentinel answers: {}", error.details()),
                Err(_) => {}
            }
        }
        votes
    }

    /// The master that most of those name that answer.
    pub(super) async fn master(&self) -> Result<Server, String> {
        self.ask().await.first().map(|(master, _)| master)
    }

    /// Asks for as long as the endpoint is there. A server that answers is left when more than half of the Sentinels that are configured name
    /// another; one that does not, when most of those do that answer.
    pub(super) fn watch(self, common: &Arc<Common>, endpoint: &Arc<Endpoint>) {
        let (endpoint, closed) = (Arc::downgrade(endpoint), common.closed.clone());
        common.vitals.spawn("the task that asks Sentinels", async move {
            closed.run_until_cancelled(self.look(endpoint)).await;
        });
    }

    async fn look(&self, endpoint: Weak<Endpoint>) {
        loop {
            sleep(ASK).await;
            let Ok((master, votes)) = self.ask().await.first() else { continue };
            let Some(endpoint) = endpoint.upgrade() else { return };
            if endpoint.is_connected() && 2 * votes <= self.all.len() {
                continue;
            }
            for connection in [&endpoint.commands, &endpoint.subscriber] {
                connection.lead_to(&master);
            }
        }
    }
}
