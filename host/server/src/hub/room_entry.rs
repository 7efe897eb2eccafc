//! A room of a shard, open or about to be opened. What happens in an open room is in `room.rs`.

use super::{Connection, command::*, room::Room};
use switchyard_plugin::FilterId;
use switchyard_process::memory::MemoryCharge;
use switchyard_protocol::Refusal;
use tokio::sync::oneshot;

/// A room in a shard, with its memory.
pub(super) enum RoomEntry {
    /// The store has not said yet at which position the room is. Meanwhile, joins wait.
    Opening(Vec<WaitingJoin>, MemoryCharge),
    Open(Box<Room>, #[expect(dead_code, reason = "it is charged until it is dropped")] MemoryCharge),
}

/// A join that the policy has admitted.
pub(super) struct WaitingJoin {
    pub request: JoinRequest,
    pub filter: Option<FilterId>,
    pub reply: oneshot::Sender<Result<JoinAnswer, Refusal>>,
}

impl WaitingJoin {
    /// Whether it is a join of this connection that still waits for the reply.
    pub(super) fn is_of(&self, connection: &Connection) -> bool {
        self.request.connection.id == connection.id && !self.reply.is_closed()
    }
}
