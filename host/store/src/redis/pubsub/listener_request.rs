//! What the rest of the store asks of the task that receives messages, and what was read for it.

use crate::{
    Unavailable,
    redis::{log_entry::LogPage, pubsub::resync_queue::ResyncPermit},
};
use switchyard_protocol::room::RoomName;

/// A request to the room listener.
pub(crate) enum ListenerRequest {
    /// Somebody on this node is in the room.
    Subscribe(RoomName),
    /// Nobody is any more.
    Unsubscribe(RoomName),
    /// The log of a room was read.
    Read {
        room: RoomName,
        /// The number of the read.
        read: u64,
        page: Result<LogPage, Unavailable>,
        /// Returned with this, where the room had to wait for one.
        permit: Option<ResyncPermit>,
    },
    /// The number of a Cluster's topology, which rises when slots move.
    Topology(u64),
    /// Lists all rooms again, in case the list was lost.
    ListRooms,
    /// Reads the logs of all rooms: Redis has lost data.
    Resync,
}
