//! The rooms of a session, as the session's record in Redis holds them, and how they are written as text.
//! Does not decide which of them are valid.

use crate::{Membership, Unavailable};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use switchyard_protocol::{Position, room::RoomName};

/// A session's membership of a room.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StoredMembership {
    pub filter: Option<Arc<str>>,
    /// Where the session joined, or where it continues after a gap: the client knows that it cannot get
    /// earlier messages.
    pub joined: Position,
    /// The highest acknowledged offset, in the epoch of `joined`.
    pub acknowledged: Option<u64>,
}

impl StoredMembership {
    pub(crate) fn to_membership(&self) -> Membership {
        let Position { epoch, offset } = &self.joined;
        let offset = self.acknowledged.map_or(*offset, |acknowledged| acknowledged.max(*offset));
        Membership { filter: self.filter.clone(), position: Position { epoch: epoch.clone(), offset } }
    }

    /// The text in the record: epoch, offset and, if there is one, the filter.
    pub(crate) fn encode(&self) -> String {
        let Position { epoch, offset } = &self.joined;
        match &self.filter {
            Some(filter) => format!("{epoch} {offset} {filter}"),
            None => format!("{epoch} {offset}"),
        }
    }

    fn decode(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ' ');
        let joined = Position { epoch: parts.next()?.into(), offset: parts.next()?.parse().ok()? };
        Some(Self { filter: parts.next().map(Into::into), joined, acknowledged: None })
    }
}

/// Written in place of a membership: the session has left the room, but the room may still list it as a
/// member.
pub(crate) const LEFT: &str = "left";

/// How many bytes a membership takes in Redis without its filter, if the room has no other members. Measured
/// with version 7.
pub(crate) const MEMBERSHIP_BYTES: usize = 1800;

/// How much the memberships of a session take in Redis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RoomsSize {
    pub rooms: usize,
    pub filter_bytes: usize,
}

impl RoomsSize {
    pub(crate) fn of(memberships: &BTreeMap<RoomName, StoredMembership>) -> Self {
        let filter_bytes = memberships.values().map(|membership| filter_bytes(&membership.filter)).sum();
        Self { rooms: memberships.len(), filter_bytes }
    }

    pub(crate) fn bytes(self) -> usize {
        self.rooms * MEMBERSHIP_BYTES + self.filter_bytes
    }
}

pub(crate) fn filter_bytes(filter: &Option<Arc<str>>) -> usize {
    filter.as_deref().map_or(0, str::len)
}

/// The rooms of a record.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct StoredRooms {
    pub memberships: BTreeMap<RoomName, StoredMembership>,
    /// Rooms that the session has left, but that may still list it as a member.
    pub left: BTreeSet<RoomName>,
}

impl StoredRooms {
    /// Reads the fields of a record: names of rooms and memberships, alternating.
    pub(crate) fn decode(fields: &[Arc<str>]) -> Result<Self, Unavailable> {
        let mut rooms = Self::default();
        for pair in fields.chunks_exact(2) {
            let invalid = || Unavailable("a session in Redis has an invalid room".to_owned());
            let room = RoomName::parse(&pair[0]).map_err(|_| invalid())?;
            match &*pair[1] {
                LEFT => drop(rooms.left.insert(room)),
                text => {
                    let membership = StoredMembership::decode(text).ok_or_else(invalid)?;
                    rooms.memberships.insert(room, membership);
                }
            }
        }
        Ok(rooms)
    }
}

/// A room and the text of its membership, as arguments of a script.
pub(crate) type RoomField = (RoomName, String);
