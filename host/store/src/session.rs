//! Which connection holds a session, and the result of resuming one. A session's rooms are in `membership`.

use crate::{ConnectionId, Membership, Permit, SessionToken};
use switchyard_protocol::room::RoomName;

/// A session, as seen by a connection that holds it or has held it. Once another connection has taken the
/// session over, requests with this handle are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionHandle {
    /// Identifies the session.
    pub token: SessionToken,
    /// The connection.
    pub connection: ConnectionId,
}

/// A session that a connection has resumed.
#[derive(Debug)]
pub struct ResumedSession {
    /// The connection that held the session until now, if it had not ended.
    pub previous: Option<ConnectionId>,
    /// The session's rooms, sorted by name.
    pub rooms: Vec<(RoomName, Membership)>,
    /// The connection slot, if one was requested.
    pub permit: Option<Permit>,
}

/// The result of [`SessionStore::acquire_connection_slot`](crate::SessionStore::acquire_connection_slot).
#[derive(Debug)]
pub enum SlotResult {
    /// The slot is released when the permit is dropped.
    Acquired(Permit),
    /// The principal has as many connections as it may have. The number is how many it has.
    LimitReached(u32),
}

/// The result of [`SessionStore::check_resume`](crate::SessionStore::check_resume).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResumeCheck {
    /// The session can be resumed.
    Allowed,
    /// The token is unknown, the session has ended, or it belongs to another principal.
    NotFound,
    /// All of the principal's connection slots are taken, and none of its connections holds the session. The
    /// number is how many slots are taken. The session may exist or not.
    LimitReached(u32),
}

/// The result of [`SessionStore::resume`](crate::SessionStore::resume).
#[derive(Debug)]
pub enum ResumeResult {
    /// The connection holds the session.
    Resumed(ResumedSession),
    /// The token is unknown, the session has ended, or it belongs to another principal. A connection slot
    /// that was requested can be used for a new session.
    NotFound(Option<Permit>),
    /// All of the principal's connection slots are taken, and none of its connections holds the session. The
    /// number is how many slots are taken.
    LimitReached(u32),
    /// Another connection took the session after this one had requested it, or the store's clock was set
    /// back. The client should try again.
    Retry,
}
