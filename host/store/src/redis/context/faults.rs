//! What keeps this node from being of use, though Redis answers. What Redis refuses is the link's affair.

use std::{collections::BTreeMap, sync::Mutex};

/// What keeps this node from being of use, though Redis answers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// The keys in Redis are another version's, since it lost this version's.
    Schema,
    /// Redis has lost API keys that this node knows.
    Keys,
}

#[derive(Default)]
pub(crate) struct Faults(Mutex<BTreeMap<Fault, String>>);

impl Faults {
    /// Notes why, or that it is over. Gives whether it is new.
    pub(crate) fn set(&self, fault: Fault, reason: Option<String>) -> bool {
        let mut faults = self.0.lock().expect("no code panics while it holds the faults");
        match reason {
            Some(reason) => faults.insert(fault, reason).is_none(),
            None => {
                faults.remove(&fault);
                false
            }
        }
    }

    pub(crate) fn first(&self) -> Option<String> {
        self.0.lock().expect("no code panics while it holds the faults").values().next().cloned()
    }
}
