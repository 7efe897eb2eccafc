//! Puts a hub together: its shards, each with its policy, and the store that feeds them.

use super::{
    BACKLOG, Connections, Handle, Hub, READS, SlotConfig,
    command::Command,
    connect_authorizer::ConnectAuthorizer,
    fair_semaphore::FairSemaphore,
    flush::FlushQueue,
    no_thread,
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

pub(crate) struct HubConfig {
    /// The slots for plugins. If the patterns of several match a room, the first one governs it.
    pub slots: Vec<SlotConfig>,
    pub ungoverned: Ungoverned,
    /// Bytes of data that a message may have.
    pub message_bytes: usize,
    pub memory: Arc<MemoryAccount>,
    /// Told of shards that panic.
    pub vitals: VitalTasks,
}

impl Hub {
    /// Starts the shards: a thread for each plugin, so that a slow one delays only its own rooms, and a task a core
    /// for all other rooms. They end with the hub. `store` makes the store that feeds them, or says why it cannot.
    pub(crate) async fn start<E, Made>(
        config: HubConfig,
        metrics: Metrics,
        store: impl FnOnce(EventFeed) -> Made,
    ) -> Result<Arc<Self>, E>
    where
        Made: Future<Output = Result<Store, E>>,
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
            shards.push(Handle { queue, backlog });
            receivers.push(receiver);
        }
        let queues: Vec<_> = feeds.iter().map(|(queue, _)| queue.clone()).collect();
        let connections = Arc::new(Connections::default());
        let store = store(feed(routes.clone(), connections.clone(), feeds)).await?;
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
                Some(plugin) => governed(plugin, shard, receiver, &vitals),
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
            reads: FairSemaphore::new(READS),
            // Others find a core.
            lists: FairSemaphore::new((cores / 2).max(1)),
            shards,
        }))
    }
}

/// A shard, its queue, and the command that is to be carried out first.
type Given = (Shard, mpsc::UnboundedReceiver<Command>, Option<Command>);

/// Runs a plugin's shard on a thread of its own. While the system has none for it, its rooms are closed, which takes no thread, and
/// each version that is put into the slot tries again.
fn governed(plugin: String, shard: Shard, commands: mpsc::UnboundedReceiver<Command>, vitals: &VitalTasks) {
    match thread(&plugin, vitals) {
        Ok(given) => drop(given.send((shard, commands, None))),
        Err(error) => {
            tracing::error!(plugin, %error, "no thread can be started for a plugin; its rooms are closed");
            let closed = closed(plugin, shard, commands, vitals.clone());
            vitals.spawn("the shard of a plugin without a thread", closed);
        }
    }
}

/// A thread that waits for its shard: one that cannot be started takes no shard along.
fn thread(plugin: &str, vitals: &VitalTasks) -> io::Result<oneshot::Sender<Given>> {
    let (given, is_given) = oneshot::channel::<Given>();
    let runtime = tokio::runtime::Handle::current();
    let run = async move {
        if let Ok((mut shard, commands, first)) = is_given.await {
            first.into_iter().for_each(|command| shard.handle(command));
            shard.run(commands).await;
        }
    };
    vitals.spawn_thread(format!("plugin {plugin}"), move || runtime.block_on(run))?;
    Ok(given)
}

async fn closed(
    plugin: String,
    mut shard: Shard,
    mut commands: mpsc::UnboundedReceiver<Command>,
    vitals: VitalTasks,
) {
    while let Some(command) = commands.recv().await {
        let Command::Swap { version, reply } = command else {
            shard.handle(command);
            continue;
        };
        match thread(&plugin, &vitals) {
            Ok(given) => {
                let swap = Command::Swap { version, reply };
                return drop(given.send((shard, commands, Some(swap))));
            }
            Err(error) => drop(reply.send(Err(no_thread(&format!("of plugin '{plugin}'"), error)))),
        }
    }
}

/// Hands what a store tells to the shard of the room, as far as the shard keeps up.
fn feed(
    routes: Arc<Routes>,
    connections: Arc<Connections>,
    shards: Vec<(mpsc::WeakUnboundedSender<Command>, Arc<AtomicUsize>)>,
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
            queue.send(Command::Store(event)).ok();
        }
        waiting < BACKLOG
    })
}
