//! How long a node's lease lasts and when it ends. Renews none.

use std::{sync::Mutex, time::Duration};
use tokio::time::Instant;

/// A node that was not heard of for so long is dead.
pub(crate) const LEASE_DURATION: Duration = Duration::from_secs(10);
/// What was begun on what a node left is done by another if it is not done by then.
pub(crate) const CLAIM_DURATION: Duration = Duration::from_secs(15);

/// When the lease was last asked for and given.
pub(crate) struct LeaseExpiry(Mutex<Instant>);

impl Default for LeaseExpiry {
    fn default() -> Self {
        Self(Mutex::new(Instant::now()))
    }
}

impl LeaseExpiry {
    pub(crate) fn set(&self, asked: Instant) {
        *self.0.lock().expect("no code panics while it holds the time") = asked;
    }

    /// Until when others surely do not take this node for dead.
    pub(crate) fn end(&self) -> Instant {
        *self.0.lock().expect("no code panics while it holds the time") + LEASE_DURATION
    }

    /// By this node's own clock others may have taken it for dead.
    pub(crate) fn has_expired(&self) -> bool {
        Instant::now() > self.end()
    }
}
