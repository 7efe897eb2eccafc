//! Who holds how many rooms of one plugin, from the moment a room is granted.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};
use switchyard_protocol::room::RoomName;
use switchyard_store::ConnectionId;

#[derive(Default)]
pub(super) struct Places {
    by_connection: HashMap<ConnectionId, BTreeSet<RoomName>>,
    by_principal: HashMap<Arc<str>, u32>,
}

impl Places {
    /// Rooms beside this one, of the connection and of all connections of its principal.
    pub(super) fn beside(&self, room: &RoomName, connection: ConnectionId, principal: &str) -> (u32, u32) {
        let rooms = self.by_connection.get(&connection);
        let (held, here) =
            rooms.map_or((0, 0), |rooms| (rooms.len() as u32, u32::from(rooms.contains(room))));
        let of_principal = self.by_principal.get(principal).copied().unwrap_or(0);
        (held - here, of_principal - here)
    }

    pub(super) fn take(&mut self, room: &RoomName, connection: ConnectionId, principal: &Arc<str>) {
        if self.by_connection.entry(connection).or_default().insert(room.clone()) {
            *self.by_principal.entry(principal.clone()).or_default() += 1;
        }
    }

    pub(super) fn give_back(&mut self, room: &RoomName, connection: ConnectionId, principal: &str) {
        let Some(rooms) = self.by_connection.get_mut(&connection) else { return };
        if !rooms.remove(room) {
            return;
        }
        if rooms.is_empty() {
            self.by_connection.remove(&connection);
        }
        let count = self.by_principal.get_mut(principal).expect("counted when it was taken");
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
    fn a_room_counts_once_and_not_beside_itself() {
        let (mut places, one, two) = (Places::default(), ConnectionId::random(), ConnectionId::random());
        let room = |name: &str| RoomName::parse(name).unwrap();
        let acme: Arc<str> = "acme".into();
        places.take(&room("a"), one, &acme);
        places.take(&room("a"), one, &acme);
        places.take(&room("a"), two, &acme);
        assert_eq!(places.beside(&room("a"), one, "acme"), (0, 1));
        assert_eq!(places.beside(&room("b"), one, "acme"), (1, 2));
        places.give_back(&room("a"), one, "acme");
        places.give_back(&room("a"), one, "acme");
        assert_eq!(places.beside(&room("b"), one, "acme"), (0, 1));
        assert_eq!(places.beside(&room("b"), one, "zed"), (0, 0));
    }
}
