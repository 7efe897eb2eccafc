//! Who published what lately on this node, so that a message that makes a plugin fail leads back to a principal. A delivery
//! names nobody: it may come from any node.

use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard},
};
use switchyard_protocol::Publication;

/// Messages that are remembered: those that may be on their way from the plugin's consent to its members.
const MOST: usize = 8192;

/// Of the rooms of one plugin. Its shard notes what the plugin let pass, and publishers themselves what it need not be asked of.
#[derive(Default)]
pub(super) struct Publishers {
    latest: Mutex<VecDeque<(u64, Arc<str>)>>,
    hasher: RandomState,
}

impl Publishers {
    /// Notes that a message is about to be stored.
    pub(super) fn note(&self, who: &Arc<str>, room: &str, event: Option<&str>, data: &str) {
        let number = self.number(room, event, data);
        let mut latest = self.latest();
        if latest.len() == MOST {
            latest.pop_front();
        }
        latest.push_back((number, who.clone()));
    }

    /// Who published such a message last.
    pub(super) fn of(&self, message: &Publication) -> Option<Arc<str>> {
        let number = self.number(&message.room, message.event.as_deref(), message.data());
        let latest = self.latest();
        let found = latest.iter().rev().find(|(other, _)| *other == number);
        found.map(|(_, who)| who.clone())
    }

    fn latest(&self) -> MutexGuard<'_, VecDeque<(u64, Arc<str>)>> {
        self.latest.lock().expect("no code panics while it holds the publishers")
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
        let publishers = Publishers::default();
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
            assert!(publishers.latest().len() <= MOST);
        }
        assert_eq!(publishers.of(&message("1")), None);
    }
}
