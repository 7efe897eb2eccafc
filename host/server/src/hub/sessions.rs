//! What a client's session asks of the store, through the hub: what is recorded of it, and what the store's silence means to
//! the client. Owns no session.

use super::{Connection, Hub, unavailable};
use std::sync::Arc;
use switchyard_protocol::{Position, Refusal, room::RoomName};
use switchyard_store::{Join, Members, Resume, SessionToken};
use tokio::time::Instant;

impl Hub {
    /// Makes a session in these rooms for a connection that has none.
    pub(crate) async fn create_session(
        &self,
        connection: &Connection,
        joins: Vec<Join>,
    ) -> Result<(), Refusal> {
        let created = self.store.sessions.create(&connection.principal, connection.id, joins).await;
        connection.session.set(created.map_err(unavailable)?).expect("set once");
        Ok(())
    }

    /// Hands a session to a connection whose client was there since `asked`. With `most` a connection slot is acquired in the
    /// same step.
    pub(crate) async fn resume_session(
        &self,
        token: SessionToken,
        connection: &Connection,
        asked: Instant,
        most: Option<u32>,
    ) -> Result<Resume, Refusal> {
        let resumed =
            self.store.sessions.resume(token, &connection.principal, connection.id, asked, most).await;
        resumed.map_err(unavailable)
    }

    /// Records that the connection's session is in these rooms. After an error it is in none of them that it was not in before.
    pub(crate) async fn record_joins(
        &self,
        connection: &Connection,
        joins: Vec<Join>,
    ) -> Result<(), Refusal> {
        if joins.is_empty() {
            return Ok(());
        }
        self.store.sessions.join(connection.hold(), joins).await.map_err(unavailable)
    }

    /// Records that the connection's session has left these rooms. After an error it is in all of them.
    pub(crate) async fn record_leaves(
        &self,
        connection: &Connection,
        rooms: Vec<RoomName>,
    ) -> Result<(), Refusal> {
        if rooms.is_empty() {
            return Ok(());
        }
        self.store.sessions.leave(connection.hold(), rooms).await.map_err(unavailable)
    }

    /// The client has read that a room goes on after a position.
    pub(crate) fn advance(&self, connection: &Connection, room: &RoomName, position: &Position) {
        self.store.sessions.advance(connection.hold(), room, position);
    }

    /// The client was heard after the store asked for a sign of life.
    pub(crate) fn confirm_alive(&self, connection: &Connection) {
        if let Some(remote) = &self.store.remote {
            remote.vouch(connection.hold());
        }
    }

    /// The room's members, with at most `most` principals by name.
    pub(crate) async fn members(&self, room: &Arc<str>, most: usize) -> Result<Members, Refusal> {
        self.store.rooms.members(room, most).await.map_err(unavailable)
    }
}
