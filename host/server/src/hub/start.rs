//! Starts a hub: its shards, each with its policy, and the store that feeds them. Does not activate plugins.

use super::{
    Connections, Hub, MAX_CONCURRENT_HISTORY_READS, MAX_SHARD_BACKLOG,
    command::ShardCommand,
    connect_authorizer::ConnectAuthorizer,
    fair_semaphore::FairSemaphore,
    flush::FlushQueue,
    governance_gate::GovernanceGate,
    governed_rooms::GovernedRooms,
    policy::{ClosedReason, Policy, Ungoverned},
    room_policies::RoomPolicies,
    router::{Router, ShardHandle, ShardId, SlotId},
    shard::Shard,
};
use crate::{audit::Audit, metrics::Metrics};
use std::{
    collections::HashMap,
    sync::{Arc, Weak, atomic::Ordering},
    time::Instant,
};
use switchyard_process::{memory::MemoryAccount, vital::VitalTasks};
use switchyard_protocol::Close;
use switchyard_store::{Event, EventFeed, Store};
use tokio::sync::mpsc;

/// What a hub is made of.
pub(crate) struct HubConfig {
    pub ungoverned: Ungoverned,
    /// Maximum size of the data of a message, in bytes.
    pub message_bytes: usize,
    /// How many shards the rooms without a plugin have, and those of each plugin at most.
    pub cores: usize,
    pub memory: Arc<MemoryAccount>,
    /// The vital tasks of the node, which include the shards.
    pub vitals: VitalTasks,
    /// What holds in which rooms.
    pub policies: Arc<RoomPolicies>,
    pub audit: Audit,
}

/// How many connections may ask plugins at a time whether they may take a session over. The plugins have one
/// thread for these questions.
const MAX_CONCURRENT_TAKEOVERS: usize = 64;

impl Hub {
    /// Starts the shards for rooms without a plugin, one task per core. They end with the hub. There are no
    /// slots for plugins yet. `store` creates the store that feeds the shards.
    pub(crate) async fn start<E, StoreFuture>(
        config: HubConfig,
        metrics: Metrics,
        store: impl FnOnce(EventFeed) -> StoreFuture,
    ) -> Result<Arc<Self>, E>
    where
        StoreFuture: Future<Output = Result<Store, E>>,
    {
        let HubConfig { ungoverned, message_bytes, cores, memory, vitals, policies, audit } = config;
        let (mut handles, mut receivers) = (vec![], vec![]);
        for _ in 0..cores {
            let (queue, receiver) = mpsc::unbounded_channel();
            handles.push(ShardHandle::new(queue, None));
            receivers.push(receiver);
        }
        let shards = handles.clone();
        let router = Arc::new(Router::new(handles));
        let connections = Arc::new(Connections::default());
        let gate = Arc::new(GovernanceGate::new());
        let feed = feed_shards(Arc::downgrade(&router), connections.clone(), gate.clone());
        let store = store(feed).await?;
        if store.remote.is_none() {
            gate.open_for_ever();
        }
        let hub = Arc::new(Self {
            store,
            connections,
            denials: Default::default(),
            metrics,
            audit,
            memory,
            policies,
            ungoverned,
            message_bytes,
            cores,
            instances: Default::default(),
            connect_authorizer: ConnectAuthorizer::new(vitals.clone()),
            observers: Default::default(),
            allowances: Default::default(),
            vitals,
            router,
            gate,
            handovers: Default::default(),
            history_reads: FairSemaphore::new(MAX_CONCURRENT_HISTORY_READS),
            // Leaves cores for other requests.
            long_requests: FairSemaphore::new((cores / 2).max(1)),
            takeovers: FairSemaphore::new(MAX_CONCURRENT_TAKEOVERS),
        });
        for (index, (handle, receiver)) in shards.into_iter().zip(receivers).enumerate() {
            let shard = hub.new_shard(ShardId::of_ungoverned(index), &handle, Policy::Ungoverned(ungoverned));
            hub.vitals.spawn("the shard of rooms without a plugin", shard.run_in_order(receiver));
        }
        Ok(hub)
    }

    /// Adds a slot with one shard. It governs no rooms yet, and no version is active.
    pub(super) fn start_slot(&self, name: &str) -> SlotId {
        self.start_slot_as(name, ClosedReason::NotLoaded)
    }

    /// Adds a slot for a plugin that this node does not have.
    pub(super) fn start_absent_slot(&self, name: &str) -> SlotId {
        self.start_slot_as(name, ClosedReason::Absent)
    }

    fn start_slot_as(&self, name: &str, reason: ClosedReason) -> SlotId {
        let (queue, receiver) = mpsc::unbounded_channel();
        let rooms = |slot| Arc::new(GovernedRooms::new(slot, name, Arc::downgrade(&self.router)));
        let handle = |rooms: &Arc<GovernedRooms>| ShardHandle::new(queue, Some(rooms.clone()));
        let (slot, shards) = self.router.add_slot(rooms, handle);
        self.start_governed(shards[0], receiver, reason);
        slot
    }

    /// Adds shards to a slot. They own no rooms yet, and no version is active in them.
    pub(super) fn start_shards(&self, rooms: &Arc<GovernedRooms>, count: usize) -> Vec<ShardId> {
        let start = |_| {
            let (queue, receiver) = mpsc::unbounded_channel();
            let id = self.router.add_shard(ShardHandle::new(queue, Some(rooms.clone())));
            self.start_governed(id, receiver, ClosedReason::NotLoaded);
            id
        };
        (0..count).map(start).collect()
    }

    /// Starts a plugin's shard. It takes no thread until its rooms need the plugin.
    fn start_governed(
        &self,
        id: ShardId,
        commands: mpsc::UnboundedReceiver<ShardCommand>,
        reason: ClosedReason,
    ) {
        let Some(handle) = self.router.shard(id) else { return };
        let Some(rooms) = &handle.governed else { return };
        let plugin = rooms.name.clone();
        let shard = self.new_shard(id, &handle, Policy::Closed { plugin: plugin.clone(), reason });
        self.vitals.spawn("the shard of a plugin", shard.run_governed(plugin, commands, self.vitals.clone()));
    }

    pub(super) fn new_shard(&self, id: ShardId, handle: &ShardHandle, policy: Policy) -> Shard {
        Shard {
            id,
            queue: handle.queue.downgrade(),
            policy,
            governed: handle.governed.clone(),
            router: Arc::downgrade(&self.router),
            store: self.store.clone(),
            metrics: self.metrics.clone(),
            policies: self.policies.clone(),
            observers: self.observers.clone(),
            backlog: handle.backlog.clone(),
            message_bytes: self.message_bytes,
            rooms: HashMap::new(),
            scratch: Default::default(),
            flush: FlushQueue::new(Instant::now()),
            filter_texts: Default::default(),
            arrivals: Default::default(),
            prepared_swap: None,
            has_thread: false,
        }
    }
}

/// Passes events of the store to the shard of the room, once it is known which plugin governs the room. The feed
/// returns false if that shard does not keep up.
fn feed_shards(router: Weak<Router>, connections: Arc<Connections>, gate: Arc<GovernanceGate>) -> EventFeed {
    Arc::new(move |event| {
        match event {
            Event::Reconnected => gate.close(),
            Event::Probe(connection) => {
                if let Some(connection) = connections.get(connection) {
                    connection.probe();
                }
            }
            Event::TakenOver(connection) => {
                if let Some(connection) = connections.get(connection) {
                    connection.outbox.close(Close::TakenOver);
                }
            }
            event => {
                let Some(router) = router.upgrade() else { return true };
                if !gate.is_clear() {
                    return gate.pass(event, |event| router.route_event(event)) < MAX_SHARD_BACKLOG;
                }
                let Event::Published(message) = event else {
                    router.route_event(event);
                    return true;
                };
                let table = router.table();
                let shard = table.owner(&message.room);
                let waiting = shard.backlog.fetch_add(1, Ordering::Relaxed);
                shard.queue.send(ShardCommand::Store(Event::Published(message))).ok();
                return waiting < MAX_SHARD_BACKLOG;
            }
        }
        true
    })
}
