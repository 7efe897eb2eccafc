//! Which members of rooms must be written, so that they follow the session's record.

use super::Record;
use crate::redis::membership_change::{MembershipChange, MembershipOutcome};
use std::collections::HashSet;
use switchyard_protocol::{Position, room::RoomName};

impl Record {
    /// Has the record and all members written again.
    pub(crate) fn mark_unsynced(&mut self) {
        let rooms = self.rooms.keys().chain(self.left.keys());
        self.unsynced = rooms.map(|room| (room.clone(), self.number)).collect();
        self.needs_full_write = true;
    }

    /// Has the members in these rooms written again, because Redis may have lost them. Returns whether there
    /// are any.
    pub(crate) fn mark_rooms_unsynced(&mut self, rooms: &HashSet<RoomName>) -> bool {
        let forgotten: Vec<_> = self.rooms.keys().filter(|room| rooms.contains(*room)).cloned().collect();
        let any = !forgotten.is_empty();
        self.unsynced.extend(forgotten.into_iter().map(|room| (room, self.number)));
        self.needs_full_write |= any;
        any
    }

    /// The members to be written, as the last confirmed write has them.
    pub(crate) fn membership_changes(&self) -> Vec<MembershipChange> {
        let (number, confirmed_at) = self.confirmed;
        let change = |room: &RoomName| MembershipChange {
            room: room.clone(),
            generation: self.generation,
            number,
            confirmed_at,
            joins: self.rooms.get(room).map(|membership| {
                let offset = membership.acknowledged.unwrap_or(0);
                Position { epoch: membership.joined.epoch.clone(), offset }
            }),
        };
        self.unsynced.keys().map(change).collect()
    }

    /// Removes the session from all of its rooms, because Redis had no record of it at `time`.
    pub(crate) fn removals(&self, time: u64) -> Vec<MembershipChange> {
        let departure = |room: &RoomName| MembershipChange {
            room: room.clone(),
            generation: self.generation,
            number: self.number,
            confirmed_at: time,
            joins: None,
        };
        self.rooms.keys().chain(self.left.keys()).map(departure).collect()
    }

    /// Applies the outcome of writing a member. `epoch` is the current epoch of the room.
    pub(crate) fn membership_written(
        &mut self,
        change: &MembershipChange,
        outcome: MembershipOutcome,
        epoch: &str,
    ) {
        let MembershipChange { room, number, joins, .. } = change;
        let changed = self.unsynced.get(room).is_some_and(|since| since > number);
        match outcome {
            // The record is confirmed again first, because that gives the member a new deadline.
            MembershipOutcome::Late => self.needs_full_write = true,
            MembershipOutcome::Superseded(newer) => {
                self.newer_generation = Some(newer).filter(|newer| *newer > self.generation);
                self.needs_full_write = true;
            }
            MembershipOutcome::Applied(_) if changed => {}
            MembershipOutcome::Applied(acknowledged) => {
                self.unsynced.remove(room);
                if joins.is_some() && acknowledged > 0 {
                    self.restore_acknowledged(room, &Position { epoch: epoch.into(), offset: acknowledged });
                }
                if joins.is_none()
                    && let Some(gone) = self.left.get_mut(room)
                {
                    *gone = true;
                }
            }
        }
    }
}
