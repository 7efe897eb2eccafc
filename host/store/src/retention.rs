//! How much a store keeps, and for how long. Does not say where.

use crate::RoomTable;
use arc_swap::ArcSwap;
use serde::Deserialize;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use switchyard_process::unit;

/// How long a node has its store remember an idempotency key: 5 minutes, as docs/protocol.md promises.
pub const IDEMPOTENCY_KEY_TTL: Duration = Duration::from_secs(5 * 60);

/// How much a store keeps, and for how long.
#[derive(Clone, Debug)]
pub struct Retention {
    /// How much of each room's history.
    pub history: HistoryPolicies,
    /// How long a session can be resumed after its connection ended.
    pub session_ttl: Duration,
    /// How long an idempotency key is remembered.
    pub idempotency_key_ttl: Duration,
}

/// How much of each room's history is kept. Clones share the policies, which may be replaced while a store uses
/// them. A store applies new ones to a room from its next message on, or sooner.
#[derive(Clone, Debug)]
pub struct HistoryPolicies(Arc<CurrentPolicies>);

#[derive(Debug)]
struct CurrentPolicies {
    rooms: ArcSwap<RoomTable<HistoryConfig>>,
    generation: AtomicU64,
}

impl HistoryPolicies {
    /// Policies by room.
    pub fn new(rooms: RoomTable<HistoryConfig>) -> Self {
        let generation = AtomicU64::new(1);
        Self(Arc::new(CurrentPolicies { rooms: ArcSwap::from_pointee(rooms), generation }))
    }

    /// How much of a room's history is kept. The room must have a valid name.
    pub fn of(&self, room: &str) -> HistoryConfig {
        *self.0.rooms.load().get(room)
    }

    /// Replaces all policies.
    pub fn replace(&self, rooms: RoomTable<HistoryConfig>) {
        self.0.rooms.store(Arc::new(rooms));
        // After the policies, so that whoever sees the new number reads the new policies.
        self.0.generation.fetch_add(1, Ordering::Release);
    }

    /// Rises when the policies are replaced. Never 0.
    pub(crate) fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }
}

impl From<HistoryConfig> for HistoryPolicies {
    /// The same for all rooms.
    fn from(config: HistoryConfig) -> Self {
        Self::new(RoomTable::new(config, vec![]))
    }
}

/// `rooms.history`. A message is held until it exceeds one of these limits.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HistoryConfig {
    /// How many messages to hold per room. With 0, none is held.
    pub messages: usize,
    /// How long to hold a message.
    #[serde(deserialize_with = "unit::duration")]
    pub age: Duration,
    /// How many bytes to hold per room, including what each message takes beside its own text.
    #[serde(deserialize_with = "unit::size")]
    pub bytes: usize,
}

impl Default for HistoryConfig {
    fn default() -> Self {
        Self { messages: 1000, age: Duration::from_secs(600), bytes: 16 << 20 }
    }
}
