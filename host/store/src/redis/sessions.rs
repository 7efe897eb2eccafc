//! The sessions that connections of this node hold, and when each of them must be written. What is written is
//! decided by its `record`; the modules below create, resume, write and release sessions.

mod acquiring;
mod checking;
pub(super) mod record;
mod releasing;
mod writing;

use crate::{
    ConnectionId, Event, Unavailable,
    redis::{
        context::Context, owned_entry::OwnedEntry, session_id::SessionId, session_key::SessionKey,
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
use switchyard_process::lock::LockExt;
use switchyard_protocol::{Position, room::RoomName};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};
use tokio_util::task::TaskTracker;

/// The delay before a failed background write or release is tried again.
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// The limit of that delay, which doubles with each failure.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(2);
/// How many sessions are written in the background at a time. When all sessions must be written, this leaves
/// Redis enough room for requests of clients.
const MAX_BACKGROUND_WRITES: usize = 64;
/// The delay between pages of probes. With a page of 64 sessions, probing 10,000 connections takes 1.5 s.
const PROBE_PAGE_INTERVAL: Duration = Duration::from_millis(10);
/// How many sessions are probed at a time.
const PROBE_PAGE_SIZE: usize = 64;
/// How long rooms that may have lost their members are collected before the members are written again.
const RESTORE_DELAY: Duration = Duration::from_millis(200);
/// How many sessions are visited before the lock is released or other tasks run.
const PAGE_SIZE: usize = 256;
/// How long a released session is remembered, in case Redis turns out to have lost its release.
const RECENT_RELEASE_TTL: Duration = Duration::from_secs(10);

/// A session that a connection of this node holds, or held until another connection took it.
pub(super) struct HeldSession {
    pub principal: Arc<str>,
    pub id: SessionId,
    pub connection: ConnectionId,
    record: Mutex<Record>,
    /// The name of this node whose set of owned entries contains the session.
    node: Mutex<Arc<String>>,
    /// Held during a write, because a session has at most one write in flight.
    writing: tokio::sync::Mutex<()>,
    /// Held while the session is added to what this node owns, or removed from there, so that it is not added
    /// after it was removed. Writes of the session do not need it.
    listing: tokio::sync::Mutex<()>,
    /// A task is writing what Redis does not have yet.
    is_syncing: AtomicBool,
    /// The connection has ended, or another one has taken the session.
    ended: AtomicBool,
}

/// What a released session is released for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReleaseMode {
    /// The session can be resumed until its time to live is over.
    Detach,
    /// The session ends now.
    End,
}

/// The sessions of this node, by connection.
pub(super) struct RedisSessions {
    pub context: Arc<Context>,
    held: Mutex<BTreeMap<ConnectionId, Arc<HeldSession>>>,
    /// Sessions that were released less than [`RECENT_RELEASE_TTL`] ago.
    recently_released: Mutex<VecDeque<(Instant, Arc<HeldSession>, ReleaseMode)>>,
    /// Rooms whose members must be written again.
    rooms_to_restore: Mutex<HashSet<RoomName>>,
    /// Limits background writes.
    background_writes: Semaphore,
    /// Limits background writes and releases that have failed before, so that what cannot be reached does not
    /// hold up what can.
    retries: Semaphore,
    /// Tasks that must end before the store closes: creating, resuming and releasing sessions.
    tasks: TaskTracker,
}

impl HeldSession {
    pub(super) fn record(&self) -> MutexGuard<'_, Record> {
        self.record.locked()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    pub(super) fn node(&self) -> Arc<String> {
        self.node.locked().clone()
    }

    /// Keeps the session from being removed from what this node owns. `None` if it is being removed now, or has
    /// ended.
    pub(super) fn try_lock_listing(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        self.listing.try_lock().ok().filter(|_| !self.has_ended())
    }

    pub(super) fn key(&self) -> SessionKey<'_> {
        SessionKey { principal: &self.principal, id: self.id }
    }

    /// Its entry in the set of what its node owns.
    pub(super) fn owned_entry(&self) -> OwnedEntry<'_> {
        OwnedEntry::Session { key: self.key(), connection: self.connection }
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
        self.held.locked()
    }

    pub(super) fn count(&self) -> usize {
        self.held().len()
    }

    /// The sessions of at most `max` connections after `after`. Use small pages: joins and acknowledgements
    /// need the same lock.
    pub(super) fn page(&self, after: Option<ConnectionId>, max: usize) -> Vec<Arc<HeldSession>> {
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.held().range((after, Bound::Unbounded)).take(max).map(|(_, session)| session.clone()).collect()
    }

    /// All sessions in pages. The lock is released between pages, so sessions that come or go meanwhile may be
    /// missing.
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

    /// Waits until all releases are done in Redis.
    pub(super) async fn all_released(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl RedisSessions {
    /// Tells the node that another connection has the session.
    pub(super) fn report_takeover(&self, session: &HeldSession) {
        session.ended.store(true, Ordering::Relaxed);
        (self.context.feed)(Event::TakenOver(session.connection));
    }

    /// Redis may not have the session as this node holds it. It is written again once its client answers a
    /// ping.
    pub(super) fn mark_uncertain(&self, session: &HeldSession) {
        session.record().mark_uncertain();
        self.probe(session);
    }

    fn probe(&self, session: &HeldSession) {
        (self.context.feed)(Event::Probe(session.connection));
    }

    /// The client of a connection has answered after [`Event::Probe`].
    pub(super) fn reclaim(self: &Arc<Self>, connection: ConnectionId) {
        let Some(session) = self.by_connection(connection) else { return };
        session.record().allow_reclaim();
        self.start_sync(&session);
    }

    /// Notes the position up to which the client has acknowledged the messages of a room.
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

    /// Notes that the client continues in a room after `position`.
    pub(super) fn advance(self: &Arc<Self>, connection: ConnectionId, room: &RoomName, position: &Position) {
        let Some(session) = self.by_connection(connection).filter(|session| !session.has_ended()) else {
            return;
        };
        let has_moved = session.record().advance(room, position);
        if has_moved {
            self.start_sync(&session);
        }
    }

    /// All sessions may be lost or released in Redis.
    pub(super) fn mark_all_uncertain(self: &Arc<Self>) {
        // A session that is inserted meanwhile under the former name is marked by `insert`.
        self.pages(PAGE_SIZE).flatten().for_each(|session| session.record().mark_uncertain());
        let sessions = self.clone();
        tokio::spawn(async move {
            for page in sessions.pages(PROBE_PAGE_SIZE) {
                let uncertain = page.iter().filter(|session| session.record().is_uncertain());
                uncertain.for_each(|session| sessions.probe(session));
                sleep(PROBE_PAGE_INTERVAL).await;
            }
        });
        let recent: Vec<_> = self.recently_released.locked().drain(..).collect();
        for (released_at, session, mode) in recent {
            if released_at.elapsed() < RECENT_RELEASE_TTL {
                session.record().mark_unsynced();
                self.tasks.spawn(release(self.clone(), session, mode));
            }
        }
    }

    /// Writes everything again, so that the keys of what is in use do not expire.
    pub(super) fn rewrite_all(self: &Arc<Self>) {
        for session in self.pages(PAGE_SIZE).flatten() {
            session.record().mark_unsynced();
            self.start_sync(&session);
        }
    }

    /// A room has a new epoch, and may have lost its members.
    pub(super) fn restore_members(self: &Arc<Self>, room: RoomName) {
        let mut pending = self.rooms_to_restore.locked();
        pending.insert(room);
        // If one room has lost its members, others probably have, too. Wait briefly and restore them in one
        // pass.
        if pending.len() == 1 {
            let sessions = self.clone();
            tokio::spawn(async move {
                sleep(RESTORE_DELAY).await;
                let pending = &sessions.rooms_to_restore;
                let rooms = std::mem::take(&mut *pending.locked());
                for page in sessions.pages(PAGE_SIZE) {
                    for session in page {
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

fn lease_expired() -> Unavailable {
    Unavailable("the lease of this node has expired".to_owned())
}
