//! How many rooms of one plugin each connection and each principal uses. Does not know limits.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};
use switchyard_protocol::room::RoomName;
use switchyard_store::ConnectionId;

/// The rooms in use. A room counts as soon as it is granted.
#[derive(Default)]
pub(super) struct RoomUsage {
    by_connection: HashMap<ConnectionId, BTreeSet<RoomName>>,
    by_principal: HashMap<Arc<str>, u32>,
}

impl RoomUsage {
    /// How many rooms other than this one the connection uses, and how many all connections of its principal
    /// use together.
    pub(super) fn other_rooms(
        &self,
        room: &RoomName,
        connection: ConnectionId,
        principal: &str,
    ) -> (u32, u32) {
        let rooms = self.by_connection.get(&connection);
        let (used, this) =
            rooms.map_or((0, 0), |rooms| (rooms.len() as u32, u32::from(rooms.contains(room))));
        let by_principal = self.by_principal.get(principal).copied().unwrap_or(0);
        (used - this, by_principal - this)
    }

    pub(super) fn add(&mut self, room: &RoomName, connection: ConnectionId, principal: &Arc<str>) {
        if self.by_connection.entry(connection).or_default().insert(room.clone()) {
            *self.by_principal.entry(principal.clone()).or_default() += 1;
        }
    }

    pub(super) fn remove(&mut self, room: &RoomName, connection: ConnectionId, principal: &str) {
        let Some(rooms) = self.by_connection.get_mut(&connection) else { return };
        if !rooms.remove(room) {
            return;
        }
        if rooms.is_empty() {
            self.by_connection.remove(&connection);
        }
        let count = self.by_principal.get_mut(principal).expect("counted when it was added");
        *count -= 1;
        if *count == 0 {
            self.by_principal.remove(principal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_counts_once_and_is_not_another_room_of_itself() {
        let (mut usage, one, two) = (RoomUsage::default(), ConnectionId::random(), ConnectionId::random());
        let room = |name: &str| RoomName::parse(name).unwrap();
        let acme: Arc<str> = "acme".into();
        usage.add(&room("a"), one, &acme);
        usage.add(&room("a"), one, &acme);
        usage.add(&room("a"), two, &acme);
        assert_eq!(usage.other_rooms(&room("a"), one, "acme"), (0, 1));
        assert_eq!(usage.other_rooms(&room("b"), one, "acme"), (1, 2));
        usage.remove(&room("a"), one, "acme");
        usage.remove(&room("a"), one, "acme");
        assert_eq!(usage.other_rooms(&room("b"), one, "acme"), (0, 1));
        assert_eq!(usage.other_rooms(&room("b"), one, "zed"), (0, 0));
    }
}
