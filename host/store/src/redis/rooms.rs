//! What is asked of the keys of one room: its messages, its members, how far they have acknowledged.

use crate::{
    Members, PageLimit, Receipt, Retention, RoomSummary, Unavailable,
    redis::{
        answer,
        lifetimes::UNNEEDED,
        link::Link,
        names::Names,
        scripts,
        wire::{self, Page},
    },
};
use fred::types::Value;
use futures_util::future::try_join_all;
use std::{sync::Arc, time::Duration};
use switchyard_process::memory::{MemoryAccount, MemoryKind};
use switchyard_protocol::{Position, unix_ms};

#[derive(Clone)]
pub(super) struct Rooms {
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

impl Rooms {
    /// Of what begins anew together.
    pub(super) fn keys(&self, room: &str) -> Vec<String> {
        vec![self.names.room(room), self.names.log(room), self.names.acks(room)]
    }

    /// Messages after `after`, or from the oldest held where that is not known here. A room that is not there has an epoch that no other
    /// answer names.
    pub(super) async fn read(
        &self,
        room: &Arc<str>,
        after: Option<&Position>,
        limit: PageLimit,
    ) -> Result<Page, Unavailable> {
        self.read_for(room, after, limit, Duration::ZERO).await
    }

    /// The same for who listens to the room or is in it: it is made where it is not there.
    pub(super) async fn follow(
        &self,
        room: &Arc<str>,
        after: Option<&Position>,
        limit: PageLimit,
    ) -> Result<Page, Unavailable> {
        self.read_for(room, after, limit, UNNEEDED).await
    }

    async fn read_for(
        &self,
        room: &Arc<str>,
        after: Option<&Position>,
        limit: PageLimit,
        keep: Duration,
    ) -> Result<Page, Unavailable> {
        let age = self.retention.history.age;
        let arguments = vec![
            new_epoch("").into(),
            after.map_or("", |after| &*after.epoch).into(),
            answer::integer(after.map_or(0, |after| after.offset)),
            answer::integer(limit.messages as u64),
            answer::millis(age),
            answer::millis(keep),
            answer::integer(limit.bytes as u64),
        ];
        let keys = self.keys(room);
        let mut parts = answer::list(self.link.run(&scripts::READ, keys, arguments).await?)?.into_iter();
        let mut next = || parts.next().unwrap_or(Value::Null);
        let newest = Position { epoch: answer::text(next())?, offset: answer::number(&next())? };
        let (time, oldest) = (answer::number(&next())?, answer::number(&next())?);
        let message = |value: Value| {
            let heard =
                value.as_bytes().and_then(|bytes| wire::read(room, bytes, &self.memory, MemoryKind::Replays));
            heard.ok_or_else(|| answer::unexpected(&value))
        };
        let messages = answer::list(next())?.into_iter().map(message).collect::<Result<_, _>>()?;
        Ok(Page { newest, time, oldest, messages })
    }

    /// Ends an epoch that cannot be trusted to go on. `seen` is the newest that this node knows of.
    pub(super) async fn renew(&self, room: &str, ended: &str, seen: &str) -> Result<(), Unavailable> {
        let keys = self.keys(room);
        self.link.run(&scripts::RENEW, keys, vec![ended.into(), new_epoch(seen).into()]).await.map(drop)
    }

    pub(super) async fn members(&self, room: &str, most: usize) -> Result<Members, Unavailable> {
        let keys = vec![self.names.members(room)];
        let parts = self.link.run(&scripts::MEMBERS, keys, vec![answer::integer(most as u64)]).await?;
        let mut parts = answer::list(parts)?.into_iter();
        let mut next = || parts.next().unwrap_or(Value::Null);
        let (count, more) = (answer::number(&next())? as usize, answer::number(&next())? == 1);
        let principals = answer::list(next())?.into_iter().map(answer::text).collect::<Result<_, _>>()?;
        Ok(Members { count, principals, more })
    }

    pub(super) async fn receipt(&self, room: &str, offset: u64) -> Result<Option<Receipt>, Unavailable> {
        let keys = vec![self.names.room(room), self.names.acks(room)];
        let parts = self.link.run(&scripts::RECEIPT, keys, vec![answer::integer(offset)]).await?;
        if parts.is_null() {
            return Ok(None);
        }
        let parts = answer::list(parts)?;
        let number = |n: usize| answer::number(parts.get(n).unwrap_or(&Value::Null)).map(|n| n as usize);
        Ok(Some(Receipt { members: number(0)?, acknowledged: number(1)? }))
    }

    /// Rooms by name from `from` on, in the form of ZRANGEBYLEX. Those that are gone are taken from the list.
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
        let keys = vec![self.names.room(room), self.names.log(room), self.names.acks(room)];
        let arguments = vec![answer::millis(self.retention.history.age)];
        let parts = self.link.run(&scripts::SUMMARY, keys, arguments).await?;
        if parts.is_null() {
            return Ok(None);
        }
        let mut parts = answer::list(parts)?.into_iter();
        let mut next = || parts.next().unwrap_or(Value::Null);
        Ok(Some(RoomSummary {
            room: room.into(),
            epoch: answer::text(next())?,
            offset: answer::number(&next())?,
            members: answer::number(&next())? as usize,
            messages: answer::number(&next())? as usize,
        }))
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
