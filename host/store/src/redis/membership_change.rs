//! A member of a room as it is written to Redis, and what is answered. Writes nothing itself.

use switchyard_protocol::{Position, room::RoomName};

/// A member to be written, or removed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MembershipChange {
    pub room: RoomName,
    pub generation: u64,
    pub number: u64,
    /// Until when, by Redis' clock, it may be carried out; [`crate::redis::context::redis_clock::WRITE_VALIDITY`] after this.
    pub confirmed: u64,
    /// What it has acknowledged, where it comes into the room.
    pub comes: Option<Position>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MembershipOutcome {
    /// With what it has acknowledged.
    Ok(u64),
    /// Something newer was written of this member, in this generation.
    Older(u64),
    Late,
}
