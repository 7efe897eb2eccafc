//! How much the messages of rooms take in Redis, by room and by the principal that published them.

use super::sums::UsageSums;
use crate::HistoryConfig;
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};
use switchyard_process::memory::{MemoryCharge, MemoryKind, MemoryShare};
use switchyard_protocol::room::RoomName;

/// How many bytes a room, and each of its messages, takes in Redis without its texts. Measured with version 7.
pub(super) const ROOM_BYTES: usize = 4700;
pub(super) const MESSAGE_BYTES: usize = 100;
/// How many bytes this node needs to track a room.
pub(super) const ROOM_NOTE_BYTES: usize = 200;

/// Times are in seconds.
#[derive(Default)]
pub(super) struct RoomUsages {
    rooms: HashMap<(RoomName, Arc<str>), RoomUsage>,
    /// When each of these is checked next. It may have expired by then.
    checks: BTreeSet<(u64, RoomName, Arc<str>)>,
}

/// What a principal has published to a room.
struct RoomUsage {
    messages: usize,
    bytes: usize,
    /// When the newest message expires.
    until: u64,
    /// The memory of this node for tracking the room.
    _charge: MemoryCharge,
}

impl RoomUsages {
    pub(super) fn contains(&self, room: &RoomName, principal: &Arc<str>) -> bool {
        self.rooms.contains_key(&(room.clone(), principal.clone()))
    }

    /// Adds a message of this many bytes, which expires at `until`. Returns how many bytes were added.
    pub(super) fn add_message(
        &mut self,
        room: &RoomName,
        share: &Arc<MemoryShare>,
        bytes: usize,
        until: u64,
        history: &HistoryConfig,
        sums: &mut UsageSums,
    ) -> usize {
        let (principal, mut grown) = (share.principal(), 0);
        let new = || {
            grown += ROOM_BYTES;
            let charge = share.charge(MemoryKind::Rooms, ROOM_NOTE_BYTES + room.len());
            RoomUsage { messages: 0, bytes: 0, until, _charge: charge }
        };
        let known = self.rooms.entry((room.clone(), principal.clone())).or_insert_with(new);
        let before = known.bytes;
        known.until = until;
        if history.messages > 0 {
            (known.messages, known.bytes) = (known.messages + 1, known.bytes + bytes + MESSAGE_BYTES);
            if known.messages > history.messages {
                // The oldest message is dropped. Its size is taken to be the average.
                known.bytes -= known.bytes / known.messages;
                known.messages = history.messages;
            }
            known.bytes = known.bytes.min(history.bytes);
        }
        let after = known.bytes;
        if grown > 0 {
            self.checks.insert((until, room.clone(), principal.clone()));
        }
        grown += after.saturating_sub(before);
        sums.add(principal, grown);
        sums.subtract(principal, before.saturating_sub(after));
        grown
    }

    /// Stops counting rooms whose messages have expired by a second, and checks at most `max`. Returns how
    /// many were checked.
    pub(super) fn expire(&mut self, second: u64, max: usize, sums: &mut UsageSums) -> usize {
        let mut checked = 0;
        while checked < max && self.checks.first().is_some_and(|(at, ..)| *at <= second) {
            let (_, room, principal) = self.checks.pop_first().expect("seen above");
            checked += 1;
            let key = (room, principal);
            match self.rooms.get(&key).map(|room| room.until).filter(|until| *until > second) {
                Some(until) => drop(self.checks.insert((until, key.0, key.1))),
                None => {
                    if let Some(room) = self.rooms.remove(&key) {
                        sums.subtract(&key.1, ROOM_BYTES + room.bytes);
                    }
                }
            }
        }
        checked
    }

    pub(super) fn shrink(&mut self) {
        if self.rooms.len() < self.rooms.capacity() / 4 {
            self.rooms.shrink_to(2 * self.rooms.len());
        }
    }
}
