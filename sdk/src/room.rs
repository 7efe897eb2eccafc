//! The hook `room`: is this a name of a room, and which is its one spelling.

use crate::{Plugin, Reject};
use std::time::Duration;

/// A room's name is good, as it is or under another spelling.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoomVerdict {
    /// The name to use instead. It must be one that the same plugin governs and leaves as it is.
    pub canonical: Option<String>,
    /// For how long the host may give this answer without asking again. Zero: it asks every time.
    pub cache: Duration,
}

impl RoomVerdict {
    /// `spelling` is the room's one name; it may be equal to `name`, the one that was asked for.
    pub fn canonical(name: &str, spelling: String) -> Self {
        Self { canonical: (spelling != name).then_some(spelling), cache: Duration::ZERO }
    }

    pub fn cached(self, cache: Duration) -> Self {
        Self { cache, ..self }
    }
}

pub trait Room: Plugin {
    /// `name` has passed the host's own grammar: parts of `[A-Za-z0-9._-]` joined by colons, 128 bytes at most.
    ///
    /// # Errors
    /// Usually [`Reject::invalid`]: what is wrong with the name and which would be right.
    fn room(&self, name: &str) -> Result<RoomVerdict, Reject>;
}
