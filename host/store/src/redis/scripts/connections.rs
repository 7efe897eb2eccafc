//! The scripts that count the connections of a principal by node.

use crate::{
    Unavailable,
    redis::{arguments, lifetimes::IN_USE_TTL, link::Link, names::Names, replies},
};
use fred::types::Value;

script!(ACQUIRE_SLOT = "acquire_slot");
script!(WRITE_COUNT = "write_count");

/// What both scripts answer after the deadline: then nothing was written.
const LATE: i64 = -2;

/// Acquires a slot for a connection, if the principal's limit allows it.
#[derive(Clone, Copy)]
pub(crate) struct SlotRequest {
    /// The connections of this node, this one among them.
    pub own: u32,
    /// The limit on all nodes together.
    pub max_connections: u32,
}

pub(crate) enum SlotReply {
    Acquired,
    /// The limit is reached. The number is the principal's connections on all nodes.
    Full(u32),
    /// The deadline had passed.
    Late,
}

impl SlotRequest {
    /// The arguments of scripts that acquire a slot: connections of the node, limit, how long counts are kept.
    pub(super) fn arguments(self) -> [Value; 3] {
        [
            arguments::integer(self.own.into()),
            arguments::integer(self.max_connections.into()),
            arguments::millis(IN_USE_TTL),
        ]
    }
}

/// Counts one more connection of a principal on `node`. The deadline is in milliseconds by Redis' clock.
pub(crate) async fn acquire_slot(
    link: &Link,
    names: &Names,
    principal: &str,
    node: &str,
    deadline: u64,
    slot: SlotRequest,
) -> Result<SlotReply, Unavailable> {
    let arguments = [vec![node.into(), arguments::integer(deadline)], slot.arguments().into()].concat();
    match link.run(&ACQUIRE_SLOT, vec![names.connections(principal)], arguments).await? {
        Value::Integer(-1) => Ok(SlotReply::Acquired),
        Value::Integer(LATE) => Ok(SlotReply::Late),
        taken => Ok(SlotReply::Full(replies::number(&taken)? as u32)),
    }
}

/// Writes how many connections of a principal a node has. `false`: the deadline, in milliseconds by Redis'
/// clock, had passed, and nothing was written.
pub(crate) async fn write_count(
    link: &Link,
    names: &Names,
    principal: &str,
    node: &str,
    count: u32,
    deadline: u64,
) -> Result<bool, Unavailable> {
    let arguments = vec![
        node.into(),
        arguments::integer(count.into()),
        arguments::millis(IN_USE_TTL),
        arguments::integer(deadline),
    ];
    Ok(link.run(&WRITE_COUNT, vec![names.connections(principal)], arguments).await? != Value::Integer(LATE))
}
