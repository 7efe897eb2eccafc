//! The script that publishes messages to a room. The caller decides when, and in which order.

use crate::{
    Retention, Stored, Unavailable,
    redis::{
        arguments,
        lifetimes::{EMPTY_ROOM_TTL, IN_USE_TTL},
        link::Link,
        names::Names,
        replies::{self, Elements, InvalidReply},
        scripts::rooms,
    },
};
use bytes::Bytes;
use fred::types::Value;
use switchyard_protocol::Position;

script!(PUBLISH = "publish");

/// A batch of messages for one room.
pub(crate) struct PublishBatch<'a> {
    pub room: &'a str,
    /// The epoch of the room, if this batch creates it.
    pub new_epoch: String,
    /// In milliseconds by Redis' clock: nothing is published after it.
    pub deadline: u64,
    /// The name of this batch.
    pub name: String,
    /// The names of the batches before it whose outcome is unknown, each behind a space. They are refused
    /// from now on.
    pub unconfirmed: &'a str,
}

/// A message of a batch.
pub(crate) struct BatchMessage<'a> {
    /// What follows the head that Redis gives it; see [`crate::redis::log_entry`].
    pub body: &'a Bytes,
    /// The key in Redis of its idempotency key.
    pub once: Option<&'a str>,
    /// It is published only if the room has a member.
    pub needs_member: bool,
}

pub(crate) enum PublishReply {
    Done {
        /// In the order of the messages. `None`: the message needs a member, and there is none.
        stored: Vec<Option<Stored>>,
        /// The room was not there before.
        is_new: bool,
    },
    /// The deadline had passed at this time, in microseconds by Redis' clock: nothing was published.
    Late { time: u64 },
}

/// Publishes messages in their order, each once for its idempotency key.
pub(crate) async fn publish<'a>(
    link: &Link,
    names: &Names,
    retention: &Retention,
    batch: PublishBatch<'_>,
    messages: impl ExactSizeIterator<Item = BatchMessage<'a>>,
) -> Result<PublishReply, Unavailable> {
    let PublishBatch { room, new_epoch, deadline, name, unconfirmed } = batch;
    let (history, count, mut keys) = (retention.history.of(room), messages.len(), rooms::keys(names, room));
    let mut arguments = vec![
        new_epoch.into(),
        arguments::integer(history.messages as u64),
        arguments::millis(history.age),
        arguments::millis(IN_USE_TTL + history.age),
        arguments::millis(retention.idempotency_key_ttl),
        names.live(room).into(),
        arguments::millis(EMPTY_ROOM_TTL),
        arguments::integer(history.bytes as u64),
        arguments::integer(deadline),
        name.into(),
        unconfirmed.into(),
    ];
    let others = keys.len();
    for BatchMessage { body, once, needs_member } in messages {
        let index = once.map_or(0, |once| {
            keys.push(once.to_owned());
            keys.len() - others
        });
        let needs_member = arguments::integer(needs_member.into());
        arguments.extend([Value::Bytes(body.clone()), arguments::integer(index as u64), needs_member]);
    }
    let reply = link.run(&PUBLISH, keys, arguments).await?;
    if !reply.is_array() {
        return Ok(PublishReply::Late { time: replies::number(&reply)? });
    }
    let mut reply = Elements::of(reply)?;
    let (epoch, is_new) = (reply.text()?, reply.flag()?);
    let message = |_| {
        let (offset, duplicate) = (reply.number()?, reply.flag()?);
        let position = Position { epoch: epoch.clone(), offset };
        Ok((offset > 0).then_some(Stored { position, duplicate }))
    };
    let stored = (0..count).map(message).collect::<Result<_, InvalidReply>>()?;
    Ok(PublishReply::Done { stored, is_new })
}
