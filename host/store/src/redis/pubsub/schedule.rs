//! When rooms are due: those without members on this node to be unsubscribed, and all others to be compared
//! with their logs. No I/O.

use std::{collections::VecDeque, time::Duration};
use switchyard_protocol::room::RoomName;
use tokio::time::Instant;

/// How long a room may be silent before its log is read, in case the subscription was lost.
const SILENCE_CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// How long a room without members on this node stays subscribed, in case somebody joins again.
const UNSUBSCRIBE_DELAY: Duration = Duration::from_secs(2);

/// Both queues are in the order of their times.
#[derive(Default)]
pub(crate) struct Schedule {
    unsubscribes: VecDeque<(Instant, RoomName)>,
    /// With the number of the subscription.
    checks: VecDeque<(Instant, RoomName, u64)>,
}

impl Schedule {
    /// Schedules the end of a subscription, because the room has no more members on this node.
    pub(crate) fn schedule_unsubscribe(&mut self, room: RoomName) {
        self.unsubscribes.push_back((Instant::now() + UNSUBSCRIBE_DELAY, room));
    }

    /// Takes a room whose delay is over.
    pub(crate) fn next_unsubscribe(&mut self, now: Instant) -> Option<RoomName> {
        self.unsubscribes.pop_front_if(|(at, _)| *at <= now).map(|(_, room)| room)
    }

    /// Schedules the next check of the room.
    pub(crate) fn schedule_check(&mut self, room: RoomName, number: u64) {
        self.checks.push_back((Instant::now() + SILENCE_CHECK_INTERVAL, room, number));
    }

    /// Takes the rooms that are due for a check.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<(RoomName, u64)> {
        let due = self.checks.partition_point(|(at, ..)| *at <= now);
        self.checks.drain(..due).map(|(_, room, number)| (room, number)).collect()
    }
}
