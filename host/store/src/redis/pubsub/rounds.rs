//! Which rooms are to be seen to when: those that nobody is in any more, and those that are looked at now and then.

use std::{collections::VecDeque, time::Duration};
use switchyard_protocol::room::RoomName;
use tokio::time::Instant;

/// A room in which nothing was heard for so long is looked at: silence may be a subscription that is gone.
const PATROL: Duration = Duration::from_secs(5);
/// A room that nobody is in any more is listened to for so long, in case somebody comes back.
const LINGER: Duration = Duration::from_secs(2);

/// Both in the order of time.
#[derive(Default)]
pub(crate) struct Rounds {
    lingering: VecDeque<(Instant, RoomName)>,
    /// With the number of the interest.
    patrol: VecDeque<(Instant, RoomName, u64)>,
}

impl Rounds {
    /// Nobody is in the room any more.
    pub(crate) fn linger(&mut self, room: RoomName) {
        self.lingering.push_back((Instant::now() + LINGER, room));
    }

    /// A room that has lingered.
    pub(crate) fn lingered(&mut self, now: Instant) -> Option<RoomName> {
        self.lingering.pop_front_if(|(at, _)| *at <= now).map(|(_, room)| room)
    }

    /// The room is to be looked at the next time around.
    pub(crate) fn patrol(&mut self, room: RoomName, number: u64) {
        self.patrol.push_back((Instant::now() + PATROL, room, number));
    }

    /// The rooms whose turn it is.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<(RoomName, u64)> {
        let due = self.patrol.partition_point(|(at, ..)| *at <= now);
        self.patrol.drain(..due).map(|(_, room, number)| (room, number)).collect()
    }
}
