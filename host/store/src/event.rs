//! What a store tells its node without being asked. Says nothing about how it finds out.

use crate::ConnectionId;
use std::sync::Arc;
use switchyard_protocol::{Position, Publication};

/// What a store tells a node. For one room events come in order.
#[derive(Clone, Debug)]
pub enum Event {
    /// `Broker::subscribe` took effect: every message after `position` follows as `Published`.
    Subscribed {
        room: Arc<str>,
        position: Position,
    },
    /// `Broker::subscribe` did not take effect in time: nothing follows until it is called again.
    SubscribeFailed {
        room: Arc<str>,
    },
    Published(Arc<Publication>),
    /// Messages up to `position` were lost to this node and are no longer held; what follows is after it. Its epoch may be
    /// a new one.
    Lost {
        room: Arc<str>,
        position: Position,
    },
    /// The session of a connection of this node is held by another connection, on another node.
    TakenOver(ConnectionId),
    /// The store may not know any more that this connection holds its session. Its client is to be asked for a sign of life;
    /// when that comes, [`RemoteStore::vouch`](crate::RemoteStore::vouch) takes the session back.
    Probe(ConnectionId),
}

/// Where a store puts its events. It is called under the store's locks: it only enqueues. `false`: the event was taken, but
/// more waits there than should; a store that can bring the room's messages later does so.
pub type Feed = Arc<dyn Fn(Event) -> bool + Send + Sync>;
