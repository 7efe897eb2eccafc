//! Which Redis a store uses, and which keys there are its own. Connects to nothing.

use crate::redis::url::RedisUrl;

/// The Redis server or deployment, and the store's part of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// The address of Redis, with credentials.
    pub url: RedisUrl,
    /// The start of all keys.
    pub prefix: String,
}
