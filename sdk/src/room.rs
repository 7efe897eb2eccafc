//! The hook `room`: whether a name is valid, and which name is canonical.

use crate::{Plugin, Reject};
use std::time::Duration;

/// The verdict that a room name is valid, as it is or under its canonical name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoomVerdict {
    /// The canonical name, if it differs. The same plugin must govern that name, and must accept it
    /// unchanged.
    pub canonical: Option<String>,
    /// How long the host may reuse this verdict. With zero it asks every time. The contract has whole
    /// milliseconds, up to about 49 days.
    pub cache: Duration,
}

impl RoomVerdict {
    /// A verdict for `name` with the canonical name `spelling`, which may be the same. The host does not
    /// cache it; see [`cached`](Self::cached).
    pub fn canonical(name: &str, spelling: String) -> Self {
        Self { canonical: (spelling != name).then_some(spelling), cache: Duration::ZERO }
    }

    /// The same verdict, which the host may reuse for the time `cache`.
    pub fn cached(self, cache: Duration) -> Self {
        Self { cache, ..self }
    }
}

/// The hook `room`. List it in [`crate::export!`].
pub trait Room: Plugin {
    /// Decides whether a room may have this name. The host calls this for each name whose verdict it has not
    /// cached. It has checked the name against its own grammar: parts of `[A-Za-z0-9._-]` joined by colons,
    /// at most 128 bytes.
    ///
    /// # Errors
    /// Usually a [`Reject::invalid`] that says what is wrong with the name and which name would be right.
    fn room(&self, name: &str) -> Result<RoomVerdict, Reject>;
}
