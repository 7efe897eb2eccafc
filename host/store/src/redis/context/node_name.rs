//! The name of this node as other nodes see it. A node that was considered dead continues under another name.

use crate::random::random;
use arc_swap::ArcSwap;
use std::sync::Arc;

pub(crate) struct NodeName(ArcSwap<String>);

impl NodeName {
    /// A name that no node has had.
    pub(crate) fn new() -> Self {
        Self(ArcSwap::from_pointee(random_name()))
    }

    pub(crate) fn get(&self) -> Arc<String> {
        self.0.load_full()
    }

    pub(crate) fn set(&self, name: String) {
        self.0.store(Arc::new(name));
    }
}

pub(crate) fn random_name() -> String {
    format!("{:012x}", u64::from_le_bytes(random()) >> 16)
}
