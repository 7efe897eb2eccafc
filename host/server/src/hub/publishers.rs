//! Who published what lately on this node, so that a message that makes a plugin fail leads back to a principal. A delivery
//! names nobody: it may come from any node.

use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    sync::Arc,
};
use switchyard_protocol::Publication;

/// Messages that are remembered: those that may be on their way from the plugin's consent to its members.
const MOST: usize = 8192;

#[derive(Default)]
pub(super) struct Publishers {
    latest: VecDeque<(u64, Arc<str>)>,
    hasher: RandomState,
}

impl Publishers {
    /// Notes that a message is about to be stored.
    pub(super) fn note(&mut self, who: &Arc<str>, room: &str, event: Option<&str>, data: &str) {
        if self.latest.len() == MOST {
            self.latest.pop_front();
        }
        self.latest.push_back((self.number(room, event, data), who.clone()));
    }

    /// Who published such a message last.
    pub(super) fn of(&self, message: &Publication) -> Option<Arc<str>> {
        let number = self.number(&message.room, message.event.as_deref(), message.data());
        let found = self.latest.iter().rev().find(|(other, _)| *other == number);
        found.map(|(_, who)| who.clone())
    }

    fn number(&self, room: &str, event: Option<&str>, data: &str) -> u64 {
        self.hasher.hash_one((room, event, data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_who_published_it_is_found_and_the_list_is_bounded() {
        let mut publishers = Publishers::default();
        let message = |data: &str| Publication::new("r".into(), "e".into(), 1, 0, None, data);
        publishers.note(&"acme".into(), "r", None, "1");
        publishers.note(&"zed".into(), "r", None, "2");
        assert_eq!(publishers.of(&message("1")).as_deref(), Some("acme"));
        assert_eq!(publishers.of(&message("2")).as_deref(), Some("zed"));
        assert_eq!(publishers.of(&message("3")), None);
        publishers.note(&"zed".into(), "r", None, "1");
        assert_eq!(publishers.of(&message("1")).as_deref(), Some("zed"));
        for n in 0..2 * MOST {
            publishers.note(&"acme".into(), "r", None, &n.to_string());
            assert!(publishers.latest.len() <= MOST);
        }
        assert_eq!(publishers.of(&message("1")), None);
    }
}
