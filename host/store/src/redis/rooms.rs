//! Reads the keys of rooms in Redis: their messages, members and acknowledgements. Publishing is in
//! `pubsub::publish_queue`.

use crate::{
    Members, PageLimit, Receipt, Retention, RoomSummary, Unavailable,
    redis::{
        lifetimes::EMPTY_ROOM_TTL,
        link::Link,
        log_entry::LogPage,
        names::Names,
        scripts::rooms::{self as scripts, LogRead},
    },
};
use std::{sync::Arc, time::Duration};
use switchyard_process::memory::MemoryAccount;
use switchyard_protocol::{Position, unix_ms};

#[derive(Clone)]
pub(super) struct RedisRooms {
    pub link: Arc<Link>,
    pub names: Names,
    pub retention: Retention,
    pub memory: Arc<MemoryAccount>,
}

/// How many hexadecimal digits the number at the beginning of an epoch has.
const EPOCH_NUMBER_DIGITS: usize = 8;

/// Returns a new epoch. It begins with a number that is greater than that of `seen`, usually the time in
/// seconds, so that an epoch that ended can be recognized if it comes back, for example from an old file of
/// Redis. The rest is random.
pub(super) fn new_epoch(seen: &str) -> String {
    let number = (unix_ms() / 1000).max(epoch_number(seen).map_or(0, |seen| seen + 1));
    let random = u32::from_le_bytes(crate::random::random()) >> 8;
    format!("{number:0EPOCH_NUMBER_DIGITS$x}{random:06x}")
}

fn epoch_number(epoch: &str) -> Option<u64> {
    u64::from_str_radix(epoch.get(..EPOCH_NUMBER_DIGITS)?, 16).ok()
}

/// Whether the first epoch began before the second.
pub(super) fn is_older(epoch: &str, than: &str) -> bool {
    epoch_number(epoch).zip(epoch_number(than)).is_some_and(|(epoch, than)| epoch < than)
}

impl RedisRooms {
    /// Reads messages after `after`, or from the oldest one if `after` is not in this epoch. If the room does
    /// not exist, the page is empty, and has an epoch that no other answer names.
    pub(super) async fn read(
        &self,
        room: &Arc<str>,
        after: Option<&Position>,
        limit: PageLimit,
    ) -> Result<LogPage, Unavailable> {
        self.read_for(room, after, limit, Duration::ZERO).await
    }

    /// The same for a subscriber or a member. Creates the room if it does not exist.
    pub(super) async fn follow(
        &self,
        room: &Arc<str>,
        after: Option<&Position>,
        limit: PageLimit,
    ) -> Result<LogPage, Unavailable> {
        self.read_for(room, after, limit, EMPTY_ROOM_TTL).await
    }

    async fn read_for(
        &self,
        room: &Arc<str>,
        after: Option<&Position>,
        limit: PageLimit,
        keep: Duration,
    ) -> Result<LogPage, Unavailable> {
        let age = self.retention.history.of(room).age;
        let read = LogRead { after, limit, age, keep, new_epoch: new_epoch("") };
        scripts::read_log(&self.link, &self.names, &self.memory, room, read).await
    }

    /// Begins a new epoch, because `ended` has lost messages. `seen` is the newest epoch that this node
    /// knows.
    pub(super) async fn begin_epoch(&self, room: &str, ended: &str, seen: &str) -> Result<(), Unavailable> {
        scripts::begin_epoch(&self.link, &self.names, room, ended, new_epoch(seen)).await
    }

    /// Ends an epoch of a room, and begins a new one without messages.
    pub(super) async fn clear_history(&self, room: &str, epoch: &str) -> Result<(), Unavailable> {
        scripts::clear_history(&self.link, &self.names, room, epoch, new_epoch(epoch)).await
    }

    pub(super) async fn members(&self, room: &str, max_principals: usize) -> Result<Members, Unavailable> {
        scripts::members(&self.link, &self.names, room, max_principals).await
    }

    pub(super) async fn receipt(&self, room: &str, offset: u64) -> Result<Option<Receipt>, Unavailable> {
        scripts::receipt(&self.link, &self.names, room, offset).await
    }

    /// `None` if the room does not exist.
    pub(super) async fn summary(&self, room: &str) -> Result<Option<RoomSummary>, Unavailable> {
        scripts::summary(&self.link, &self.names, room, self.retention.history.of(room).age).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_rise_and_one_that_comes_back_is_recognized() {
        let first = new_epoch("");
        let second = new_epoch(&first);
        assert!(is_older(&first, &second) && !is_older(&second, &first) && !is_older(&first, &first));
        assert_ne!(new_epoch(""), first, "even within a second");
        assert!(
            !is_older("k3f9", &second) && !is_older("", &second),
            "epochs without a number are not compared"
        );
    }
}
