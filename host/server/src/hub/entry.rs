//! A room of a shard, or those who wait for it.

use super::{Connection, command::*, room::Room};
use switchyard_plugin::FilterId;
use switchyard_process::memory::MemoryCharge;
use switchyard_protocol::Refusal;
use tokio::sync::oneshot;

/// A room, or those who wait until the store tells where it is, and what is counted for who came first.
pub(super) enum Entry {
    Opening(Vec<Waiting>, MemoryCharge),
    Open(Box<Room>, #[expect(dead_code, reason = "it counts until it is dropped")] MemoryCharge),
}

pub(super) struct Waiting {
    pub request: JoinRequest,
    pub filter: Option<FilterId>,
    pub reply: oneshot::Sender<Result<JoinAnswer, Refusal>>,
}

impl Waiting {
    /// The connection asked for it, and still waits.
    pub(super) fn is_of(&self, connection: &Connection) -> bool {
        self.request.connection.id == connection.id && !self.reply.is_closed()
    }
}
