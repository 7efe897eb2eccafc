//! How much is kept and for how long. Says nothing about where.

use serde::Deserialize;
use std::time::Duration;
use switchyard_process::unit;

/// How long an idempotency key is remembered.
pub const KEY_TTL: Duration = Duration::from_secs(5 * 60);

/// What is kept and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    pub history: HistoryConfig,
    /// How long a session outlives its connection.
    pub session: Duration,
    /// How long an idempotency key is remembered.
    pub key: Duration,
}

/// `[rooms] history`: a message is held until one of these is passed.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HistoryConfig {
    /// Newest messages held a room; 0 holds none.
    pub messages: usize,
    #[serde(deserialize_with = "unit::duration")]
    pub age: Duration,
    /// Of all messages held of a room, with what each takes beside its own.
    #[serde(deserialize_with = "unit::size")]
    pub bytes: usize,
}

impl Default for HistoryConfig {
    fn default() -> Self {
        Self { messages: 1000, age: Duration::from_secs(600), bytes: 16 << 20 }
    }
}
