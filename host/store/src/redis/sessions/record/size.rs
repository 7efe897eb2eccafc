//! How much a session's memberships take in Redis.

use super::Record;
use crate::{
    Join,
    redis::stored_rooms::{MEMBERSHIP_BYTES, RoomsSize, filter_bytes},
};
use std::collections::BTreeMap;

impl Record {
    /// How much the memberships take in Redis.
    pub(crate) fn size(&self) -> RoomsSize {
        RoomsSize::of(&self.rooms)
    }

    /// How many bytes these joins add to the memberships.
    pub(crate) fn growth(&self, joins: &[Join]) -> usize {
        // If a room is named more than once, the last join applies.
        let joined: BTreeMap<_, _> = joins.iter().map(|join| (&join.room, &join.membership.filter)).collect();
        let growth = joined.into_iter().map(|(room, filter)| match self.rooms.get(room) {
            Some(known) => filter_bytes(filter).saturating_sub(filter_bytes(&known.filter)),
            None => MEMBERSHIP_BYTES + filter_bytes(filter),
        });
        growth.sum()
    }
}
