//! How long a node's lease lasts and when it ends. Does not renew it.

use std::{sync::Mutex, time::Duration};
use switchyard_process::lock::LockExt;
use tokio::time::Instant;

/// A node that has not renewed its lease for this long is dead.
pub(crate) const LEASE_DURATION: Duration = Duration::from_secs(10);
/// How long a node may take to clean up what it has claimed, before another node is given it.
pub(crate) const CLAIM_DURATION: Duration = Duration::from_secs(15);

/// When the lease was last renewed. This is when the request was made, not when it was answered, so the lease
/// does not end later than other nodes think.
pub(crate) struct LeaseExpiry(Mutex<Instant>);

impl Default for LeaseExpiry {
    fn default() -> Self {
        Self(Mutex::new(Instant::now()))
    }
}

impl LeaseExpiry {
    pub(crate) fn set(&self, requested_at: Instant) {
        *self.0.locked() = requested_at;
    }

    /// Until when other nodes certainly consider this node alive.
    pub(crate) fn end(&self) -> Instant {
        *self.0.locked() + LEASE_DURATION
    }

    /// By this node's clock, other nodes may consider it dead.
    pub(crate) fn has_expired(&self) -> bool {
        Instant::now() > self.end()
    }
}
