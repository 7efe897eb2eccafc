//! Limits that a plugin sets and the host enforces.

/// Limits that a plugin returns from [`Connect`](crate::Connect) or, in a [`Grant`](crate::Grant), from
/// [`Subscribe`](crate::Subscribe).
///
/// They narrow what the operator's configuration allows and never widen it. `None` changes nothing. Each node
/// enforces them on its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// The maximum number of rooms that the connection may be in. From `connect`, all rooms count; from
    /// `subscribe`, only rooms of this plugin.
    pub rooms: Option<u32>,
    /// The maximum number of messages per second, with bursts of up to one second's worth. From `connect`, it
    /// applies to everything that the principal publishes, and the newest connection decides; from
    /// `subscribe`, to what the principal publishes to that room. Both include all connections and HTTP.
    pub publishes_per_second: Option<u32>,
    /// The maximum size of a message's data, in bytes. It applies to the same messages as
    /// [`publishes_per_second`](Self::publishes_per_second).
    pub message_bytes: Option<u32>,
}
