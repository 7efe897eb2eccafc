//! The events that a store reports to its node. Does not say how the store finds out.

use crate::ConnectionId;
use std::sync::Arc;
use switchyard_protocol::{Position, Publication};

/// What a store tells its node. The events of one room come in order.
#[derive(Clone, Debug)]
pub enum Event {
    /// [`Broker::subscribe`](crate::Broker::subscribe) succeeded: every message after `position` follows as
    /// [`Published`](Self::Published).
    Subscribed {
        /// The room's name.
        room: Arc<str>,
        /// The room's newest position.
        position: Position,
    },
    /// [`Broker::subscribe`](crate::Broker::subscribe) failed: nothing follows until it is called again.
    SubscribeFailed {
        /// The room's name.
        room: Arc<str>,
    },
    /// The next message of a room.
    Published(Arc<Publication>),
    /// This node missed the messages up to `position`, and the store no longer holds them. The messages after
    /// it follow.
    Lost {
        /// The room's name.
        room: Arc<str>,
        /// Where the room continues, maybe in a new epoch.
        position: Position,
    },
    /// A connection on another node has resumed the session of this connection.
    TakenOver(ConnectionId),
    /// The store may no longer know that this connection holds its session. The node sends the client a ping.
    /// After the client has answered, [`RemoteStore::confirm_alive`](crate::RemoteStore::confirm_alive) takes
    /// the session back.
    Probe(ConnectionId),
    /// A connection to the store was lost and is there again. What the node has read from the store may have changed
    /// meanwhile. Comes before the events that were missed.
    Reconnected,
}

/// Where a store puts its events.
///
/// It is called while the store holds locks, so it only enqueues the event. It always takes it, and returns
/// `false` if too many events are waiting. A store that can deliver the room's messages later then does so.
pub type EventFeed = Arc<dyn Fn(Event) -> bool + Send + Sync>;
