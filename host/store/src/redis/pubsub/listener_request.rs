//! Requests to the task that receives messages, and the results of its own reads.

use crate::{
    Unavailable,
    redis::{log_entry::LogPage, pubsub::resync_queue::ResyncPermit},
};
use switchyard_protocol::room::RoomName;

/// A message to the pubsub listener.
pub(crate) enum ListenerRequest {
    /// The room has members on this node.
    Subscribe(RoomName),
    /// The room no longer has members on this node.
    Unsubscribe(RoomName),
    /// The log of a room was read.
    Read {
        room: RoomName,
        /// The number of the read.
        read: u64,
        page: Result<LogPage, Unavailable>,
        /// The permit of the resync queue, if the room was queued.
        permit: Option<ResyncPermit>,
    },
    /// The newest epoch of a Cluster, which rises when slots move.
    Topology(u64),
    /// Adds all rooms to the room index again, in case the index was lost.
    ListRooms,
    /// Reads the logs of all rooms, because Redis may have lost data.
    Resync,
}
