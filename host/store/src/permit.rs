//! A principal's place for one connection.

use std::{fmt, sync::Arc};

/// Where places are counted.
pub(crate) trait Places: Send + Sync {
    fn give_back(self: Arc<Self>, principal: &Arc<str>);
}

/// A place, given back when this is dropped.
pub struct Permit {
    principal: Arc<str>,
    places: Arc<dyn Places>,
}

impl Permit {
    pub(super) fn new(principal: Arc<str>, places: Arc<dyn Places>) -> Self {
        Self { principal, places }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.places.clone().give_back(&self.principal);
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "a place of {}", self.principal)
    }
}
