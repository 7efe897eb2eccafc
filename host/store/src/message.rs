//! A message on its way into a room, and where it was stored. What is read back is a `Publication`.

use std::sync::Arc;
use switchyard_protocol::{Position, room::RoomName};

/// What is to be published; `data` is JSON text.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    pub room: &'a RoomName,
    pub event: Option<&'a str>,
    pub data: &'a str,
    /// The principal that publishes it.
    pub who: &'a Arc<str>,
    /// The same of a principal within [`Retention::key`] is the same message.
    pub key: Option<&'a str>,
    /// It is published only if the room has a member, connected or resumable.
    pub needs_member: bool,
}

impl<'a> Message<'a> {
    /// Principal and key.
    pub fn once(&self) -> Option<(&'a str, &'a str)> {
        self.key.map(|key| (&**self.who, key))
    }
}

/// Where a message is in its room.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    pub position: Position,
    /// It was stored before, with the same idempotency key: the position is that of the first.
    pub duplicate: bool,
}
