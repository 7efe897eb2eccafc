//! How far the client of a session has received the messages of its rooms.

use super::Record;
use switchyard_protocol::{Position, room::RoomName};

impl Record {
    /// Returns whether the position is new. The client knows its epoch.
    pub(crate) fn acknowledge(&mut self, room: &RoomName, position: &Position) -> bool {
        let Some(membership) = self.rooms.get_mut(room) else { return false };
        if membership.joined.epoch != position.epoch {
            (membership.joined, membership.acknowledged) = (position.clone(), None);
            self.unwritten.insert(room.clone());
        }
        let is_new = membership.acknowledged < Some(position.offset);
        if is_new {
            membership.acknowledged = Some(position.offset);
        }
        is_new
    }

    /// Adopts what Redis, or an earlier connection on this node, has as acknowledged.
    pub(crate) fn restore_acknowledged(&mut self, room: &RoomName, position: &Position) {
        if let Some(membership) = self.rooms.get_mut(room)
            && membership.joined.epoch == position.epoch
        {
            membership.acknowledged = membership.acknowledged.max(Some(position.offset));
        }
    }

    /// Adopts what the previous connection of the session, on this node, had not written yet.
    pub(crate) fn inherit_from(&mut self, before: &Record) {
        for (room, membership) in &before.rooms {
            if before.unwritten.contains(room) {
                self.advance(room, &membership.joined);
            }
            if let Some(offset) = membership.acknowledged {
                self.restore_acknowledged(room, &Position { epoch: membership.joined.epoch.clone(), offset });
            }
        }
    }

    /// The client was told that the room continues after `position`. Returns whether that must be written.
    pub(crate) fn advance(&mut self, room: &RoomName, position: &Position) -> bool {
        let Some(membership) = self.rooms.get_mut(room) else { return false };
        if membership.joined.epoch == position.epoch && membership.joined.offset >= position.offset {
            return false;
        }
        if membership.joined.epoch != position.epoch {
            membership.acknowledged = None;
        }
        membership.joined = position.clone();
        self.unwritten.insert(room.clone());
        true
    }

    /// The acknowledged position, if it is beyond `offset`, which Redis has.
    pub(crate) fn acknowledged_beyond(&self, room: &RoomName, offset: u64) -> Option<Position> {
        let membership = self.rooms.get(room)?;
        let acknowledged = membership.acknowledged.filter(|acknowledged| *acknowledged > offset)?;
        Some(Position { epoch: membership.joined.epoch.clone(), offset: acknowledged })
    }
}
