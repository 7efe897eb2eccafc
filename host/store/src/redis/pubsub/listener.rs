//! Listens to the rooms that somebody on this node is in, and sees to it that what is heard is all there is: after a
//! reconnect, after a slot has moved, after messages were missed, and now and then without a reason.

use crate::{
    Event, Feed, PATIENCE, PageLimit, StoreMetrics, Unavailable,
    redis::{
        context::Context,
        link::{Signal, Signals},
        listing::Listing,
        pubsub::{
            interest::{Interest, Next},
            looks::{Looks, Turn},
            rounds::Rounds,
        },
        rooms::Rooms,
        sessions::Sessions,
        wire::{self, Page},
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

/// Read at once when messages were missed.
const PAGE: PageLimit = PageLimit { messages: 256, bytes: 256 << 10 };
const TICK: Duration = Duration::from_millis(100);
/// How often a Cluster is asked whether slots have changed hands. Their subscriptions end without a word.
const LOOK: Duration = Duration::from_millis(500);

pub(crate) enum Request {
    Watch(RoomName),
    Unwatch(RoomName),
    Answer {
        room: RoomName,
        question: u64,
        page: Result<Page, Unavailable>,
        /// Which ends with this, where the room had to wait for one.
        turn: Option<Turn>,
    },
    /// Which topology a Cluster has.
    Topology(u64),
    /// All rooms are to be listed, should the list have been lost.
    List,
    /// Redis has lost data, maybe of rooms.
    Look,
}

pub(crate) struct Listener {
    rooms: Rooms,
    feed: Feed,
    metrics: StoreMetrics,
    /// Milliseconds that Redis' clock is ahead of this node's.
    clock: Arc<AtomicI64>,
    /// Told of rooms that may have forgotten who is in them.
    sessions: Weak<Sessions>,
    listing: Weak<Listing>,
    /// Weak: who asks keeps the listener, not the listener itself.
    requests: mpsc::WeakUnboundedSender<Request>,
    interests: HashMap<RoomName, Interest>,
    asked: u64,
    /// Rooms to be read again, because that failed or was too early, and whether to subscribe before.
    later: HashMap<RoomName, bool>,
    /// Rooms that are read when it is their turn.
    looks: Looks,
    rounds: Rounds,
    topology: Option<u64>,
    looked: Instant,
}

impl Listener {
    pub(crate) fn new(
        context: &Context,
        sessions: &Arc<Sessions>,
        listing: &Arc<Listing>,
        requests: mpsc::WeakUnboundedSender<Request>,
    ) -> Self {
        Self {
            rooms: context.rooms.clone(),
            feed: context.feed.clone(),
            metrics: context.metrics.clone(),
            clock: context.clock.clone(),
            sessions: Arc::downgrade(sessions),
            listing: Arc::downgrade(listing),
            requests,
            interests: HashMap::new(),
            asked: 0,
            later: HashMap::new(),
            looks: Looks::default(),
            rounds: Rounds::default(),
            topology: None,
            looked: Instant::now(),
        }
    }

    /// Ends with those who ask.
    pub(crate) async fn run(mut self, mut requests: mpsc::UnboundedReceiver<Request>, mut signals: Signals) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => self.handle(request),
                    None => return,
                },
                signal = signals.next() => match signal {
                    Some(Signal::Message(message)) => self.hear(message),
                    Some(Signal::Missed(missed)) => {
                        tracing::warn!(missed, "publications came faster than they were taken; reading the logs");
                        self.restore(false, None);
                    }
                    Some(Signal::Reconnected(server)) => self.restore(true, Some(server)),
                    Some(Signal::Moved) => self.restore(true, None),
                    None => return,
                },
                _ = ticks.tick() => self.tick(),
            }
        }
    }

    fn handle(&mut self, request: Request) {
        match request {
            Request::Watch(room) => {
                if let Some(interest) = self.interests.get_mut(&room) {
                    return interest.rewatch(&self.feed);
                }
                self.asked += 1;
                self.interests.insert(room.clone(), Interest::new(room.clone(), self.asked));
                self.rounds.patrol(room.clone(), self.asked);
                self.ask(&room, true, None);
            }
            Request::Unwatch(room) => {
                if let Some(interest) = self.interests.get_mut(&room) {
                    interest.watched = false;
                    self.rounds.linger(room);
                }
            }
            Request::Answer { room, question, page, turn } => {
                if let Some(turn) = turn {
                    self.looks.ended(turn, page.is_ok(), Instant::now());
                }
                if self.interests.get(&room).is_some_and(|interest| interest.question == question) {
                    self.answered(room, page);
                }
                self.look();
            }
            Request::List => {
                if let Some(listing) = self.listing.upgrade() {
                    self.interests.keys().for_each(|room| listing.add(room));
                }
            }
            Request::Look => self.restore(false, None),
            Request::Topology(topology) => {
                if self.topology.replace(topology).is_some_and(|before| before != topology) {
                    tracing::info!(rooms = self.interests.len(), "the Cluster has changed; subscribing anew");
                    self.restore(true, None);
                }
            }
        }
    }

    fn answered(&mut self, room: RoomName, page: Result<Page, Unavailable>) {
        let interest = self.interests.get_mut(&room).expect("seen by the caller");
        let page = match page {
            Ok(page) => page,
            Err(error) if interest.is_opening() => {
                tracing::debug!(room = &*room, %error, "cannot be listened to");
                if interest.watched {
                    (self.feed)(Event::SubscribeFailed { room: room.shared() });
                }
                self.interests.remove(&room);
                return self.rooms.link.unsubscribe(self.rooms.names.live(&room));
            }
            Err(_) => {
                self.later.insert(room, true);
                return;
            }
        };
        let (next, found) = interest.read(&page, &self.feed);
        if found.missed > 0 {
            tracing::debug!(room = &*room, missed = found.missed, "read what was missed");
            self.metrics.repairs.inc();
        }
        if found.lost {
            tracing::warn!(room = &*room, "messages were missed that are no longer held");
            self.metrics.losses.inc();
        }
        if found.anew
            && let (Some(sessions), Some(listing)) = (self.sessions.upgrade(), self.listing.upgrade())
        {
            listing.add(&room);
            sessions.has_forgotten(room.clone());
        }
        match next {
            Next::Nothing => {}
            // What was missed may have been missed because the subscription is gone.
            Next::Read if found.missed > 0 => self.ask(&room, true, None),
            // A log that does not get on is not read at the speed of its answers.
            Next::Read | Next::ReadLater => {
                self.later.insert(room, false);
            }
            Next::Renew => {
                tracing::warn!(
                    room = &*room,
                    "Redis has forgotten messages of this room; it begins a new epoch"
                );
                let (rooms, name, ended) = (self.rooms.clone(), room.clone(), page.newest.epoch);
                let seen = self.interests[&room].position().epoch.clone();
                self.spawn(&room, None, async move {
                    rooms.renew(&name, &ended, &seen).await?;
                    rooms.follow(&name.shared(), None, PAGE).await
                });
            }
        }
    }

    fn hear(&mut self, message: Message) {
        let Some(name) = self.rooms.names.room_of(&message.channel) else { return };
        let Some(interest) = self.interests.get_mut(name) else { return };
        let bytes = message.value.as_bytes().unwrap_or_default();
        let Some(heard) =
            wire::read(&interest.room.shared(), bytes, &self.rooms.memory, MemoryKind::Outboxes)
        else {
            return tracing::warn!(room = name, "what was published is no message of ours");
        };
        let here = unix_ms() as i64 + self.clock.load(Ordering::Relaxed);
        let lag = here - heard.publication.time as i64;
        self.metrics.lag.observe(lag.max(0) as f64 / 1000.0);
        let room = interest.room.clone();
        match interest.hear(heard, &self.feed) {
            Next::Nothing => {}
            Next::ReadLater => {
                self.later.insert(room, false);
            }
            Next::Read | Next::Renew => self.ask(&room, false, None),
        }
    }

    fn tick(&mut self) {
        for (room, subscribe) in std::mem::take(&mut self.later) {
            self.queue(room, subscribe);
        }
        let now = Instant::now();
        if now >= self.looked + LOOK {
            self.looked = now;
            self.look_at_topology();
        }
        while let Some(room) = self.rounds.lingered(now) {
            if self.interests.get(&room).is_some_and(|interest| !interest.watched) {
                self.interests.remove(&room);
                self.rooms.link.unsubscribe(self.rooms.names.live(&room));
            }
        }
        for (room, number) in self.rounds.due(now) {
            // A room that was given up and taken up again meanwhile is on the round by its new number.
            let Some(interest) = self.interests.get_mut(&room).filter(|interest| interest.number == number)
            else {
                continue;
            };
            self.rounds.patrol(room.clone(), number);
            if interest.is_live() && !std::mem::take(&mut interest.active) {
                self.queue(room, false);
            }
        }
        self.look();
    }

    fn look_at_topology(&self) {
        let Some(requests) = self.requests.upgrade() else { return };
        let (link, known) = (self.rooms.link.clone(), self.topology);
        tokio::spawn(async move {
            if let Ok(Some(topology)) = link.topology(known).await {
                requests.send(Request::Topology(topology)).ok();
            }
        });
    }

    /// The room is read when it is its turn.
    fn queue(&mut self, room: RoomName, subscribe: bool) {
        let server = self.server_of(&room);
        self.looks.add(server, room, subscribe);
    }

    fn server_of(&self, room: &str) -> Option<Server> {
        self.rooms.link.server_of(&self.rooms.names.live(room))
    }

    /// Reads the rooms whose turn it is.
    fn look(&mut self) {
        let now = Instant::now();
        while let Some((room, subscribe, turn)) = self.looks.next(now) {
            self.ask(&room, subscribe, Some(turn));
        }
    }

    /// Reads the log after what was heard, and subscribes before where that is in doubt.
    fn ask(&mut self, room: &RoomName, subscribe: bool, turn: Option<Turn>) {
        let Some(interest) = self.interests.get_mut(room) else { return };
        interest.mend();
        let looked = look(self.rooms.clone(), room.clone(), interest.after().cloned(), subscribe);
        self.spawn(room, turn, looked);
    }

    fn spawn(
        &mut self,
        room: &RoomName,
        turn: Option<Turn>,
        looked: impl Future<Output = Result<Page, Unavailable>> + Send + 'static,
    ) {
        let Some(requests) = self.requests.upgrade() else { return };
        let Some(interest) = self.interests.get_mut(room) else { return };
        self.asked += 1;
        interest.question = self.asked;
        let (room, question) = (room.clone(), interest.question);
        tokio::spawn(async move {
            let page = looked.await;
            requests.send(Request::Answer { room, question, page, turn }).ok();
        });
    }

    /// Has all rooms read, or those of one server that was connected anew.
    fn restore(&mut self, subscribe: bool, connected: Option<Server>) {
        // A server that is told from no other has all rooms.
        let connected = connected.filter(|_| self.rooms.link.is_clustered());
        let known = self.interests.iter().filter(|(_, interest)| !interest.is_opening());
        let rooms = known.map(|(room, _)| (self.server_of(room), room.clone()));
        let rooms: Vec<_> = rooms.filter(|(server, _)| connected.is_none() || *server == connected).collect();
        if subscribe {
            let server = connected.as_ref().map(tracing::field::display);
            tracing::info!(server, rooms = rooms.len(), "subscribing anew");
        }
        for (server, room) in rooms {
            self.looks.add(server, room, subscribe);
        }
        self.looks.connected(&connected);
        self.look();
    }
}

async fn look(
    rooms: Rooms,
    room: RoomName,
    after: Option<switchyard_protocol::Position>,
    subscribe: bool,
) -> Result<Page, Unavailable> {
    let looked = async {
        if subscribe {
            rooms.link.subscribe(rooms.names.live(&room)).await?;
        }
        let limit = if after.is_some() { PAGE } else { PageLimit::NONE };
        rooms.follow(&room.shared(), after.as_ref(), limit).await
    };
    // Also what waits in between is bounded, as somebody may wait for the room.
    let late = || Unavailable("Redis does not answer".to_owned());
    tokio::time::timeout(PATIENCE, looked).await.unwrap_or_else(|_| Err(late()))
}
