//! The sessions that connections of this node hold. What is written of one is decided by its record; how it comes here, is written and
//! goes is carried out beside this.

mod acquiring;
pub(super) mod record;
mod releasing;
mod writing;

use crate::{
    ConnectionId, Event, Unavailable,
    redis::{
        context::{Context, owned_entries::held_entry},
        scripts::sessions::SessionKey,
        session_id::SessionId,
        sessions::record::Record,
    },
};
use releasing::release;
use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    iter,
    ops::Bound,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use switchyard_protocol::{Position, room::RoomName};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};
use tokio_util::task::TaskTracker;

/// After a write that nobody waits for and that failed.
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// The longest that it becomes, when more of them fail.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(2);
/// Sessions that are written at a time without anybody waiting for it: when all are to be written, clients are not to notice.
const MAX_BACKGROUND_WRITES: usize = 64;
/// Between pings to so many connections: 10,000 take a second and a half.
const PROBE_PAGE_INTERVAL: Duration = Duration::from_millis(10);
/// Sessions that are looked at before others have their turn.
const PAGE_SIZE: usize = 256;
/// A session that was let go is remembered for so long, should Redis turn out to have forgotten it.
const RECENT_RELEASE_TTL: Duration = Duration::from_secs(10);

/// A session that a connection of this node holds, or held until somebody else took it.
pub(super) struct HeldSession {
    pub principal: Arc<str>,
    pub id: SessionId,
    pub connection: ConnectionId,
    record: Mutex<Record>,
    /// The name of this node in whose estate it is.
    node: Mutex<Arc<String>>,
    /// Held while a write is under way: there is one at a time.
    writing: tokio::sync::Mutex<()>,
    /// A task sees to what is not written yet.
    is_syncing: AtomicBool,
    /// The connection has ended, or the session is another's.
    ended: AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReleaseMode {
    /// It can be resumed.
    Detach,
    End,
}

pub(super) struct RedisSessions {
    pub context: Arc<Context>,
    held: Mutex<BTreeMap<ConnectionId, Arc<HeldSession>>>,
    /// Those that were let go a moment ago.
    recently_released: Mutex<VecDeque<(Instant, Arc<HeldSession>, ReleaseMode)>>,
    /// Rooms whose members are to be written again.
    rooms_to_restore: Mutex<HashSet<RoomName>>,
    background_writes: Semaphore,
    /// The same for those that failed before: what cannot be reached does not hold up what can.
    retries: Semaphore,
    /// Letting go, and giving up what came late.
    tasks: TaskTracker,
}

impl HeldSession {
    pub(super) fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().expect("no code panics while it holds a record")
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    pub(super) fn node(&self) -> Arc<String> {
        self.node.lock().expect("no code panics while it holds a name").clone()
    }

    /// Keeps it from being written or let go, if that is not happening now.
    pub(super) fn try_lock_writes(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        self.writing.try_lock().ok().filter(|_| !self.has_ended())
    }

    pub(super) fn key(&self) -> SessionKey<'_> {
        SessionKey { principal: &self.principal, id: self.id }
    }

    pub(super) fn held_entry(&self) -> String {
        held_entry(&self.principal, self.id, self.connection)
    }
}

impl RedisSessions {
    pub(super) fn new(context: &Arc<Context>) -> Arc<Self> {
        Arc::new(Self {
            context: context.clone(),
            held: Mutex::default(),
            recently_released: Mutex::default(),
            rooms_to_restore: Mutex::default(),
            background_writes: Semaphore::new(MAX_BACKGROUND_WRITES),
            retries: Semaphore::new(MAX_BACKGROUND_WRITES),
            tasks: TaskTracker::new(),
        })
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<ConnectionId, Arc<HeldSession>>> {
        self.held.lock().expect("no code panics while it holds the sessions")
    }

    pub(super) fn count(&self) -> usize {
        self.held().len()
    }

    /// The sessions of so many connections after one. Keep it short: every join and acknowledgement takes the same lock.
    pub(super) fn page(&self, after: Option<ConnectionId>, max: usize) -> Vec<Arc<HeldSession>> {
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.held().range((after, Bound::Unbounded)).take(max).map(|(_, session)| session.clone()).collect()
    }

    /// All sessions in pages, between which others have the lock. One that comes or goes meanwhile may be missing.
    pub(super) fn pages(&self, max: usize) -> impl Iterator<Item = Vec<Arc<HeldSession>>> {
        let mut after = None;
        iter::from_fn(move || {
            let page = self.page(after, max);
            after = Some(page.last()?.connection);
            Some(page)
        })
    }

    pub(super) fn by_connection(&self, connection: ConnectionId) -> Option<Arc<HeldSession>> {
        self.held().get(&connection).cloned()
    }

    /// Waits until all that were let go are so in Redis.
    pub(super) async fn all_released(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl RedisSessions {
    pub(super) fn report_takeover(&self, session: &HeldSession) {
        session.ended.store(true, Ordering::Relaxed);
        (self.context.feed)(Event::TakenOver(session.connection));
    }

    /// Redis may not have the session as this node holds it: it is taken back as soon as its client was heard.
    pub(super) fn mark_uncertain(&self, session: &HeldSession) {
        session.record().mark_uncertain();
        self.probe(session);
    }

    fn probe(&self, session: &HeldSession) {
        (self.context.feed)(Event::Probe(session.connection));
    }

    /// The client of a connection was heard after [`Event::Probe`].
    pub(super) fn reclaim(self: &Arc<Self>, connection: ConnectionId) {
        let Some(session) = self.by_connection(connection) else { return };
        session.record().allow_reclaim();
        self.start_sync(&session);
    }

    pub(super) fn acknowledge(
        self: &Arc<Self>,
        connection: ConnectionId,
        room: &RoomName,
        position: &Position,
    ) {
        let Some(session) = self.by_connection(connection).filter(|session| !session.has_ended()) else {
            return;
        };
        let (is_new, wants_write) = {
            let mut record = session.record();
            (record.acknowledge(room, position), record.wants_write())
        };
        if is_new {
            self.context.acknowledgements.add(session.id, room, position.clone());
        }
        if wants_write {
            self.start_sync(&session);
        }
    }

    pub(super) fn advance(self: &Arc<Self>, connection: ConnectionId, room: &RoomName, position: &Position) {
        let Some(session) = self.by_connection(connection).filter(|session| !session.has_ended()) else {
            return;
        };
        let has_moved = session.record().advance(room, position);
        if has_moved {
            self.start_sync(&session);
        }
    }

    /// All sessions may have been lost, or let go.
    pub(super) fn mark_all_uncertain(self: &Arc<Self>) {
        // One that comes meanwhile doubts itself where it began under the former name.
        self.pages(PAGE_SIZE).flatten().for_each(|session| session.record().mark_uncertain());
        let sessions = self.clone();
        tokio::spawn(async move {
            for some in sessions.pages(MAX_BACKGROUND_WRITES) {
                let doubted = some.iter().filter(|session| session.record().is_uncertain());
                doubted.for_each(|session| sessions.probe(session));
                sleep(PROBE_PAGE_INTERVAL).await;
            }
        });
        let recent: Vec<_> =
            self.recently_released.lock().expect("no code panics while it holds them").drain(..).collect();
        for (at, session, mode) in recent {
            if at.elapsed() < RECENT_RELEASE_TTL {
                session.record().mark_unsynced();
                self.tasks.spawn(release(self.clone(), session, mode));
            }
        }
    }

    /// Everything is written again, so that nothing in use ends with its time to live.
    pub(super) fn rewrite_all(self: &Arc<Self>) {
        for session in self.pages(PAGE_SIZE).flatten() {
            session.record().mark_unsynced();
            self.start_sync(&session);
        }
    }

    /// A room goes on with another epoch: it may have forgotten who is in it.
    pub(super) fn restore_members(self: &Arc<Self>, room: RoomName) {
        let mut forgotten = self.rooms_to_restore.lock().expect("no code panics while it holds them");
        forgotten.insert(room);
        // Where one has, others have.
        if forgotten.len() == 1 {
            let sessions = self.clone();
            tokio::spawn(async move {
                sleep(RETRY_DELAY).await;
                let forgotten = &sessions.rooms_to_restore;
                let rooms =
                    std::mem::take(&mut *forgotten.lock().expect("no code panics while it holds them"));
                for some in sessions.pages(PAGE_SIZE) {
                    for session in some {
                        if session.record().mark_rooms_unsynced(&rooms) {
                            sessions.start_sync(&session);
                        }
                    }
                    tokio::task::yield_now().await;
                }
            });
        }
    }
}

fn late() -> Unavailable {
    Unavailable("Redis does not answer in time".to_owned())
}
