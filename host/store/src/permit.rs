//! One of a principal's connection slots. Does not know how many there are.

use std::{fmt, sync::Arc};

/// Where connection slots are counted.
pub(crate) trait ConnectionSlots: Send + Sync {
    fn release(self: Arc<Self>, principal: &Arc<str>);
}

/// One of a principal's connection slots, of which it has a limited number on all nodes together. Dropping
/// the permit releases the slot.
pub struct Permit {
    principal: Arc<str>,
    slots: Arc<dyn ConnectionSlots>,
}

impl Permit {
    pub(crate) fn new(principal: Arc<str>, slots: Arc<dyn ConnectionSlots>) -> Self {
        Self { principal, slots }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.slots.clone().release(&self.principal);
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "a connection slot of {}", self.principal)
    }
}
