//! When which room is due: rooms that nobody is in any more to be unsubscribed, and all others to be compared with their
//! logs now and then.

use std::{collections::VecDeque, time::Duration};
use switchyard_protocol::room::RoomName;
use tokio::time::Instant;

/// The log of a room is read when nothing was received for so long: the subscription may be gone.
const PATROL_INTERVAL: Duration = Duration::from_secs(5);
/// How long a room stays subscribed that nobody is in any more, in case somebody comes back.
const LINGER: Duration = Duration::from_secs(2);

/// Each queue is in the order of time.
#[derive(Default)]
pub(crate) struct Schedule {
    lingering: VecDeque<(Instant, RoomName)>,
    /// With the number of the subscription.
    patrol: VecDeque<(Instant, RoomName, u64)>,
}

impl Schedule {
    /// Nobody is in the room any more.
    pub(crate) fn linger(&mut self, room: RoomName) {
        self.lingering.push_back((Instant::now() + LINGER, room));
    }

    /// A room that has lingered for long enough.
    pub(crate) fn next_lingered(&mut self, now: Instant) -> Option<RoomName> {
        self.lingering.pop_front_if(|(at, _)| *at <= now).map(|(_, room)| room)
    }

    /// Schedules the next patrol of the room.
    pub(crate) fn patrol(&mut self, room: RoomName, number: u64) {
        self.patrol.push_back((Instant::now() + PATROL_INTERVAL, room, number));
    }

    /// Takes the rooms that are due for a patrol.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<(RoomName, u64)> {
        let due = self.patrol.partition_point(|(at, ..)| *at <= now);
        self.patrol.drain(..due).map(|(_, room, number)| (room, number)).collect()
    }
}
