//! Stores the values that plugins share between nodes. Every node keeps a copy of its own; this store brings the
//! changes of all of them into one order. Does not know what the values mean.

use crate::Unavailable;
use bytes::Bytes;
use std::sync::Arc;

/// Stores the shared values of each plugin, by the name of the plugin in the configuration.
#[async_trait::async_trait]
pub trait SharedValueStore: Send + Sync {
    /// Writes changes in this order, after all changes of other nodes, and returns those that the node does not
    /// know yet. After an error, the changes may have been written nevertheless; writing them again does no
    /// harm, except that they come after what others have changed meanwhile. If all values take more than
    /// `max_bytes`, those that were written first are removed: nodes that have them may keep them.
    async fn exchange(
        &self,
        plugin: &str,
        position: &ValuePosition,
        changes: &[ValueChange],
        max_bytes: u64,
    ) -> Result<ValueExchange, Unavailable>;

    /// Removes all values of a plugin.
    async fn remove(&self, plugin: &str) -> Result<RemovedValues, Unavailable>;
}

/// Up to where a node knows the changes of a plugin's values. That of a node that knows nothing is the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ValuePosition {
    /// Identifies the stored values. Another one if they were lost or removed.
    pub epoch: Arc<str>,
    /// The version up to which the node has read the values.
    pub read: u64,
    /// The version up to which nothing can have been deleted without the node's knowledge.
    pub learned: u64,
}

/// A change of one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueChange {
    /// Any bytes.
    pub key: Bytes,
    /// The principal on whose behalf it was changed. Empty if there is none.
    pub principal: Arc<str>,
    /// `None` if it was deleted.
    pub data: Option<Bytes>,
    /// For how many milliseconds from now it is valid; 0 means for ever.
    pub ttl_ms: u64,
}

/// What a node learns from the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueExchange {
    /// The position from which the node goes on.
    pub position: ValuePosition,
    /// The node has to drop the values that it has, because it cannot be told any more which of them were deleted.
    pub restart: bool,
    /// There are more changes to read.
    pub has_more: bool,
    /// In the order in which they are to be made.
    pub changes: Vec<ValueChange>,
}

/// How much was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemovedValues {
    /// The number of values.
    pub values: u64,
    /// The bytes that they took, about 300 for each in addition to its key and data.
    pub bytes: u64,
}
