//! The scripts that read a room, and the one that starts a new epoch. The messages of a room are published in
//! `scripts::publishing`, and its members written in `scripts::memberships`.

use crate::{
    Members, PageLimit, Receipt, RoomSummary, Unavailable,
    redis::{
        arguments,
        link::Link,
        log_entry::{self, LogPage},
        names::Names,
        replies::{self, Elements, InvalidReply},
    },
};
use std::{sync::Arc, time::Duration};
use switchyard_process::memory::{MemoryAccount, MemoryKind};
use switchyard_protocol::Position;

// The model runs these two for its own rooms.
script!(pub(in crate::redis) READ = "read");
script!(pub(in crate::redis) BEGIN_EPOCH = "begin_epoch");
script!(CLEAR_HISTORY = "clear_history");
script!(SUMMARY = "summary");
script!(MEMBERS = "members");
script!(RECEIPT = "receipt");

/// The keys that a new epoch resets.
pub(super) fn keys(names: &Names, room: &str) -> Vec<String> {
    vec![names.room(room), names.log(room), names.acks(room)]
}

/// Which part of a room's log to read.
pub(crate) struct LogRead<'a> {
    /// The messages after this; those from the oldest on where this is `None` or of another epoch.
    pub after: Option<&'a Position>,
    pub limit: PageLimit,
    /// How long messages are kept.
    pub age: Duration,
    /// For a node that listens to the room: how long the room is kept for it at least. Zero for others, for
    /// whom no room is made where there is none.
    pub keep: Duration,
    /// The epoch of a room that is made, and the one that is answered where no room is.
    pub new_epoch: String,
}

/// Reads a piece of a room's log. Memory for its messages is charged to `account`.
pub(crate) async fn read_log(
    link: &Link,
    names: &Names,
    account: &Arc<MemoryAccount>,
    room: &Arc<str>,
    LogRead { after, limit, age, keep, new_epoch }: LogRead<'_>,
) -> Result<LogPage, Unavailable> {
    let arguments = vec![
        new_epoch.into(),
        after.map_or("", |after| &*after.epoch).into(),
        arguments::integer(after.map_or(0, |after| after.offset)),
        arguments::integer(limit.messages as u64),
        arguments::millis(age),
        arguments::millis(keep),
        arguments::integer(limit.bytes as u64),
    ];
    let mut reply = Elements::of(link.run(&READ, keys(names, room), arguments).await?)?;
    let newest = Position { epoch: reply.text()?, offset: reply.number()? };
    let (time, oldest) = (reply.number()?, reply.number()?);
    let decode = |bytes: &[u8]| log_entry::decode(room, bytes, account, MemoryKind::Replays);
    let entry = |value| {
        let entry = fred::types::Value::as_bytes(value).and_then(decode);
        entry.ok_or(InvalidReply::Message)
    };
    let entries = replies::list(reply.next()?)?.iter().map(entry).collect::<Result<_, _>>()?;
    Ok(LogPage { newest, time, oldest, entries })
}

/// Starts a new epoch, if it still has the one that ended.
pub(crate) async fn begin_epoch(
    link: &Link,
    names: &Names,
    room: &str,
    ended: &str,
    begins: String,
) -> Result<(), Unavailable> {
    link.run(&BEGIN_EPOCH, keys(names, room), vec![ended.into(), begins.into()]).await.map(drop)
}

/// Starts a new epoch without messages, if the room still has the one that ends, and tells the nodes that listen.
pub(crate) async fn clear_history(
    link: &Link,
    names: &Names,
    room: &str,
    ends: &str,
    begins: String,
) -> Result<(), Unavailable> {
    let arguments = vec![ends.into(), begins.into(), names.live(room).into()];
    link.run(&CLEAR_HISTORY, keys(names, room), arguments).await.map(drop)
}

/// `None`: the room does not exist. Messages older than `age` are not counted.
pub(crate) async fn summary(
    link: &Link,
    names: &Names,
    room: &str,
    age: Duration,
) -> Result<Option<RoomSummary>, Unavailable> {
    let reply = link.run(&SUMMARY, keys(names, room), vec![arguments::millis(age)]).await?;
    if reply.is_null() {
        return Ok(None);
    }
    let mut reply = Elements::of(reply)?;
    Ok(Some(RoomSummary {
        room: room.into(),
        epoch: reply.text()?,
        offset: reply.number()?,
        members: reply.number()? as usize,
        messages: reply.number()? as usize,
    }))
}

/// The members of a room, with the names of at most `most` principals.
pub(crate) async fn members(
    link: &Link,
    names: &Names,
    room: &str,
    most: usize,
) -> Result<Members, Unavailable> {
    let reply = link.run(&MEMBERS, vec![names.members(room)], vec![arguments::integer(most as u64)]).await?;
    let mut reply = Elements::of(reply)?;
    let (count, more) = (reply.number()? as usize, reply.flag()?);
    Ok(Members { count, principals: reply.texts()?, more })
}

/// How many members have acknowledged an offset. `None`: the offset was never assigned.
pub(crate) async fn receipt(
    link: &Link,
    names: &Names,
    room: &str,
    offset: u64,
) -> Result<Option<Receipt>, Unavailable> {
    let keys = vec![names.room(room), names.acks(room)];
    let reply = link.run(&RECEIPT, keys, vec![arguments::integer(offset)]).await?;
    if reply.is_null() {
        return Ok(None);
    }
    let mut reply = Elements::of(reply)?;
    Ok(Some(Receipt { members: reply.number()? as usize, acknowledged: reply.number()? as usize }))
}
