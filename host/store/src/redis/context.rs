//! What all parts of the Redis store share: connections to Redis, clocks, this node's name, and counts. Knows
//! nothing about sessions, the lease, or what other nodes have left behind.

pub(super) mod acknowledgements;
pub(super) mod batcher;
pub(super) mod cluster_clock;
pub(super) mod connections;
pub(super) mod faults;
pub(super) mod fullest_server;
pub(super) mod lease_expiry;
pub(super) mod member_writer;
pub(super) mod node_name;
pub(super) mod owned_entries;
pub(super) mod recent_keys;
pub(super) mod redis_clock;
pub(super) mod usage;

use crate::{
    EventFeed, RESPONSE_TIMEOUT, Retention, StoreMetrics, Unavailable,
    redis::{
        context::{
            acknowledgements::Acknowledgements,
            cluster_clock::ClusterClock,
            connections::ClusterConnectionCounts,
            faults::NodeFaults,
            fullest_server::FullestServer,
            lease_expiry::LeaseExpiry,
            member_writer::MemberWriter,
            node_name::NodeName,
            owned_entries::OwnedEntries,
            recent_keys::RecentKeys,
            redis_clock::{MAX_SAMPLES, RedisClock},
            usage::RedisUsage,
        },
        link::Link,
        names::Names,
        replies,
        rooms::RedisRooms,
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

/// How long a starting node may take to sample Redis' clock.
const CLOCK_SAMPLING_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct Context {
    pub link: Arc<Link>,
    pub names: Names,
    pub rooms: RedisRooms,
    pub retention: Retention,
    pub owned: Arc<OwnedEntries>,
    pub members: MemberWriter,
    pub acknowledgements: Acknowledgements,
    pub connections: Arc<ClusterConnectionCounts>,
    pub usage: Arc<RedisUsage>,
    pub recent_keys: Arc<RecentKeys>,
    pub fullest_server: Arc<FullestServer>,
    pub node: Arc<NodeName>,
    pub lease_expiry: Arc<LeaseExpiry>,
    /// A Redis process has been replaced or restarted since the lease was last renewed.
    pub server_replaced: AtomicBool,
    pub faults: NodeFaults,
    pub feed: EventFeed,
    pub metrics: StoreMetrics,
    /// A lower bound of Redis' clock.
    pub redis_clock: Arc<RedisClock>,
    /// The clock of leases, claims and the ends of sessions.
    pub cluster_clock: ClusterClock,
    /// How many milliseconds Redis' clock is ahead of this node's.
    pub clock_offset_ms: Arc<AtomicI64>,
}

impl Context {
    pub(super) fn new(
        link: Link,
        names: Names,
        retention: Retention,
        metrics: StoreMetrics,
        feed: EventFeed,
        memory: Arc<MemoryAccount>,
    ) -> Arc<Self> {
        let link = Arc::new(link);
        let node = Arc::new(NodeName::new());
        let (owned, redis_clock) =
            (Arc::new(OwnedEntries::new(&link, &names)), Arc::new(RedisClock::default()));
        let lease_expiry = Arc::new(LeaseExpiry::default());
        let fullest_server = Arc::new(FullestServer::default());
        Arc::new(Self {
            rooms: RedisRooms {
                link: link.clone(),
                names: names.clone(),
                retention: retention.clone(),
                memory: memory.clone(),
            },
            members: MemberWriter::new(&link, &names, &retention),
            acknowledgements: Acknowledgements::new(&link, &names),
            connections: ClusterConnectionCounts::new(
                &link,
                &names,
                &node,
                &owned,
                &redis_clock,
                &lease_expiry,
            ),
            usage: Arc::new(RedisUsage::new(retention.clone(), &fullest_server, &memory)),
            recent_keys: Arc::default(),
            fullest_server,
            link,
            names,
            retention,
            owned,
            node,
            lease_expiry,
            server_replaced: AtomicBool::new(false),
            faults: NodeFaults::default(),
            feed,
            metrics,
            redis_clock,
            cluster_clock: ClusterClock::default(),
            clock_offset_ms: Arc::default(),
        })
    }

    /// Cluster time in milliseconds. Asks Redis if this node has no recent reading.
    pub(super) async fn cluster_time(&self) -> Result<u64, Unavailable> {
        if let Some(time) = self.cluster_clock.recent() {
            return Ok(time);
        }
        let time = self.link.command("HGET", vec![self.names.clock().into(), "time".into()]).await?;
        self.cluster_clock.observe(if time.is_null() { 0 } else { replies::number(&time)? });
        Ok(self.cluster_clock.now())
    }

    /// Samples Redis' clock. The fastest reply gives the best estimate, which is needed to order this node's
    /// first resumes among those of other nodes.
    pub(super) async fn sample_clock(&self) {
        let sampling = async {
            for _ in 0..MAX_SAMPLES {
                if let Ok(time) = server_time(&self.link, self.names.clock()).await {
                    self.redis_clock.observe(time);
                }
            }
        };
        // Do not hold up the start when Redis is slow.
        tokio::time::timeout(CLOCK_SAMPLING_TIMEOUT, sampling).await.ok();
    }

    /// Claims entries of a list that are due. Returns them and their new score, until which they are reserved
    /// for this node.
    pub(super) async fn claim_due(
        &self,
        list: String,
        claim: Duration,
        max_entries: u64,
    ) -> Result<(Vec<Arc<str>>, u64), Unavailable> {
        let now = self.cluster_time().await?;
        let claimed = now + claim.as_millis() as u64;
        let deadline = self.redis_clock.now_ms() + RESPONSE_TIMEOUT.as_millis() as u64;
        let claim = schedules::Claim { now, until: claimed, max_entries, deadline };
        Ok((schedules::claim_due(&self.link, list, &claim).await?, claimed))
    }
}
