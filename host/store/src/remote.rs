//! What only a store outside of this process has: it may be away, forget, and be shared with other nodes.

use crate::{Hold, Unavailable};

/// The part of a store that the network makes necessary.
#[async_trait::async_trait]
pub trait RemoteStore: Send + Sync {
    /// Makes a round trip. `Some` says what part of the store cannot be reached while the rest can; the error, why this
    /// node is of no use.
    async fn check(&self) -> Result<Option<String>, Unavailable>;

    /// The client of a connection was heard after [`Event::Probe`](crate::Event::Probe): takes its session back, unless another
    /// connection has it by now.
    fn vouch(&self, hold: Hold);

    /// Records what is not recorded yet, and tells other nodes that this one is gone. Ask the store nothing afterwards.
    async fn close(&self);
}
