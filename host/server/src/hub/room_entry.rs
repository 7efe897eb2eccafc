//! A room of a shard, open or about to be. What happens in a room is in `room.rs`.

use super::{Connection, command::*, room::Room};
use switchyard_plugin::FilterId;
use switchyard_process::memory::MemoryCharge;
use switchyard_protocol::Refusal;
use tokio::sync::oneshot;

/// A room with the memory that it accounts for, or the joins that wait until the store has said at which position it is.
pub(super) enum Entry {
    Opening(Vec<WaitingJoin>, MemoryCharge),
    Open(Box<Room>, #[expect(dead_code, reason = "it counts until it is dropped")] MemoryCharge),
}

/// A join that the policy has admitted.
pub(super) struct WaitingJoin {
    pub request: JoinRequest,
    pub filter: Option<FilterId>,
    pub reply: oneshot::Sender<Result<JoinAnswer, Refusal>>,
}

impl WaitingJoin {
    /// Whether it is a join of this connection, which still waits for the answer.
    pub(super) fn is_of(&self, connection: &Connection) -> bool {
        self.request.connection.id == connection.id && !self.reply.is_closed()
    }
}
