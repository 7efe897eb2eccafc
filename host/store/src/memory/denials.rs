//! The memory store as a registry of bans and revocations, for a single node.

use super::MemoryStore;
use crate::{
    Unavailable,
    denial::{Denial, DenialRegistry, DenialTarget, DenyError, StoredDenials},
};
use switchyard_process::lock::LockExt;
use switchyard_protocol::unix_ms;

#[async_trait::async_trait]
impl DenialRegistry for MemoryStore {
    async fn read(&self, known: &StoredDenials) -> Result<Option<StoredDenials>, Unavailable> {
        Ok(self.denials.locked().newer(&known.revision, unix_ms()))
    }

    async fn deny(&self, denial: &Denial) -> Result<(), DenyError> {
        self.denials.locked().deny(denial, unix_ms()).map_err(|_| DenyError::Full)
    }

    async fn lift(&self, target: &DenialTarget) -> Result<bool, Unavailable> {
        Ok(self.denials.locked().lift(target, unix_ms()))
    }
}
