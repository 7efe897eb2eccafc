//! Whether the master that a node is connected to is still the one that Sentinels name. One that was replaced may go on answering, and
//! what it is told then is lost.

use super::{
    Call,
    connection::{Common, Connection, Endpoint, Role},
};
use fred::{
    interfaces::ClientLike,
    types::{
        RespVersion,
        config::{Config, Server, ServerConfig},
    },
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

/// Asks for as long as the endpoint is there. When more than half of the Sentinels that are configured name another master, both
/// connections are made anew, which begins with asking a Sentinel.
pub fn watch(common: &Arc<Common>, endpoint: &Arc<Endpoint>) -> Result<(), String> {
    let ServerConfig::Sentinel { hosts, service_name, username, password } = &common.config.server else {
        return Ok(());
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
    let sentinels = hosts.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let name = service_name.as_str().into();
    let call = Call { name: "SENTINEL", arguments: vec!["GET-MASTER-ADDR-BY-NAME".into(), name] };
    let (endpoint, closed) = (Arc::downgrade(endpoint), common.closed.clone());
    common.vitals.task("the task that asks Sentinels", async move {
        closed.run_until_cancelled(look(&sentinels, &call, endpoint)).await;
    });
    Ok(())
}

async fn look(sentinels: &[Arc<Connection>], call: &Call, endpoint: Weak<Endpoint>) {
    loop {
        sleep(ASK).await;
        let asked = sentinels.iter().map(|sentinel| timeout(ANSWER, sentinel.ask(call)));
        let mut votes: BTreeMap<Server, usize> = BTreeMap::new();
        for answer in join_all(asked).await.into_iter().flatten().flatten() {
            if let Ok((host, port)) = answer.convert::<(String, u16)>() {
                *votes.entry(Server::new(host, port)).or_default() += 1;
            }
        }
        let Some(endpoint) = endpoint.upgrade() else { return };
        let master = votes.into_iter().find(|(_, votes)| 2 * votes > sentinels.len());
        let Some((master, _)) = master else { continue };
        for connection in [&endpoint.commands, &endpoint.subscriber] {
            let server = connection.client().active_connections().pop();
            if let Some(server) = server.filter(|server| *server != master) {
                tracing::warn!(%server, %master, "Sentinels name another master; connecting anew");
                connection.renew();
            }
        }
    }
}
