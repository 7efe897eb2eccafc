//! Publishes to rooms. Of a room there is one script on its way at a time, and what comes meanwhile goes together in the next: so the
//! order is that in which it came, whatever a command goes through on its way. Rooms share what a server is asked at once, and
//! principals take turns: in a room, and among rooms.

use crate::{
    Message, PendingPublish, RESPONSE_TIMEOUT, Stored, Unavailable,
    pending_publish::PublishResult,
    redis::{
        context::{Context, redis_clock::WRITE_VALIDITY, usage::ReservedBytes},
        listing::Listing,
        log_entry,
        pubsub::unsure::UnsureScripts,
        rooms::new_epoch,
        scripts::publishing::{BatchMessage, PublishBatch, PublishReply, publish},
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
use switchyard_process::{
    fair_queue::{FairQueue, TurnStep},
    memory::{MemoryCharge, MemoryKind},
};
use switchyard_protocol::room::RoomName;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

/// Messages of one script, which are a quarter of those that wait: others wait while Redis carries it out, and a room in which much waits
/// needs larger ones.
const MESSAGES: RangeInclusive<usize> = 16..=64;
/// Of them.
const MAX_BYTES: usize = 256 << 10;
/// Scripts that a server is asked at once: whatever else it is asked waits behind no more.
const MAX_SCRIPTS: usize = 32;
/// What a message takes while it waits, beside its own bytes.
const OVERHEAD: usize = 256;
/// How often a script is sent that Redis' clock found too late, as when it was set while the script was on its way.
const ATTEMPTS: usize = 3;

/// A message, as it waits.
struct Entry {
    body: Bytes,
    /// Where Redis has its idempotency key.
    key: Option<String>,
    needs_member: bool,
    came: Instant,
    waiter: oneshot::Sender<PublishResult>,
    charge: MemoryCharge,
    _reserved: ReservedBytes,
}

/// The rooms of a server.
struct Lane {
    /// On their way.
    scripts: usize,
    /// When it last carried one out.
    answered: Instant,
    /// Those that have none on its way, by whoever's message is next in them.
    ready: FairQueue<RoomName>,
}

#[derive(Default)]
struct State {
    /// What waits in each room that has a script on its way, or is ready for one.
    rooms: HashMap<RoomName, FairQueue<Entry>>,
    /// By server, where servers are told apart.
    lanes: HashMap<Option<Server>, Lane>,
    unsure: UnsureScripts,
}

/// What goes into one script, and what waited for too long.
#[derive(Default)]
struct Batch {
    entries: Vec<Entry>,
    overdue: Vec<Entry>,
}

pub(crate) struct Publishing {
    context: Arc<Context>,
    listing: Arc<Listing>,
    state: Mutex<State>,
    scripts: AtomicU64,
    /// Told when nothing waits.
    done: Notify,
}

impl Publishing {
    pub(crate) fn new(context: &Arc<Context>, listing: &Arc<Listing>) -> Arc<Self> {
        let (state, scripts, done) = Default::default();
        Arc::new(Self { context: context.clone(), listing: listing.clone(), state, scripts, done })
    }

    /// Behind all that the principal published to the room before.
    pub(crate) fn publish(self: &Arc<Self>, message: Message<'_>) -> PendingPublish {
        let (waiter, outcome) = oneshot::channel();
        let body = Bytes::from(log_entry::encode_body(message.event, message.data));
        let context = &self.context;
        let entry = Entry {
            _reserved: context.usage.publishing(message.room, message.principal, body.len()),
            key: message.scoped_key().map(|key| context.names.once(message.room, key)),
            needs_member: message.needs_member,
            came: Instant::now(),
            waiter,
            charge: self
                .context
                .rooms
                .memory
                .share(message.principal)
                .charge(MemoryKind::Publishes, body.len() + OVERHEAD),
            body,
        };
        let mut state = self.state();
        match state.rooms.get_mut(message.room) {
            Some(waiting) => waiting.push(message.principal.clone(), entry),
            None => {
                let mut waiting = FairQueue::default();
                waiting.push(message.principal.clone(), entry);
                state.rooms.insert(message.room.clone(), waiting);
                self.line_up(&mut state, message.room.clone());
            }
        }
        PendingPublish::Pending(outcome)
    }

    /// Returns when nothing waits any more.
    pub(crate) async fn idle(&self) {
        let done = self.done.notified();
        tokio::pin!(done);
        done.as_mut().enable();
        if !self.state().rooms.is_empty() {
            done.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds what is published")
    }

    /// A script of the room is sent when it is its turn.
    fn line_up(self: &Arc<Self>, state: &mut State, room: RoomName) {
        let server = self.context.link.server_of(&self.context.names.room(&room));
        let who = state
            .rooms
            .get(&room)
            .and_then(FairQueue::next_principal)
            .cloned()
            .expect("something waits there");
        let lane = || Lane { scripts: 0, answered: Instant::now(), ready: FairQueue::default() };
        state.lanes.entry(server.clone()).or_insert_with(lane).ready.push(who, room);
        self.start(state, &server);
    }

    /// Begins with rooms that are ready, as long as the server is not asked enough.
    fn start(self: &Arc<Self>, state: &mut State, server: &Option<Server>) {
        let Some(lane) = state.lanes.get_mut(server) else { return };
        while lane.scripts < MAX_SCRIPTS && !lane.ready.is_empty() {
            lane.scripts += 1;
            lane.ready.serve_next(|room| {
                tokio::spawn(self.clone().run(server.clone(), room));
                TurnStep::End
            });
        }
        if lane.scripts == 0 {
            state.lanes.remove(server);
        }
    }

    async fn run(self: Arc<Self>, server: Option<Server>, room: RoomName) {
        let Batch { entries, overdue } = self.batch(&server, &room);
        give(overdue, &Err(silent()));
        if !entries.is_empty() {
            self.send(&server, &room, entries).await;
        }
        self.finish(&server, room);
    }

    fn batch(&self, server: &Option<Server>, room: &RoomName) -> Batch {
        let (mut batch, mut bytes, mut is_full) = (Batch::default(), 0, false);
        let mut state = self.state();
        // While it answers, those that wait have their turn.
        let is_silent =
            state.lanes.get(server).is_none_or(|lane| lane.answered.elapsed() >= RESPONSE_TIMEOUT);
        let waiting = state.rooms.get_mut(room).expect("it is there until its task removes it");
        let most = (waiting.len() / 4).clamp(*MESSAGES.start(), *MESSAGES.end());
        while !is_full && !waiting.is_empty() {
            waiting.serve_next(|entry| {
                if is_silent && entry.came.elapsed() >= RESPONSE_TIMEOUT {
                    batch.overdue.push(entry);
                    return TurnStep::Continue;
                }
                let is_first = batch.entries.is_empty();
                if !is_first && bytes + entry.body.len() > MAX_BYTES {
                    is_full = true;
                    return TurnStep::EndWithRest(entry);
                }
                bytes += entry.body.len();
                batch.entries.push(entry);
                is_full = batch.entries.len() == most;
                TurnStep::End
            });
        }
        batch
    }

    /// What came for the room meanwhile is next, when it is its turn.
    fn finish(self: &Arc<Self>, server: &Option<Server>, room: RoomName) {
        let mut state = self.state();
        state.lanes.get_mut(server).expect("it is there while it has scripts").scripts -= 1;
        match state.rooms.get(&room).is_some_and(|waiting| !waiting.is_empty()) {
            // Maybe on another server by now.
            true => self.line_up(&mut state, room),
            false => drop(state.rooms.remove(&room)),
        }
        self.start(&mut state, server);
        if state.rooms.is_empty() {
            self.done.notify_waiters();
        }
    }

    async fn send(&self, server: &Option<Server>, room: &RoomName, entries: Vec<Entry>) {
        let began = Instant::now();
        let script = self.scripts.fetch_add(1, Ordering::Relaxed);
        let unsure = self.state().unsure.names_of(room, began);
        match self.carry_out(room, &entries, script, &unsure).await {
            Ok((stored, is_new)) => {
                let (mut state, now) = (self.state(), Instant::now());
                state.unsure.settle(room, now);
                state.lanes.get_mut(server).into_iter().for_each(|lane| lane.answered = now);
                drop(state);
                if is_new {
                    self.listing.add(room);
                }
                for (entry, stored) in entries.into_iter().zip(stored) {
                    if stored.as_ref().is_some_and(|stored| !stored.duplicate) {
                        let key = entry.key.as_ref().map(String::len);
                        let (share, bytes) = (entry.charge.share(), entry.body.len());
                        self.context.usage.published(room, share, bytes, key);
                    }
                    entry.waiter.send(Ok(stored)).ok();
                }
            }
            Err(error) => {
                let mut gathered = vec![];
                let mut state = self.state();
                // It may be carried out all the same, but not behind what comes next.
                state.unsure.note(room, script, began);
                if began.elapsed() >= RESPONSE_TIMEOUT
                    && let Some(waiting) = state.rooms.get_mut(room)
                {
                    // It would only wait as long again.
                    gathered = mem::take(waiting).into_items().collect();
                }
                drop(state);
                let error = Err(error);
                give(entries, &error);
                give(gathered, &error);
            }
        }
    }

    async fn carry_out(
        &self,
        room: &RoomName,
        entries: &[Entry],
        script: u64,
        unsure: &str,
    ) -> Result<(Vec<Option<Stored>>, bool), Unavailable> {
        let context = &self.context;
        let mut deadline = context.redis_clock.now() + WRITE_VALIDITY.as_millis() as u64;
        for _ in 0..ATTEMPTS {
            let batch = PublishBatch {
                room,
                new_epoch: new_epoch(""),
                deadline,
                name: UnsureScripts::name(script),
                unsure,
            };
            let messages = entries.iter().map(|entry| BatchMessage {
                body: &entry.body,
                once: entry.key.as_deref(),
                needs_member: entry.needs_member,
            });
            let time =
                match publish(&context.link, &context.names, &context.retention, batch, messages).await? {
                    PublishReply::Done { stored, is_new } => return Ok((stored, is_new)),
                    PublishReply::Late { time } => time,
                };
            // A server of a Cluster may have a clock of its own.
            if !context.link.is_clustered() {
                context.redis_clock.heard(time);
            }
            deadline = time / 1000 + WRITE_VALIDITY.as_millis() as u64;
        }
        Err(Unavailable("Redis' clock was set again and again".to_owned()))
    }
}

fn silent() -> Unavailable {
    Unavailable("Redis does not answer".to_owned())
}

fn give(entries: Vec<Entry>, outcome: &PublishResult) {
    for entry in entries {
        entry.waiter.send(outcome.clone()).ok();
    }
}
