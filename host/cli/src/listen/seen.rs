//! Which offsets were seen and acknowledged. Delivery is at least once; printing is once.

use std::{collections::HashMap, sync::Arc};
use switchyard_protocol::{Position, request::Ack};

#[derive(Default)]
pub(super) struct Seen {
    rooms: HashMap<String, Room>,
    /// What a room was asked for as, where a plugin gave it another name.
    aliases: HashMap<String, String>,
}

struct Room {
    /// `None` until the server said it: a delivery does not.
    epoch: Option<Arc<str>>,
    newest: u64,
    /// There is something newer than what was acknowledged last.
    unacknowledged: bool,
}

impl Seen {
    pub(super) fn alias(&mut self, requested: &str, room: &str) {
        self.aliases.insert(requested.to_owned(), room.to_owned());
    }

    /// What deliveries call the room.
    pub(super) fn name<'a>(&'a self, requested: &'a str) -> &'a str {
        self.aliases.get(requested).map_or(requested, String::as_str)
    }

    /// The room was joined, or resumed. `offset`: what is known already, unless it is remembered here.
    pub(super) fn join(&mut self, room: &str, epoch: &Arc<str>, offset: u64, recovered: Option<bool>) {
        match self.rooms.get_mut(room) {
            // Resumed in the same epoch: what was seen stays seen, and what was missed follows.
            Some(known) if known.epoch.as_ref() == Some(epoch) && recovered != Some(false) => {}
            // `*` and the inbox, of which only deliveries told.
            Some(known) if known.epoch.is_none() && recovered != Some(false) => {
                known.epoch = Some(epoch.clone());
            }
            _ => {
                let fresh = Room { epoch: Some(epoch.clone()), newest: offset, unacknowledged: false };
                self.rooms.insert(room.to_owned(), fresh);
            }
        }
    }

    /// Notes a delivery, and says whether it is the first of its offset.
    pub(super) fn is_new(&mut self, room: &str, offset: u64) -> bool {
        if !self.rooms.contains_key(room) {
            self.rooms.insert(room.to_owned(), Room { epoch: None, newest: 0, unacknowledged: false });
        }
        let known = self.rooms.get_mut(room).expect("there is one");
        // Also for one that came again: then the server did not get the acknowledgement.
        known.unacknowledged = true;
        let new = offset > known.newest;
        known.newest = known.newest.max(offset);
        new
    }

    /// Everything up to `offset` is gone.
    pub(super) fn skip(&mut self, room: &str, epoch: &Arc<str>, offset: u64) {
        let Some(known) = self.rooms.get_mut(room) else { return };
        if known.epoch.as_ref() != Some(epoch) {
            *known = Room { epoch: Some(epoch.clone()), newest: offset, unacknowledged: false };
        }
        known.newest = known.newest.max(offset);
    }

    /// Where to go on in a new session.
    pub(super) fn position(&self, room: &str) -> Option<Position> {
        let known = self.rooms.get(self.name(room))?;
        Some(Position { epoch: known.epoch.clone()?, offset: known.newest })
    }

    pub(super) fn unacknowledged(&self) -> Vec<Ack<'_>> {
        let rooms = self.rooms.iter().filter(|(_, known)| known.unacknowledged);
        rooms
            .map(|(room, known)| Ack { room: room.into(), epoch: known.epoch.clone(), offset: known.newest })
            .collect()
    }

    pub(super) fn acknowledged(&mut self) {
        self.rooms.values_mut().for_each(|known| known.unacknowledged = false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Seen {
        let mut seen = Seen::default();
        seen.join("a", &"e1".into(), 10, None);
        seen
    }

    #[test]
    fn an_offset_is_new_once_in_an_epoch() {
        let mut seen = seen();
        assert!(seen.is_new("a", 11) && seen.is_new("a", 13));
        assert!(!seen.is_new("a", 11) && !seen.is_new("a", 13));
        seen.join("a", &"e1".into(), 20, Some(true));
        assert!(!seen.is_new("a", 13), "a replay repeats what was not acknowledged");
        assert!(seen.is_new("a", 14), "and brings what was missed");
        seen.join("a", &"e2".into(), 3, Some(false));
        assert!(!seen.is_new("a", 3) && seen.is_new("a", 4), "another epoch counts anew");
    }

    #[test]
    fn a_room_that_was_never_joined_is_heard_from_its_first_delivery() {
        let mut seen = Seen::default();
        assert!(seen.is_new("*", 7) && !seen.is_new("*", 7));
        assert_eq!(seen.position("*"), None, "its epoch is not known");
        seen.join("*", &"e".into(), 9, Some(true));
        assert!(!seen.is_new("*", 7) && seen.is_new("*", 8));
    }

    #[test]
    fn acknowledgements_are_of_what_came_since_the_last() {
        let mut seen = seen();
        assert!(seen.unacknowledged().is_empty(), "joining needs none");
        seen.is_new("a", 11);
        seen.is_new("a", 12);
        assert_eq!(seen.unacknowledged(), [Ack { room: "a".into(), epoch: Some("e1".into()), offset: 12 }]);
        seen.acknowledged();
        assert!(seen.unacknowledged().is_empty());
        seen.is_new("a", 12);
        assert_eq!(
            seen.unacknowledged(),
            [Ack { room: "a".into(), epoch: Some("e1".into()), offset: 12 }],
            "it came again, so it was not heard"
        );
    }

    #[test]
    fn a_new_session_goes_on_where_the_old_one_was() {
        let mut seen = seen();
        seen.alias("A", "a");
        seen.is_new("a", 15);
        assert_eq!(seen.position("A"), Some(Position { epoch: "e1".into(), offset: 15 }));
        seen.skip("a", &"e1".into(), 30);
        assert_eq!(seen.position("a").unwrap().offset, 30);
        seen.skip("a", &"e2".into(), 2);
        assert_eq!(seen.position("a"), Some(Position { epoch: "e2".into(), offset: 2 }));
        assert_eq!(seen.position("b"), None);
    }
}
