//! What of a session is written, and how that is answered.

use crate::{Join, redis::stored_rooms::RoomField};
use switchyard_protocol::room::RoomName;

/// What is to become of a session's rooms.
#[derive(Clone, Debug, Default)]
pub(crate) struct RoomChanges {
    pub join: Vec<Join>,
    pub leave: Vec<RoomName>,
}

/// A write of a session.
#[derive(Debug, PartialEq)]
pub(crate) enum RecordWrite {
    /// Of what changes, onto a record that is known.
    Amend { number: u64, fields: Vec<RoomField> },
    /// Of everything, because it is not known what Redis holds.
    Put { number: u64, fields: Vec<RoomField>, anew: bool },
}

/// What an answer comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteOutcome {
    Confirmed,
    /// Another connection holds the session.
    TakenOver,
    /// It can only be taken back with its client's word.
    Lost,
    /// It was too late; to be written again.
    Retry,
}
