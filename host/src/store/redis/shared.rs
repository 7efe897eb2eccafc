//! What the tasks of a store have in common.

use super::{Link, Names, Rooms, held::Held, lease};
use crate::{
    metrics::StoreMetrics,
    protocol::unix_ms,
    store::{Counts, Feed, Retention},
};
use arc_swap::ArcSwap;
use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicI64, Ordering},
};

pub struct Shared {
    pub link: Arc<Link>,
    pub names: Names,
    pub rooms: Rooms,
    pub retention: Retention,
    pub held: Mutex<Held>,
    pub counts: Counts,
    /// This node, as others see it. One that was taken for dead comes back as another.
    pub node: ArcSwap<String>,
    pub feed: Feed,
    pub metrics: StoreMetrics,
    /// Milliseconds that Redis' clock is ahead of this node's.
    pub clock: Arc<AtomicI64>,
}

impl Shared {
    pub fn new(
        link: Link,
        names: Names,
        retention: Retention,
        metrics: StoreMetrics,
        feed: Feed,
    ) -> Arc<Self> {
        let link = Arc::new(link);
        Arc::new(Self {
            rooms: Rooms { link: link.clone(), names: names.clone(), retention },
            link,
            names,
            retention,
            held: Mutex::default(),
            counts: Counts::default(),
            node: ArcSwap::from_pointee(lease::new_node()),
            feed,
            metrics,
            clock: Arc::default(),
        })
    }

    /// Unix milliseconds by Redis' clock.
    pub fn now(&self) -> u64 {
        unix_ms().saturating_add_signed(self.clock.load(Ordering::Relaxed))
    }

    pub fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().expect("no code panics while it holds the sessions")
    }
}
