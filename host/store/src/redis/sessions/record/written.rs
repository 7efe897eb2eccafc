//! What of a session is written, and how that is answered.

use crate::{
    Join, Unavailable,
    redis::{answer, stored_rooms::Field},
};
use switchyard_protocol::room::RoomName;

/// What is to become of a session's rooms.
#[derive(Clone, Debug, Default)]
pub(crate) struct Change {
    pub join: Vec<Join>,
    pub leave: Vec<RoomName>,
}

/// A write of a session.
#[derive(Debug, PartialEq)]
pub(crate) enum Write {
    /// Of what changes, onto a record that is known.
    Amend { number: u64, fields: Vec<Field> },
    /// Of everything, because it is not known what Redis holds.
    Put { number: u64, fields: Vec<Field>, anew: bool },
}

#[derive(Debug, PartialEq)]
pub(crate) enum Answer {
    /// By Redis' clock; and rooms that the record had beside those that were written, which are left now.
    Ok {
        time: u64,
        left: Vec<RoomName>,
    },
    /// Another connection has taken the session.
    Taken,
    /// The record is not what this node left: Redis went back, or let the session go.
    Behind,
    /// There is no record.
    Gone,
    Late,
}

impl Answer {
    pub(crate) fn read(value: fred::types::Value) -> Result<Self, Unavailable> {
        let parts: Vec<_> = answer::texts(value)?;
        let time = || parts.get(1).and_then(|time| time.parse().ok());
        match parts.first().map(|status| &**status) {
            Some("ok") => {
                let left = parts.iter().skip(2).filter_map(|room| RoomName::parse(room).ok()).collect();
                let time = time().ok_or_else(|| Unavailable("Redis did not say when".to_owned()))?;
                Ok(Self::Ok { time, left })
            }
            Some("taken") => Ok(Self::Taken),
            Some("behind") => Ok(Self::Behind),
            Some("gone") => Ok(Self::Gone),
            Some("late") => Ok(Self::Late),
            _ => Err(Unavailable("Redis answered a write of a session by what is no answer".to_owned())),
        }
    }
}

/// What an answer comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Confirmed,
    /// Another connection holds the session.
    TakenOver,
    /// It can only be taken back with its client's word.
    Lost,
    /// It was too late; to be written again.
    Late,
}
