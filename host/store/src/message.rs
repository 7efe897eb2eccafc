//! A message on its way into a room, and where it was stored. A message that was read back is a
//! `Publication`.

use std::sync::Arc;
use switchyard_protocol::{Position, room::RoomName};

/// A message to publish.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// The room to publish it to.
    pub room: &'a RoomName,
    /// The name of its event.
    pub event: Option<&'a str>,
    /// Its data, as JSON text.
    pub data: &'a str,
    /// The principal that publishes it.
    pub principal: &'a Arc<str>,
    /// Messages of one principal to one room with the same idempotency key are the same message, within
    /// [`Retention::idempotency_key_ttl`](crate::Retention::idempotency_key_ttl).
    pub idempotency_key: Option<&'a str>,
    /// Whether to publish it only if the room has a member, connected or resumable.
    pub needs_member: bool,
    /// Whether every node that delivers it has to know its publisher: a plugin may fail because of it.
    pub names_publisher: bool,
    /// Whether deliveries name its publisher, as `from`.
    pub shows_sender: bool,
}

impl<'a> Message<'a> {
    /// The principal, if other nodes or members have to know it.
    pub(crate) fn named_publisher(&self) -> Option<&'a Arc<str>> {
        (self.names_publisher || self.shows_sender).then_some(self.principal)
    }

    /// The principal and the idempotency key, which together identify the message in its room.
    pub(crate) fn scoped_key(&self) -> Option<(&'a str, &'a str)> {
        self.idempotency_key.map(|key| (&**self.principal, key))
    }
}

/// Where a message was stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// Its position in the room.
    pub position: Position,
    /// Whether it had been stored before, with the same idempotency key. The position is that of the first
    /// one.
    pub duplicate: bool,
}
