//! The state of the model: nodes with the real store, the model's Redis, the network between them, and
//! clients. What happens is decided elsewhere, step by step.

use super::{
    checker::Checker,
    client::{ModelClient, ModelConnection, State},
    delivery::Fate,
    fake_redis::FakeRedis,
    network::{ModelNetwork, NetworkEnd, ProcessId, RedisCall},
    rng,
    script_engine::ScriptEngine,
    step::{CLIENTS, NODES, ROOMS},
};
use crate::{
    Event, HistoryConfig, ResumeResult, Retention, SessionHandle, SessionStore, SessionToken, Unavailable,
    redis::{
        context::Context,
        link::Link,
        names::Names,
        nodes::lease::{self, Leased},
        pubsub::publish_queue::PublishQueue,
        room_index::RoomIndex,
        scripts,
        sessions::RedisSessions,
        store::RedisStore,
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
pub(super) const SESSION_TTL: Duration = Duration::from_secs(20);

pub(super) struct ModelNode {
    pub process: ProcessId,
    pub is_isolated: bool,
}

/// Something that a node tells a client.
pub(super) enum ModelEvent {
    Event(ProcessId, Event),
    Created(usize, Result<SessionToken, Unavailable>),
    Resumed(usize, Result<ResumeResult, Unavailable>),
    Changed(usize, Result<(), Unavailable>),
}

#[derive(Clone, Default)]
pub(super) struct EventQueue(Arc<Mutex<VecDeque<ModelEvent>>>);

impl EventQueue {
    pub(super) fn push(&self, event: ModelEvent) {
        self.0.lock().expect("nobody panics with it").push_back(event);
    }

    fn pop(&self) -> Option<ModelEvent> {
        self.0.lock().expect("nobody panics with it").pop_front()
    }
}

pub(super) struct World {
    pub engine: Rc<ScriptEngine>,
    pub network: Arc<ModelNetwork>,
    pub events: EventQueue,
    /// The nodes that are running.
    pub nodes: [Option<ModelNode>; NODES],
    /// The store of each process, including those that died.
    pub stores: Vec<Arc<RedisStore>>,
    pub clients: Vec<ModelClient>,
    pub connections: Vec<ModelConnection>,
    pub checker: Checker,
    pub saved: Option<FakeRedis>,
    /// Entries that a late command added to what a node owns.
    pub late_owned_entries: BTreeSet<String>,
    /// The newest offset in each room.
    pub published: BTreeMap<&'static str, u64>,
    /// Whether clients answer pings at once.
    pub answers_probes: bool,
    clustered: bool,
    pub failure: Option<String>,
    /// What happened, if the schedule is traced.
    pub trace_lines: Option<Vec<String>>,
    metrics: crate::StoreMetrics,
    epochs: u64,
}

thread_local! {
    static METRICS: crate::StoreMetrics = crate::StoreMetrics::default();
}

impl World {
    /// A new model with all nodes running.
    pub(super) async fn new(engine: &Rc<ScriptEngine>, clustered: bool, traced: bool) -> Self {
        rng::seed_store(1);
        *engine.server.borrow_mut() = FakeRedis::new();
        let mut world = Self {
            engine: engine.clone(),
            network: Arc::default(),
            events: EventQueue::default(),
            nodes: Default::default(),
            stores: vec![],
            clients: (0..CLIENTS).map(ModelClient::new).collect(),
            connections: vec![],
            checker: Checker::default(),
            saved: None,
            late_owned_entries: BTreeSet::new(),
            published: BTreeMap::new(),
            answers_probes: false,
            clustered,
            failure: None,
            trace_lines: traced.then(Vec::new),
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

    pub(super) fn trace(&mut self, what: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.trace_lines {
            lines.extend(Some(what()).filter(|line| !line.is_empty()));
        }
    }

    pub(super) fn fail(&mut self, why: String) {
        self.trace(|| format!("FAILED: {why}"));
        self.failure.get_or_insert(why);
    }

    pub(super) async fn start(&mut self, node: usize) {
        let process = self.stores.len();
        let end = NetworkEnd { network: self.network.clone(), process, clustered: self.clustered };
        let link = Link::modelled(self.metrics.clone(), end);
        let retention = Retention {
            history: HistoryConfig { messages: 10, age: Duration::from_secs(60), bytes: 1 << 20 }.into(),
            session_ttl: SESSION_TTL,
            idempotency_key_ttl: Duration::from_secs(60),
        };
        let (events, network) = (self.events.clone(), self.network.clone());
        let feed = Arc::new(move |event| {
            events.push(ModelEvent::Event(process, event));
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
        let (sessions, room_index) = (RedisSessions::new(&context), RoomIndex::new(&context));
        let publish_queue = PublishQueue::new(&context, &room_index);
        let leased =
            Arc::new(Leased { context, sessions, room_index, listener: mpsc::unbounded_channel().0 });
        let store = Arc::new(RedisStore { leased: leased.clone(), publish_queue });
        self.stores.push(store.clone());
        self.nodes[node] = Some(ModelNode { process, is_isolated: false });
        let begins = tokio::spawn(async move { lease::acquire(&leased, &Default::default()).await });
        while !begins.is_finished() {
            self.settle().await;
            let first =
                self.find(|message| message.process == process && message.call.name() == "renew_lease");
            let Some(first) = first else { continue };
            self.deliver(first, Fate::Answered);
        }
        begins.await.expect("no panic").expect("a lease");
    }

    pub(super) fn kill(&mut self, node: usize) -> bool {
        let Some(node) = self.nodes[node].take() else { return false };
        self.network.calls().kill(node.process);
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

    pub(super) fn leased(&self, process: ProcessId) -> &Leased {
        &self.stores[process].leased
    }

    /// The node of a process, if it is running.
    pub(super) fn node(&self, process: ProcessId) -> Option<&ModelNode> {
        self.nodes.iter().flatten().find(|node| node.process == process)
    }

    /// Lets tasks run and handles events until nothing is left to do at this moment. Then checks connections.
    pub(super) async fn settle(&mut self) {
        loop {
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            let mut any = false;
            while let Some(event) = self.events.pop() {
                any = true;
                self.handle_event(event).await;
            }
            if !any {
                break;
            }
        }
        self.check_connections();
    }

    /// The position of a room. Creates the room if it does not exist.
    pub(super) fn position(&mut self, room: &'static str) -> Position {
        let (key, known) = (format!("m:{{{room}}}:room"), self.published.get(room).copied().unwrap_or(0));
        let epoch = self.engine.server.borrow().hash(&key).and_then(|hash| hash.get("epoch")).cloned();
        if let Some(epoch) = epoch {
            return Position { epoch: epoch.into(), offset: known };
        }
        let keys = ["room", "log", "acks"].map(|rest| format!("m:{{{room}}}:{rest}"));
        let epoch = self.next_epoch();
        let arguments = [&epoch, "", "0", "0", "60000", "86400000"].map(str::to_owned);
        let call = RedisCall::Script(&scripts::rooms::READ, keys.into(), arguments.into());
        if let Err((_, wrong)) = self.execute(&call, Instant::now()) {
            self.fail(wrong);
        }
        self.published.insert(room, 0);
        self.announce_new_epoch(room);
        Position { epoch: epoch.into(), offset: 0 }
    }

    pub(super) fn renew(&mut self, room: &'static str) {
        let ended = self.position(room).epoch.to_string();
        let keys = ["room", "log", "acks"].map(|rest| format!("m:{{{room}}}:{rest}"));
        let call =
            RedisCall::Script(&scripts::rooms::BEGIN_EPOCH, keys.into(), vec![ended, self.next_epoch()]);
        if let Err((_, wrong)) = self.execute(&call, Instant::now()) {
            self.fail(wrong);
        }
        self.announce_new_epoch(room);
    }

    fn next_epoch(&mut self) -> String {
        self.epochs += 1;
        format!("e{}", self.epochs)
    }

    /// Tells nodes that a room has a new epoch.
    fn announce_new_epoch(&self, room: &str) {
        let room = RoomName::parse(room).expect("a name");
        for node in self.nodes.iter().flatten() {
            let (Leased { sessions, room_index, .. }, room) = (self.leased(node.process), room.clone());
            room_index.add(&room);
            sessions.restore_members(room);
        }
    }

    /// A connection ends, and its node notices. With `ends`, the session ends, too.
    pub(super) async fn close(&mut self, at: usize, ends: bool) {
        let is_running = self.node(self.connections[at].process).is_some();
        let connection = &mut self.connections[at];
        let before = std::mem::replace(&mut connection.state, State::Closed);
        connection.is_answered = before == State::Open && connection.change.is_none();
        for task in
            connection.connecting.take().into_iter().chain(connection.change.take().map(|change| change.task))
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
        let (store, handle) = (self.stores[connection.process].clone(), connection.session_handle());
        // First, the futures that were aborted are dropped.
        tokio::task::yield_now().await;
        match ends {
            true => store.end(handle),
            false => store.detach(handle),
        }
    }
}

impl ModelConnection {
    pub(super) fn session_handle(&self) -> SessionHandle {
        SessionHandle { token: self.token.expect("an open connection has a session"), connection: self.id }
    }
}
