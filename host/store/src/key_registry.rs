//! API keys that are kept in the store, beside those of the configuration. Does not check anybody's key.

use crate::{StoredKeys, Unavailable};

/// Keys that hold on every node.
#[async_trait::async_trait]
pub trait KeyRegistry: Send + Sync {
    /// All keys, unless they are as `known`; then `None`.
    ///
    /// What is known and not there any more was lost by the store, and is written again; to revoke a key is to write that. Where
    /// that fails, the answer has the lost keys all the same, and is tried again the next time.
    async fn read(&self, known: &StoredKeys) -> Result<Option<StoredKeys>, Unavailable>;
}
