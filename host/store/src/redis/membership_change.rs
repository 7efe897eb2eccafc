//! A change of a room's member as it is written to Redis, and its outcome. Writes nothing itself.

use switchyard_protocol::{Position, room::RoomName};

/// A member to be written or removed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MembershipChange {
    pub room: RoomName,
    pub generation: u64,
    pub number: u64,
    /// When the session's record was confirmed, in milliseconds by Redis' clock. The change may be executed
    /// until [`crate::redis::context::redis_clock::WRITE_VALIDITY`] later.
    pub confirmed_at: u64,
    /// The position that the member has acknowledged. `None` removes the member.
    pub joins: Option<Position>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MembershipOutcome {
    /// Done. The number is the offset that the member has acknowledged.
    Applied(u64),
    /// Redis has a newer write of this member, of this generation.
    Superseded(u64),
    /// The deadline had passed, and nothing was written.
    Late,
}
