//! The trait of what only a store outside of this process has: it can be unreachable, lose data, and be
//! shared with other nodes.

use crate::{SessionHandle, Unavailable};

/// A store that is reached over the network.
#[async_trait::async_trait]
pub trait RemoteStore: Send + Sync {
    /// Makes a round trip to the store, to learn whether this node can serve clients. `Some` if it can, but a
    /// part of the store cannot be reached: which part, for operators.
    ///
    /// # Errors
    ///
    /// If this node cannot serve clients; the error is the reason.
    async fn check(&self) -> Result<Option<String>, Unavailable>;

    /// Whether all keys are on one server at a time, so that a node that cannot reach one key cannot reach any.
    fn has_one_server(&self) -> bool;

    /// Records that the client of this connection has answered the ping of an
    /// [`Event::Probe`](crate::Event::Probe), and takes its session back unless another connection has
    /// resumed it by now.
    fn confirm_alive(&self, handle: SessionHandle);

    /// Writes what is not written yet, and tells the other nodes that this one is gone. The store must not be
    /// used afterwards.
    async fn close(&self);
}
