//! Writes of a session record, and what their outcome means for the record.

use crate::{Join, redis::stored_rooms::RoomField};
use switchyard_protocol::room::RoomName;

/// The rooms that a session joins and leaves in one write.
#[derive(Clone, Debug, Default)]
pub(crate) struct RoomChanges {
    pub join: Vec<Join>,
    pub leave: Vec<RoomName>,
}

/// A write of a session record.
#[derive(Debug, PartialEq)]
pub(crate) enum RecordWrite {
    /// Only the rooms that change, because Redis is known to hold the rest.
    Update { number: u64, fields: Vec<RoomField> },
    /// All rooms, because it is not known what Redis holds.
    Replace { number: u64, fields: Vec<RoomField>, may_create: bool },
}

/// What the reply to a write means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteOutcome {
    Confirmed,
    /// Another connection has the session.
    TakenOver,
    /// Redis does not have the session as this node left it. It may be written again only after its client
    /// answers.
    Lost,
    /// The write came too late, or was superseded. It must be repeated.
    Retry,
}
