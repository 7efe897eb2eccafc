//! The scripts for the members of a room: who joins and leaves it, and what each has acknowledged.

use crate::{
    Unavailable,
    redis::{
        arguments,
        context::redis_clock::WRITE_VALIDITY,
        lifetimes::EMPTY_ROOM_TTL,
        link::Link,
        membership_change::{MembershipChange, MembershipOutcome},
        names::Names,
        replies::{Elements, InvalidReply},
        session_id::SessionId,
    },
};
use fred::types::Value;
use std::{sync::Arc, time::Duration};

script!(WRITE_MEMBERS = "write_members");
script!(ACKNOWLEDGE = "acknowledge");

/// How long a removal is remembered. Longer than a write can be late, and than the clocks of a Cluster's
/// servers differ.
const REMOVAL_TTL: Duration = Duration::from_secs(20);

/// A member to be written or removed.
pub(crate) struct MemberWrite<'a> {
    pub principal: &'a str,
    pub id: SessionId,
    pub change: &'a MembershipChange,
}

/// Writes and removes members of a room, which keeps them for `keep`. Returns the room's epoch, and the outcome
/// for each member in the given order.
pub(crate) async fn write<'a>(
    link: &Link,
    names: &Names,
    keep: Duration,
    room: &str,
    members: impl Iterator<Item = MemberWrite<'a>>,
) -> Result<(Arc<str>, Vec<MembershipOutcome>), Unavailable> {
    let keys = vec![
        names.members(room),
        names.acks(room),
        names.fences(room),
        names.removals(room),
        names.room(room),
    ];
    let mut arguments =
        vec![arguments::millis(keep), arguments::millis(REMOVAL_TTL), arguments::millis(EMPTY_ROOM_TTL)];
    let mut count = 0;
    for MemberWrite { principal, id, change } in members {
        let MembershipChange { generation, number, confirmed_at, joins, .. } = change;
        let (epoch, offset) = joins.as_ref().map_or(("", 0), |position| (&*position.epoch, position.offset));
        arguments.extend([
            Value::from(principal),
            id.to_string().into(),
            arguments::integer(*generation),
            arguments::integer(*number),
            if joins.is_some() { "in" } else { "out" }.into(),
            arguments::integer(confirmed_at + WRITE_VALIDITY.as_millis() as u64),
            epoch.into(),
            arguments::integer(offset),
        ]);
        count += 1;
    }
    let mut reply = Elements::of(link.run(&WRITE_MEMBERS, keys, arguments).await?)?;
    let epoch = reply.text()?;
    let read = |_| {
        let (status, number) = (reply.text()?, reply.number()?);
        Ok(match &*status {
            "ok" => MembershipOutcome::Applied(number),
            "older" => MembershipOutcome::Superseded(number),
            _ => MembershipOutcome::Late,
        })
    };
    let written = (0..count).map(read).collect::<Result<_, InvalidReply>>()?;
    Ok((epoch, written))
}

/// Writes the offsets of an epoch that members of a room have acknowledged.
pub(crate) async fn acknowledge(
    link: &Link,
    names: &Names,
    room: &str,
    epoch: &str,
    offsets: &[(SessionId, u64)],
) -> Result<(), Unavailable> {
    let mut arguments = vec![Value::from(epoch)];
    for (id, offset) in offsets {
        arguments.extend([arguments::integer(*offset), id.to_string().into()]);
    }
    link.run(&ACKNOWLEDGE, vec![names.room(room), names.acks(room)], arguments).await.map(drop)
}
