//! One session as the node of its connection holds it, and how much of it Redis is known to hold. Decides which
//! write comes next, and what a reply means. Does no I/O and reads no clock.

mod members;
mod ownership;
mod positions;
mod record_write;
mod size;

pub(crate) use record_write::*;

use crate::{
    Join, Membership,
    redis::{
        scripts::sessions::WriteReply,
        stored_rooms::{LEFT, RoomField, StoredMembership, StoredRooms},
    },
};
use ownership::Ownership;
use std::collections::{BTreeMap, BTreeSet};
use switchyard_protocol::room::RoomName;

/// The state of a session, and of its last write.
#[derive(Debug)]
pub(crate) struct Record {
    pub generation: u64,
    /// The number of the newest write in this generation.
    number: u64,
    /// The confirmed state. It applies to the connection, and Redis must end up with it.
    pub rooms: BTreeMap<RoomName, StoredMembership>,
    /// Rooms that the session has left but the stored record still names. `true` once the member is removed
    /// from the room, so that the next write can drop the field.
    left: BTreeMap<RoomName, bool>,
    /// Rooms whose stored member may differ from the record, with the number of the write that caused this.
    unsynced: BTreeMap<RoomName, u64>,
    /// Rooms whose membership has changed and is not written yet. No request waits for these writes.
    unwritten: BTreeSet<RoomName>,
    /// The outcome of the last write is unknown, so the next one must contain all rooms.
    needs_full_write: bool,
    /// The last confirmed write: its number, and when Redis executed it, in milliseconds by Redis' clock.
    confirmed: (u64, u64),
    /// A member was found with this newer generation. Either another connection has the session, or Redis has
    /// lost the record of that generation.
    newer_generation: Option<u64>,
    ownership: Ownership,
}

impl Record {
    /// A session that was created or resumed at `time` with these rooms. All of its members still need to be
    /// written.
    pub(crate) fn new(generation: u64, time: u64, rooms: StoredRooms) -> Self {
        let unsynced = rooms.memberships.keys().chain(&rooms.left).map(|room| (room.clone(), 0)).collect();
        Self {
            generation,
            number: 0,
            rooms: rooms.memberships,
            left: rooms.left.into_iter().map(|room| (room, false)).collect(),
            unsynced,
            unwritten: BTreeSet::new(),
            needs_full_write: false,
            confirmed: (0, time),
            newer_generation: None,
            ownership: Ownership::Owned,
        }
    }

    /// The fields of a new session that joins these rooms.
    pub(crate) fn first_write(&mut self, change: RoomChanges) -> Vec<RoomField> {
        self.apply(change, 0);
        self.rooms.iter().map(|(room, membership)| (room.clone(), membership.encode())).collect()
    }

    /// Redis has created the session.
    pub(crate) fn created(&mut self, generation: u64, time: u64) {
        (self.generation, self.confirmed) = (generation, (0, time));
    }

    /// The next write. Nothing else may be written until it is answered or has failed.
    pub(crate) fn write(&mut self, change: &RoomChanges) -> RecordWrite {
        let is_known = !self.needs_full_write && self.ownership == Ownership::Owned;
        self.number += 1;
        self.needs_full_write = true;
        let number = self.number;
        // If the reply is lost, the record may name the room, and whoever reads the record (such as a reaper)
        // adds the member. So the member counts as left until this write is confirmed.
        for join in change.join.iter().filter(|join| !self.rooms.contains_key(&join.room)) {
            self.left.insert(join.room.clone(), false);
            self.unsynced.insert(join.room.clone(), number);
        }
        let left = |room: &RoomName| (room.clone(), LEFT.to_owned());
        let changed =
            change.join.iter().map(|join| (join.room.clone(), self.membership_after(join).encode()));
        let mut fields: BTreeMap<_, _> = self.left_fields(!is_known).collect();
        match is_known {
            true => {
                let unwritten = self.unwritten.iter().filter_map(|room| self.rooms.get_key_value(room));
                fields.extend(unwritten.map(|(room, membership)| (room.clone(), membership.encode())));
            }
            false => {
                fields.extend(self.rooms.iter().map(|(room, membership)| (room.clone(), membership.encode())))
            }
        }
        fields.extend(changed);
        fields.extend(change.leave.iter().map(left));
        let fields = fields.into_iter().collect();
        match is_known {
            true => RecordWrite::Update { number, fields },
            false => RecordWrite::Replace { number, fields, may_create: self.is_reclaimable() },
        }
    }

    /// The fields of rooms that were left. A field whose member is removed is dropped. The others are included
    /// only in a write of all rooms.
    fn left_fields(&self, all: bool) -> impl Iterator<Item = RoomField> {
        let left = self.left.iter().filter(move |(_, gone)| all || **gone);
        left.map(|(room, gone)| (room.clone(), if *gone { String::new() } else { LEFT.to_owned() }))
    }

    /// The membership after a join. A session that is in the room already keeps its position.
    fn membership_after(&self, join: &Join) -> StoredMembership {
        let Membership { filter, position } = &join.membership;
        match self.rooms.get(&join.room) {
            Some(known) if !join.anew => StoredMembership { filter: filter.clone(), ..known.clone() },
            _ => StoredMembership { filter: filter.clone(), joined: position.clone(), acknowledged: None },
        }
    }

    /// Applies the reply to a write. The changes take effect here only if the write is confirmed.
    pub(crate) fn apply_reply(
        &mut self,
        write: &RecordWrite,
        change: RoomChanges,
        reply: WriteReply,
    ) -> WriteOutcome {
        let (number, fields) = match write {
            RecordWrite::Update { number, fields } | RecordWrite::Replace { number, fields, .. } => {
                (*number, fields)
            }
        };
        match reply {
            WriteReply::Written { time, left } => {
                // The record of the connection that wrote the newer member is lost. Outbid its generation, or
                // the member could not be changed.
                if let Some(newer) = self.newer_generation.take() {
                    (self.generation, self.number) = (newer + 1, 0);
                    if self.is_reclaimable() {
                        self.ownership = Ownership::Reclaimable(0);
                    }
                    self.unsynced.values_mut().for_each(|since| *since = 0);
                    return WriteOutcome::Retry;
                }
                self.confirmed = (number, time);
                if let (Ownership::Reclaimable(since), RecordWrite::Replace { may_create: true, .. }) =
                    (self.ownership, write)
                    && number > since
                {
                    self.ownership = Ownership::Owned;
                    // Members written while ownership was uncertain may have been removed by a reaper.
                    self.mark_unsynced();
                }
                self.needs_full_write = self.ownership != Ownership::Owned;
                for (room, _) in fields.iter().filter(|(_, text)| text.is_empty()) {
                    self.left.remove(room);
                }
                self.apply(change, number);
                // Keep the memberships that changed while the write was in flight.
                self.unwritten.retain(|room| {
                    let current = self.rooms.get(room).map(StoredMembership::encode);
                    current.is_some()
                        && !fields.iter().any(|(name, text)| name == room && Some(text) == current.as_ref())
                });
                for room in left.into_iter().filter(|room| !self.rooms.contains_key(room)) {
                    self.unsynced.insert(room.clone(), number);
                    self.left.insert(room, false);
                }
                WriteOutcome::Confirmed
            }
            WriteReply::Taken => WriteOutcome::TakenOver,
            WriteReply::Behind | WriteReply::Gone => {
                self.mark_uncertain();
                WriteOutcome::Lost
            }
            WriteReply::Late => WriteOutcome::Retry,
        }
    }

    fn apply(&mut self, change: RoomChanges, number: u64) {
        for join in change.join {
            let membership = self.membership_after(&join);
            self.left.remove(&join.room);
            if self.rooms.insert(join.room.clone(), membership).is_none() || join.anew {
                self.unsynced.insert(join.room, number);
            }
        }
        for room in change.leave {
            if self.rooms.remove(&room).is_some() {
                self.unwritten.remove(&room);
                self.unsynced.insert(room.clone(), number);
                self.left.insert(room, false);
            }
        }
    }

    /// The number of the last confirmed write.
    pub(crate) fn confirmed_number(&self) -> u64 {
        self.confirmed.0
    }

    /// Whether the record needs a write that no request waits for, and may be written now.
    pub(crate) fn wants_write(&self) -> bool {
        !self.is_uncertain() && (self.needs_full_write || !self.unwritten.is_empty())
    }

    pub(crate) fn is_synced(&self) -> bool {
        !self.needs_full_write && self.unwritten.is_empty() && self.unsynced.is_empty()
    }

    /// The number and all fields to write when the session is released, if Redis may not have the current
    /// state.
    pub(crate) fn final_write(&mut self) -> Option<(u64, Vec<RoomField>)> {
        if !self.needs_full_write && self.unwritten.is_empty() {
            return None;
        }
        self.number += 1;
        let memberships = self.rooms.iter().map(|(room, membership)| (room.clone(), membership.encode()));
        Some((self.number, self.left_fields(true).chain(memberships).collect()))
    }

    /// The session was released at `time`, after the write with this number.
    pub(crate) fn released(&mut self, time: u64, number: u64) {
        self.confirmed = (number, time);
        self.needs_full_write = false;
    }
}

#[cfg(test)]
mod tests;
