//! The servers of a Cluster, and which of them has a slot. One that does not answer holds up only what is asked of it.

use super::{
    Call,
    connection::{Common, Endpoint},
    signals::Signal,
};
use crate::Unavailable;
use arc_swap::ArcSwap;
use fred::{
    error::{Error, ErrorKind},
    types::{
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

/// How long one server may take to say which has which slots.
const SLOTS: Duration = Duration::from_millis(500);
/// How long all of them are waited for when a node starts; those that are away then hold up only what is asked of them.
const START: Duration = Duration::from_secs(2);

pub(super) struct Cluster {
    common: Arc<Common>,
    /// Where to ask when none of those that are known answers.
    seeds: Vec<Server>,
    table: ArcSwap<Table>,
    /// Held while it is looked which server has which slots.
    turn: tokio::sync::Mutex<()>,
    /// How often that was seen.
    looks: AtomicU64,
    /// Slots whose server others cannot reach.
    failing: AtomicU64,
    /// Which server is asked next for what any of them knows.
    next: AtomicUsize,
}

#[derive(Clone)]
struct Table {
    routing: ClusterRouting,
    endpoints: HashMap<Server, Arc<Endpoint>>,
}

impl Table {
    /// Which server has which slots.
    fn slots(&self) -> Vec<(u16, u16, &Server)> {
        self.routing.slots().iter().map(|range| (range.start, range.end, &range.primary)).collect()
    }
}

impl Cluster {
    /// Begins to connect to the servers that are configured.
    pub(super) fn new(common: Arc<Common>, seeds: Vec<Server>) -> Result<Self, String> {
        let mut endpoints = HashMap::new();
        for server in &seeds {
            endpoints.insert(server.clone(), open(&common, server)?);
        }
        let table = Table { routing: ClusterRouting::new(), endpoints };
        Ok(Self {
            common,
            seeds,
            table: ArcSwap::from_pointee(table),
            turn: tokio::sync::Mutex::default(),
            looks: AtomicU64::new(0),
            failing: AtomicU64::new(0),
            next: AtomicUsize::new(0),
        })
    }

    /// Waits until it is known which server has which slots, and a while for those servers; or why that is not known.
    pub(super) async fn opened(&self) -> Result<(), String> {
        let endpoints: Vec<_> = self.table.load().endpoints.values().cloned().collect();
        let opened =
            futures_util::future::select_ok(endpoints.iter().map(|endpoint| Box::pin(endpoint.opened())));
        opened.await?;
        self.refresh(None).await.map_err(|error| self.common.trouble.hidden(error.details()))?;
        let table = self.table.load_full();
        let all = futures_util::future::join_all(table.endpoints.values().map(|endpoint| endpoint.opened()));
        timeout(START, all).await.ok();
        Ok(())
    }

    /// Which server has which slots, to compare.
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
        let server = table.routing.get_server(redis_keyslot(key.as_bytes()));
        let endpoint = server.and_then(|server| table.endpoints.get(server)).cloned();
        endpoint.ok_or_else(|| Error::new(ErrorKind::Cluster, "no server of the Cluster has this slot"))
    }

    /// The same, by its address.
    pub(super) fn server_of(&self, key: &str) -> Option<Server> {
        self.table.load().routing.get_server(redis_keyslot(key.as_bytes())).cloned()
    }

    /// A connected server, another one each time.
    pub(super) fn any(&self) -> Result<Arc<Endpoint>, Unavailable> {
        let table = self.table.load();
        let mut servers: Vec<_> =
            table.endpoints.iter().filter(|(_, endpoint)| endpoint.commands.is_connected()).collect();
        servers.sort_by_key(|(server, _)| *server);
        let next = self.next.fetch_add(1, Ordering::Relaxed) % servers.len().max(1);
        let found = servers.get(next).map(|(_, endpoint)| (*endpoint).clone());
        found.ok_or_else(|| Unavailable("no server of the Cluster can be reached".to_owned()))
    }

    /// A server that may have slots soon: until the next look, unless it has.
    pub(super) fn temporary(&self, server: &Server) -> Result<Arc<Endpoint>, Error> {
        let wrong = |error| Error::new(ErrorKind::Cluster, error);
        if let Some(endpoint) = self.endpoint(server) {
            return Ok(endpoint);
        }
        let endpoint = open(&self.common, server).map_err(wrong)?;
        self.table.rcu(|table| {
            let mut table = Table::clone(table);
            table.endpoints.entry(server.clone()).or_insert_with(|| endpoint.clone());
            table
        });
        Ok(endpoint)
    }

    /// Looks which server has which slots; `knows` is asked first. What somebody else looked up meanwhile is as good.
    pub(super) async fn refresh(&self, knows: Option<&Server>) -> Result<(), Error> {
        let before = self.looks.load(Ordering::Acquire);
        let _turn = self.turn.lock().await;
        if self.looks.load(Ordering::Acquire) != before {
            return Ok(());
        }
        let asked = Call { name: "CLUSTER", arguments: vec!["SLOTS".into()] };
        let mut last = None;
        for (server, endpoint) in self.candidates(knows)? {
            let answer = timeout(SLOTS, endpoint.commands.ask(&asked)).await;
            match answer.unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, "Redis does not answer"))) {
                Ok(slots) => match ClusterRouting::from_cluster_slots(slots, server.host.clone()) {
                    Ok(routing) if !routing.slots().is_empty() => return self.install(routing),
                    Ok(_) => last = Some(Error::new(ErrorKind::Cluster, "the Cluster has no slots yet")),
                    Err(error) => last = Some(error),
                },
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::new(ErrorKind::Cluster, "no server of the Cluster can be reached")))
    }

    /// Whom to ask, in this order. Where nobody is connected the configured servers are among them from now on.
    fn candidates(&self, knows: Option<&Server>) -> Result<Vec<(Server, Arc<Endpoint>)>, Error> {
        let mut candidates = vec![];
        if let Some(server) = knows {
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

    /// Connects to servers that are new, and gives up those that have no slots.
    fn install(&self, routing: ClusterRouting) -> Result<(), Error> {
        let before = self.table.load_full();
        let mut endpoints = HashMap::new();
        for server in routing.unique_primary_nodes() {
            let endpoint = match before.endpoints.get(&server) {
                Some(endpoint) => endpoint.clone(),
                None => open(&self.common, &server).map_err(|error| Error::new(ErrorKind::Cluster, error))?,
            };
            endpoints.insert(server, endpoint);
        }
        let table = Table { routing, endpoints };
        let has_changed = table.slots() != before.slots();
        self.table.store(Arc::new(table));
        self.looks.fetch_add(1, Ordering::Release);
        if has_changed {
            self.common.signals.send(Signal::Moved);
        }
        Ok(())
    }

    /// Asks one of the servers how the Cluster is, and looks where the slots are if that may have changed. Gives a number that
    /// rises when slots change hands.
    pub(super) async fn look(&self, known: Option<u64>) -> Result<Option<u64>, Unavailable> {
        let asked = Call { name: "CLUSTER", arguments: vec!["INFO".into()] };
        let unavailable = |error: Error| Unavailable(self.common.trouble.hidden(error.details()));
        let any = match self.any() {
            Ok(any) => any,
            Err(error) => {
                self.refresh(None).await.map_err(unavailable)?;
                return Err(error);
            }
        };
        let info = any.commands.ask(&asked).await.map_err(unavailable)?.into_string().unwrap_or_default();
        let number = |name: &str| -> Option<u64> {
            info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
        };
        let failing = number("cluster_slots_pfail").unwrap_or(0) + number("cluster_slots_fail").unwrap_or(0);
        self.failing.store(failing, Ordering::Relaxed);
        let epoch = number("cluster_current_epoch");
        let is_whole = self.endpoints().iter().all(|(_, endpoint)| endpoint.is_connected());
        if epoch != known || failing > 0 || !is_whole {
            self.refresh(None).await.map_err(unavailable)?;
        }
        Ok(epoch)
    }

    pub(super) fn failing_slots(&self) -> u64 {
        self.failing.load(Ordering::Relaxed)
    }
}

fn open(common: &Arc<Common>, server: &Server) -> Result<Arc<Endpoint>, String> {
    Endpoint::open(common, &ServerConfig::Centralized { server: server.clone() })
}
