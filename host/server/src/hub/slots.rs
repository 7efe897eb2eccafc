//! The hub's slots for plugins, and how their content changes: [`Hub::swap`] and [`Hub::set_mirror`].
//! `rollout` decides which version is in a slot.

use super::{Hub, command::ShardCommand, stopping};
use std::sync::Arc;
use switchyard_plugin::{Mirror, OnFailure, Plugin};
use switchyard_protocol::{Refusal, room::RoomPattern};
use tokio::sync::oneshot;

/// A slot for a plugin. It starts empty, and its rooms are closed until a version is put into it.
pub(crate) struct SlotConfig {
    /// The plugin's name in the configuration.
    pub name: String,
    /// The rooms that it governs.
    pub rooms: Vec<RoomPattern>,
}

/// A compiled version of a plugin, and what happens if a call of it fails.
#[derive(Clone)]
pub(crate) struct CompiledVersion {
    pub plugin: Arc<Plugin>,
    pub on_failure: OnFailure,
}

impl Hub {
    /// Activates a version in a slot, between two messages: for rooms and for connections. Ends mirroring to
    /// a candidate. After an error, the slot's previous version is active.
    pub(crate) async fn swap(&self, slot: usize, version: CompiledVersion) -> Result<(), Refusal> {
        let previous = self.connect_authorizer.swap(slot, Some(version.clone())).await?;
        let (reply, swapped) = oneshot::channel();
        self.shards[slot].queue.send(ShardCommand::Swap { version, reply }).ok();
        let swapped = swapped.await.unwrap_or_else(|_| Err(stopping()));
        if swapped.is_err() {
            self.connect_authorizer.swap(slot, previous).await.ok();
        }
        swapped
    }

    /// Copies all calls in a slot to a candidate, or stops with `None`.
    pub(crate) fn set_mirror(&self, slot: usize, mirror: Option<Mirror>) {
        self.connect_authorizer.set_mirror(slot, mirror.clone());
        self.shards[slot].queue.send(ShardCommand::Mirror(mirror)).ok();
    }
}
