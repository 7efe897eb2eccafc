//! A room of a shard, or those who wait for it.

use super::{Connection, command::*, room::Room};
use crate::{plugin::FilterId, protocol::Refusal};
use tokio::sync::oneshot;

/// A room, or those who wait until the store tells where it is.
pub enum Entry {
    Opening(Vec<Waiting>),
    Open(Box<Room>),
}

pub struct Waiting {
    pub joining: Joining,
    pub filter: Option<FilterId>,
    pub reply: oneshot::Sender<Result<Granted, Refusal>>,
}

impl Waiting {
    /// The connection asked for it, and still waits.
    pub fn is_of(&self, connection: &Connection) -> bool {
        self.joining.connection.id == connection.id && !self.reply.is_closed()
    }
}
