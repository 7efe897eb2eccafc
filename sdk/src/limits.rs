//! Limits that a plugin sets and the host enforces.

/// Narrows what the host's configuration allows; `None` leaves it as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// From `connect`: rooms a connection may hold. From `subscribe`: rooms of this plugin it may hold.
    pub rooms: Option<u32>,
    pub publishes_per_second: Option<u32>,
    /// The most bytes of a message's data.
    pub message_bytes: Option<u32>,
}
