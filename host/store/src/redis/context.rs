//! What all parts of the store in Redis use: the connections, the clocks, this node's name, and what it counts. Knows nothing of
//! sessions, of the lease or of what others leave behind.

pub(super) mod acknowledgements;
pub(super) mod batcher;
pub(super) mod clock;
pub(super) mod cluster_time;
pub(super) mod connections;
pub(super) mod estate;
pub(super) mod faults;
pub(super) mod fullest_server;
pub(super) mod lease_time;
pub(super) mod members;
pub(super) mod node_name;
pub(super) mod usage;

use crate::{
    Feed, PATIENCE, Retention, StoreMetrics, Unavailable,
    redis::{
        answer,
        context::{
            acknowledgements::Acknowledgements,
            clock::{Clock, SAMPLES},
            cluster_time::ClusterTime,
            connections::Connections,
            estate::Estate,
            faults::NodeFaults,
            fullest_server::FullestServer,
            lease_time::Renewal,
            members::Members,
            node_name::NodeName,
            usage::RedisUsage,
        },
        link::Link,
        names::Names,
        rooms::Rooms,
        scripts::{clock::server_time, schedules},
    },
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64},
    },
    time::Duration,
};
use switchyard_process::memory::MemoryAccount;

/// In which a node that starts looks at Redis' clock.
const LOOKS: Duration = Duration::from_secs(1);

pub(super) struct Context {
    pub link: Arc<Link>,
    pub names: Names,
    pub rooms: Rooms,
    pub retention: Retention,
    pub estate: Arc<Estate>,
    pub members: Members,
    pub acknowledgements: Acknowledgements,
    pub connections: Arc<Connections>,
    pub usage: Arc<RedisUsage>,
    pub fullest_server: Arc<FullestServer>,
    pub node: Arc<NodeName>,
    pub renewed: Arc<Renewal>,
    /// A Redis is another process than before.
    pub has_changed: AtomicBool,
    pub faults: NodeFaults,
    pub feed: Feed,
    pub metrics: StoreMetrics,
    /// Redis' clock, never later than it is.
    pub time: Arc<Clock>,
    /// What leases, claims and the ends of sessions are counted by.
    pub cluster: ClusterTime,
    /// Milliseconds that Redis' clock is ahead of this node's.
    pub clock: Arc<AtomicI64>,
}

impl Context {
    pub(super) fn new(
        link: Link,
        names: Names,
        retention: Retention,
        metrics: StoreMetrics,
        feed: Feed,
        memory: Arc<MemoryAccount>,
    ) -> Arc<Self> {
        let link = Arc::new(link);
        let node = Arc::new(NodeName::new());
        let (estate, time) = (Arc::new(Estate::new(&link, &names)), Arc::new(Clock::default()));
        let renewed = Arc::new(Renewal::default());
        let fullest_server = Arc::new(FullestServer::default());
        Arc::new(Self {
            rooms: Rooms { link: link.clone(), names: names.clone(), retention, memory },
            members: Members::new(&link, &names, &retention),
            acknowledgements: Acknowledgements::new(&link, &names),
            connections: Connections::new(&link, &names, &node, &estate, &time, &renewed),
            usage: Arc::new(RedisUsage::new(retention, &fullest_server)),
            fullest_server,
            link,
            names,
            retention,
            estate,
            node,
            renewed,
            has_changed: AtomicBool::new(false),
            faults: NodeFaults::default(),
            feed,
            metrics,
            time,
            cluster: ClusterTime::default(),
            clock: Arc::default(),
        })
    }

    /// Cluster time in milliseconds, asked for where this node has not heard of it lately.
    pub(super) async fn cluster_time(&self) -> Result<u64, Unavailable> {
        if let Some(time) = self.cluster.recent() {
            return Ok(time);
        }
        let said = self.link.command("HGET", vec![self.names.clock().into(), "time".into()]).await?;
        self.cluster.heard(if said.is_null() { 0 } else { answer::number(&said)? });
        Ok(self.cluster.now())
    }

    /// Asks for Redis' clock until it is known well enough for a client that comes back at once: the answer that came fastest says
    /// best.
    pub(super) async fn look_at_clock(&self) {
        let looked = async {
            for _ in 0..SAMPLES {
                if let Ok(time) = server_time(&self.link, self.names.clock()).await {
                    self.time.heard(time);
                }
            }
        };
        // A slow Redis is not made slower to come back to.
        tokio::time::timeout(LOOKS, looked).await.ok();
    }

    /// Entries of a list that are due, and until when they are this node's by their new score.
    pub(super) async fn due(
        &self,
        list: String,
        claim: Duration,
        most: u64,
    ) -> Result<(Vec<Arc<str>>, u64), Unavailable> {
        let now = self.cluster_time().await?;
        let claimed = now + claim.as_millis() as u64;
        let deadline = self.time.now() + PATIENCE.as_millis() as u64;
        let claim = schedules::Claim { now, until: claimed, most, deadline };
        Ok((schedules::claim_due(&self.link, list, &claim).await?, claimed))
    }
}
