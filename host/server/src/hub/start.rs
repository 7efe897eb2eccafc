//! Starts a hub: its shards, each with its policy, and the store that feeds them. Does not activate plugins.

use super::{
    Connections, Hub, MAX_CONCURRENT_HISTORY_READS, MAX_SHARD_BACKLOG, ShardHandle, SlotConfig,
    cannot_start_thread,
    command::ShardCommand,
    connect_authorizer::ConnectAuthorizer,
    fair_semaphore::FairSemaphore,
    flush::FlushQueue,
    policy::{Policy, Ungoverned},
    routes::Routes,
    shard::Shard,
};
use crate::metrics::Metrics;
use std::{
    collections::HashMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};
use switchyard_process::{memory::MemoryAccount, vital::VitalTasks};
use switchyard_protocol::Close;
use switchyard_store::{Event, EventFeed, Store};
use tokio::sync::{mpsc, oneshot};

/// What a hub is made of.
pub(crate) struct HubConfig {
    /// The slots for plugins. If the patterns of several match a room, the first one governs it.
    pub slots: Vec<SlotConfig>,
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
    /// Starts the shards: one thread for each plugin, so that a slow plugin delays only its own rooms, and
    /// one task per core for all other rooms. They end with the hub. `store` creates the store that feeds
    /// them.
    pub(crate) async fn start<E, StoreFuture>(
        config: HubConfig,
        metrics: Metrics,
        store: impl FnOnce(EventFeed) -> StoreFuture,
    ) -> Result<Arc<Self>, E>
    where
        StoreFuture: Future<Output = Result<Store, E>>,
    {
        let (vitals, memory) = (config.vitals, config.memory);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let closed =
            |slot: &SlotConfig| (Some(slot.name.clone()), Policy::Failed { plugin: slot.name.clone() });
        let mut policies: Vec<_> = config.slots.iter().map(closed).collect();
        let routes = Arc::new(Routes::new(config.slots, cores));
        policies.extend((0..cores).map(|_| (None, Policy::Ungoverned(config.ungoverned))));

        let (mut shards, mut receivers, mut feeds) = (vec![], vec![], vec![]);
        for _ in &policies {
            let (queue, receiver) = mpsc::unbounded_channel();
            let backlog = Arc::new(AtomicUsize::new(0));
            feeds.push((queue.downgrade(), backlog.clone()));
            shards.push(ShardHandle { queue, backlog });
            receivers.push(receiver);
        }
        let queues: Vec<_> = feeds.iter().map(|(queue, _)| queue.clone()).collect();
        let connections = Arc::new(Connections::default());
        let store = store(feed_shards(routes.clone(), connections.clone(), feeds)).await?;
        for (index, ((plugin, policy), receiver)) in policies.into_iter().zip(receivers).enumerate() {
            let shard = Shard {
                index,
                queue: queues[index].clone(),
                policy,
                routes: routes.clone(),
                store: store.clone(),
                metrics: metrics.clone(),
                backlog: shards[index].backlog.clone(),
                message_bytes: config.message_bytes,
                rooms: HashMap::new(),
                room_usage: Default::default(),
                quotas: Default::default(),
                scratch: Default::default(),
                flush: FlushQueue::new(Instant::now()),
            };
            match plugin {
                None => drop(vitals.spawn("the shard of rooms without a plugin", shard.run(receiver))),
                Some(plugin) => start_governed(plugin, shard, receiver, &vitals),
            }
        }
        let ungoverned = config.ungoverned;
        Ok(Arc::new(Self {
            store,
            connections,
            metrics,
            memory,
            ungoverned,
            connect_authorizer: ConnectAuthorizer::new(vitals.clone()),
            allowances: Default::default(),
            vitals,
            routes,
            history_reads: FairSemaphore::new(MAX_CONCURRENT_HISTORY_READS),
            // Leaves cores for other requests.
            long_requests: FairSemaphore::new((cores / 2).max(1)),
            takeovers: FairSemaphore::new(MAX_CONCURRENT_TAKEOVERS),
            shards,
        }))
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
            first.into_iter().for_each(|command| shard.handle(command));
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
            shard.handle(command);
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
fn feed_shards(
    routes: Arc<Routes>,
    connections: Arc<Connections>,
    shards: Vec<(mpsc::WeakUnboundedSender<ShardCommand>, Arc<AtomicUsize>)>,
) -> EventFeed {
    Arc::new(move |event| {
        let (room, messages) = match &event {
            Event::Published(message) => (&message.room, 1),
            Event::Subscribed { room, .. } | Event::SubscribeFailed { room } | Event::Lost { room, .. } => {
                (room, 0)
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
        let (queue, backlog) = &shards[routes.shard(room)];
        let waiting = backlog.fetch_add(messages, Ordering::Relaxed);
        if let Some(queue) = queue.upgrade() {
            queue.send(ShardCommand::Store(event)).ok();
        }
        waiting < MAX_SHARD_BACKLOG
    })
}
