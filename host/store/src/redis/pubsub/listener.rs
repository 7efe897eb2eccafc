//! Receives the messages of all rooms that have members on this node. Reads the log of a room when messages
//! may be missing: after a reconnect, after its slot has moved, after a hole, and regularly in case a
//! subscription was lost unnoticed.

use crate::{
    Event, EventFeed, PageLimit, RESPONSE_TIMEOUT, StoreMetrics, Unavailable,
    redis::{
        context::Context,
        context::recent_keys::RecentKeys,
        link::{LinkEvent, LinkEvents},
        log_entry::{self, LogPage},
        pubsub::{
            listener_request::ListenerRequest,
            resync_queue::{ResyncPermit, ResyncQueue},
            room_subscription::{NextStep, RoomSubscription},
            schedule::Schedule,
        },
        room_index::RoomIndex,
        rooms::RedisRooms,
        sessions::RedisSessions,
        timeouts::no_answer,
    },
};
use fred::types::{Message, config::Server};
use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};
use switchyard_process::memory::MemoryKind;
use switchyard_protocol::{room::RoomName, unix_ms};
use tokio::{sync::mpsc, time::Instant};

/// How much of a log is read at a time.
const PAGE_LIMIT: PageLimit = PageLimit { messages: 256, bytes: 256 << 10 };
/// How often due and failed reads are started.
const TICK_INTERVAL: Duration = Duration::from_millis(100);
/// How often a Cluster is asked whether slots have moved, which ends their subscriptions silently.
const TOPOLOGY_INTERVAL: Duration = Duration::from_millis(500);

pub(crate) struct PubsubListener {
    rooms: RedisRooms,
    feed: EventFeed,
    metrics: StoreMetrics,
    recent_keys: Arc<RecentKeys>,
    /// By how many milliseconds Redis' clock is ahead of this node's.
    clock_offset: Arc<AtomicI64>,
    /// Notified of rooms that may have lost their members.
    sessions: Weak<RedisSessions>,
    room_index: Weak<RoomIndex>,
    /// Weak, so that the listener does not keep itself alive.
    requests: mpsc::WeakUnboundedSender<ListenerRequest>,
    subscriptions: HashMap<RoomName, RoomSubscription>,
    /// Numbers subscriptions and reads.
    last_number: u64,
    /// Rooms to read with the next tick, because reading failed or must wait, and whether to subscribe first.
    later: HashMap<RoomName, bool>,
    queue: ResyncQueue,
    schedule: Schedule,
    topology: Option<u64>,
    /// When the topology was last requested.
    topology_requested: Instant,
}

impl PubsubListener {
    pub(crate) fn new(
        context: &Context,
        sessions: &Arc<RedisSessions>,
        room_index: &Arc<RoomIndex>,
        requests: mpsc::WeakUnboundedSender<ListenerRequest>,
    ) -> Self {
        Self {
            rooms: context.rooms.clone(),
            feed: context.feed.clone(),
            metrics: context.metrics.clone(),
            recent_keys: context.recent_keys.clone(),
            clock_offset: context.clock_offset_ms.clone(),
            sessions: Arc::downgrade(sessions),
            room_index: Arc::downgrade(room_index),
            requests,
            subscriptions: HashMap::new(),
            last_number: 0,
            later: HashMap::new(),
            queue: ResyncQueue::default(),
            schedule: Schedule::default(),
            topology: None,
            topology_requested: Instant::now(),
        }
    }

    /// Runs until all request senders are dropped.
    pub(crate) async fn run(
        mut self,
        mut requests: mpsc::UnboundedReceiver<ListenerRequest>,
        mut events: LinkEvents,
    ) {
        let mut ticks = tokio::time::interval(TICK_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => self.handle(request),
                    None => return,
                },
                event = events.next() => match event {
                    Some(LinkEvent::Message(message)) => self.receive(message),
                    Some(LinkEvent::Missed(missed)) => {
                        tracing::warn!(missed, "messages arrived faster than they were read; reading the logs");
                        self.resync_all(false, None);
                    }
                    Some(LinkEvent::Reconnected(server)) => {
                        self.recent_keys.clear();
                        (self.feed)(Event::Reconnected);
                        self.resync_all(true, Some(server));
                    }
                    Some(LinkEvent::Moved) => self.resync_all(true, None),
                    None => return,
                },
                _ = ticks.tick() => self.tick(),
            }
        }
    }

    fn handle(&mut self, request: ListenerRequest) {
        match request {
            ListenerRequest::Subscribe(room) => {
                if let Some(subscription) = self.subscriptions.get_mut(&room) {
                    return subscription.resubscribe(&self.feed);
                }
                let number = self.next_number();
                self.subscriptions.insert(room.clone(), RoomSubscription::new(room.clone(), number));
                self.schedule.schedule_check(room.clone(), number);
                self.read(&room, true, None);
            }
            ListenerRequest::Unsubscribe(room) => {
                if let Some(subscription) = self.subscriptions.get_mut(&room) {
                    subscription.is_needed = false;
                    self.schedule.schedule_unsubscribe(room);
                }
            }
            ListenerRequest::Read { room, read, page, permit } => {
                if let Some(permit) = permit {
                    self.queue.finished(permit, page.is_ok(), Instant::now());
                }
                if self.subscriptions.get(&room).is_some_and(|subscription| subscription.read == read) {
                    self.finish_read(room, page);
                }
                self.read_queued();
            }
            ListenerRequest::ListRooms => {
                if let Some(room_index) = self.room_index.upgrade() {
                    self.subscriptions.keys().for_each(|room| room_index.add(room));
                }
            }
            ListenerRequest::Resync => self.resync_all(false, None),
            ListenerRequest::Topology(topology) => {
                if self.topology.replace(topology).is_some_and(|before| before != topology) {
                    tracing::info!(
                        rooms = self.subscriptions.len(),
                        "slots of the Cluster have moved; subscribing again"
                    );
                    self.resync_all(true, None);
                }
            }
        }
    }

    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    fn finish_read(&mut self, room: RoomName, page: Result<LogPage, Unavailable>) {
        let subscription = self.subscriptions.get_mut(&room).expect("the caller has checked");
        let page = match page {
            Ok(page) => page,
            Err(error) if subscription.is_opening() => {
                tracing::debug!(room = &*room, %error, "cannot subscribe to a room");
                if subscription.is_needed {
                    (self.feed)(Event::SubscribeFailed { room: room.shared() });
                }
                self.subscriptions.remove(&room);
                return self.rooms.link.unsubscribe(self.rooms.names.live(&room));
            }
            Err(_) => {
                self.later.insert(room, true);
                return;
            }
        };
        let (next, result) = subscription.finish_read(&page, &self.feed);
        if result.missed > 0 {
            tracing::debug!(room = &*room, missed = result.missed, "read missed messages from the log");
            self.metrics.repairs.inc();
        }
        if result.is_lost {
            tracing::warn!(room = &*room, "missed messages are no longer in the log");
            self.metrics.losses.inc();
        }
        if result.has_new_epoch
            && let (Some(sessions), Some(room_index)) = (self.sessions.upgrade(), self.room_index.upgrade())
        {
            room_index.add(&room);
            sessions.restore_members(room.clone());
        }
        match next {
            NextStep::Nothing => {}
            // The messages may have been missed because the subscription is gone.
            NextStep::Read if result.missed > 0 => self.read(&room, true, None),
            // Reading a log without progress must not be repeated as fast as Redis answers.
            NextStep::Read | NextStep::ReadLater => {
                self.later.entry(room).or_insert(false);
            }
            NextStep::BeginEpoch => {
                tracing::warn!(room = &*room, "Redis has lost messages of this room; starting a new epoch");
                let (rooms, name, ended) = (self.rooms.clone(), room.clone(), page.newest.epoch);
                let seen = self.subscriptions[&room].position().epoch.clone();
                self.spawn_read(&room, None, async move {
                    rooms.begin_epoch(&name, &ended, &seen).await?;
                    rooms.follow(&name.shared(), None, PAGE_LIMIT).await
                });
            }
        }
    }

    fn receive(&mut self, message: Message) {
        let Some(name) = self.rooms.names.room_of(&message.channel) else { return };
        let Some(subscription) = self.subscriptions.get_mut(name) else { return };
        let bytes = message.value.as_bytes().unwrap_or_default();
        let Some(entry) =
            log_entry::decode(&subscription.room.shared(), bytes, &self.rooms.memory, MemoryKind::Outboxes)
        else {
            return tracing::warn!(room = name, "received a malformed message from Redis");
        };
        let now = unix_ms() as i64 + self.clock_offset.load(Ordering::Relaxed);
        let lag = now - entry.publication.time as i64;
        self.metrics.lag.observe(lag.max(0) as f64 / 1000.0);
        let room = subscription.room.clone();
        match subscription.receive(entry, &self.feed) {
            NextStep::Nothing => {}
            NextStep::ReadLater => {
                self.later.entry(room).or_insert(false);
            }
            NextStep::Read | NextStep::BeginEpoch => self.read(&room, false, None),
        }
    }

    fn tick(&mut self) {
        for (room, subscribe) in std::mem::take(&mut self.later) {
            self.enqueue(room, subscribe);
        }
        let now = Instant::now();
        if now >= self.topology_requested + TOPOLOGY_INTERVAL {
            self.topology_requested = now;
            self.request_topology();
        }
        while let Some(room) = self.schedule.next_unsubscribe(now) {
            if self.subscriptions.get(&room).is_some_and(|subscription| !subscription.is_needed) {
                self.subscriptions.remove(&room);
                self.rooms.link.unsubscribe(self.rooms.names.live(&room));
            }
        }
        for (room, number) in self.schedule.take_due(now) {
            // A newer subscription to the same room has its own entry in the schedule.
            let Some(subscription) =
                self.subscriptions.get_mut(&room).filter(|subscription| subscription.number == number)
            else {
                continue;
            };
            self.schedule.schedule_check(room.clone(), number);
            if subscription.is_live() && !std::mem::take(&mut subscription.is_active) {
                self.enqueue(room, false);
            }
        }
        self.read_queued();
    }

    fn request_topology(&self) {
        let Some(requests) = self.requests.upgrade() else { return };
        let (link, known) = (self.rooms.link.clone(), self.topology);
        tokio::spawn(async move {
            if let Ok(Some(topology)) = link.topology(known).await {
                requests.send(ListenerRequest::Topology(topology)).ok();
            }
        });
    }

    fn enqueue(&mut self, room: RoomName, subscribe: bool) {
        let server = self.server_of(&room);
        self.queue.add(server, room, subscribe);
    }

    fn server_of(&self, room: &str) -> Option<Server> {
        self.rooms.link.server_of(&self.rooms.names.live(room))
    }

    /// Reads the logs of queued rooms, as many as the queue allows now.
    fn read_queued(&mut self) {
        let now = Instant::now();
        while let Some((room, subscribe, permit)) = self.queue.next(now) {
            self.read(&room, subscribe, Some(permit));
        }
    }

    /// Reads the log after the position of the room. Subscribes first if the subscription may be gone.
    fn read(&mut self, room: &RoomName, subscribe: bool, permit: Option<ResyncPermit>) {
        let Some(subscription) = self.subscriptions.get_mut(room) else { return };
        subscription.start_resync();
        let read = read_log(self.rooms.clone(), room.clone(), subscription.read_after().cloned(), subscribe);
        self.spawn_read(room, permit, read);
    }

    fn spawn_read(
        &mut self,
        room: &RoomName,
        permit: Option<ResyncPermit>,
        reading: impl Future<Output = Result<LogPage, Unavailable>> + Send + 'static,
    ) {
        let Some(requests) = self.requests.upgrade() else { return };
        let read = self.next_number();
        let Some(subscription) = self.subscriptions.get_mut(room) else { return };
        subscription.read = read;
        let room = room.clone();
        tokio::spawn(async move {
            let page = reading.await;
            requests.send(ListenerRequest::Read { room, read, page, permit }).ok();
        });
    }

    /// Reads the logs of all rooms, or of the rooms on one server that was reconnected.
    fn resync_all(&mut self, subscribe: bool, connected: Option<Server>) {
        // Without a Cluster, one server has all rooms.
        let connected = connected.filter(|_| self.rooms.link.is_clustered());
        let known = self.subscriptions.iter().filter(|(_, subscription)| !subscription.is_opening());
        let rooms = known.map(|(room, _)| (self.server_of(room), room.clone()));
        let rooms: Vec<_> = rooms.filter(|(server, _)| connected.is_none() || *server == connected).collect();
        if subscribe {
            let server = connected.as_ref().map(tracing::field::display);
            tracing::info!(server, rooms = rooms.len(), "subscribing again");
        }
        for (server, room) in rooms {
            self.queue.add(server, room, subscribe);
        }
        self.queue.connected(&connected);
        self.read_queued();
    }
}

async fn read_log(
    rooms: RedisRooms,
    room: RoomName,
    after: Option<switchyard_protocol::Position>,
    subscribe: bool,
) -> Result<LogPage, Unavailable> {
    let read = async {
        if subscribe {
            rooms.link.subscribe(rooms.names.live(&room)).await?;
        }
        let limit = if after.is_some() { PAGE_LIMIT } else { PageLimit::NONE };
        rooms.follow(&room.shared(), after.as_ref(), limit).await
    };
    // A client may wait for both commands together.
    tokio::time::timeout(RESPONSE_TIMEOUT, read).await.unwrap_or_else(|_| Err(no_answer()))
}
