//! Starts a hub: its shards, each with its policy, and the store that feeds them. Does not activate plugins.

use super::{
    Connections, Hub, MAX_CONCURRENT_HISTORY_READS, MAX_SHARD_BACKLOG, cannot_start_thread,
    command::ShardCommand,
    connect_authorizer::ConnectAuthorizer,
    fair_semaphore::FairSemaphore,
    flush::FlushQueue,
    policy::{ClosedReason, Policy, Ungoverned},
    router::{GovernedRooms, Router, ShardHandle, ShardId},
    shard::Shard,
};
use crate::metrics::Metrics;
use std::{
    collections::HashMap,
    io,
    sync::{Arc, Weak, atomic::Ordering},
    time::Instant,
};
use switchyard_process::{memory::MemoryAccount, vital::VitalTasks};
use switchyard_protocol::Close;
use switchyard_store::{Event, EventFeed, Store};
use tokio::sync::{mpsc, oneshot};

/// What a hub is made of.
pub(crate) struct HubConfig {
    pub ungoverned: Ungoverned,
    /// Maximum size of the data of a message, in bytes.
    pub message_bytes: usize,
    pub memory: Arc<MemoryAccount>,
    /// The vital tasks of the node, which include the shards.
    pub vitals: VitalTasks,
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
        let HubConfig { ungoverned, message_bytes, memory, vitals } = config;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (mut handles, mut receivers) = (vec![], vec![]);
        for _ in 0..cores {
            let (queue, receiver) = mpsc::unbounded_channel();
            handles.push(ShardHandle::new(queue, None));
            receivers.push(receiver);
        }
        let shards = handles.clone();
        let router = Arc::new(Router::new(handles));
        let connections = Arc::new(Connections::default());
        let store = store(feed_shards(Arc::downgrade(&router), connections.clone())).await?;
        let hub = Arc::new(Self {
            store,
            connections,
            metrics,
            memory,
            ungoverned,
            message_bytes,
            connect_authorizer: ConnectAuthorizer::new(vitals.clone()),
            allowances: Default::default(),
            vitals,
            router,
            handovers: Default::default(),
            history_reads: FairSemaphore::new(MAX_CONCURRENT_HISTORY_READS),
            // Leaves cores for other requests.
            long_requests: FairSemaphore::new((cores / 2).max(1)),
            takeovers: FairSemaphore::new(MAX_CONCURRENT_TAKEOVERS),
        });
        for (index, (handle, receiver)) in shards.into_iter().zip(receivers).enumerate() {
            let shard = hub.new_shard(ShardId::of_ungoverned(index), &handle, Policy::Ungoverned(ungoverned));
            hub.vitals.spawn("the shard of rooms without a plugin", shard.run(receiver));
        }
        Ok(hub)
    }

    /// Adds a shard for the rooms of a plugin, on a thread of its own, so that a slow plugin delays only its
    /// own rooms. It owns no rooms yet, and no version is active.
    pub(super) fn start_slot(&self, name: &str) -> ShardId {
        let (queue, receiver) = mpsc::unbounded_channel();
        let handle = ShardHandle::new(queue, Some(Arc::new(GovernedRooms::new(name))));
        let id = self.router.add(handle.clone());
        let policy = Policy::Closed { plugin: name.to_owned(), reason: ClosedReason::NotLoaded };
        let shard = self.new_shard(id, &handle, policy);
        start_governed(name.to_owned(), shard, receiver, &self.vitals);
        id
    }

    /// Adds a shard for the rooms of a plugin that this node does not have.
    pub(super) fn start_absent_slot(&self, name: &str) -> ShardId {
        let (queue, receiver) = mpsc::unbounded_channel();
        let handle = ShardHandle::new(queue, Some(Arc::new(GovernedRooms::new(name))));
        let id = self.router.add(handle.clone());
        let policy = Policy::Closed { plugin: name.to_owned(), reason: ClosedReason::Absent };
        let shard = self.new_shard(id, &handle, policy);
        let closed = run_without_thread(name.to_owned(), shard, receiver, self.vitals.clone());
        self.vitals.spawn("the shard of a plugin that other nodes have", closed);
        id
    }

    fn new_shard(&self, id: ShardId, handle: &ShardHandle, policy: Policy) -> Shard {
        Shard {
            id,
            queue: handle.queue.downgrade(),
            policy,
            governed: handle.governed.clone(),
            router: Arc::downgrade(&self.router),
            store: self.store.clone(),
            metrics: self.metrics.clone(),
            backlog: handle.backlog.clone(),
            message_bytes: self.message_bytes,
            rooms: HashMap::new(),
            room_usage: Default::default(),
            quotas: Default::default(),
            scratch: Default::default(),
            flush: FlushQueue::new(Instant::now()),
            filter_texts: Default::default(),
            arrivals: Default::default(),
        }
    }
}

/// A shard, its queue, and the command that it handles first.
type ShardHandoff = (Shard, mpsc::UnboundedReceiver<ShardCommand>, Option<ShardCommand>);

/// Starts a plugin's shard on a thread of its own. If the system cannot start one, the rooms of the plugin
/// are closed, which takes no thread, and each version that is put into the slot tries to start it again.
fn start_governed(
    plugin: String,
    shard: Shard,
    commands: mpsc::UnboundedReceiver<ShardCommand>,
    vitals: &VitalTasks,
) {
    match start_thread(&plugin, vitals) {
        Ok(thread) => drop(thread.send((shard, commands, None))),
        Err(error) => {
            tracing::error!(plugin, %error, "no thread can be started for a plugin; its rooms are closed");
            let closed = run_without_thread(plugin, shard, commands, vitals.clone());
            vitals.spawn("the shard of a plugin without a thread", closed);
        }
    }
}

/// Starts a thread that waits for its shard. The shard is sent only then, so that it is not lost if no thread
/// can be started.
fn start_thread(plugin: &str, vitals: &VitalTasks) -> io::Result<oneshot::Sender<ShardHandoff>> {
    let (sender, receiver) = oneshot::channel::<ShardHandoff>();
    let runtime = tokio::runtime::Handle::current();
    let run = async move {
        if let Ok((mut shard, commands, first)) = receiver.await {
            first.into_iter().for_each(|command| shard.handle_in_order(command));
            shard.run(commands).await;
        }
    };
    vitals.spawn_thread(format!("plugin {plugin}"), move || runtime.block_on(run))?;
    Ok(sender)
}

/// Runs a plugin's shard with closed rooms until a version is put into its slot and a thread can be started.
async fn run_without_thread(
    plugin: String,
    mut shard: Shard,
    mut commands: mpsc::UnboundedReceiver<ShardCommand>,
    vitals: VitalTasks,
) {
    while let Some(command) = commands.recv().await {
        let ShardCommand::Swap { version, reply } = command else {
            shard.handle_in_order(command);
            continue;
        };
        match start_thread(&plugin, &vitals) {
            Ok(thread) => {
                let swap = ShardCommand::Swap { version, reply };
                return drop(thread.send((shard, commands, Some(swap))));
            }
            Err(error) => drop(reply.send(Err(cannot_start_thread(&format!("of plugin '{plugin}'"), error)))),
        }
    }
}

/// Passes events of the store to the shard of the room. The feed returns false if that shard does not keep up.
fn feed_shards(router: Weak<Router>, connections: Arc<Connections>) -> EventFeed {
    Arc::new(move |event| {
        let event = match event {
            Event::Published(message) => {
                let Some(router) = router.upgrade() else { return true };
                let table = router.table();
                let shard = table.owner(&message.room);
                let waiting = shard.backlog.fetch_add(1, Ordering::Relaxed);
                shard.queue.send(ShardCommand::Store(Event::Published(message))).ok();
                return waiting < MAX_SHARD_BACKLOG;
            }
            event => event,
        };
        let room = match &event {
            Event::Published(_) => unreachable!("queued above"),
            Event::Subscribed { room, .. } | Event::SubscribeFailed { room } | Event::Lost { room, .. } => {
                room.clone()
            }
            Event::Probe(connection) => {
                if let Some(connection) = connections.get(*connection) {
                    connection.probe();
                }
                return true;
            }
            Event::TakenOver(connection) => {
                if let Some(connection) = connections.get(*connection) {
                    connection.outbox.close(Close::TakenOver);
                }
                return true;
            }
        };
        if let Some(router) = router.upgrade() {
            router.send(&room, ShardCommand::Store(event));
        }
        true
    })
}
