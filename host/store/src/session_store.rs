//! Sessions: who holds each and which rooms it is in. Knows nothing of messages.

use crate::{ConnectionId, Hold, Join, Permit, Resume, SessionToken, Unavailable};
use std::sync::Arc;
use switchyard_protocol::{Position, room::RoomName};
use tokio::time::Instant;

/// Keeps sessions while their connections come and go.
///
/// Of all connections that ever held a session only the newest can change it. What another one asks for is an error where it
/// is answered, and otherwise does nothing. What returns nothing is recorded as soon as the store can; nobody waits for it.
#[async_trait::async_trait]
pub trait SessionStore: Send + Sync {
    /// Takes one of the principal's connection slots, of which it has `most` on all nodes together. The inner error says
    /// how many are taken. Dropping the permit releases the slot, and so does dropping this future.
    async fn acquire_connection_slot(
        &self,
        principal: &Arc<str>,
        most: u32,
    ) -> Result<Result<Permit, u32>, Unavailable>;

    /// Makes a session that is in these rooms and held by the connection. After an error, or when nobody waits for the answer
    /// any more, a session that was made all the same is detached.
    async fn create(
        &self,
        principal: &Arc<str>,
        connection: ConnectionId,
        joins: Vec<Join>,
    ) -> Result<SessionToken, Unavailable>;

    /// Hands a session to a connection whose client was there since `asked`: whoever took it after that keeps it.
    ///
    /// With `most` the connection slot is taken in the same step, as by [`acquire_connection_slot`](Self::acquire_connection_slot).
    /// A session that another live connection holds needs no free slot, because that connection is about to release its own.
    /// After an error, or when nobody waits for the answer any more, a session that was handed over all the same is detached.
    async fn resume(
        &self,
        token: SessionToken,
        principal: &Arc<str>,
        connection: ConnectionId,
        asked: Instant,
        most: Option<u32>,
    ) -> Result<Resume, Unavailable>;

    /// The connection has ended: starts the session's time to live.
    fn detach(&self, hold: Hold);

    /// Ends the session at once.
    fn end(&self, hold: Hold);

    /// Makes the session a member of rooms, or changes its filters there: all of them or none.
    ///
    /// After an error the session is as it was, whatever the store was about to do. Only if this node ends meanwhile may whoever
    /// resumes the session find it changed.
    async fn join(&self, hold: Hold, joins: Vec<Join>) -> Result<(), Unavailable>;

    /// Takes the session out of rooms. Rooms that it is not in are ignored. After an error the same holds as for
    /// [`join`](Self::join).
    async fn leave(&self, hold: Hold, rooms: Vec<RoomName>) -> Result<(), Unavailable>;

    /// The client has all messages up to a position, of whose epoch it was told. A membership of another epoch moves there.
    /// Positions that lie behind an earlier one of the same epoch change nothing.
    fn acknowledge(&self, hold: Hold, room: &RoomName, position: &Position);

    /// The client was told that the room goes on after a position: what was before is not replayed any more.
    fn advance(&self, hold: Hold, room: &RoomName, position: &Position);
}
