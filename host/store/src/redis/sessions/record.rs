//! One session as the node of its connection holds it, and how much of it Redis is known to hold. Decides which
//! write comes next, what a reply means, and which members of rooms must change. Does no I/O and reads no clock.
//! docs/nodes.md says which node owns a session at each moment.

mod record_write;

pub(crate) use record_write::*;

use crate::{
    Join, Membership,
    redis::{
        membership_change::{MembershipChange, MembershipOutcome},
        scripts::sessions::WriteReply,
        stored_rooms::{
            LEFT, MEMBERSHIP_BYTES, RoomField, RoomsSize, StoredMembership, StoredRooms, filter_bytes,
        },
    },
};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use switchyard_protocol::{Position, room::RoomName};

/// Whether this node may write the session, even if Redis has lost it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ownership {
    Owned,
    /// The client may be connected to another node by now. Nothing is written until it answers a ping.
    Uncertain,
    /// The client has answered, so this node may create the record again. Writes up to this number started before
    /// the answer, possibly under an earlier name of this node, and do not count.
    Reclaimable(u64),
}

/// The state of a session, and of its last write.
#[derive(Debug)]
pub(crate) struct Record {
    pub generation: u64,
    /// The number of the newest write in this generation.
    number: u64,
    /// The confirmed state. It applies to the connection, and Redis must end up with it.
    pub rooms: BTreeMap<RoomName, StoredMembership>,
    /// Rooms that the session has left but the stored record still names. `true` once the member is removed from
    /// the room, so that the next write can drop the field.
    left: BTreeMap<RoomName, bool>,
    /// Rooms whose stored member may differ from the record, with the number of the write that caused this.
    unsynced: BTreeMap<RoomName, u64>,
    /// Rooms whose place has changed and is not written yet. No request waits for these writes.
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
        self.rooms.iter().map(|(room, place)| (room.clone(), place.encode())).collect()
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
        let changed = change.join.iter().map(|join| (join.room.clone(), self.place_after(join).encode()));
        let mut fields: BTreeMap<_, _> = self.left_fields(!is_known).collect();
        match is_known {
            true => {
                let unwritten = self.unwritten.iter().filter_map(|room| self.rooms.get_key_value(room));
                fields.extend(unwritten.map(|(room, place)| (room.clone(), place.encode())));
            }
            false => fields.extend(self.rooms.iter().map(|(room, place)| (room.clone(), place.encode()))),
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

    /// The place after a join. A session that is in the room already keeps its position.
    fn place_after(&self, join: &Join) -> StoredMembership {
        let Membership { filter, position } = &join.membership;
        match self.rooms.get(&join.room) {
            Some(place) if !join.anew => StoredMembership { filter: filter.clone(), ..place.clone() },
            _ => StoredMembership { filter: filter.clone(), joined: position.clone(), acknowledged: None },
        }
    }

    /// Applies the reply to a write. The changes take effect here only if the write is confirmed.
    pub(crate) fn apply_reply(
        &mut self,
        write: &RecordWrite,
        change: RoomChanges,
        answer: WriteReply,
    ) -> WriteOutcome {
        let (number, fields) = match write {
            RecordWrite::Update { number, fields } | RecordWrite::Replace { number, fields, .. } => {
                (*number, fields)
            }
        };
        match answer {
            WriteReply::Written { time, left } => {
                // The record of the connection that wrote the newer member is lost. Outbid its generation, or the
                // member could not be changed.
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
                for (room, _) in fields.iter().filter(|(_, place)| place.is_empty()) {
                    self.left.remove(room);
                }
                self.apply(change, number);
                // Keep the places that changed while the write was in flight.
                self.unwritten.retain(|room| {
                    let is = self.rooms.get(room).map(StoredMembership::encode);
                    is.is_some()
                        && !fields.iter().any(|(name, place)| name == room && Some(place) == is.as_ref())
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
            let place = self.place_after(&join);
            self.left.remove(&join.room);
            if self.rooms.insert(join.room.clone(), place).is_none() || join.anew {
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

    /// Redis may hold something else than this node, and the client may be connected to another node.
    pub(crate) fn mark_uncertain(&mut self) {
        self.ownership = Ownership::Uncertain;
        self.mark_unsynced();
    }

    /// The client has answered, so as far as anybody can tell, the session belongs to this connection.
    pub(crate) fn allow_reclaim(&mut self) {
        if self.ownership == Ownership::Uncertain {
            self.ownership = Ownership::Reclaimable(self.number);
        }
    }

    pub(crate) fn is_uncertain(&self) -> bool {
        self.ownership == Ownership::Uncertain
    }

    pub(crate) fn is_reclaimable(&self) -> bool {
        matches!(self.ownership, Ownership::Reclaimable(_))
    }

    /// Has the record and all members written again.
    pub(crate) fn mark_unsynced(&mut self) {
        let rooms = self.rooms.keys().chain(self.left.keys());
        self.unsynced = rooms.map(|room| (room.clone(), self.number)).collect();
        self.needs_full_write = true;
    }

    /// Has the members in these rooms written again, because Redis may have lost them. Returns whether there are
    /// any.
    pub(crate) fn mark_rooms_unsynced(&mut self, rooms: &HashSet<RoomName>) -> bool {
        let forgotten: Vec<_> = self.rooms.keys().filter(|room| rooms.contains(*room)).cloned().collect();
        let any = !forgotten.is_empty();
        self.unsynced.extend(forgotten.into_iter().map(|room| (room, self.number)));
        self.needs_full_write |= any;
        any
    }

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

    /// The number of the last confirmed write.
    pub(crate) fn confirmed_number(&self) -> u64 {
        self.confirmed.0
    }

    /// The acknowledged position, if it is beyond `offset`, which Redis has.
    pub(crate) fn acknowledged_beyond(&self, room: &RoomName, offset: u64) -> Option<Position> {
        let place = self.rooms.get(room)?;
        let acknowledged = place.acknowledged.filter(|acknowledged| *acknowledged > offset)?;
        Some(Position { epoch: place.joined.epoch.clone(), offset: acknowledged })
    }

    /// Whether the record needs a write that no request waits for, and may be written now.
    pub(crate) fn wants_write(&self) -> bool {
        !self.is_uncertain() && (self.needs_full_write || !self.unwritten.is_empty())
    }

    pub(crate) fn is_synced(&self) -> bool {
        !self.needs_full_write && self.unwritten.is_empty() && self.unsynced.is_empty()
    }

    /// The members to be written, as the last confirmed write has them.
    pub(crate) fn membership_changes(&self) -> Vec<MembershipChange> {
        let (number, confirmed_at) = self.confirmed;
        let change = |room: &RoomName| MembershipChange {
            room: room.clone(),
            generation: self.generation,
            number,
            confirmed_at,
            joins: self.rooms.get(room).map(|place| {
                let offset = place.acknowledged.unwrap_or(0);
                Position { epoch: place.joined.epoch.clone(), offset }
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

    /// Returns whether the position is new. The client knows its epoch.
    pub(crate) fn acknowledge(&mut self, room: &RoomName, position: &Position) -> bool {
        let Some(place) = self.rooms.get_mut(room) else { return false };
        if place.joined.epoch != position.epoch {
            (place.joined, place.acknowledged) = (position.clone(), None);
            self.unwritten.insert(room.clone());
        }
        let is_new = place.acknowledged < Some(position.offset);
        if is_new {
            place.acknowledged = Some(position.offset);
        }
        is_new
    }

    /// Adopts what Redis, or an earlier connection on this node, has as acknowledged.
    pub(crate) fn restore_acknowledged(&mut self, room: &RoomName, position: &Position) {
        if let Some(place) = self.rooms.get_mut(room)
            && place.joined.epoch == position.epoch
        {
            place.acknowledged = place.acknowledged.max(Some(position.offset));
        }
    }

    /// Adopts what the previous connection of the session, on this node, had not written yet.
    pub(crate) fn inherit_from(&mut self, before: &Record) {
        for (room, place) in &before.rooms {
            if before.unwritten.contains(room) {
                self.advance(room, &place.joined);
            }
            if let Some(offset) = place.acknowledged {
                self.restore_acknowledged(room, &Position { epoch: place.joined.epoch.clone(), offset });
            }
        }
    }

    /// The client was told that the room continues after `position`. Returns whether that must be written.
    pub(crate) fn advance(&mut self, room: &RoomName, position: &Position) -> bool {
        let Some(place) = self.rooms.get_mut(room) else { return false };
        if place.joined.epoch == position.epoch && place.joined.offset >= position.offset {
            return false;
        }
        if place.joined.epoch != position.epoch {
            place.acknowledged = None;
        }
        place.joined = position.clone();
        self.unwritten.insert(room.clone());
        true
    }

    /// The number and all fields to write when the session is released, if Redis may not have the current state.
    pub(crate) fn final_write(&mut self) -> Option<(u64, Vec<RoomField>)> {
        if !self.needs_full_write && self.unwritten.is_empty() {
            return None;
        }
        self.number += 1;
        let places = self.rooms.iter().map(|(room, place)| (room.clone(), place.encode()));
        Some((self.number, self.left_fields(true).chain(places).collect()))
    }

    /// The session was released at `time`, after the write with this number.
    pub(crate) fn released(&mut self, time: u64, number: u64) {
        self.confirmed = (number, time);
        self.needs_full_write = false;
    }
}

#[cfg(test)]
mod tests;
