//! Messages that wait to be published to Redis. Each room has at most one script under way, and the messages
//! that arrive meanwhile are batched for the next one. So messages keep their order, whatever happens to a
//! command on the way. Each server runs a limited number of scripts at a time, and principals take turns,
//! both within a room and among rooms.

use crate::{
    Message, PendingPublish, RESPONSE_TIMEOUT, Stored, Unavailable,
    pending_publish::PublishResult,
    redis::{
        context::{Context, redis_clock::WRITE_VALIDITY, usage::ReservedBytes},
        log_entry,
        pubsub::unconfirmed_scripts::UnconfirmedScripts,
        room_index::RoomIndex,
        rooms::new_epoch,
        scripts::publishing::{BatchMessage, PublishBatch, PublishReply, publish},
        timeouts::no_answer,
    },
};
use bytes::Bytes;
use fred::types::config::Server;
use std::{
    collections::HashMap,
    mem,
    ops::RangeInclusive,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};
use switchyard_process::lock::LockExt;
use switchyard_process::{
    fair_queue::{FairQueue, TurnStep},
    memory::{MemoryCharge, MemoryKind},
};
use switchyard_protocol::room::RoomName;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

/// How many messages one script publishes: a quarter of those that wait in the room, within these limits.
/// Small batches delay other commands less; a room with many waiting messages needs larger ones.
const BATCH_MESSAGES: RangeInclusive<usize> = 16..=64;
/// The largest size of the messages in one script. A single message may be larger.
const MAX_BATCH_BYTES: usize = 256 << 10;
/// How many scripts run at a time on each server. Any other command waits behind at most this many.
const MAX_SCRIPTS_PER_SERVER: usize = 32;
/// Bytes of memory that a waiting message takes beside its own text, roughly.
const QUEUED_MESSAGE_BYTES: usize = 256;
/// How often a script is sent that missed its deadline, for example because Redis' clock was set meanwhile.
const MAX_ATTEMPTS: usize = 3;

/// A message that waits.
struct QueuedMessage {
    body: Bytes,
    /// The key in Redis of its idempotency key.
    key: Option<String>,
    needs_member: bool,
    /// Whether its room has a plugin, which is not asked about a repetition.
    has_plugin: bool,
    queued_at: Instant,
    result: oneshot::Sender<PublishResult>,
    charge: MemoryCharge,
    _reserved: ReservedBytes,
}

/// The scripts of one server, and the rooms that wait for one.
struct ServerScripts {
    /// How many scripts are under way.
    scripts: usize,
    /// When the server last carried out a script.
    last_success: Instant,
    /// Rooms with messages and no script under way, by the principal of the room's next message.
    ready: FairQueue<RoomName>,
}

#[derive(Default)]
struct State {
    /// The waiting messages of each room that has a script under way or is ready for one.
    rooms: HashMap<RoomName, FairQueue<QueuedMessage>>,
    /// By server of a Cluster; `None` without a Cluster.
    servers: HashMap<Option<Server>, ServerScripts>,
    unconfirmed: UnconfirmedScripts,
}

/// The messages for one script, and those that waited for too long.
#[derive(Default)]
struct Batch {
    messages: Vec<QueuedMessage>,
    expired: Vec<QueuedMessage>,
}

pub(crate) struct PublishQueue {
    context: Arc<Context>,
    room_index: Arc<RoomIndex>,
    state: Mutex<State>,
    /// Numbers scripts.
    next_script: AtomicU64,
    /// Notified when no message waits.
    idle: Notify,
}

impl PublishQueue {
    pub(crate) fn new(context: &Arc<Context>, room_index: &Arc<RoomIndex>) -> Arc<Self> {
        let (state, next_script, idle) = Default::default();
        Arc::new(Self { context: context.clone(), room_index: room_index.clone(), state, next_script, idle })
    }

    /// Queues a message after all earlier ones of its principal in the room.
    pub(crate) fn publish(self: &Arc<Self>, message: Message<'_>) -> PendingPublish {
        let (result, pending) = oneshot::channel();
        let publisher = message.named_publisher().map(|publisher| &**publisher);
        let body = log_entry::encode_body(message.event, publisher, message.shows_sender, message.data);
        let body = Bytes::from(body);
        let context = &self.context;
        let queued = QueuedMessage {
            _reserved: context.usage.publishing(message.room, message.principal, body.len()),
            key: message.scoped_key().map(|key| context.names.once(message.room, key)),
            needs_member: message.needs_member,
            has_plugin: message.names_publisher,
            queued_at: Instant::now(),
            result,
            charge: self
                .context
                .rooms
                .memory
                .share(message.principal)
                .charge(MemoryKind::Publishes, body.len() + QUEUED_MESSAGE_BYTES),
            body,
        };
        let mut state = self.state();
        match state.rooms.get_mut(message.room) {
            Some(waiting) => waiting.push(message.principal.clone(), queued),
            None => {
                let mut waiting = FairQueue::default();
                waiting.push(message.principal.clone(), queued);
                state.rooms.insert(message.room.clone(), waiting);
                self.enqueue_room(&mut state, message.room.clone());
            }
        }
        PendingPublish::Pending(pending)
    }

    /// Waits until no message waits any more.
    pub(crate) async fn wait_until_idle(&self) {
        let idle = self.idle.notified();
        tokio::pin!(idle);
        idle.as_mut().enable();
        if !self.state().rooms.is_empty() {
            idle.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.locked()
    }

    /// Has a script of the room sent when it is its turn. The room must have waiting messages.
    fn enqueue_room(self: &Arc<Self>, state: &mut State, room: RoomName) {
        let server = self.context.link.server_of(&self.context.names.room(&room));
        let next = state.rooms.get(&room).and_then(FairQueue::next_principal).cloned();
        let principal = next.expect("a message waits in the room");
        let new = || ServerScripts { scripts: 0, last_success: Instant::now(), ready: FairQueue::default() };
        state.servers.entry(server.clone()).or_insert_with(new).ready.push(principal, room);
        self.start_scripts(state, &server);
    }

    /// Starts scripts for rooms that are ready, as many as the server may run.
    fn start_scripts(self: &Arc<Self>, state: &mut State, server: &Option<Server>) {
        let Some(queue) = state.servers.get_mut(server) else { return };
        while queue.scripts < MAX_SCRIPTS_PER_SERVER && !queue.ready.is_empty() {
            queue.scripts += 1;
            queue.ready.serve_next(|room| {
                tokio::spawn(self.clone().run(server.clone(), room));
                TurnStep::End
            });
        }
        if queue.scripts == 0 {
            state.servers.remove(server);
        }
    }

    async fn run(self: Arc<Self>, server: Option<Server>, room: RoomName) {
        let Batch { messages, expired } = self.take_batch(&server, &room);
        answer_all(expired, &Err(no_answer()));
        if !messages.is_empty() {
            self.send(&server, &room, messages).await;
        }
        self.finish(&server, room);
    }

    fn take_batch(&self, server: &Option<Server>, room: &RoomName) -> Batch {
        let (mut batch, mut bytes, mut is_full) = (Batch::default(), 0, false);
        let mut state = self.state();
        // As long as the server answers, waiting messages get their turn, however long they have waited.
        let is_silent =
            state.servers.get(server).is_none_or(|queue| queue.last_success.elapsed() >= RESPONSE_TIMEOUT);
        let waiting = state.rooms.get_mut(room).expect("only this task removes the room");
        let max_messages = (waiting.len() / 4).clamp(*BATCH_MESSAGES.start(), *BATCH_MESSAGES.end());
        while !is_full && !waiting.is_empty() {
            waiting.serve_next(|message| {
                if is_silent && message.queued_at.elapsed() >= RESPONSE_TIMEOUT {
                    batch.expired.push(message);
                    return TurnStep::Continue;
                }
                let is_first = batch.messages.is_empty();
                if !is_first && bytes + message.body.len() > MAX_BATCH_BYTES {
                    is_full = true;
                    return TurnStep::EndWithRest(message);
                }
                bytes += message.body.len();
                batch.messages.push(message);
                is_full = batch.messages.len() == max_messages;
                TurnStep::End
            });
        }
        batch
    }

    /// Ends the turn of a room. Messages that arrived meanwhile wait for its next turn.
    fn finish(self: &Arc<Self>, server: &Option<Server>, room: RoomName) {
        let mut state = self.state();
        state.servers.get_mut(server).expect("a server with a script has an entry").scripts -= 1;
        match state.rooms.get(&room).is_some_and(|waiting| !waiting.is_empty()) {
            // The room may be on another server by now.
            true => self.enqueue_room(&mut state, room),
            false => drop(state.rooms.remove(&room)),
        }
        self.start_scripts(&mut state, server);
        if state.rooms.is_empty() {
            self.idle.notify_waiters();
        }
    }

    async fn send(&self, server: &Option<Server>, room: &RoomName, messages: Vec<QueuedMessage>) {
        let began = Instant::now();
        let script = self.next_script.fetch_add(1, Ordering::Relaxed);
        let unconfirmed = self.state().unconfirmed.names_of(room, began);
        match self.run_script(room, &messages, script, &unconfirmed).await {
            Ok((stored, is_new)) => {
                let (mut state, now) = (self.state(), Instant::now());
                state.unconfirmed.confirm(room, now);
                state.servers.get_mut(server).into_iter().for_each(|queue| queue.last_success = now);
                drop(state);
                if is_new {
                    self.room_index.add(room);
                }
                for (message, stored) in messages.into_iter().zip(stored) {
                    if let Some(Stored { position, duplicate: false }) = &stored {
                        if let Some(key) = message.key.as_ref().filter(|_| message.has_plugin) {
                            let expires = began + self.context.retention.idempotency_key_ttl;
                            self.context.recent_keys.add(key.clone(), position.clone(), expires);
                        }
                        let key = message.key.as_ref().map(String::len);
                        let (share, bytes) = (message.charge.share(), message.body.len());
                        self.context.usage.published(room, share, bytes, key);
                    }
                    message.result.send(Ok(stored)).ok();
                }
            }
            Err(error) => {
                let mut waiting = vec![];
                let mut state = self.state();
                // The script may still be carried out, but not after the next one.
                state.unconfirmed.note(room, script, began);
                if began.elapsed() >= RESPONSE_TIMEOUT
                    && let Some(queue) = state.rooms.get_mut(room)
                {
                    // These would only wait as long again.
                    waiting = mem::take(queue).into_items().collect();
                }
                drop(state);
                let error = Err(error);
                answer_all(messages, &error);
                answer_all(waiting, &error);
            }
        }
    }

    /// Returns where each message was stored, and whether the room is new.
    async fn run_script(
        &self,
        room: &RoomName,
        messages: &[QueuedMessage],
        script: u64,
        unconfirmed: &str,
    ) -> Result<(Vec<Option<Stored>>, bool), Unavailable> {
        let context = &self.context;
        let mut deadline = context.redis_clock.now_ms() + WRITE_VALIDITY.as_millis() as u64;
        for _ in 0..MAX_ATTEMPTS {
            let batch = PublishBatch {
                room,
                new_epoch: new_epoch(""),
                deadline,
                name: UnconfirmedScripts::name(script),
                unconfirmed,
            };
            let messages = messages.iter().map(|message| BatchMessage {
                body: &message.body,
                once: message.key.as_deref(),
                needs_member: message.needs_member,
            });
            let time =
                match publish(&context.link, &context.names, &context.retention, batch, messages).await? {
                    PublishReply::Done { stored, is_new } => return Ok((stored, is_new)),
                    PublishReply::Late { time } => time,
                };
            // Each server of a Cluster has a clock of its own.
            if !context.link.is_clustered() {
                context.redis_clock.observe(time);
            }
            deadline = time / 1000 + WRITE_VALIDITY.as_millis() as u64;
        }
        Err(Unavailable("Redis' clock is set again and again".to_owned()))
    }
}

fn answer_all(messages: Vec<QueuedMessage>, result: &PublishResult) {
    for message in messages {
        message.result.send(result.clone()).ok();
    }
}
