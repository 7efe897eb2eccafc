//! How much memory of Redis each principal uses, approximately and as far as this node wrote it. Redis knows no
//! principals, so when it is nearly full, each node refuses writes of the principals that use the most. How full
//! it is is in `fullest_server`.

use crate::{
    ConnectionId, Retention, Unavailable,
    redis::context::fullest_server::{FullestServer, ServerMemory},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use switchyard_process::memory::{self, MemoryCharge, MemoryKind, MemoryShare};
use switchyard_protocol::room::RoomName;
use tokio::time::Instant;

/// How many bytes each of these takes in Redis, not counting its texts. Measured with version 7.
const ROOM_BYTES: usize = 4700;
const MESSAGE_BYTES: usize = 100;
const KEY_BYTES: usize = 200;
/// A membership of a room that has no other members, in bytes.
pub(crate) const MEMBERSHIP_BYTES: usize = 1800;
/// How long Redis keeps a room that was left.
const LEFT_ROOM_TTL: Duration = Duration::from_secs(60);
/// How many bytes this node needs to track a room.
const ROOM_NOTE_BYTES: usize = 200;

/// How many entries a sweep removes before it releases the lock, which every publish needs.
const MAX_SWEPT: usize = 256;

pub(crate) struct RedisUsage {
    retention: Retention,
    server: Arc<FullestServer>,
    began: Instant,
    state: Mutex<UsageState>,
}

#[derive(Default)]
struct UsageState {
    /// Rooms with messages, by the principal that published them.
    rooms: HashMap<(RoomName, Arc<str>), StoredRoomUsage>,
    /// When each of these rooms is checked next, in seconds. It may be gone by then.
    checks: BTreeSet<(u64, RoomName, Arc<str>)>,
    /// Sessions that have a connection here.
    sessions: HashMap<ConnectionId, SessionUsage>,
    /// Bytes that expire, by second and principal.
    expiring: BTreeMap<(u64, Arc<str>), usize>,
    /// The sums of all of the above, by principal.
    sums: HashMap<Arc<str>, usize>,
}

/// What a principal has published to a room.
struct StoredRoomUsage {
    /// The memory of this node for tracking the room.
    _charge: MemoryCharge,
    messages: usize,
    bytes: usize,
    /// When the newest message expires.
    until: Instant,
}

impl StoredRoomUsage {
    fn size(&self) -> usize {
        ROOM_BYTES + self.bytes
    }
}

/// The rooms that a session is in.
struct SessionUsage {
    who: Arc<str>,
    rooms: usize,
    bytes: usize,
}

/// Bytes that are on their way to Redis, until this is dropped.
pub(crate) struct ReservedBytes {
    who: Arc<str>,
    bytes: usize,
    usage: Arc<RedisUsage>,
}

impl Drop for ReservedBytes {
    fn drop(&mut self) {
        self.usage.server.release(self.bytes);
        self.usage.state().subtract(&self.who, self.bytes);
    }
}

/// Rooms that a session is about to join. They are no longer counted when this is dropped.
pub(crate) struct JoinReservation<'a> {
    usage: &'a RedisUsage,
    connection: ConnectionId,
    rooms: usize,
}

impl JoinReservation<'_> {
    /// The session has joined the rooms, so they stay counted.
    pub(crate) fn done(mut self) {
        self.rooms = 0;
    }
}

impl Drop for JoinReservation<'_> {
    fn drop(&mut self) {
        if self.rooms > 0 {
            self.usage.left(self.connection, self.rooms);
        }
    }
}

impl UsageState {
    fn add(&mut self, who: &Arc<str>, bytes: usize) {
        match self.sums.get_mut(who) {
            Some(sum) => *sum += bytes,
            None => drop(self.sums.insert(who.clone(), bytes)),
        }
    }

    fn subtract(&mut self, who: &Arc<str>, bytes: usize) {
        let Some(sum) = self.sums.get_mut(who) else { return };
        debug_assert!(*sum >= bytes, "more is subtracted than was added");
        *sum = sum.saturating_sub(bytes);
        if *sum == 0 {
            self.sums.remove(who);
        }
    }
}

impl RedisUsage {
    pub(crate) fn new(retention: Retention, server: &Arc<FullestServer>) -> Self {
        Self { retention, server: server.clone(), began: Instant::now(), state: Mutex::default() }
    }

    /// Whether a principal may store more in Redis.
    pub(crate) fn may_grow(&self, who: &Arc<str>) -> bool {
        let ServerMemory { used, limit } = self.server.memory();
        !memory::is_under_pressure(used, limit) || {
            let own = self.state().sums.get(who).copied().unwrap_or(0);
            memory::may_grow(own, used, limit)
        }
    }

    /// Counts a message of this many bytes while it is on its way to Redis.
    pub(crate) fn publishing(
        self: &Arc<Self>,
        room: &RoomName,
        who: &Arc<str>,
        bytes: usize,
    ) -> ReservedBytes {
        let mut state = self.state();
        let is_known = state.rooms.contains_key(&(room.clone(), who.clone()));
        let bytes = bytes + if is_known { MESSAGE_BYTES } else { ROOM_BYTES };
        state.add(who, bytes);
        self.server.reserve(bytes);
        ReservedBytes { who: who.clone(), bytes, usage: self.clone() }
    }

    /// Counts a stored message of this many bytes. `key` is the length of the Redis key that remembers its
    /// idempotency key.
    pub(crate) fn published(
        &self,
        room: &RoomName,
        share: &Arc<MemoryShare>,
        bytes: usize,
        key: Option<usize>,
    ) {
        let (now, history) = (Instant::now(), &self.retention.history);
        let who = share.principal();
        let mut grown = 0;
        {
            let mut state = self.state();
            let new = || {
                grown += ROOM_BYTES;
                let charge = share.charge(MemoryKind::Rooms, ROOM_NOTE_BYTES + room.len());
                StoredRoomUsage { _charge: charge, messages: 0, bytes: 0, until: now }
            };
            let known = state.rooms.entry((room.clone(), who.clone())).or_insert_with(new);
            let before = known.bytes;
            known.until = now + history.age;
            if history.messages > 0 {
                (known.messages, known.bytes) = (known.messages + 1, known.bytes + bytes + MESSAGE_BYTES);
                if known.messages > history.messages {
                    // The oldest message is dropped. Its size is taken to be the average.
                    known.bytes -= known.bytes / known.messages;
                    known.messages = history.messages;
                }
                known.bytes = known.bytes.min(history.bytes);
            }
            let after = known.bytes;
            if grown > 0 {
                let check = self.second(now + history.age);
                state.checks.insert((check, room.clone(), who.clone()));
            }
            let shrunk = before.saturating_sub(after);
            grown += after.saturating_sub(before);
            state.add(who, grown);
            state.subtract(who, shrunk);
        }
        if let Some(length) = key {
            grown += KEY_BYTES + length;
            self.expires(who, KEY_BYTES + length, self.retention.idempotency_key_ttl);
        }
        self.server.added(grown);
    }

    /// Counts rooms that a session is about to join, with their size in bytes. An error: Redis is nearly full,
    /// and the principal uses much of it.
    pub(crate) fn joining(
        &self,
        connection: ConnectionId,
        who: &Arc<str>,
        rooms: usize,
        bytes: usize,
    ) -> Result<JoinReservation<'_>, Unavailable> {
        if !self.may_grow(who) {
            return Err(Unavailable(
                "OOM: Redis is nearly full, and this principal uses much of it".to_owned(),
            ));
        }
        self.joined(connection, who, rooms, bytes);
        Ok(JoinReservation { usage: self, connection, rooms })
    }

    /// Counts rooms that a session has joined.
    pub(crate) fn joined(&self, connection: ConnectionId, who: &Arc<str>, rooms: usize, bytes: usize) {
        {
            let mut state = self.state();
            state.add(who, bytes);
            let new = || SessionUsage { who: who.clone(), rooms: 0, bytes: 0 };
            let session = state.sessions.entry(connection).or_insert_with(new);
            (session.rooms, session.bytes) = (session.rooms + rooms, session.bytes + bytes);
        }
        self.server.added(bytes);
    }

    /// Stops counting rooms that a session has left, once Redis has deleted them.
    pub(crate) fn left(&self, connection: ConnectionId, rooms: usize) {
        let (who, bytes) = {
            let mut state = self.state();
            let Some(session) = state.sessions.get_mut(&connection) else { return };
            // Their size is taken to be the average.
            let bytes = session.bytes * rooms.min(session.rooms) / session.rooms.max(1);
            (session.rooms, session.bytes) = (session.rooms.saturating_sub(rooms), session.bytes - bytes);
            let who = session.who.clone();
            state.subtract(&who, bytes);
            (who, bytes)
        };
        self.expires(&who, bytes, LEFT_ROOM_TTL);
    }

    /// The connection of a session has ended. The session lives for another `ttl`.
    pub(crate) fn detached(&self, connection: ConnectionId, ttl: Duration) {
        let SessionUsage { who, bytes, .. } = {
            let mut state = self.state();
            let Some(session) = state.sessions.remove(&connection) else { return };
            state.subtract(&session.who, session.bytes);
            session
        };
        self.expires(&who, bytes, ttl + LEFT_ROOM_TTL);
    }

    /// Counts bytes until `ttl` is over.
    fn expires(&self, who: &Arc<str>, bytes: usize, ttl: Duration) {
        let second = self.second(Instant::now() + ttl);
        let mut state = self.state();
        state.add(who, bytes);
        *state.expiring.entry((second, who.clone())).or_default() += bytes;
    }

    /// The first full second after an instant, counted from when this value was created.
    fn second(&self, instant: Instant) -> u64 {
        instant.saturating_duration_since(self.began).as_secs() + 1
    }

    /// Stops counting what Redis has deleted by now.
    pub(crate) fn sweep(&self) {
        while self.sweep_some() {}
        let mut state = self.state();
        if state.rooms.len() < state.rooms.capacity() / 4 {
            let capacity = 2 * state.rooms.len();
            state.rooms.shrink_to(capacity);
        }
    }

    /// Removes some of it. Returns whether there may be more.
    fn sweep_some(&self) -> bool {
        let (now, second) = (Instant::now(), self.began.elapsed().as_secs());
        let mut state = self.state();
        let mut seen = 0;
        while seen < MAX_SWEPT
            && let Some(first) = state.expiring.first_entry().filter(|first| first.key().0 <= second)
        {
            let ((_, who), bytes) = first.remove_entry();
            state.subtract(&who, bytes);
            seen += 1;
        }
        while seen < MAX_SWEPT && state.checks.first().is_some_and(|(at, ..)| *at <= second) {
            let (_, room, who) = state.checks.pop_first().expect("seen above");
            let key = (room, who);
            seen += 1;
            match state.rooms.get(&key).map(|room| room.until) {
                Some(until) if until > now => {
                    let (room, who) = key;
                    state.checks.insert((self.second(until), room, who));
                }
                _ => {
                    if let Some(room) = state.rooms.remove(&key) {
                        state.subtract(&key.1, room.size());
                    }
                }
            }
        }
        seen == MAX_SWEPT
    }

    fn state(&self) -> MutexGuard<'_, UsageState> {
        self.state.lock().expect("no code panics while it holds the lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HistoryConfig;
    use switchyard_process::memory::MemoryAccount;

    const SESSION_TTL: Duration = Duration::from_secs(120);

    fn usage(limit: usize) -> Arc<RedisUsage> {
        let history =
            HistoryConfig { messages: 10, age: Duration::from_secs(600), ..HistoryConfig::default() };
        let key = Duration::from_secs(300);
        let server = Arc::new(FullestServer::default());
        server.set(ServerMemory { used: 0, limit });
        Arc::new(RedisUsage::new(
            Retention { history, session_ttl: SESSION_TTL, idempotency_key_ttl: key },
            &server,
        ))
    }

    fn room(n: usize) -> RoomName {
        RoomName::parse(&format!("room:{n}")).unwrap()
    }

    /// One key filled Redis with fresh rooms at 63 MB/s, until nobody could publish.
    #[tokio::test(start_paused = true)]
    async fn a_principal_that_uses_much_of_redis_is_refused_while_others_are_not() {
        let (usage, account) = (usage(10_000_000), MemoryAccount::unlimited());
        let [mallory, acme] = ["mallory", "acme"].map(|name| account.share(&name.into()));
        let mut n = 0;
        while usage.may_grow(mallory.principal()) {
            usage.published(&room(n), &mallory, 10, None);
            n += 1;
            assert!(n < 10_000, "it is never refused");
        }
        assert!(usage.server.memory().used < 8_100_000, "{:?}", usage.server.memory());
        assert!(usage.may_grow(acme.principal()));
        assert!(
            account.used(MemoryKind::Rooms) > n * ROOM_NOTE_BYTES,
            "what this node keeps of the rooms is counted"
        );
        tokio::time::advance(Duration::from_secs(601)).await;
        usage.sweep();
        assert!(usage.may_grow(mallory.principal()));
        assert_eq!((account.total(), usage.state().sums.len()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn expired_data_is_no_longer_counted() {
        let (usage, account) = (usage(usize::MAX), MemoryAccount::unlimited());
        let [feed, other] = ["feed", "other"].map(|name| account.share(&name.into()));
        let sum = |share: &MemoryShare| usage.state().sums.get(share.principal()).copied().unwrap_or(0);
        for _ in 0..1000 {
            usage.published(&room(1), &feed, 1000, None);
        }
        assert_eq!(sum(&feed), ROOM_BYTES + 10 * 1100, "a room keeps only its newest messages");
        usage.published(&room(1), &other, 1000, Some(20));
        let others = ROOM_BYTES + 1100;
        assert_eq!(sum(&other), others + KEY_BYTES + 20, "each principal is charged for its own messages");
        tokio::time::advance(Duration::from_secs(400)).await;
        usage.published(&room(1), &other, 0, None);
        let others = others + MESSAGE_BYTES;
        let (connection, who) = (ConnectionId::random(), feed.principal());
        let before = sum(&feed);
        usage.joining(connection, who, 10, 10_000).unwrap().done();
        assert_eq!(sum(&feed), before + 10_000);
        // A join that nobody waits for any more is not counted.
        drop(usage.joining(connection, who, 10, 10_000).unwrap());
        usage.left(connection, 5);
        tokio::time::advance(LEFT_ROOM_TTL + Duration::from_secs(2)).await;
        usage.sweep();
        assert_eq!(sum(&feed), before + 5_000);
        usage.detached(connection, SESSION_TTL);
        let reserved = usage.publishing(&room(2), who, 100);
        assert_eq!((sum(&feed), usage.server.memory().used > 0), (before + 5_000 + 100 + ROOM_BYTES, true));
        drop(reserved);
        tokio::time::advance(SESSION_TTL + LEFT_ROOM_TTL + Duration::from_secs(2)).await;
        usage.sweep();
        assert_eq!((sum(&feed), usage.state().sessions.len()), (0, 0));
        assert_eq!(sum(&other), others);
    }
}
