//! The rooms of a session, as its record in Redis has them: as text, and read from text. Which of them rule is the record's affair.

use crate::{Membership, Unavailable};
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
    pub(crate) fn written(&self) -> String {
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
pub(crate) const LEFT: &str = "left";

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
