//! A page of a room's history: how much to read, and what was read.

use std::sync::Arc;
use switchyard_protocol::{Position, Publication};

/// The largest page of history to read at once.
#[derive(Clone, Copy, Debug)]
pub struct PageLimit {
    /// How many messages.
    pub messages: usize,
    /// The size of all messages together, as they are stored. If at least one message is requested, the first
    /// one is read even if it is larger.
    pub bytes: usize,
}

impl PageLimit {
    /// No messages, only the positions of the room.
    pub const NONE: Self = Self { messages: 0, bytes: 0 };
}

/// On whose behalf a history is read, which decides what happens if the room does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// A member, or somebody who joins. The room is created, so the epoch in the answer stays that of the
    /// room.
    Member,
    /// Somebody else. Nothing is created: the answer has no messages, and an epoch that no other answer
    /// names.
    Other,
}

/// A page of a room's history.
#[derive(Debug)]
pub struct History {
    /// The position of the room's newest message.
    pub newest: Position,
    /// The offset of the oldest message that the store holds; one more than the newest offset if it holds
    /// none.
    pub oldest: u64,
    /// The messages read, oldest first and without a hole.
    pub messages: Vec<Arc<Publication>>,
    /// Whether the store holds messages after the last of these.
    pub more: bool,
    /// Whether the store holds every message after the requested position.
    pub whole: bool,
}
