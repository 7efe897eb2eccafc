//! The embedded store: all data is in this process and is gone when it ends. Implements the traits of a store
//! for a single node.
//!
//! Rooms are spread over [`STRIPES`] locks by the hash of their name. A call that needs both takes the lock
//! of the sessions before that of a room, never the other way round. No lock is held across an await, and no
//! lock is held for longer than a page of rooms takes ([`stripe::PAGE_ROOMS`], [`MAX_TRIMMED_PER_PAGE`]),
//! however many rooms there are.

mod broker;
mod denials;
mod eviction;
mod members;
mod plugins;
mod room_directory;
mod room_log;
mod session_store;
mod sessions;
mod stripe;

use crate::{
    EventFeed, Governance, Retention, SessionToken, Store, connection_counts::ConnectionCounts,
    denial::DenialTable,
};
use eviction::Eviction;
use plugins::PluginTable;
use room_log::RoomLog;
use sessions::SessionTable;
use std::{
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use stripe::Stripe;
use switchyard_process::{lock::LockExt, memory::MemoryAccount, vital::VitalTasks};
use switchyard_protocol::room::RoomName;
use tokio::time::Instant;

/// How many locks rooms are spread over: far more than there are cores, so that two rarely collide.
const STRIPES: usize = 64;
/// How often expired messages, keys, rooms and sessions are removed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How long a room without members, messages, keys and a subscription stays after its last use. Then it is
/// forgotten, and its epoch ends.
const IDLE_ROOM_TTL: Duration = Duration::from_secs(30);
/// How many expired messages and keys a sweep removes before it releases the lock of their rooms, apart from
/// those of the last room.
const MAX_TRIMMED_PER_PAGE: usize = 1024;
/// The store in memory. Convert it to a [`Store`] to use it.
pub struct MemoryStore {
    retention: Retention,
    feed: EventFeed,
    connection_counts: Arc<ConnectionCounts>,
    hasher: RandomState,
    stripes: Vec<Mutex<Stripe>>,
    sessions: Mutex<SessionTable>,
    plugins: Mutex<PluginTable>,
    governance: Mutex<Governance>,
    denials: Mutex<DenialTable>,
    account: Arc<MemoryAccount>,
    eviction: Eviction,
}

impl MemoryStore {
    /// An empty store, which charges what it keeps to `account` and puts its events into `feed`.
    ///
    /// Spawns a task on `vitals` that removes what has expired, every second. The task ends after the store
    /// was dropped.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub fn new(
        retention: Retention,
        feed: EventFeed,
        account: &Arc<MemoryAccount>,
        vitals: &VitalTasks,
    ) -> Arc<Self> {
        let session_ttl = retention.session_ttl;
        let store = Arc::new(Self {
            retention,
            feed,
            connection_counts: Arc::default(),
            hasher: RandomState::new(),
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            sessions: Mutex::new(SessionTable::new(session_ttl, account)),
            plugins: Mutex::default(),
            governance: Mutex::default(),
            denials: Mutex::default(),
            account: account.clone(),
            eviction: Eviction::default(),
        });
        let weak = Arc::downgrade(&store);
        vitals.spawn("the sweep of the memory store", async move {
            let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
            loop {
                ticks.tick().await;
                let Some(store) = weak.upgrade() else { return };
                store.sweep().await;
                store.evict();
            }
        });
        store
    }

    /// Removes what has expired. Lets other tasks run after each batch of sessions and each page of rooms.
    async fn sweep(&self) {
        let now = Instant::now();
        loop {
            let Some(expired) = self.sessions().expire(now) else { break };
            for (token, rooms) in expired {
                rooms.iter().for_each(|room| self.remove_member(token, room));
            }
            tokio::task::yield_now().await;
        }
        for stripe in &self.stripes {
            let mut after = None;
            loop {
                after = self.sweep_page(stripe, after.as_deref(), now);
                if after.is_none() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
    }

    /// Sweeps some rooms, from the one after `after`. Returns the last of them, or `None` at the end of the
    /// stripe.
    fn sweep_page(&self, stripe: &Mutex<Stripe>, after: Option<&str>, now: Instant) -> Option<Arc<str>> {
        let mut stripe = stripe.locked();
        let page = stripe.page(after);
        let is_last = page.len() < stripe::PAGE_ROOMS;
        let mut trimmed = 0;
        for name in &page {
            let Some(log) = stripe.get_mut(name) else { continue };
            trimmed += log.trim(&self.retention, now);
            if log.is_idle(now, IDLE_ROOM_TTL) {
                stripe.remove(name);
            }
            if trimmed >= MAX_TRIMMED_PER_PAGE {
                return Some(name.clone());
            }
        }
        if is_last {
            stripe.shrink();
            return None;
        }
        page.last().cloned()
    }

    fn sessions(&self) -> MutexGuard<'_, SessionTable> {
        self.sessions.locked()
    }

    fn plugins(&self) -> MutexGuard<'_, PluginTable> {
        self.plugins.locked()
    }

    fn stripe(&self, room: &str) -> MutexGuard<'_, Stripe> {
        let stripe = self.hasher.hash_one(room) as usize % STRIPES;
        self.stripes[stripe].locked()
    }

    /// Calls `act` with the trimmed log of the room, under its lock. Creates the room if it does not exist.
    fn with_room<T>(&self, room: &RoomName, act: impl FnOnce(&mut RoomLog) -> T) -> T {
        let now = Instant::now();
        let mut stripe = self.stripe(room);
        let log = match stripe.get_mut(room.as_str()) {
            Some(log) => log,
            None => stripe.insert(RoomLog::new(room.shared(), now, &self.account)),
        };
        log.trim(&self.retention, now);
        act(log)
    }

    /// The same for a room that exists; otherwise `None`.
    fn with_existing_room<T>(&self, room: &str, act: impl FnOnce(&mut RoomLog) -> T) -> Option<T> {
        let mut stripe = self.stripe(room);
        stripe.get_mut(room).map(|log| {
            log.trim(&self.retention, Instant::now());
            act(log)
        })
    }

    fn remove_member(&self, token: SessionToken, room: &str) {
        self.with_existing_room(room, |log| log.remove_member(token));
    }
}

impl From<Arc<MemoryStore>> for Store {
    fn from(memory: Arc<MemoryStore>) -> Self {
        Self {
            broker: memory.clone(),
            sessions: memory.clone(),
            rooms: memory.clone(),
            plugins: memory.clone(),
            governance: memory.clone(),
            denials: memory,
            keys: None,
            shared_values: None,
            remote: None,
        }
    }
}

#[cfg(test)]
mod tests;
