//! A room of a shard, open or about to be opened. Does not deliver: what happens in an open room is in
//! `room.rs`.

use super::{Connection, command::*, room::Room};
use std::sync::Arc;
use switchyard_plugin::FilterId;
use switchyard_process::memory::MemoryCharge;
use switchyard_protocol::{Position, Refusal, room::RoomName};
use tokio::sync::oneshot;

/// A room in a shard, with its memory.
pub(super) enum RoomEntry {
    /// The store has not said yet at which position the room is. Meanwhile, joins wait.
    Opening(Vec<WaitingJoin>, MemoryCharge),
    Open(Box<Room>, MemoryCharge),
}

/// A request for a seat in an open room, which the policy has admitted.
pub(super) struct SeatRequest {
    pub room: RoomName,
    pub connection: Arc<Connection>,
    pub filter: Option<FilterId>,
    /// As the client wrote it.
    pub filter_text: Option<Arc<str>>,
    pub since: Option<Position>,
    pub buffer: bool,
}

/// A join that waits until the room is open.
pub(super) struct WaitingJoin {
    pub request: SeatRequest,
    pub reply: oneshot::Sender<Result<JoinAnswer, Refusal>>,
}

impl RoomEntry {
    pub(super) fn open(&self) -> Option<&Room> {
        match self {
            Self::Open(room, _) => Some(room),
            Self::Opening(..) => None,
        }
    }
}

impl WaitingJoin {
    /// Whether it is a join of this connection that still waits for the reply.
    pub(super) fn is_of(&self, connection: &Connection) -> bool {
        self.request.connection.id == connection.id && !self.reply.is_closed()
    }
}
