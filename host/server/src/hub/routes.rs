//! Which shard owns a room: that of the first plugin with a matching pattern, or else one of the shards for
//! ungoverned rooms, by hash. Owns what publishers share with a plugin's shard, but not the shards.

use super::{
    SlotConfig,
    recent_publishers::{Note, RecentPublishers},
};
use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};
use switchyard_protocol::{
    Publication,
    room::{RoomName, RoomPattern},
};
use switchyard_store::Message;

/// The rooms of all shards.
pub(super) struct Routes {
    /// The plugins in the order of the configuration. The index is that of the shard.
    governed: Vec<GovernedRooms>,
    ungoverned: usize,
    hasher: RandomState,
}

/// The rooms of a plugin, as publishers see them.
pub(super) struct GovernedRooms {
    pub name: String,
    patterns: Vec<RoomPattern>,
    publishers: RecentPublishers,
    /// Whether the plugin's shard must check messages before they are stored. Set by the shard between two
    /// commands.
    wants_publishes: AtomicBool,
}

/// The shard that owns a room.
#[derive(Clone, Copy)]
pub(super) struct Route<'a> {
    pub shard: usize,
    pub governed: Option<&'a GovernedRooms>,
}

impl GovernedRooms {
    pub(super) fn wants_publishes(&self) -> bool {
        self.wants_publishes.load(Ordering::Acquire)
    }

    pub(super) fn set_wants_publishes(&self, wants: bool) {
        if self.wants_publishes.load(Ordering::Relaxed) != wants {
            self.wants_publishes.store(wants, Ordering::Release);
        }
    }
}

impl Routes {
    /// The shards of `slots` come first, then those for ungoverned rooms, `ungoverned` many. Messages to
    /// governed rooms must be checked until the shard says otherwise.
    pub(super) fn new(slots: Vec<SlotConfig>, ungoverned: usize) -> Self {
        let governed = slots.into_iter().map(|slot| GovernedRooms {
            name: slot.name,
            patterns: slot.rooms,
            publishers: RecentPublishers::default(),
            wants_publishes: AtomicBool::new(true),
        });
        Self { governed: governed.collect(), ungoverned, hasher: RandomState::new() }
    }

    /// The room `*` and inboxes are never governed.
    pub(super) fn find(&self, room: &str) -> Route<'_> {
        let governs =
            |governed: &GovernedRooms| governed.patterns.iter().any(|pattern| pattern.matches(room));
        let governed = match room.starts_with(['*', '@']) {
            true => None,
            false => self.governed.iter().position(governs),
        };
        match governed {
            Some(shard) => Route { shard, governed: Some(&self.governed[shard]) },
            None => {
                let shard = self.governed.len() + self.hasher.hash_one(room) as usize % self.ungoverned;
                Route { shard, governed: None }
            }
        }
    }

    pub(super) fn shard(&self, room: &str) -> usize {
        self.find(room).shard
    }

    /// The plugin of a shard, if it has one.
    pub(super) fn governed(&self, shard: usize) -> Option<&GovernedRooms> {
        self.governed.get(shard)
    }

    /// Notes who publishes a message that is about to be stored, if a plugin governs its room. `shard` is the
    /// shard of the room.
    pub(super) fn note(&self, shard: usize, message: &Message<'_>) -> Option<Note> {
        self.governed.get(shard).map(|governed| governed.publishers.note(message, shard, Instant::now()))
    }

    /// Forgets a message that is not delivered after all.
    pub(super) fn forget(&self, note: &Note) {
        self.governed[note.shard].publishers.forget(note);
    }

    /// Who published a message in a room of this shard, if it was published recently and on this node.
    pub(super) fn publisher(&self, shard: usize, message: &Publication) -> Option<Arc<str>> {
        self.governed.get(shard)?.publishers.find(message)
    }

    pub(super) fn governor(&self, room: &RoomName) -> Option<&str> {
        self.find(room).governed.map(|governed| governed.name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_matching_plugin_governs_and_reserved_rooms_have_none() {
        let pattern = |text: &str| vec![RoomPattern::try_from(text.to_owned()).unwrap()];
        let slot = |name: &str, rooms| SlotConfig { name: name.to_owned(), rooms: pattern(rooms) };
        let routes = Routes::new(vec![slot("dydx", "dydx:*"), slot("rest", "**")], 2);
        assert_eq!((routes.shard("dydx:a"), routes.shard("other")), (0, 1));
        assert!(routes.shard("*") >= 2 && routes.shard("@acme") >= 2);
        assert_eq!(routes.governor(&RoomName::parse("@acme").unwrap()), None);
        assert_eq!(routes.governor(&RoomName::parse("dydx:a").unwrap()), Some("dydx"));
    }
}
