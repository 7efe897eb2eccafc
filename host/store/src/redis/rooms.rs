//! What is asked of the keys of one room: its messages, its members, how far they have acknowledged.

use crate::{
    Members, PageLimit, Receipt, Retention, RoomSummary, Unavailable,
    redis::{
        answer,
        lifetimes::UNNEEDED,
        link::Link,
        log_entry::LogPage,
        names::Names,
        scripts::rooms::{self as scripts, LogRead},
    },
};
use fred::types::Value;
use futures_util::future::try_join_all;
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

/// Digits of the number that an epoch begins with.
const NUMBER: usize = 8;

/// An epoch begins with a number that rises, so that one which ended and comes back, as with an older file, is known for it: the
/// second in which it began, or one more than that of `seen`. Then it is random.
pub(super) fn new_epoch(seen: &str) -> String {
    let number = (unix_ms() / 1000).max(epoch_number(seen).map_or(0, |seen| seen + 1));
    let random = u32::from_le_bytes(crate::random::random()) >> 8;
    format!("{number:0NUMBER$x}{random:06x}")
}

fn epoch_number(epoch: &str) -> Option<u64> {
    u64::from_str_radix(epoch.get(..NUMBER)?, 16).ok()
}

/// Whether the first epoch began before the second.
pub(super) fn is_older(epoch: &str, than: &str) -> bool {
    epoch_number(epoch).zip(epoch_number(than)).is_some_and(|(epoch, than)| epoch < than)
}

impl RedisRooms {
    /// Messages after `after`, or from the oldest held where that is not known here. A room that is not there has an epoch that no other
    /// answer names.
    pub(super) async fn read(
        &self,
        room: &Arc<str>,
        after: Option<&Position>,
        limit: PageLimit,
    ) -> Result<LogPage, Unavailable> {
        self.read_for(room, after, limit, Duration::ZERO).await
    }

    /// The same for who listens to the room or is in it: it is made where it is not there.
    pub(super) async fn follow(
        &self,
        room: &Arc<str>,
        after: Option<&Position>,
        limit: PageLimit,
    ) -> Result<LogPage, Unavailable> {
        self.read_for(room, after, limit, UNNEEDED).await
    }

    async fn read_for(
        &self,
        room: &Arc<str>,
        after: Option<&Position>,
        limit: PageLimit,
        keep: Duration,
    ) -> Result<LogPage, Unavailable> {
        let read = LogRead { after, limit, age: self.retention.history.age, keep, new_epoch: new_epoch("") };
        scripts::read_log(&self.link, &self.names, &self.memory, room, read).await
    }

    /// Ends an epoch that cannot be trusted to go on. `seen` is the newest that this node knows of.
    pub(super) async fn renew(&self, room: &str, ended: &str, seen: &str) -> Result<(), Unavailable> {
        scripts::begin_epoch(&self.link, &self.names, room, ended, new_epoch(seen)).await
    }

    pub(super) async fn members(&self, room: &str, max_principals: usize) -> Result<Members, Unavailable> {
        scripts::members(&self.link, &self.names, room, max_principals).await
    }

    pub(super) async fn receipt(&self, room: &str, offset: u64) -> Result<Option<Receipt>, Unavailable> {
        scripts::receipt(&self.link, &self.names, room, offset).await
    }

    /// RedisRooms by name from `from` on, in the form of ZRANGEBYLEX. Those that are gone are taken from the list.
    pub(super) async fn page(
        &self,
        from: &str,
        limit: u64,
    ) -> Result<Vec<(Arc<str>, Option<RoomSummary>)>, Unavailable> {
        let key: Value = self.names.rooms().into();
        let limit = ["LIMIT".into(), "0".into(), answer::integer(limit)];
        let command = [key.clone(), from.into(), "+".into()].into_iter().chain(limit).collect();
        let listed = answer::list(self.link.command("ZRANGEBYLEX", command).await?)?;
        let listed: Vec<_> = listed.into_iter().map(answer::text).collect::<Result<_, _>>()?;
        let summaries = try_join_all(listed.iter().map(|room| self.summary(room))).await?;
        let page: Vec<_> = listed.into_iter().zip(summaries).collect();
        let gone = page.iter().filter(|(_, summary)| summary.is_none());
        let gone: Vec<_> = gone.map(|(room, _)| Value::from(&**room)).collect();
        if !gone.is_empty() {
            self.link.command("ZREM", [vec![key], gone].concat()).await?;
        }
        Ok(page)
    }

    /// `None`: the room is not there.
    pub(super) async fn summary(&self, room: &str) -> Result<Option<RoomSummary>, Unavailable> {
        scripts::summary(&self.link, &self.names, room, self.retention.history.age).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_rise_and_one_that_comes_back_is_known_for_it() {
        let first = new_epoch("");
        let second = new_epoch(&first);
        assert!(is_older(&first, &second) && !is_older(&second, &first) && !is_older(&first, &first));
        assert_ne!(new_epoch(""), first, "also within a second");
        assert!(!is_older("k3f9", &second) && !is_older("", &second), "of no number nothing is known");
    }
}
