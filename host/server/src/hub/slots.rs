//! The hub's slots for plugins, and the few verbs that change them: [`Hub::add_slot`], [`Hub::remove_slot`],
//! [`Hub::close_changing_rooms`], [`Hub::begin_handover`], [`Hub::swap`] and [`Hub::set_mirror`]. `rollout`
//! decides which slots there are and which version is in each of them.

use super::{
    Hub, RoomSelector,
    command::{ShardCommand, SwapPreparation},
    conflict,
    governed_rooms::GovernedRooms,
    observers::MAX_OBSERVERS,
    router::{ShardId, SlotId},
    stopping,
};
use std::{sync::Arc, time::Duration};
use switchyard_plugin::{MAX_INSTANCES, Mirror, OnFailure, Plugin};
use switchyard_process::lock::LockExt;
use switchyard_protocol::{Refusal, room::RoomPattern};
use tokio::{
    sync::{MutexGuard, oneshot},
    time::{Instant, timeout_at},
};
use tokio_util::task::TaskTracker;

/// How long a change of the rooms waits for messages that are being published. A message that takes longer
/// is refused by its room's new owner.
const PUBLISH_DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// A slot and the rooms that its plugin governs.
#[derive(Clone, PartialEq)]
pub(crate) struct SlotRooms {
    pub slot: SlotId,
    pub patterns: Arc<[RoomPattern]>,
}

/// Rooms that are being handed over. No others are, as long as this exists.
pub(crate) struct PendingHandover<'a> {
    shards: Vec<oneshot::Receiver<()>>,
    _changing: MutexGuard<'a, ()>,
}

impl PendingHandover<'_> {
    /// Returns when all rooms have been handed over.
    pub(crate) async fn completed(self) {
        for done in self.shards {
            done.await.ok();
        }
    }
}

/// A compiled version of a plugin, and what happens if a call of it fails.
#[derive(Clone)]
pub(crate) struct CompiledVersion {
    pub plugin: Arc<Plugin>,
    pub on_failure: OnFailure,
}

/// Maximum number of instances of all slots. Each observer may have an instance, and another one while it is replaced.
const MAX_SLOT_INSTANCES: usize = MAX_INSTANCES as usize - 2 * MAX_OBSERVERS;

/// How many instances a slot with this many shards may have at a time: each shard has two while it changes to another
/// version, and so has the `connect` hook. One is a candidate's, and one is that of a version that is being
/// loaded.
fn max_instances(shards: usize) -> usize {
    2 * shards + 4
}

impl Hub {
    /// Adds a slot for a plugin. It governs no rooms yet, and no version is active in it. It has one shard until
    /// a version needs more.
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
        let Some((rooms, _)) = self.router.slot_shards(slot) else { return };
        let _swapping = rooms.swapping.lock().await;
        self.connect_authorizer.swap(slot, None).await.ok();
        self.router.remove_slot(slot);
        self.instances.locked().remove(&slot);
    }

    /// Announces which slot will govern which rooms: the first one with a matching pattern. Closes the rooms that
    /// will change their governor to messages, and waits for those that are being published. This can be called
    /// again with other slots.
    pub(crate) async fn close_changing_rooms(&self, slots: Vec<SlotRooms>) {
        let _changing = self.handovers.lock().await;
        let next = self.router.with_slots(slots.into_iter().map(|slot| (slot.slot, slot.patterns)).collect());
        let until = Instant::now() + PUBLISH_DRAIN_TIMEOUT;
        drain(self.router.close_changing(next), until).await;
    }

    /// Makes the change of [`close_changing_rooms`](Self::close_changing_rooms): hands the rooms over with their
    /// members, between two messages. The new governor judges the members again. Returns when all rooms have
    /// been handed over.
    #[cfg(test)]
    pub(crate) async fn hand_rooms_over(&self) {
        self.begin_handover().await.completed().await;
    }

    /// The same, but returns when every room belongs to its new owner, which may not have its members yet.
    pub(crate) async fn begin_handover(&self) -> PendingHandover<'_> {
        let changing = self.handovers.lock().await;
        PendingHandover { shards: self.router.hand_over(), _changing: changing }
    }

    /// Whether rooms are closed because they are about to have another governor.
    pub(crate) fn is_change_announced(&self) -> bool {
        self.router.is_change_announced()
    }

    /// Keeps rooms closed to messages, in addition to those that are about to change their governor, or opens them.
    pub(crate) fn keep_closed(&self, rooms: Option<RoomSelector>) {
        self.router.keep_closed(rooms);
    }

    /// It was just read which plugins govern which rooms, and rooms were handed over accordingly; or the
    /// record's server in a Cluster could not be reached. `began` is when reading began.
    pub(crate) fn renew_governance(&self, began: std::time::Instant) {
        self.gate.renew(began, |event| self.router.route_event(event));
    }

    /// Returns when messages wait until it is read which plugins govern which rooms.
    pub(crate) async fn governance_wanted(&self) {
        self.gate.wanted().await;
    }

    /// Activates a version in a slot, between two messages: for rooms and for connections. Ends mirroring to
    /// a candidate. After an error, the slot's previous version is active. The slot gets as many shards as the
    /// version's budget allows, at most one for each core. Goes on to its end, also if nobody waits for that any more.
    pub(crate) async fn swap(
        self: &Arc<Self>,
        slot: SlotId,
        version: CompiledVersion,
    ) -> Result<(), Refusal> {
        let hub = self.clone();
        let swapped = tokio::spawn(async move { hub.swap_now(slot, version).await }).await;
        swapped.unwrap_or_else(|_| Err(stopping()))
    }

    async fn swap_now(&self, slot: SlotId, version: CompiledVersion) -> Result<(), Refusal> {
        let (rooms, _) = self.router.slot_shards(slot).ok_or_else(removed)?;
        let _swapping = rooms.swapping.lock().await;
        let (_, shards) = self.router.slot_shards(slot).ok_or_else(removed)?;
        let count = version.plugin.budget().instances.min(self.cores).max(1);
        self.reserve_instances(&rooms, shards.len().max(count))?;
        let added = self.start_shards(&rooms, count.saturating_sub(shards.len()));
        let all: Arc<[ShardId]> = shards.iter().chain(&added).copied().collect();
        let result = self.activate(&rooms, &all, version).await;
        match &result {
            Ok(()) if shards.len() != count => self.spread_rooms(slot, &all, count).await,
            Ok(()) => {}
            Err(_) => drop(self.router.remove_shards(&added)),
        }
        let remaining = if result.is_ok() { count } else { shards.len() };
        self.instances.locked().insert(slot, remaining);
        result
    }

    /// Activates a version on these shards, which are all of a slot.
    async fn activate(
        &self,
        rooms: &GovernedRooms,
        shards: &[ShardId],
        version: CompiledVersion,
    ) -> Result<(), Refusal> {
        let previous = self.connect_authorizer.swap(rooms.slot, Some(version.clone())).await?;
        let swapped = self.swap_shards(rooms, shards, version).await;
        if swapped.is_err() {
            self.connect_authorizer.restore(rooms.slot, previous).await;
        }
        swapped
    }

    /// Has all shards prepare a version, and then activate it together. If one cannot, none does.
    async fn swap_shards(
        &self,
        rooms: &GovernedRooms,
        shards: &[ShardId],
        version: CompiledVersion,
    ) -> Result<(), Refusal> {
        let (mut answers, mut commits) = (vec![], vec![]);
        for shard in shards {
            let (prepared, answer) = oneshot::channel();
            let (commit, decision) = oneshot::channel();
            let preparation = SwapPreparation { version: version.clone(), prepared, commit: decision };
            self.router.send_to(*shard, ShardCommand::PrepareSwap(preparation));
            answers.push(answer);
            commits.push(commit);
        }
        for answer in answers {
            // An error drops the senders of the decision, which tells all other shards.
            answer.await.unwrap_or_else(|_| Err(removed()))?;
        }
        // All shards are waiting now, so nobody is calling the plugin. Nothing is awaited until they are told.
        rooms.governors.activate(&version.plugin, version.on_failure);
        rooms.quotas.locked().expire_answers(std::time::Instant::now());
        let tell = |commit: oneshot::Sender<_>| {
            let (committed, done) = oneshot::channel();
            commit.send(committed).ok();
            done
        };
        let told: Vec<_> = commits.into_iter().map(tell).collect();
        for done in told {
            done.await.ok();
        }
        Ok(())
    }

    /// Spreads the rooms of a slot over the first `count` of its shards, and ends the others.
    async fn spread_rooms(&self, slot: SlotId, shards: &[ShardId], count: usize) {
        let _changing = self.handovers.lock().await;
        let (kept, surplus) = shards.split_at(count);
        for done in self.router.set_shards(slot, kept.into()) {
            done.await.ok();
        }
        drain(self.router.remove_shards(surplus), Instant::now() + PUBLISH_DRAIN_TIMEOUT).await;
    }

    /// Reserves the instances of a slot with this many shards, unless all slots together would have more than the
    /// engine can run.
    fn reserve_instances(&self, rooms: &GovernedRooms, shards: usize) -> Result<(), Refusal> {
        let mut reserved = self.instances.locked();
        let others: usize = reserved
            .iter()
            .filter(|(slot, _)| **slot != rooms.slot)
            .map(|(_, shards)| max_instances(*shards))
            .sum();
        let (needed, free) = (max_instances(shards), MAX_SLOT_INSTANCES.saturating_sub(others));
        if needed > free {
            return Err(conflict(format!(
                "plugin '{}' may need {needed} instances, and the other plugins of this node leave {free} of \
                 {MAX_SLOT_INSTANCES}: lower budget.instances of some of them, or remove one",
                rooms.name
            )));
        }
        reserved.insert(rooms.slot, shards);
        Ok(())
    }

    /// Copies all calls in a slot to a candidate, or stops with `None`.
    pub(crate) fn set_mirror(&self, slot: SlotId, mirror: Option<Mirror>) {
        self.connect_authorizer.set_mirror(slot, mirror.clone());
        let Some((_, shards)) = self.router.slot_shards(slot) else { return };
        for shard in &*shards {
            self.router.send_to(*shard, ShardCommand::Mirror(mirror.clone()));
        }
    }
}

/// Waits for messages that are being published.
async fn drain(under_way: Vec<TaskTracker>, until: Instant) {
    for publishing in under_way {
        timeout_at(until, publishing.wait()).await.ok();
    }
}

/// The refusal of a change of a plugin that is not there any more.
fn removed() -> Refusal {
    conflict("the plugin was removed meanwhile".to_owned())
}
