//! Which connection holds a session, and what comes of asking for one. A session's rooms are in `membership`.

use crate::{ConnectionId, Membership, Permit, SessionToken};
use switchyard_protocol::room::RoomName;

/// A session as seen from a connection that holds it or has held it. Once another connection has taken the session over, what
/// this one asks for is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Identifies the session.
    pub token: SessionToken,
    /// The connection.
    pub connection: ConnectionId,
}

/// A session that a connection has resumed.
#[derive(Debug)]
pub struct Resumed {
    /// The connection that held the session until now, if it had not ended.
    pub previous: Option<ConnectionId>,
    /// The session's rooms, sorted by name.
    pub rooms: Vec<(RoomName, Membership)>,
    /// The connection slot, if one was asked for.
    pub permit: Option<Permit>,
}

/// What came of asking for a session.
#[derive(Debug)]
pub enum Resume {
    /// The connection has the session.
    Held(Resumed),
    /// The token is unknown, the session has ended, or it belongs to another principal. The connection slot that was asked for
    /// can be used for a new session.
    Gone(Option<Permit>),
    /// The principal has no free connection slot, and none of its connections holds the session. The number is how many slots
    /// are taken.
    Full(u32),
    /// Another connection took the session after this one had asked for it, or the store's clock was set back. The client
    /// should try again.
    Again,
}
