//! A session's memberships of rooms. Knows nothing of the session itself.

use std::sync::Arc;
use switchyard_protocol::{Position, room::RoomName};

/// A session's membership of one room.
#[derive(Debug, Clone, PartialEq)]
pub struct Membership {
    /// The filter as the client wrote it.
    pub filter: Option<Arc<str>>,
    /// Everything after it is to be replayed on resuming: what was acknowledged last, or where it joined.
    pub position: Position,
}

/// A room that a session becomes a member of, or in which its filter changes.
#[derive(Debug, Clone)]
pub struct Join {
    pub room: RoomName,
    /// For a member that is there already the position stays as it was, unless it was of another epoch.
    pub membership: Membership,
    /// What it has seen and acknowledged before says nothing any more: it is as if it had left.
    pub anew: bool,
}
