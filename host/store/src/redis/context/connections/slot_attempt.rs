//! One attempt to get a connection slot, from counting the connection on this node to its permit. Sends
//! nothing.

use super::ClusterConnectionCounts;
use crate::{Permit, redis::scripts::connections::SlotRequest};
use std::sync::Arc;

/// A connection that is counted on this node before Redis has decided whether there is a slot for it. If this
/// is dropped, the connection is no longer counted.
pub(crate) struct SlotAttempt {
    pub(super) connections: Arc<ClusterConnectionCounts>,
    pub(super) principal: Arc<str>,
    /// The principal's connections on this node, this one among them.
    pub(super) own: u32,
    pub(super) max_connections: u32,
    pub(super) outcome: SlotOutcome,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum SlotOutcome {
    /// Redis may have written the count.
    Unknown,
    Refused,
    Granted,
}

impl SlotAttempt {
    /// The request to Redis.
    pub(crate) fn request(&self) -> SlotRequest {
        SlotRequest { own: self.own, max_connections: self.max_connections }
    }

    /// The connection has its slot, which the permit releases.
    pub(crate) fn granted(mut self) -> Permit {
        self.outcome = SlotOutcome::Granted;
        Permit::new(self.principal.clone(), self.connections.clone())
    }

    /// Redis has refused the connection, and written nothing.
    pub(crate) fn refused(mut self) {
        self.outcome = SlotOutcome::Refused;
    }
}

impl Drop for SlotAttempt {
    fn drop(&mut self) {
        let Self { connections, principal, outcome, .. } = self;
        if *outcome != SlotOutcome::Granted {
            connections.counts.subtract(principal);
        }
        // Writes of the count may overtake each other, so write the final count once more.
        if *outcome != SlotOutcome::Refused {
            connections.schedule_write(principal);
        }
    }
}
