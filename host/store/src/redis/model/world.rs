//! Nodes of the real store, the model's Redis and network between them, and clients. What happens is decided from outside, one
//! step after another.

use super::{
    client::{Client, Connection, State},
    delivery::Fate,
    dice,
    engine::Engine,
    server::Server,
    step::{CLIENTS, NODES, ROOMS},
    watch::Watch,
    wire::{Ask, Network, Process, Wire},
};
use crate::{
    Event, HistoryConfig, Hold, Resume, Retention, SessionStore, SessionToken, Unavailable,
    redis::{
        cluster::lease::{self, Leased},
        context::Context,
        link::Link,
        listing::Listing,
        names::Names,
        pubsub::publishing::Publishing,
        scripts,
        sessions::Sessions,
        store::Redis,
    },
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
    sync::{Arc, Mutex},
    time::Duration,
};
use switchyard_process::memory::MemoryAccount;
use switchyard_protocol::{Position, room::RoomName};
use tokio::{sync::mpsc, time::Instant};

/// How long a session can be resumed.
pub(super) const TTL: Duration = Duration::from_secs(20);

pub(super) struct Node {
    pub process: Process,
    pub is_isolated: bool,
}

/// What happened in a node.
pub(super) enum Told {
    Event(Process, Event),
    Created(usize, Result<SessionToken, Unavailable>),
    Resumed(usize, Result<Resume, Unavailable>),
    Changed(usize, Result<(), Unavailable>),
}

#[derive(Clone, Default)]
pub(super) struct Ears(Arc<Mutex<VecDeque<Told>>>);

impl Ears {
    pub(super) fn push(&self, told: Told) {
        self.0.lock().expect("nobody panics with it").push_back(told);
    }

    fn pop(&self) -> Option<Told> {
        self.0.lock().expect("nobody panics with it").pop_front()
    }
}

pub(super) struct World {
    pub engine: Rc<Engine>,
    pub network: Arc<Network>,
    pub ears: Ears,
    /// Those that run.
    pub nodes: [Option<Node>; NODES],
    /// By process, also those that died.
    pub stores: Vec<Arc<Redis>>,
    pub clients: Vec<Client>,
    pub connections: Vec<Connection>,
    pub watch: Watch,
    pub saved: Option<Server>,
    /// What was put into an estate by a command that came late.
    pub orphans: BTreeSet<String>,
    /// What was published in each room.
    pub published: BTreeMap<&'static str, u64>,
    /// Clients that are probed answer at once.
    pub all_answer: bool,
    clustered: bool,
    pub wrong: Option<String>,
    /// What happened, where that is asked for.
    pub story: Option<Vec<String>>,
    metrics: crate::StoreMetrics,
    epochs: u64,
}

thread_local! {
    static METRICS: crate::StoreMetrics = crate::StoreMetrics::default();
}

impl World {
    /// With all nodes running.
    pub(super) async fn new(engine: &Rc<Engine>, clustered: bool, tells: bool) -> Self {
        dice::load(1);
        *engine.server.borrow_mut() = Server::new();
        let mut world = Self {
            engine: engine.clone(),
            network: Arc::default(),
            ears: Ears::default(),
            nodes: Default::default(),
            stores: vec![],
            clients: (0..CLIENTS).map(Client::new).collect(),
            connections: vec![],
            watch: Watch::default(),
            saved: None,
            orphans: BTreeSet::new(),
            published: BTreeMap::new(),
            all_answer: false,
            clustered,
            wrong: None,
            story: tells.then(Vec::new),
            metrics: METRICS.with(Clone::clone),
            epochs: 0,
        };
        for room in ROOMS {
            world.position(room);
        }
        for node in 0..NODES {
            world.start(node).await;
        }
        world
    }

    pub(super) fn tell(&mut self, what: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            story.extend(Some(what()).filter(|line| !line.is_empty()));
        }
    }

    pub(super) fn fail(&mut self, why: String) {
        self.tell(|| format!("WRONG: {why}"));
        self.wrong.get_or_insert(why);
    }

    pub(super) async fn start(&mut self, node: usize) {
        let process = self.stores.len();
        let wire = Wire { network: self.network.clone(), process, clustered: self.clustered };
        let link = Link::modelled(self.metrics.clone(), wire);
        let retention = Retention {
            history: HistoryConfig { messages: 10, age: Duration::from_secs(60), bytes: 1 << 20 },
            session: TTL,
            key: Duration::from_secs(60),
        };
        let (ears, network) = (self.ears.clone(), self.network.clone());
        let feed = Arc::new(move |event| {
            ears.push(Told::Event(process, event));
            network.sent.notify_one();
            true
        });
        let context = Context::new(
            link,
            Names::new("m"),
            retention,
            self.metrics.clone(),
            feed,
            MemoryAccount::unlimited(),
        );
        let (sessions, listing) = (Sessions::new(&context), Listing::new(&context));
        let publishing = Publishing::new(&context, &listing);
        let leased = Arc::new(Leased { context, sessions, listing, listener: mpsc::unbounded_channel().0 });
        let store = Arc::new(Redis { leased: leased.clone(), publishing });
        self.stores.push(store.clone());
        self.nodes[node] = Some(Node { process, is_isolated: false });
        let begins = tokio::spawn(async move { lease::hold(&leased, &Default::default()).await });
        while !begins.is_finished() {
            self.settle().await;
            let first = self.find(|message| message.process == process && message.ask.name() == "tick");
            let Some(first) = first else { continue };
            self.deliver(first, Fate::Answered);
        }
        begins.await.expect("no panic").expect("a lease");
    }

    pub(super) fn kill(&mut self, node: usize) -> bool {
        let Some(node) = self.nodes[node].take() else { return false };
        self.network.mail().kill(node.process);
        for (at, connection) in self.connections.iter_mut().enumerate() {
            if connection.process == node.process {
                connection.state = State::Closed;
                let client = &mut self.clients[connection.client];
                client.current = client.current.filter(|current| *current != at);
            }
        }
        true
    }

    pub(super) fn isolate(&mut self, node: usize, isolated: bool) -> bool {
        let Some(node) = &mut self.nodes[node] else { return false };
        std::mem::replace(&mut node.is_isolated, isolated) != isolated
    }

    pub(super) fn leased(&self, process: Process) -> &Leased {
        &self.stores[process].leased
    }

    /// The node that a process is, if it runs.
    pub(super) fn node(&self, process: Process) -> Option<&Node> {
        self.nodes.iter().flatten().find(|node| node.process == process)
    }

    /// Until nothing happens by itself at this moment.
    pub(super) async fn settle(&mut self) {
        loop {
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            let mut any = false;
            while let Some(told) = self.ears.pop() {
                any = true;
                self.hear(told).await;
            }
            if !any {
                break;
            }
        }
        self.look();
    }

    /// Where a room is now. One that is not there begins.
    pub(super) fn position(&mut self, room: &'static str) -> Position {
        let (key, known) = (format!("m:{{{room}}}:room"), self.published.get(room).copied().unwrap_or(0));
        let epoch = self.engine.server.borrow().hash(&key).and_then(|hash| hash.get("epoch")).cloned();
        if let Some(epoch) = epoch {
            return Position { epoch: epoch.into(), offset: known };
        }
        let keys = ["room", "log", "acks"].map(|rest| format!("m:{{{room}}}:{rest}"));
        let epoch = self.new_epoch();
        let arguments = [&epoch, "", "0", "0", "60000", "86400000"].map(str::to_owned);
        let ask = Ask::Script(&scripts::rooms::READ, keys.into(), arguments.into());
        if let Err((_, wrong)) = self.carry_out(&ask, Instant::now()) {
            self.fail(wrong);
        }
        self.published.insert(room, 0);
        self.have_forgotten(room);
        Position { epoch: epoch.into(), offset: 0 }
    }

    pub(super) fn renew(&mut self, room: &'static str) {
        let ended = self.position(room).epoch.to_string();
        let keys = ["room", "log", "acks"].map(|rest| format!("m:{{{room}}}:{rest}"));
        let ask = Ask::Script(&scripts::rooms::RENEW, keys.into(), vec![ended, self.new_epoch()]);
        if let Err((_, wrong)) = self.carry_out(&ask, Instant::now()) {
            self.fail(wrong);
        }
        self.have_forgotten(room);
    }

    fn new_epoch(&mut self) -> String {
        self.epochs += 1;
        format!("e{}", self.epochs)
    }

    /// Nodes hear of a room's new epoch.
    fn have_forgotten(&self, room: &str) {
        let room = RoomName::parse(room).expect("a name");
        for node in self.nodes.iter().flatten() {
            let (Leased { sessions, listing, .. }, room) = (self.leased(node.process), room.clone());
            listing.add(&room);
            sessions.has_forgotten(room);
        }
    }

    /// The connection ends, as its node notices.
    pub(super) async fn close(&mut self, at: usize, ends: bool) {
        let is_running = self.node(self.connections[at].process).is_some();
        let connection = &mut self.connections[at];
        let before = std::mem::replace(&mut connection.state, State::Closed);
        connection.is_answered = before == State::Open && connection.change.is_none();
        for task in
            connection.opening.take().into_iter().chain(connection.change.take().map(|change| change.task))
        {
            task.abort();
        }
        let client = &mut self.clients[connection.client];
        if client.current == Some(at) {
            client.current = None;
        }
        if before != State::Open || !is_running {
            return;
        }
        let (store, hold) = (self.stores[connection.process].clone(), connection.hold());
        // What it waited for is dropped first.
        tokio::task::yield_now().await;
        match ends {
            true => store.end(hold),
            false => store.detach(hold),
        }
    }
}

impl Connection {
    pub(super) fn hold(&self) -> Hold {
        Hold { token: self.token.expect("an open connection has a session"), connection: self.id }
    }
}
