//! The servers of a Cluster, and which of them has which slots. A server that does not answer delays only its
//! own commands.

use super::{
    Call,
    call::field,
    cluster_epoch::ClusterEpoch,
    connection::{ClientError, Common, NotConnected},
    endpoint::Endpoint,
    events::LinkEvent,
};
use crate::{Unavailable, redis::timeouts::NO_ANSWER};
use arc_swap::ArcSwap;
use fred::{
    error::{Error, ErrorKind},
    types::{
        Value,
        cluster::ClusterRouting,
        config::{Server, ServerConfig},
    },
    util::redis_keyslot,
};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::timeout;

/// How long a server may take to answer `CLUSTER INFO` and `CLUSTER SLOTS`.
const SLOTS_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a node that starts waits for the connections to all servers. Those that cannot be reached then
/// delay only their own commands.
const START_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) struct Cluster {
    common: Arc<Common>,
    /// The servers in the configuration, which are asked when no other answers.
    seeds: Vec<Server>,
    table: ArcSwap<SlotTable>,
    epoch: ClusterEpoch,
    /// Held while the slots are looked up.
    lookup: tokio::sync::Mutex<()>,
    /// How often that was done.
    lookups: AtomicU64,
    /// Slots whose server cannot be reached by others.
    failing: AtomicU64,
    /// Which server is the next to answer for all.
    next: AtomicUsize,
}

#[derive(Clone)]
struct SlotTable {
    routing: ClusterRouting,
    endpoints: HashMap<Server, Arc<Endpoint>>,
}

impl SlotTable {
    /// The server that has a slot. The client library has the same function, but it panics if a slot before the
    /// first range is looked up.
    fn server_of(&self, slot: u16) -> Option<&Server> {
        let ranges = self.routing.slots();
        let after = ranges.partition_point(|range| range.start <= slot);
        let range = ranges.get(after.checked_sub(1)?)?;
        (slot <= range.end).then_some(&range.primary)
    }

    /// First and last slot of each range, and the server that has it.
    fn slots(&self) -> Vec<(u16, u16, &Server)> {
        self.routing.slots().iter().map(|range| (range.start, range.end, &range.primary)).collect()
    }
}

impl Cluster {
    /// Starts connecting to the servers in the configuration.
    pub(super) fn new(common: Arc<Common>, seeds: Vec<Server>) -> Result<Self, ClientError> {
        let mut endpoints = HashMap::new();
        for server in &seeds {
            endpoints.insert(server.clone(), open(&common, server)?);
        }
        let table = SlotTable { routing: ClusterRouting::new(), endpoints };
        Ok(Self {
            common,
            seeds,
            table: ArcSwap::from_pointee(table),
            epoch: ClusterEpoch::default(),
            lookup: tokio::sync::Mutex::default(),
            lookups: AtomicU64::new(0),
            failing: AtomicU64::new(0),
            next: AtomicUsize::new(0),
        })
    }

    /// Waits until the slots are known, and a while for all servers that have some. The error says why they
    /// are not known.
    pub(super) async fn opened(&self) -> Result<(), NotConnected> {
        let endpoints: Vec<_> = self.table.load().endpoints.values().cloned().collect();
        let opened =
            futures_util::future::select_ok(endpoints.iter().map(|endpoint| Box::pin(endpoint.opened())));
        opened.await?;
        let not_connected = |error: Error| NotConnected(self.common.errors.redact(error.details()));
        self.refresh(None).await.map_err(not_connected)?;
        let table = self.table.load_full();
        let all = futures_util::future::join_all(table.endpoints.values().map(|endpoint| endpoint.opened()));
        timeout(START_TIMEOUT, all).await.ok();
        Ok(())
    }

    /// The slot ranges and their servers, for comparison.
    pub(super) fn slots(&self) -> Vec<(u16, u16, Server)> {
        let table = self.table.load();
        table.slots().into_iter().map(|(from, to, server)| (from, to, server.clone())).collect()
    }

    pub(super) fn endpoints(&self) -> Vec<(Server, Arc<Endpoint>)> {
        self.table
            .load()
            .endpoints
            .iter()
            .map(|(server, endpoint)| (server.clone(), endpoint.clone()))
            .collect()
    }

    pub(super) fn endpoint(&self, server: &Server) -> Option<Arc<Endpoint>> {
        self.table.load().endpoints.get(server).cloned()
    }

    /// The server that has the slot of a key or channel.
    pub(super) fn endpoint_of(&self, key: &str) -> Result<Arc<Endpoint>, Error> {
        let table = self.table.load();
        let server = table.server_of(redis_keyslot(key.as_bytes()));
        let endpoint = server.and_then(|server| table.endpoints.get(server)).cloned();
        endpoint.ok_or_else(|| Error::new(ErrorKind::Cluster, "no server of the Cluster has this slot"))
    }

    /// The address of the server that has the slot of a key or channel.
    pub(super) fn server_of(&self, key: &str) -> Option<Server> {
        self.table.load().server_of(redis_keyslot(key.as_bytes())).cloned()
    }

    /// A connected server: the next one with each call.
    pub(super) fn any(&self) -> Result<Arc<Endpoint>, Unavailable> {
        let table = self.table.load();
        let mut servers: Vec<_> =
            table.endpoints.iter().filter(|(_, endpoint)| endpoint.commands.is_connected()).collect();
        servers.sort_by_key(|(server, _)| *server);
        let next = self.next.fetch_add(1, Ordering::Relaxed) % servers.len().max(1);
        let found = servers.get(next).map(|(_, endpoint)| (*endpoint).clone());
        found.ok_or_else(|| Unavailable("no server of the Cluster can be reached".to_owned()))
    }

    /// A server that may get slots. It is dropped with the next lookup if it has none by then.
    pub(super) fn temporary(&self, server: &Server) -> Result<Arc<Endpoint>, Error> {
        let wrong = |error: ClientError| Error::new(ErrorKind::Cluster, error.to_string());
        if let Some(endpoint) = self.endpoint(server) {
            return Ok(endpoint);
        }
        let endpoint = open(&self.common, server).map_err(wrong)?;
        self.table.rcu(|table| {
            let mut table = SlotTable::clone(table);
            table.endpoints.entry(server.clone()).or_insert_with(|| endpoint.clone());
            table
        });
        Ok(endpoint)
    }

    /// Looks the slots up; `first` is asked first. Ignores servers that do not know of the latest change. Does
    /// nothing if another task does so at the same time.
    pub(super) async fn refresh(&self, first: Option<&Server>) -> Result<(), Error> {
        let before = self.lookups.load(Ordering::Acquire);
        let _lookup = self.lookup.lock().await;
        if self.lookups.load(Ordering::Acquire) != before {
            return Ok(());
        }
        let mut last = None;
        for (server, endpoint) in self.candidates(first)? {
            let routing = timeout(SLOTS_TIMEOUT, self.read_routing(&server, &endpoint)).await;
            match routing.unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, NO_ANSWER))) {
                Ok(routing) => return self.install(routing),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::new(ErrorKind::Cluster, "no server of the Cluster can be reached")))
    }

    /// The slots as a server knows them.
    async fn read_routing(&self, server: &Server, endpoint: &Endpoint) -> Result<ClusterRouting, Error> {
        let [info, slots] =
            ["INFO", "SLOTS"].map(|name| Call { name: "CLUSTER", arguments: vec![name.into()] });
        let mut replies = endpoint.commands.send_all(&[&info, &slots]).await?.into_iter();
        let mut next = || replies.next().unwrap_or(Ok(Value::Null));
        let (info, slots) = (next()?, next()?);
        if epoch_in(&info).is_some_and(|epoch| !self.epoch.observe(epoch)) {
            return Err(Error::new(ErrorKind::Cluster, "the slots that the server knows are outdated"));
        }
        let routing = ClusterRouting::from_cluster_slots(slots, server.host.clone())?;
        match routing.slots().is_empty() {
            true => Err(Error::new(ErrorKind::Cluster, "the Cluster has no slots yet")),
            false => Ok(routing),
        }
    }

    /// The servers to ask, in this order. If none is connected, the servers in the configuration are added.
    fn candidates(&self, first: Option<&Server>) -> Result<Vec<(Server, Arc<Endpoint>)>, Error> {
        let mut candidates = vec![];
        if let Some(server) = first {
            candidates.push((server.clone(), self.temporary(server)?));
        }
        candidates
            .extend(self.endpoints().into_iter().filter(|(_, endpoint)| endpoint.commands.is_connected()));
        if candidates.is_empty() {
            for server in &self.seeds {
                candidates.push((server.clone(), self.temporary(server)?));
            }
        }
        Ok(candidates)
    }

    /// Connects to new servers, and drops those that have no slots any more.
    fn install(&self, routing: ClusterRouting) -> Result<(), Error> {
        let before = self.table.load_full();
        let mut endpoints = HashMap::new();
        for server in routing.unique_primary_nodes() {
            let endpoint = match before.endpoints.get(&server) {
                Some(endpoint) => endpoint.clone(),
                None => open(&self.common, &server)
                    .map_err(|error| Error::new(ErrorKind::Cluster, error.to_string()))?,
            };
            endpoints.insert(server, endpoint);
        }
        let table = SlotTable { routing, endpoints };
        let has_changed = table.slots() != before.slots();
        self.table.store(Arc::new(table));
        self.lookups.fetch_add(1, Ordering::Release);
        if has_changed {
            self.common.events.send(LinkEvent::Moved);
        }
        Ok(())
    }

    /// Asks one of the servers for the state of the Cluster, and looks the slots up if they may have moved.
    /// Returns the newest epoch, which rises when slots move.
    pub(super) async fn topology(&self, known: Option<u64>) -> Result<Option<u64>, Unavailable> {
        let call = Call { name: "CLUSTER", arguments: vec!["INFO".into()] };
        let unavailable = |error: Error| Unavailable(self.common.errors.redact(error.details()));
        let any = match self.any() {
            Ok(any) => any,
            Err(error) => {
                self.refresh(None).await.map_err(unavailable)?;
                return Err(error);
            }
        };
        let info = any.commands.send(&call).await.map_err(unavailable)?;
        let slots = |name| field(&info, name).and_then(|slots| slots.parse().ok()).unwrap_or(0);
        let failing: u64 = slots("cluster_slots_pfail") + slots("cluster_slots_fail");
        self.failing.store(failing, Ordering::Relaxed);
        if let Some(epoch) = epoch_in(&info) {
            self.epoch.observe(epoch);
        }
        let newest = self.epoch.newest();
        let is_whole = self.endpoints().iter().all(|(_, endpoint)| endpoint.is_connected());
        if newest != known || failing > 0 || !is_whole {
            self.refresh(None).await.map_err(unavailable)?;
        }
        Ok(newest)
    }

    pub(super) fn failing_slots(&self) -> u64 {
        self.failing.load(Ordering::Relaxed)
    }
}

/// The epoch in a reply to `CLUSTER INFO`.
fn epoch_in(info: &Value) -> Option<u64> {
    field(info, "cluster_current_epoch")?.parse().ok()
}

fn open(common: &Arc<Common>, server: &Server) -> Result<Arc<Endpoint>, ClientError> {
    Endpoint::open(common, &ServerConfig::Centralized { server: server.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: a slot that no server had, before all others, was a panic.
    #[test]
    fn a_slot_that_no_server_has_is_not_found() {
        let range = |from: i64, to: i64, port: i64| {
            let server = Value::Array(vec!["host".into(), port.into(), "id".into()]);
            Value::Array(vec![from.into(), to.into(), server])
        };
        let slots = Value::Array(vec![range(300, 400, 2), range(100, 200, 1)]);
        let routing = ClusterRouting::from_cluster_slots(slots, "default").unwrap();
        let table = SlotTable { routing, endpoints: HashMap::new() };
        let port = |slot| table.server_of(slot).map(|server| server.port);
        assert_eq!([100, 200, 300, 400].map(port), [Some(1), Some(1), Some(2), Some(2)]);
        assert_eq!([0, 99, 201, 299, 401, 16383].map(port), [None; 6]);
        let empty = SlotTable { routing: ClusterRouting::new(), endpoints: HashMap::new() };
        assert_eq!(empty.server_of(0), None);
    }
}
