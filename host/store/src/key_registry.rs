//! The trait of the API keys that a store keeps, in addition to those of the configuration. Authenticates
//! nobody.

use crate::{StoredKeys, Unavailable};

/// API keys that are valid on every node.
#[async_trait::async_trait]
pub trait KeyRegistry: Send + Sync {
    /// Reads all keys. `None` if nothing has changed since `known` was read.
    ///
    /// The store has lost each key that is known but no longer there: a key is revoked by writing a
    /// revocation. Lost keys are written again. If that fails, the answer contains them nevertheless, and the
    /// next call tries again.
    ///
    /// # Errors
    ///
    /// If the store does not answer in time.
    async fn read(&self, known: &StoredKeys) -> Result<Option<StoredKeys>, Unavailable>;
}
