//! Reasons why this node cannot serve clients although Redis answers. What Redis itself refuses is in
//! `redis_errors`.

use std::{collections::BTreeMap, sync::Mutex};
use switchyard_process::lock::LockExt;

/// A reason why this node cannot serve clients although Redis answers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum NodeFault {
    /// Redis has keys of another schema: it lost those of this version, and a node of another version has
    /// started since.
    Schema,
    /// Redis has lost API keys that this node knows.
    Keys,
    /// Redis has lost bans or revocations that this node knows.
    Denials,
}

#[derive(Default)]
pub(crate) struct NodeFaults(Mutex<BTreeMap<NodeFault, String>>);

impl NodeFaults {
    /// Sets a fault, or clears it with `None`. Returns whether it is new.
    pub(crate) fn set(&self, fault: NodeFault, reason: Option<String>) -> bool {
        let mut faults = self.0.locked();
        match reason {
            Some(reason) => faults.insert(fault, reason).is_none(),
            None => {
                faults.remove(&fault);
                false
            }
        }
    }

    /// The most important reason, which is reported.
    pub(crate) fn first(&self) -> Option<String> {
        self.0.locked().values().next().cloned()
    }
}
