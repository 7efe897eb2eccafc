//! What of a session is written, how that is answered, and which members follow.

use super::super::{SessionId, answer};
use crate::{ConnectionId, Join, Membership, Unavailable};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use switchyard_protocol::{Position, room::RoomName};

/// A session's place in a room.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Place {
    pub filter: Option<Arc<str>>,
    /// What was before it the client knows, or cannot have.
    pub joined: Position,
    /// In the same epoch.
    pub acknowledged: Option<u64>,
}

impl Place {
    pub(crate) fn membership(&self) -> Membership {
        let Position { epoch, offset } = &self.joined;
        let offset = self.acknowledged.map_or(*offset, |acknowledged| acknowledged.max(*offset));
        Membership { filter: self.filter.clone(), position: Position { epoch: epoch.clone(), offset } }
    }

    /// As the record has it: epoch, offset, and the filter where there is one.
    pub(super) fn written(&self) -> String {
        let Position { epoch, offset } = &self.joined;
        match &self.filter {
            Some(filter) => format!("{epoch} {offset} {filter}"),
            None => format!("{epoch} {offset}"),
        }
    }

    fn read(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ' ');
        let joined = Position { epoch: parts.next()?.into(), offset: parts.next()?.parse().ok()? };
        Some(Self { filter: parts.next().map(Into::into), joined, acknowledged: None })
    }
}

/// Instead of a place: the session left the room, and its member may still be there.
pub(super) const LEFT: &str = "left";

/// Rooms and places as a record has them.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Rooms {
    pub places: BTreeMap<RoomName, Place>,
    pub left: BTreeSet<RoomName>,
}

impl Rooms {
    /// From rooms and places in turn.
    pub(crate) fn read(fields: &[Arc<str>]) -> Result<Self, Unavailable> {
        let mut rooms = Self::default();
        for pair in fields.chunks_exact(2) {
            let bad = || Unavailable("a session holds what is no room".to_owned());
            let room = RoomName::parse(&pair[0]).map_err(|_| bad())?;
            match &*pair[1] {
                LEFT => drop(rooms.left.insert(room)),
                place => drop(rooms.places.insert(room, Place::read(place).ok_or_else(bad)?)),
            }
        }
        Ok(rooms)
    }
}

/// A room and its place, as arguments of a script.
pub(crate) type Field = (RoomName, String);

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

/// A member to be written, or removed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Enrolment {
    pub room: RoomName,
    pub generation: u64,
    pub number: u64,
    /// Until when, by Redis' clock, it may be carried out; [`crate::redis::clock::DEADLINE`] after this.
    pub confirmed: u64,
    /// What it has acknowledged, where it comes into the room.
    pub comes: Option<Position>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Enrolled {
    /// With what it has acknowledged.
    Ok(u64),
    /// Something newer was written of this member, in this generation.
    Older(u64),
    Late,
}

/// As the list of those that end has it.
pub(crate) fn entry(principal: &str, id: SessionId) -> String {
    format!("{principal} {id}")
}

/// As the estate of a node has it.
pub(crate) fn held_entry(principal: &str, id: SessionId, connection: ConnectionId) -> String {
    format!("{principal} {id} {connection}")
}
