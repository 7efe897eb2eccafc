//! The hub's slots for plugins, and the few verbs that change them: [`Hub::add_slot`], [`Hub::remove_slot`],
//! [`Hub::close_changing_rooms`], [`Hub::hand_rooms_over`], [`Hub::swap`] and [`Hub::set_mirror`]. `rollout`
//! decides which slots there are and which version is in each of them.

use super::{Hub, command::ShardCommand, router::ShardId, stopping};
use std::{sync::Arc, time::Duration};
use switchyard_plugin::{Mirror, OnFailure, Plugin};
use switchyard_protocol::{Refusal, room::RoomPattern};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

/// How long a change of the rooms waits for messages that are being published. A message that takes longer
/// is refused by its room's new owner.
const PUBLISH_DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Identifies a slot for a plugin.
pub(crate) type SlotId = ShardId;

/// A slot and the rooms that its plugin governs.
#[derive(Clone)]
pub(crate) struct SlotRooms {
    pub slot: SlotId,
    pub patterns: Arc<[RoomPattern]>,
}

/// A compiled version of a plugin, and what happens if a call of it fails.
#[derive(Clone)]
pub(crate) struct CompiledVersion {
    pub plugin: Arc<Plugin>,
    pub on_failure: OnFailure,
}

impl Hub {
    /// Adds a slot for a plugin. It governs no rooms yet, and no version is active in it.
    pub(crate) fn add_slot(&self, name: &str) -> SlotId {
        self.start_slot(name)
    }

    /// Adds a slot for a plugin that other nodes have and this one does not. Its rooms are closed here, which
    /// takes no thread.
    pub(crate) fn add_absent_slot(&self, name: &str) -> SlotId {
        self.start_absent_slot(name)
    }

    /// Removes a slot. Its plugin must not govern rooms any more.
    pub(crate) async fn remove_slot(&self, slot: SlotId) {
        self.connect_authorizer.swap(slot, None).await.ok();
        self.router.remove(slot);
    }

    /// Announces which slot will govern which rooms: the first one with a matching pattern. Closes the rooms that
    /// will change their governor to messages, and waits for those that are being published. This can be called
    /// again with other slots.
    pub(crate) async fn close_changing_rooms(&self, slots: Vec<SlotRooms>) {
        let _changing = self.handovers.lock().await;
        let next = self.router.with_slots(slots.into_iter().map(|slot| (slot.slot, slot.patterns)).collect());
        let until = Instant::now() + PUBLISH_DRAIN_TIMEOUT;
        for publishing in self.router.close_changing(next) {
            timeout_at(until, publishing.wait()).await.ok();
        }
    }

    /// Makes the change of [`close_changing_rooms`](Self::close_changing_rooms): hands the rooms over with their
    /// members, between two messages. The new governor judges the members again. Returns when all rooms have
    /// been handed over.
    pub(crate) async fn hand_rooms_over(&self) {
        let _changing = self.handovers.lock().await;
        for done in self.router.hand_over() {
            done.await.ok();
        }
    }

    /// Activates a version in a slot, between two messages: for rooms and for connections. Ends mirroring to
    /// a candidate. After an error, the slot's previous version is active.
    pub(crate) async fn swap(&self, slot: SlotId, version: CompiledVersion) -> Result<(), Refusal> {
        let previous = self.connect_authorizer.swap(slot, Some(version.clone())).await?;
        let (reply, swapped) = oneshot::channel();
        self.router.send_to(slot, ShardCommand::Swap { version, reply });
        let swapped = swapped.await.unwrap_or_else(|_| Err(stopping()));
        if swapped.is_err() {
            self.connect_authorizer.swap(slot, previous).await.ok();
        }
        swapped
    }

    /// Copies all calls in a slot to a candidate, or stops with `None`.
    pub(crate) fn set_mirror(&self, slot: SlotId, mirror: Option<Mirror>) {
        self.connect_authorizer.set_mirror(slot, mirror.clone());
        self.router.send_to(slot, ShardCommand::Mirror(mirror));
    }
}
