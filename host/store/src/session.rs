//! Who holds a session, and what comes of asking for one. The rooms that it is in are memberships.

use crate::{ConnectionId, Membership, Permit, SessionToken};
use switchyard_protocol::room::RoomName;

/// A session, and the connection that holds it, or held it until another took it: what it asks for then is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    pub token: SessionToken,
    pub connection: ConnectionId,
}

/// A session that was handed to a connection.
#[derive(Debug)]
pub struct Resumed {
    /// The connection that held the session, if it still lives.
    pub previous: Option<ConnectionId>,
    /// By name.
    pub rooms: Vec<(RoomName, Membership)>,
    /// The connection's slot, where one was asked for.
    pub permit: Option<Permit>,
}

/// What became of a wish to resume a session.
#[derive(Debug)]
pub enum Resume {
    Held(Resumed),
    /// The token is unknown, its session is over, or is another principal's. The slot that was asked for is for a new session.
    Gone(Option<Permit>),
    /// The principal has so many connections, and none of them holds the session.
    Full(u32),
    /// Another connection has taken the session since this one asked, or the store's clock was set back.
    Again,
}
