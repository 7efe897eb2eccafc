//! What a server reports of itself by `INFO`: which process it is, and how much memory it uses.

use super::{Call, Endpoint, Link, Servers, call::field};
use crate::{Unavailable, redis::context::fullest_server::ServerMemory};
use fred::types::config::Server;
use std::sync::Arc;

impl Link {
    /// Identifies the process of a server and its data: changes with each start, and with each promotion of a
    /// replica.
    pub(crate) async fn identity(&self, server: &Server) -> Result<String, Unavailable> {
        let call = Call::info(&["server", "replication"]);
        let info = self.timed("INFO", self.endpoint_at(server)?.commands.send(&call)).await?;
        match (field(&info, "run_id"), field(&info, "master_replid")) {
            (Some(run), Some(replication)) => Ok(format!("{run} {replication}")),
            _ => Err(Unavailable("INFO of Redis has no run_id or master_replid".to_owned())),
        }
    }

    /// The memory of a server. Without a limit of its own, the limit is 60 % of its machine. A server that
    /// evicts keys has no limit, because it is never full.
    pub(crate) async fn memory(&self, server: &Server) -> Result<ServerMemory, Unavailable> {
        let info =
            self.timed("INFO", self.endpoint_at(server)?.commands.send(&Call::info(&["memory"]))).await?;
        let number = |name| field(&info, name).and_then(|number| number.parse::<usize>().ok());
        let used = number("used_memory")
            .ok_or_else(|| Unavailable("INFO of Redis has no used_memory".to_owned()))?;
        let machine =
            || number("total_system_memory").filter(|bytes| *bytes > 0).map(|bytes| bytes / 100 * 60);
        let limit = match field(&info, "maxmemory_policy").is_none_or(|policy| policy == "noeviction") {
            true => number("maxmemory").filter(|bytes| *bytes > 0).or_else(machine),
            false => None,
        };
        Ok(ServerMemory { used, limit: limit.unwrap_or(usize::MAX) })
    }

    fn endpoint_at(&self, server: &Server) -> Result<Arc<Endpoint>, Unavailable> {
        let gone = || Unavailable(format!("{server} is no longer a server of the Cluster"));
        match &self.servers {
            Servers::Cluster(cluster) => cluster.endpoint(server).ok_or_else(gone),
            _ => self.any(),
        }
    }
}
