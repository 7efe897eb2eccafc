//! The trait for looking at rooms: which exist, and who is in them. Creates and changes none.

use crate::Unavailable;
use std::sync::Arc;

/// Looks at rooms, for operators and for clients that ask who is there. Looking at a room that does not exist
/// creates none.
///
/// Every call fails if the store does not answer in time.
#[async_trait::async_trait]
pub trait RoomDirectory: Send + Sync {
    /// The room's members, with the names of at most `max_principals` principals. A room that does not exist
    /// has no members.
    async fn members(&self, room: &str, max_principals: usize) -> Result<Members, Unavailable>;

    /// How many members have acknowledged the message with this offset. `None` if the room has no such
    /// message yet, or does not exist.
    async fn receipt(&self, room: &str, offset: u64) -> Result<Option<Receipt>, Unavailable>;

    /// A summary of the room. `None` if it does not exist or, in Redis, if only its position is left.
    async fn summary(&self, room: &str) -> Result<Option<RoomSummary>, Unavailable>;

    /// Waits until every room in which this node knows a message to be stored, or has admitted a member, is found by
    /// [`list`](Self::list) on every node.
    async fn flush(&self) -> Result<(), Unavailable>;

    /// At most `limit` rooms with names greater than `after`, sorted by name. A room that was just created may be
    /// missing: see [`flush`](Self::flush).
    async fn list(&self, after: &str, limit: usize) -> Result<Vec<RoomSummary>, Unavailable>;
}

/// Who is in a room.
#[derive(Debug, PartialEq)]
pub struct Members {
    /// How many sessions are in the room, connected or resumable.
    pub count: usize,
    /// Their principals, sorted, at most as many as were requested.
    pub principals: Vec<Arc<str>>,
    /// Whether there are more principals.
    pub more: bool,
}

/// How many members have acknowledged a message.
#[derive(Debug, PartialEq, serde::Serialize)]
pub struct Receipt {
    /// How many sessions are in the room now.
    pub members: usize,
    /// How many of them have acknowledged the message, in the room's current epoch.
    pub acknowledged: usize,
}

/// A room, as operators see it.
#[derive(Debug, PartialEq, serde::Serialize)]
pub struct RoomSummary {
    /// The room's name.
    pub room: Arc<str>,
    /// The room's epoch.
    pub epoch: Arc<str>,
    /// The offset of the newest message; 0 before the first one.
    pub offset: u64,
    /// How many sessions are in the room, connected or resumable.
    pub members: usize,
    /// How many messages the store holds.
    pub messages: usize,
}
