//! The trait of a store's sessions: which connection holds each, and which rooms it is in. Knows no messages.

use crate::{
    ConnectionId, Join, ResumeCheck, ResumeResult, SessionHandle, SessionToken, SlotResult, Unavailable,
};
use std::sync::Arc;
use switchyard_protocol::{Position, room::RoomName};
use tokio::time::Instant;

/// Keeps sessions while their connections come and go.
///
/// Of all connections that ever held a session, only the newest can change it. The calls of any other
/// connection fail or, if they return nothing, have no effect. Calls that return nothing are recorded as soon
/// as possible, and nobody waits for them. All other calls fail if the store does not answer in time.
#[async_trait::async_trait]
pub trait SessionStore: Send + Sync {
    /// Acquires one of the principal's connection slots, of which it has `limit` on all nodes together. The
    /// slot is released when the permit is dropped, or if this future is dropped.
    async fn acquire_connection_slot(
        &self,
        principal: &Arc<str>,
        limit: u32,
    ) -> Result<SlotResult, Unavailable>;

    /// Creates a session that is a member of these rooms and is held by the connection.
    ///
    /// If this fails, or its future is dropped, a session that was created nevertheless is detached.
    async fn create(
        &self,
        principal: &Arc<str>,
        connection: ConnectionId,
        joins: Vec<Join>,
    ) -> Result<SessionToken, Unavailable>;

    /// Whether [`resume`](Self::resume) would hand the session to another connection of the principal now. With
    /// `limit`, this includes whether that connection would get a slot. Changes nothing, so `resume` checks
    /// everything again.
    async fn check_resume(
        &self,
        token: SessionToken,
        principal: &Arc<str>,
        limit: Option<u32>,
    ) -> Result<ResumeCheck, Unavailable>;

    /// Hands a session to a connection. `requested_at` is when this connection's client appeared. If another
    /// connection has taken the session since then, it keeps the session.
    ///
    /// With `limit`, a connection slot is acquired in the same step, as by
    /// [`acquire_connection_slot`](Self::acquire_connection_slot). If another live connection holds the
    /// session, no free slot is needed, because that connection is about to release its own.
    ///
    /// If this fails, or its future is dropped, a session that was handed over nevertheless is detached.
    async fn resume(
        &self,
        token: SessionToken,
        principal: &Arc<str>,
        connection: ConnectionId,
        requested_at: Instant,
        limit: Option<u32>,
    ) -> Result<ResumeResult, Unavailable>;

    /// Starts the session's time to live, because its connection has ended.
    fn detach(&self, handle: SessionHandle);

    /// Ends the session at once.
    fn end(&self, handle: SessionHandle);

    /// Makes the session a member of rooms, or changes its filters there: in all of them or in none.
    ///
    /// If this fails, the session stays as it was, even if the store carries the change out later. A
    /// connection that resumes the session can find the change only if this node dies before the store has
    /// confirmed the old state.
    async fn join(&self, handle: SessionHandle, joins: Vec<Join>) -> Result<(), Unavailable>;

    /// Removes the session from rooms, and ignores rooms that it is not in. A failure has the same effect as
    /// for [`join`](Self::join).
    async fn leave(&self, handle: SessionHandle, rooms: Vec<RoomName>) -> Result<(), Unavailable>;

    /// Records that the client has received all messages up to a position, whose epoch it knows. The
    /// membership moves to that epoch. Positions before an earlier one of the same epoch have no effect.
    fn acknowledge(&self, handle: SessionHandle, room: &RoomName, position: &Position);

    /// Records that the client knows that the room continues after a position: messages before it are no
    /// longer replayed.
    fn advance(&self, handle: SessionHandle, room: &RoomName, position: &Position);
}
