//! Which rooms there are and who is in them. Makes and changes none.

use crate::Unavailable;
use std::sync::Arc;

/// Looks at rooms, for operators and for clients that ask who is there. Asking for a room that does not exist makes none.
#[async_trait::async_trait]
pub trait RoomDirectory: Send + Sync {
    /// The room's members, with the names of at most `most` principals. A room that does not exist has none.
    async fn members(&self, room: &str, most: usize) -> Result<Members, Unavailable>;

    /// How many members have acknowledged a message; `None` where the room has no such offset.
    async fn receipt(&self, room: &str, offset: u64) -> Result<Option<Receipt>, Unavailable>;

    /// `None` where the room does not exist. On Redis, that is also so if nothing but its position is left.
    async fn summary(&self, room: &str) -> Result<Option<RoomSummary>, Unavailable>;

    /// Rooms whose names come after `after`, sorted by name, at most `limit`.
    async fn list(&self, after: &str, limit: usize) -> Result<Vec<RoomSummary>, Unavailable>;
}

/// Who is in a room.
#[derive(Debug, PartialEq)]
pub struct Members {
    /// Sessions, connected or resumable.
    pub count: usize,
    /// Sorted; at most as many as asked.
    pub principals: Vec<Arc<str>>,
    /// There are more principals.
    pub more: bool,
}

/// How far a message has come.
#[derive(Debug, PartialEq, serde::Serialize)]
pub struct Receipt {
    /// Sessions in the room now.
    pub members: usize,
    /// Those of them that have acknowledged the message, in the room's present epoch.
    pub acknowledged: usize,
}

/// A room, as operators see it.
#[derive(Debug, PartialEq, serde::Serialize)]
pub struct RoomSummary {
    pub room: Arc<str>,
    pub epoch: Arc<str>,
    /// Of the newest message; 0 before the first.
    pub offset: u64,
    pub members: usize,
    /// Messages held.
    pub messages: usize,
}
