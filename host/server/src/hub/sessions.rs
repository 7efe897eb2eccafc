//! Records sessions in the store, and translates its errors for the client. Owns no session.

use super::{Connection, Hub, unavailable};
use std::sync::Arc;
use switchyard_protocol::{Position, Refusal, room::RoomName};
use switchyard_store::{Join, Members, ResumeCheck, ResumeResult, SessionToken};
use tokio::time::Instant;

impl Hub {
    /// Creates a session in these rooms for a connection that has none.
    pub(crate) async fn create_session(
        &self,
        connection: &Connection,
        joins: Vec<Join>,
    ) -> Result<(), Refusal> {
        let created = self.store.sessions.create(&connection.principal, connection.id, joins).await;
        connection.session.set(created.map_err(unavailable)?).expect("set once");
        Ok(())
    }

    /// Whether [`resume_session`](Self::resume_session) would succeed now. Changes nothing.
    pub(crate) async fn check_resume(
        &self,
        token: SessionToken,
        principal: &Arc<str>,
        max_connections: Option<u32>,
    ) -> Result<ResumeCheck, Refusal> {
        self.store.sessions.check_resume(token, principal, max_connections).await.map_err(unavailable)
    }

    /// Hands a session to a connection whose client connected at `requested_at`. With `max_connections`, the
    /// principal's limit, a connection slot is acquired in the same step.
    pub(crate) async fn resume_session(
        &self,
        token: SessionToken,
        connection: &Connection,
        requested_at: Instant,
        max_connections: Option<u32>,
    ) -> Result<ResumeResult, Refusal> {
        let (sessions, principal) = (&self.store.sessions, &connection.principal);
        let resumed = sessions.resume(token, principal, connection.id, requested_at, max_connections).await;
        resumed.map_err(unavailable)
    }

    /// Records that the session is in these rooms. If that fails, it is only in the rooms that it was in
    /// before.
    pub(crate) async fn record_joins(
        &self,
        connection: &Connection,
        joins: Vec<Join>,
    ) -> Result<(), Refusal> {
        if joins.is_empty() {
            return Ok(());
        }
        self.store.sessions.join(connection.session_handle(), joins).await.map_err(unavailable)
    }

    /// Records that the session has left these rooms. If that fails, it is still in all of them.
    pub(crate) async fn record_leaves(
        &self,
        connection: &Connection,
        rooms: Vec<RoomName>,
    ) -> Result<(), Refusal> {
        if rooms.is_empty() {
            return Ok(());
        }
        self.store.sessions.leave(connection.session_handle(), rooms).await.map_err(unavailable)
    }

    /// Records that the client has been told that a room continues after a position.
    pub(crate) fn advance(&self, connection: &Connection, room: &RoomName, position: &Position) {
        self.store.sessions.advance(connection.session_handle(), room, position);
    }

    /// Tells the store that the client of a connection is alive.
    pub(crate) fn confirm_alive(&self, connection: &Connection) {
        if let Some(remote) = &self.store.remote {
            remote.confirm_alive(connection.session_handle());
        }
    }

    /// The room's members, with at most `max_principals` principals by name.
    pub(crate) async fn members(&self, room: &Arc<str>, max_principals: usize) -> Result<Members, Refusal> {
        self.store.rooms.members(room, max_principals).await.map_err(unavailable)
    }
}
