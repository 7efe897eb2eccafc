//! Which keys of which Redis are a store's own. Connects to nothing.

use crate::redis::url::RedisUrl;

/// Where the store is.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    pub url: RedisUrl,
    /// Of all keys.
    pub prefix: String,
}
