//! A page of a room's history: how much is asked for, and what comes.

use std::sync::Arc;
use switchyard_protocol::{Position, Publication};

/// How much of a room's history is read at once.
#[derive(Clone, Copy, Debug)]
pub struct PageLimit {
    pub messages: usize,
    /// Of the messages as they are kept. The first is read also where it is larger.
    pub bytes: usize,
}

impl PageLimit {
    /// No messages: only where the room is.
    pub const NONE: Self = Self { messages: 0, bytes: 0 };
}

/// For whom a history is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// Somebody in the room, which begins anew where the store has lost it: what is told of it holds.
    Member,
    /// Somebody else. A room that is not there is given an epoch that no other answer names.
    Other,
}

/// A piece of a room's history, oldest first.
#[derive(Debug)]
pub struct History {
    /// The room's newest.
    pub newest: Position,
    /// Offset of the oldest message held; one beyond the newest when none is.
    pub oldest: u64,
    pub messages: Vec<Arc<Publication>>,
    /// More is held after the last of these.
    pub more: bool,
    /// Nothing after the asked position is missing from what is held.
    pub whole: bool,
}
