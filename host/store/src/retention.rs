//! How much a store keeps, and for how long. Does not say where.

use serde::Deserialize;
use std::time::Duration;
use switchyard_process::unit;

/// How long a node has its store remember an idempotency key: 5 minutes, as docs/protocol.md promises.
pub const IDEMPOTENCY_KEY_TTL: Duration = Duration::from_secs(5 * 60);

/// How much a store keeps, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// How much of each room's history.
    pub history: HistoryConfig,
    /// How long a session can be resumed after its connection ended.
    pub session_ttl: Duration,
    /// How long an idempotency key is remembered.
    pub idempotency_key_ttl: Duration,
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
