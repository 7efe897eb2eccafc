//! A session's memberships of rooms. Knows nothing about the session itself.

use std::sync::Arc;
use switchyard_protocol::{Position, room::RoomName};

/// A session's membership of one room.
#[derive(Debug, Clone, PartialEq)]
pub struct Membership {
    /// The filter as the client wrote it.
    pub filter: Option<Arc<str>>,
    /// The last acknowledged position, or the one at which the session joined. After a resume, all later
    /// messages are replayed.
    pub position: Position,
}

/// A room that a session joins, or in which its filter changes.
#[derive(Debug, Clone)]
pub struct Join {
    /// The room.
    pub room: RoomName,
    /// The new membership. If the session is a member already, its position stays, unless the
    /// join is `anew`.
    pub membership: Membership,
    /// Whether to forget what the session has acknowledged in the room, as if it had left.
    pub anew: bool,
}
