//! What the tasks of a store have in common.

use super::{
    Link, Names, Rooms, answer,
    clock::{Clock, SAMPLES},
    cluster_time::ClusterTime,
    connections::Connections,
    estate::Estate,
    holdings::Holdings,
    lease::{self, Renewal},
    listing::Listing,
    members::Members,
    scripts,
    sessions::Sessions,
};
use crate::{Feed, PATIENCE, Retention, StoreMetrics, Unavailable};
use arc_swap::ArcSwap;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64},
    },
    time::Duration,
};
use switchyard_process::memory::MemoryAccount;

/// In which a node that starts looks at Redis' clock.
const LOOKS: Duration = Duration::from_secs(1);

pub(super) struct Shared {
    pub link: Arc<Link>,
    pub names: Names,
    pub rooms: Rooms,
    pub retention: Retention,
    pub estate: Arc<Estate>,
    pub members: Members,
    pub connections: Arc<Connections>,
    pub sessions: Sessions,
    pub listing: Listing,
    pub holdings: Arc<Holdings>,
    /// Sessions whose time is over are being removed.
    pub ending: Arc<tokio::sync::Mutex<()>>,
    /// This node, as others see it. One that was taken for dead comes back as another.
    pub node: Arc<ArcSwap<String>>,
    pub renewed: Arc<Renewal>,
    /// A Redis is another process than before.
    pub has_changed: AtomicBool,
    pub faults: Faults,
    pub feed: Feed,
    pub metrics: StoreMetrics,
    /// Redis' clock, never later than it is.
    pub time: Arc<Clock>,
    /// What leases, claims and the ends of sessions are counted by.
    pub cluster: ClusterTime,
    /// Milliseconds that Redis' clock is ahead of this node's.
    pub clock: Arc<AtomicI64>,
}

/// What keeps this node from being of use, though Redis answers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// The keys in Redis are another version's, since it lost this version's.
    Schema,
    /// Redis has lost API keys that this node knows.
    Keys,
}

#[derive(Default)]
pub(super) struct Faults(Mutex<BTreeMap<Fault, String>>);

impl Faults {
    /// Notes why, or that it is over. Gives whether it is new.
    pub(super) fn set(&self, fault: Fault, reason: Option<String>) -> bool {
        let mut faults = self.0.lock().expect("no code panics while it holds the faults");
        match reason {
            Some(reason) => faults.insert(fault, reason).is_none(),
            None => {
                faults.remove(&fault);
                false
            }
        }
    }

    pub(super) fn first(&self) -> Option<String> {
        self.0.lock().expect("no code panics while it holds the faults").values().next().cloned()
    }
}

impl Shared {
    pub(super) fn new(
        link: Link,
        names: Names,
        retention: Retention,
        metrics: StoreMetrics,
        feed: Feed,
        memory: Arc<MemoryAccount>,
    ) -> Arc<Self> {
        let link = Arc::new(link);
        let node = Arc::new(ArcSwap::from_pointee(lease::new_node()));
        let (estate, time) = (Arc::new(Estate::new(&link, &names)), Arc::new(Clock::default()));
        let renewed = Arc::new(Renewal::default());
        Arc::new(Self {
            rooms: Rooms { link: link.clone(), names: names.clone(), retention, memory },
            members: Members::new(&link, &names, &retention),
            connections: Connections::new(&link, &names, &node, &estate, &time, &renewed),
            sessions: Sessions::default(),
            listing: Listing::default(),
            holdings: Arc::new(Holdings::new(retention)),
            ending: Arc::default(),
            link,
            names,
            retention,
            estate,
            node,
            renewed,
            has_changed: AtomicBool::new(false),
            faults: Faults::default(),
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
                let time = self.link.run(&scripts::TIME, vec![self.names.clock()], vec![]).await;
                if let Ok(time) = time.and_then(|time| answer::number(&time)) {
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
        let arguments = vec![
            answer::integer(now),
            answer::integer(claimed),
            answer::integer(most),
            answer::integer(self.time.now() + PATIENCE.as_millis() as u64),
        ];
        Ok((answer::texts(self.link.run(&scripts::DUE, vec![list], arguments).await?)?, claimed))
    }
}
