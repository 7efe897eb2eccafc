//! Which offsets of each room were received and acknowledged. The server may deliver a message again, for
//! example after a reconnect; this tells which ones are new.

use std::{collections::HashMap, sync::Arc};
use switchyard_protocol::{Position, request::Ack};

#[derive(Default)]
pub(super) struct ReceivedOffsets {
    rooms: HashMap<String, RoomProgress>,
    /// Canonical names by requested name, for rooms that a plugin renamed.
    canonical_names: HashMap<String, String>,
}

struct RoomProgress {
    /// `None` until the server has named it; deliveries do not.
    epoch: Option<Arc<str>>,
    newest_offset: u64,
    /// Something was received since the last acknowledgement.
    unacknowledged: bool,
}

impl ReceivedOffsets {
    pub(super) fn set_canonical_name(&mut self, requested: &str, room: &str) {
        self.canonical_names.insert(requested.to_owned(), room.to_owned());
    }

    /// The name of the room in deliveries.
    pub(super) fn canonical_name<'a>(&'a self, requested: &'a str) -> &'a str {
        self.canonical_names.get(requested).map_or(requested, String::as_str)
    }

    /// The session joined the room or resumed in it. Offsets up to `offset` count as received, unless the
    /// progress in the same epoch is known already.
    pub(super) fn join(&mut self, room: &str, epoch: &Arc<str>, offset: u64, recovered: Option<bool>) {
        match self.rooms.get_mut(room) {
            // Resumed in the same epoch: keep the progress, because the missed messages follow.
            Some(known) if known.epoch.as_ref() == Some(epoch) && recovered != Some(false) => {}
            // `*` or the inbox, which so far were known from deliveries only.
            Some(known) if known.epoch.is_none() && recovered != Some(false) => {
                known.epoch = Some(epoch.clone());
            }
            _ => {
                let progress =
                    RoomProgress { epoch: Some(epoch.clone()), newest_offset: offset, unacknowledged: false };
                self.rooms.insert(room.to_owned(), progress);
            }
        }
    }

    /// Records a delivery. Returns whether it is the first with its offset.
    pub(super) fn insert(&mut self, room: &str, offset: u64) -> bool {
        if !self.rooms.contains_key(room) {
            let progress = RoomProgress { epoch: None, newest_offset: 0, unacknowledged: false };
            self.rooms.insert(room.to_owned(), progress);
        }
        let known = self.rooms.get_mut(room).expect("inserted above");
        // Also for a duplicate, because the server did not get the acknowledgement then.
        known.unacknowledged = true;
        let is_new = offset > known.newest_offset;
        known.newest_offset = known.newest_offset.max(offset);
        is_new
    }

    /// All messages up to `offset` are lost.
    pub(super) fn skip_to(&mut self, room: &str, epoch: &Arc<str>, offset: u64) {
        let Some(known) = self.rooms.get_mut(room) else { return };
        if known.epoch.as_ref() != Some(epoch) {
            *known =
                RoomProgress { epoch: Some(epoch.clone()), newest_offset: offset, unacknowledged: false };
        }
        known.newest_offset = known.newest_offset.max(offset);
    }

    /// The position after which a new session should continue.
    pub(super) fn position(&self, room: &str) -> Option<Position> {
        let known = self.rooms.get(self.canonical_name(room))?;
        Some(Position { epoch: known.epoch.clone()?, offset: known.newest_offset })
    }

    pub(super) fn unacknowledged(&self) -> Vec<Ack<'_>> {
        let rooms = self.rooms.iter().filter(|(_, known)| known.unacknowledged);
        rooms
            .map(|(room, known)| Ack {
                room: room.into(),
                epoch: known.epoch.clone(),
                offset: known.newest_offset,
            })
            .collect()
    }

    pub(super) fn mark_acknowledged(&mut self) {
        self.rooms.values_mut().for_each(|known| known.unacknowledged = false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received() -> ReceivedOffsets {
        let mut received = ReceivedOffsets::default();
        received.join("a", &"e1".into(), 10, None);
        received
    }

    #[test]
    fn an_offset_is_new_once_per_epoch() {
        let mut received = received();
        assert!(received.insert("a", 11) && received.insert("a", 13));
        assert!(!received.insert("a", 11) && !received.insert("a", 13));
        received.join("a", &"e1".into(), 20, Some(true));
        assert!(!received.insert("a", 13), "a replay repeats unacknowledged messages");
        assert!(received.insert("a", 14), "and contains the missed ones");
        received.join("a", &"e2".into(), 3, Some(false));
        assert!(!received.insert("a", 3) && received.insert("a", 4), "another epoch has its own offsets");
    }

    #[test]
    fn a_room_that_was_never_joined_starts_with_its_first_delivery() {
        let mut received = ReceivedOffsets::default();
        assert!(received.insert("*", 7) && !received.insert("*", 7));
        assert_eq!(received.position("*"), None, "its epoch is not known");
        received.join("*", &"e".into(), 9, Some(true));
        assert!(!received.insert("*", 7) && received.insert("*", 8));
    }

    #[test]
    fn only_rooms_with_new_deliveries_are_acknowledged() {
        let mut received = received();
        assert!(received.unacknowledged().is_empty(), "joining needs no acknowledgement");
        received.insert("a", 11);
        received.insert("a", 12);
        assert_eq!(
            received.unacknowledged(),
            [Ack { room: "a".into(), epoch: Some("e1".into()), offset: 12 }]
        );
        received.mark_acknowledged();
        assert!(received.unacknowledged().is_empty());
        received.insert("a", 12);
        assert_eq!(
            received.unacknowledged(),
            [Ack { room: "a".into(), epoch: Some("e1".into()), offset: 12 }],
            "it came again, so the server did not get the acknowledgement"
        );
    }

    #[test]
    fn a_new_session_continues_at_the_old_position() {
        let mut received = received();
        received.set_canonical_name("A", "a");
        received.insert("a", 15);
        assert_eq!(received.position("A"), Some(Position { epoch: "e1".into(), offset: 15 }));
        received.skip_to("a", &"e1".into(), 30);
        assert_eq!(received.position("a").unwrap().offset, 30);
        received.skip_to("a", &"e2".into(), 2);
        assert_eq!(received.position("a"), Some(Position { epoch: "e2".into(), offset: 2 }));
        assert_eq!(received.position("b"), None);
    }
}
