//! Which shard a room belongs to: that of the first plugin whose pattern matches, else one of the shards of
//! ungoverned rooms, by hash.

use std::hash::{BuildHasher, RandomState};
use switchyard_protocol::room::{Kind, Pattern, RoomName};

pub(super) struct Routes {
    /// By shard, in the order of the configuration.
    governed: Vec<(String, Vec<Pattern>)>,
    ungoverned: usize,
    hasher: RandomState,
}

impl Routes {
    /// The shards of `governed` come first, then `ungoverned` many.
    pub(super) fn new(governed: Vec<(String, Vec<Pattern>)>, ungoverned: usize) -> Self {
        Self { governed, ungoverned, hasher: RandomState::new() }
    }

    pub(super) fn shard(&self, room: &str) -> usize {
        match self.governed_shard(room) {
            Some(shard) => shard,
            None => self.governed.len() + self.hasher.hash_one(room) as usize % self.ungoverned,
        }
    }

    pub(super) fn governor(&self, room: &RoomName) -> Option<&str> {
        let shard = (room.kind() == Kind::Ordinary).then(|| self.governed_shard(room)).flatten()?;
        Some(&self.governed[shard].0)
    }

    fn governed_shard(&self, room: &str) -> Option<usize> {
        if room.starts_with(['*', '@']) {
            return None;
        }
        self.governed.iter().position(|(_, patterns)| patterns.iter().any(|pattern| pattern.matches(room)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_matches_governs_and_reserved_rooms_have_none() {
        let pattern = |text: &str| vec![Pattern::try_from(text.to_owned()).unwrap()];
        let governed = vec![("dydx".to_owned(), pattern("dydx:*")), ("rest".to_owned(), pattern("**"))];
        let routes = Routes::new(governed, 2);
        assert_eq!((routes.shard("dydx:a"), routes.shard("other")), (0, 1));
        assert!(routes.shard("*") >= 2 && routes.shard("@acme") >= 2);
        assert_eq!(routes.governor(&RoomName::parse("@acme").unwrap()), None);
        assert_eq!(routes.governor(&RoomName::parse("dydx:a").unwrap()), Some("dydx"));
    }
}
