//! `[tier.NAME]`: the limits of principals, by the tier of their key. Counts nothing.

use crate::rate::{ByteRate, Rate};
use serde::{Deserialize, Deserializer, de::Error};
use switchyard_process::unit;

/// `[tier.NAME]`: the limits of principals whose keys are of this tier. `None` means no limit.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tier {
    /// Maximum number of live connections of one principal, on all nodes that share a store.
    pub connections: u32,
    /// Maximum number of rooms of one connection. `*` and the inbox do not count.
    pub rooms: u32,
    /// How many frames and HTTP calls.
    pub requests: Option<Rate>,
    /// How many messages published.
    pub publishes: Option<Rate>,
    /// How many bytes of data published.
    pub bytes: Option<ByteRate>,
    /// How many rooms in requests to subscribe.
    pub subscribes: Option<Rate>,
    /// How many bytes of messages read from the store, for history and replays.
    pub reads: Option<ByteRate>,
    /// Maximum number of different filters of one principal in one plugin.
    pub filters: Option<u32>,
    /// How many bytes a node may keep for one principal.
    #[serde(deserialize_with = "memory")]
    pub memory: Option<usize>,
}

impl Default for Tier {
    fn default() -> Self {
        Self {
            connections: 100,
            rooms: 100,
            requests: None,
            publishes: None,
            bytes: None,
            subscribes: None,
            reads: None,
            filters: None,
            memory: None,
        }
    }
}

/// The smallest `tier.NAME.memory`: with less, not even a few connections have room.
const MIN_MEMORY_BYTES: usize = 64 << 10;

fn memory<'de, D: Deserializer<'de>>(from: D) -> Result<Option<usize>, D::Error> {
    match unit::size(from)? {
        bytes @ MIN_MEMORY_BYTES.. => Ok(Some(bytes)),
        bytes => Err(D::Error::custom(format!("{bytes} bytes are too few: expected at least 64KiB"))),
    }
}
