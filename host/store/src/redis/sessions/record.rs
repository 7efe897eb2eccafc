//! One session as its connection's node holds it, and what of it Redis is known to hold: which write comes next, what its answer
//! means, and which members follow from it. No I/O and no clock. docs/nodes.md says who owns a session at each moment.

mod record_write;

pub(crate) use record_write::*;

use crate::{
    Join, Membership,
    redis::{
        membership_change::{MembershipChange, MembershipOutcome},
        scripts::sessions::WriteReply,
        stored_rooms::{LEFT, RoomField, StoredMembership, StoredRooms},
    },
};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use switchyard_protocol::{Position, room::RoomName};

/// Whether a session that was lost may be written anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ownership {
    Owned,
    /// Its client may be elsewhere by now: nothing is written before it was heard.
    Uncertain,
    /// It was heard. What was written up to this number was begun before, maybe under a name that this node has no more.
    Reclaimable(u64),
}

#[derive(Debug)]
pub(crate) struct Record {
    pub generation: u64,
    /// Of the newest write.
    number: u64,
    /// What rules here, and what Redis is to hold.
    pub rooms: BTreeMap<RoomName, StoredMembership>,
    /// Rooms that were left and that the record still names; whether the member is gone.
    left: BTreeMap<RoomName, bool>,
    /// Rooms whose member may not be as the record says, with the write since which that is so.
    unsettled: BTreeMap<RoomName, u64>,
    /// Rooms whose place changed without anybody waiting for that to be written.
    moved: BTreeSet<RoomName>,
    /// What the last write did is not known.
    doubtful: bool,
    /// The last write that was answered well: its number and when.
    confirmed: (u64, u64),
    /// A member was written in this newer generation. Either the record says so too, or Redis has lost that.
    newer: Option<u64>,
    ownership: Ownership,
}

impl Record {
    /// A session that was claimed or taken at `time` with these rooms. All members are to be written.
    pub(crate) fn new(generation: u64, time: u64, rooms: StoredRooms) -> Self {
        let unsettled = rooms.memberships.keys().chain(&rooms.left).map(|room| (room.clone(), 0)).collect();
        Self {
            generation,
            number: 0,
            rooms: rooms.memberships,
            left: rooms.left.into_iter().map(|room| (room, false)).collect(),
            unsettled,
            moved: BTreeSet::new(),
            doubtful: false,
            confirmed: (0, time),
            newer: None,
            ownership: Ownership::Owned,
        }
    }

    /// The rooms of a session that is being claimed.
    pub(crate) fn first_write(&mut self, change: RoomChanges) -> Vec<RoomField> {
        self.apply(change, 0);
        self.rooms.iter().map(|(room, place)| (room.clone(), place.encode())).collect()
    }

    /// It was claimed.
    pub(crate) fn begin(&mut self, generation: u64, time: u64) {
        (self.generation, self.confirmed) = (generation, (0, time));
    }

    /// The next write. Until its answer nothing else is written.
    pub(crate) fn write(&mut self, change: &RoomChanges) -> RecordWrite {
        let known = !self.doubtful && self.ownership == Ownership::Owned;
        self.number += 1;
        self.doubtful = true;
        let number = self.number;
        // Should nobody hear what becomes of it, its member may be there: whoever finds it in the record brings it in.
        for join in change.join.iter().filter(|join| !self.rooms.contains_key(&join.room)) {
            self.left.insert(join.room.clone(), false);
            self.unsettled.insert(join.room.clone(), number);
        }
        let left = |room: &RoomName| (room.clone(), LEFT.to_owned());
        let changed = change.join.iter().map(|join| (join.room.clone(), self.place(join).encode()));
        let mut fields: BTreeMap<_, _> = self.left_fields(!known).collect();
        match known {
            true => {
                let moved = self.moved.iter().filter_map(|room| self.rooms.get_key_value(room));
                fields.extend(moved.map(|(room, place)| (room.clone(), place.encode())));
            }
            false => fields.extend(self.rooms.iter().map(|(room, place)| (room.clone(), place.encode()))),
        }
        fields.extend(changed);
        fields.extend(change.leave.iter().map(left));
        let fields = fields.into_iter().collect();
        match known {
            true => RecordWrite::Amend { number, fields },
            false => RecordWrite::Put { number, fields, anew: self.is_reclaimable() },
        }
    }

    /// Rooms that were left: those whose member is gone go from the record; the others too, where all is written.
    fn left_fields(&self, all: bool) -> impl Iterator<Item = RoomField> {
        let left = self.left.iter().filter(move |(_, gone)| all || **gone);
        left.map(|(room, gone)| (room.clone(), if *gone { String::new() } else { LEFT.to_owned() }))
    }

    /// The place that a join leads to. A member that is there already keeps its position.
    fn place(&self, join: &Join) -> StoredMembership {
        let Membership { filter, position } = &join.membership;
        match self.rooms.get(&join.room) {
            Some(place) if !join.anew => StoredMembership { filter: filter.clone(), ..place.clone() },
            _ => StoredMembership { filter: filter.clone(), joined: position.clone(), acknowledged: None },
        }
    }

    /// What the answer to a write means. Only now does what it changed rule here.
    pub(crate) fn answered(
        &mut self,
        write: &RecordWrite,
        change: RoomChanges,
        answer: WriteReply,
    ) -> WriteOutcome {
        let (number, fields) = match write {
            RecordWrite::Amend { number, fields } | RecordWrite::Put { number, fields, .. } => {
                (*number, fields)
            }
        };
        match answer {
            WriteReply::Written { time, left } => {
                // Who wrote the newer members is not in the record any more: this has to come after them.
                if let Some(newer) = self.newer.take() {
                    (self.generation, self.number) = (newer + 1, 0);
                    if self.is_reclaimable() {
                        self.ownership = Ownership::Reclaimable(0);
                    }
                    self.unsettled.values_mut().for_each(|since| *since = 0);
                    return WriteOutcome::Retry;
                }
                self.confirmed = (number, time);
                if let (Ownership::Reclaimable(since), RecordWrite::Put { anew: true, .. }) =
                    (self.ownership, write)
                    && number > since
                {
                    self.ownership = Ownership::Owned;
                    // Members that were written while it was doubted may have been cleared away since.
                    self.unsettle();
                }
                self.doubtful = self.ownership != Ownership::Owned;
                for (room, _) in fields.iter().filter(|(_, place)| place.is_empty()) {
                    self.left.remove(room);
                }
                self.apply(change, number);
                // What moved while it was written is written later.
                self.moved.retain(|room| {
                    let is = self.rooms.get(room).map(StoredMembership::encode);
                    is.is_some()
                        && !fields.iter().any(|(name, place)| name == room && Some(place) == is.as_ref())
                });
                for room in left.into_iter().filter(|room| !self.rooms.contains_key(room)) {
                    self.unsettled.insert(room.clone(), number);
                    self.left.insert(room, false);
                }
                WriteOutcome::Confirmed
            }
            WriteReply::Taken => WriteOutcome::TakenOver,
            WriteReply::Behind | WriteReply::Gone => {
                self.doubt();
                WriteOutcome::Lost
            }
            WriteReply::Late => WriteOutcome::Retry,
        }
    }

    fn apply(&mut self, change: RoomChanges, number: u64) {
        for join in change.join {
            let place = self.place(&join);
            self.left.remove(&join.room);
            if self.rooms.insert(join.room.clone(), place).is_none() || join.anew {
                self.unsettled.insert(join.room, number);
            }
        }
        for room in change.leave {
            if self.rooms.remove(&room).is_some() {
                self.moved.remove(&room);
                self.unsettled.insert(room.clone(), number);
                self.left.insert(room, false);
            }
        }
    }

    /// Redis may have another picture of the session, and the client may be elsewhere.
    pub(crate) fn doubt(&mut self) {
        self.ownership = Ownership::Uncertain;
        self.unsettle();
    }

    /// The client was heard: the session is its connection's as far as anybody can know.
    pub(crate) fn vouch(&mut self) {
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

    /// Everything is written again.
    pub(crate) fn unsettle(&mut self) {
        let rooms = self.rooms.keys().chain(self.left.keys());
        self.unsettled = rooms.map(|room| (room.clone(), self.number)).collect();
        self.doubtful = true;
    }

    /// These rooms forgot who is in them: whether that is to be written.
    pub(crate) fn unsettle_rooms(&mut self, rooms: &HashSet<RoomName>) -> bool {
        let forgotten: Vec<_> = self.rooms.keys().filter(|room| rooms.contains(*room)).cloned().collect();
        let any = !forgotten.is_empty();
        self.unsettled.extend(forgotten.into_iter().map(|room| (room, self.number)));
        self.doubtful |= any;
        any
    }

    /// The last write that was answered well.
    pub(crate) fn confirmed_number(&self) -> u64 {
        self.confirmed.0
    }

    /// What was acknowledged beyond an offset that Redis has.
    pub(crate) fn acknowledged_beyond(&self, room: &RoomName, offset: u64) -> Option<Position> {
        let place = self.rooms.get(room)?;
        let acknowledged = place.acknowledged.filter(|acknowledged| *acknowledged > offset)?;
        Some(Position { epoch: place.joined.epoch.clone(), offset: acknowledged })
    }

    /// Something is to be written that nobody waits for, as far as that may be written now.
    pub(crate) fn wants_write(&self) -> bool {
        !self.is_uncertain() && (self.doubtful || !self.moved.is_empty())
    }

    pub(crate) fn is_synced(&self) -> bool {
        !self.doubtful && self.moved.is_empty() && self.unsettled.is_empty()
    }

    /// Members to be written, on the word of the last write that was answered well.
    pub(crate) fn membership_changes(&self) -> Vec<MembershipChange> {
        let (number, confirmed) = self.confirmed;
        let change = |room: &RoomName| MembershipChange {
            room: room.clone(),
            generation: self.generation,
            number,
            confirmed,
            comes: self.rooms.get(room).map(|place| {
                let offset = place.acknowledged.unwrap_or(0);
                Position { epoch: place.joined.epoch.clone(), offset }
            }),
        };
        self.unsettled.keys().map(change).collect()
    }

    /// Takes it out of all its rooms: Redis said at this time that there is no record of it.
    pub(crate) fn departures(&self, time: u64) -> Vec<MembershipChange> {
        let departure = |room: &RoomName| MembershipChange {
            room: room.clone(),
            generation: self.generation,
            number: self.number,
            confirmed: time,
            comes: None,
        };
        self.rooms.keys().chain(self.left.keys()).map(departure).collect()
    }

    /// What became of a member that was written; the room has this epoch.
    pub(crate) fn enrolled(&mut self, change: &MembershipChange, enrolled: MembershipOutcome, epoch: &str) {
        let MembershipChange { room, number, comes, .. } = change;
        let changed = self.unsettled.get(room).is_some_and(|since| since > number);
        match enrolled {
            // Before it is written again, the record is confirmed again.
            MembershipOutcome::Late => self.doubtful = true,
            MembershipOutcome::Older(newer) => {
                self.newer = Some(newer).filter(|newer| *newer > self.generation);
                self.doubtful = true;
            }
            MembershipOutcome::Ok(_) if changed => {}
            MembershipOutcome::Ok(acknowledged) => {
                self.unsettled.remove(room);
                if comes.is_some() && acknowledged > 0 {
                    self.recall(room, &Position { epoch: epoch.into(), offset: acknowledged });
                }
                if comes.is_none()
                    && let Some(gone) = self.left.get_mut(room)
                {
                    *gone = true;
                }
            }
        }
    }

    /// Whether it is new. The client was told of the position's epoch.
    pub(crate) fn acknowledge(&mut self, room: &RoomName, position: &Position) -> bool {
        let Some(place) = self.rooms.get_mut(room) else { return false };
        if place.joined.epoch != position.epoch {
            (place.joined, place.acknowledged) = (position.clone(), None);
            self.moved.insert(room.clone());
        }
        let is_new = place.acknowledged < Some(position.offset);
        if is_new {
            place.acknowledged = Some(position.offset);
        }
        is_new
    }

    /// What was acknowledged before, as Redis or another connection of this node has it.
    pub(crate) fn recall(&mut self, room: &RoomName, position: &Position) {
        if let Some(place) = self.rooms.get_mut(room)
            && place.joined.epoch == position.epoch
        {
            place.acknowledged = place.acknowledged.max(Some(position.offset));
        }
    }

    /// What a connection that held the session before this one had, and Redis not yet.
    pub(crate) fn inherit(&mut self, before: &Record) {
        for (room, place) in &before.rooms {
            if before.moved.contains(room) {
                self.advance(room, &place.joined);
            }
            if let Some(offset) = place.acknowledged {
                self.recall(room, &Position { epoch: place.joined.epoch.clone(), offset });
            }
        }
    }

    /// The client was told that the room goes on after a position: whether that is to be written.
    pub(crate) fn advance(&mut self, room: &RoomName, position: &Position) -> bool {
        let Some(place) = self.rooms.get_mut(room) else { return false };
        if place.joined.epoch == position.epoch && place.joined.offset >= position.offset {
            return false;
        }
        if place.joined.epoch != position.epoch {
            place.acknowledged = None;
        }
        place.joined = position.clone();
        self.moved.insert(room.clone());
        true
    }

    /// For letting it go while a write is in doubt: the number, and everything.
    pub(crate) fn last_write(&mut self) -> Option<(u64, Vec<RoomField>)> {
        if !self.doubtful && self.moved.is_empty() {
            return None;
        }
        self.number += 1;
        let places = self.rooms.iter().map(|(room, place)| (room.clone(), place.encode()));
        Some((self.number, self.left_fields(true).chain(places).collect()))
    }

    /// The session was let go with this generation and number.
    pub(crate) fn let_go(&mut self, time: u64, number: u64) {
        self.confirmed = (number, time);
        self.doubtful = false;
    }
}

#[cfg(test)]
mod tests;
