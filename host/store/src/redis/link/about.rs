//! What a server says of itself.

use super::{Call, Endpoint, Link, Servers, call::field};
use crate::{Unavailable, redis::context::fullest_server::ServerMemory};
use fred::types::config::Server;
use std::sync::Arc;

impl Link {
    /// What a server is: another after each start, and after each promotion of a replica.
    pub(crate) async fn identity(&self, server: &Server) -> Result<String, Unavailable> {
        let call = Call::info(&["server", "replication"]);
        let said = self.timed("INFO", self.endpoint_at(server)?.commands.ask(&call)).await?;
        match (field(&said, "run_id"), field(&said, "master_replid")) {
            (Some(run), Some(replication)) => Ok(format!("{run} {replication}")),
            _ => Err(Unavailable("Redis does not say which it is".to_owned())),
        }
    }

    /// How full a server is, of what it may use: where it has no limit of its own, of 60 % of its machine. One that makes room by
    /// itself is never full.
    pub(crate) async fn memory(&self, server: &Server) -> Result<ServerMemory, Unavailable> {
        let said =
            self.timed("INFO", self.endpoint_at(server)?.commands.ask(&Call::info(&["memory"]))).await?;
        let number = |name| field(&said, name).and_then(|number| number.parse::<usize>().ok());
        let used =
            number("used_memory").ok_or_else(|| Unavailable("Redis does not say what it uses".to_owned()))?;
        let machine =
            || number("total_system_memory").filter(|bytes| *bytes > 0).map(|bytes| bytes / 100 * 60);
        let limit = match field(&said, "maxmemory_policy").is_none_or(|policy| policy == "noeviction") {
            true => number("maxmemory").filter(|bytes| *bytes > 0).or_else(machine),
            false => None,
        };
        Ok(ServerMemory { used, limit: limit.unwrap_or(usize::MAX) })
    }

    fn endpoint_at(&self, server: &Server) -> Result<Arc<Endpoint>, Unavailable> {
        let gone = || Unavailable(format!("{server} is none of the Cluster's servers any more"));
        match &self.servers {
            Servers::Cluster(cluster) => cluster.endpoint(server).ok_or_else(gone),
            _ => self.any(),
        }
    }
}
