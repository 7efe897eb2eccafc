//! How much memory of Redis each principal uses, approximately and as far as this node wrote it. Redis knows
//! no principals, so when it is nearly full, each node refuses writes of the principals that use the most.
//! How full it is is in `fullest_server`.

mod rooms;
mod sessions;
mod sums;

use crate::{
    ConnectionId, Retention, Unavailable,
    redis::{
        context::fullest_server::{FullestServer, ServerMemory},
        session_id::SessionId,
        stored_rooms::RoomsSize,
    },
};
use rooms::{MESSAGE_BYTES, ROOM_BYTES, RoomUsages};
use sessions::SessionUsages;
use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use sums::UsageSums;
use switchyard_process::lock::LockExt;
use switchyard_process::memory::{self, MemoryAccount, MemoryShare};
use switchyard_protocol::room::RoomName;
use tokio::time::Instant;

/// How many bytes an idempotency key takes in Redis without its text. Measured with version 7.
const KEY_BYTES: usize = 200;
/// How long Redis keeps a room that was left.
const LEFT_ROOM_TTL: Duration = Duration::from_secs(60);
/// How many entries a sweep removes before it releases the lock, which every publish needs.
const MAX_SWEPT: usize = 256;

pub(crate) struct RedisUsage {
    retention: Retention,
    server: Arc<FullestServer>,
    /// The memory of this node.
    account: Arc<MemoryAccount>,
    began: Instant,
    state: Mutex<UsageState>,
}

#[derive(Default)]
struct UsageState {
    rooms: RoomUsages,
    sessions: SessionUsages,
    /// The sums of both, of idempotency keys, and of what is on its way.
    sums: UsageSums,
}

/// Bytes that are on their way to Redis, until this is dropped.
pub(crate) struct ReservedBytes {
    principal: Arc<str>,
    bytes: usize,
    usage: Arc<RedisUsage>,
}

impl Drop for ReservedBytes {
    fn drop(&mut self) {
        self.usage.server.release(self.bytes);
        self.usage.state().sums.subtract(&self.principal, self.bytes);
    }
}

impl RedisUsage {
    pub(crate) fn new(
        retention: Retention,
        server: &Arc<FullestServer>,
        account: &Arc<MemoryAccount>,
    ) -> Self {
        let (server, account) = (server.clone(), account.clone());
        Self { retention, server, account, began: Instant::now(), state: Mutex::default() }
    }

    /// Whether a principal may store more in Redis.
    pub(crate) fn may_grow(&self, principal: &Arc<str>) -> bool {
        let ServerMemory { used, limit } = self.server.memory();
        !memory::is_under_pressure(used, limit) || {
            let own = self.state().sums.of(principal);
            memory::may_grow(own, used, limit)
        }
    }

    /// Counts a message of this many bytes while it is on its way to Redis.
    pub(crate) fn publishing(
        self: &Arc<Self>,
        room: &RoomName,
        principal: &Arc<str>,
        bytes: usize,
    ) -> ReservedBytes {
        let is_known = self.state().rooms.contains(room, principal);
        self.reserve(principal, bytes + if is_known { MESSAGE_BYTES } else { ROOM_BYTES })
    }

    fn reserve(self: &Arc<Self>, principal: &Arc<str>, bytes: usize) -> ReservedBytes {
        self.state().sums.add(principal, bytes);
        self.server.reserve(bytes);
        ReservedBytes { principal: principal.clone(), bytes, usage: self.clone() }
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
        let Retention { history, idempotency_key_ttl, .. } = &self.retention;
        let until = |ttl: Duration| self.second(Instant::now() + ttl);
        let mut added = {
            let UsageState { rooms, sums, .. } = &mut *self.state();
            if let Some(length) = key {
                sums.add_until(share.principal(), KEY_BYTES + length, until(*idempotency_key_ttl));
            }
            let history = history.of(room);
            rooms.add_message(room, share, bytes, until(history.age), &history, sums)
        };
        added += key.map_or(0, |length| KEY_BYTES + length);
        self.server.added(added);
    }

    /// Counts memberships of this many bytes while they are on their way to Redis. An error: Redis is nearly
    /// full, and the principal uses much of it.
    pub(crate) fn joining(
        self: &Arc<Self>,
        principal: &Arc<str>,
        bytes: usize,
    ) -> Result<ReservedBytes, Unavailable> {
        match bytes == 0 || self.may_grow(principal) {
            true => Ok(self.reserve(principal, bytes)),
            false => Err(Unavailable::full("Redis is nearly full, and this principal uses much of it")),
        }
    }

    /// Counts the memberships of a session that a connection has created.
    pub(crate) fn created(
        &self,
        principal: &Arc<str>,
        id: SessionId,
        connection: ConnectionId,
        size: RoomsSize,
    ) {
        self.resumed(principal, id, connection, size);
        self.server.added(size.bytes());
    }

    /// Counts the memberships of a session that a connection has resumed. Redis has had them before.
    pub(crate) fn resumed(
        &self,
        principal: &Arc<str>,
        id: SessionId,
        connection: ConnectionId,
        size: RoomsSize,
    ) {
        let share = self.account.share(principal);
        let UsageState { sessions, sums, .. } = &mut *self.state();
        sessions.attach(id, connection, &share, size, sums);
    }

    /// Redis has confirmed that the memberships of a session have this size now.
    pub(crate) fn resized(&self, id: SessionId, connection: ConnectionId, size: RoomsSize) {
        let left_until = self.second(Instant::now() + LEFT_ROOM_TTL);
        let added = {
            let UsageState { sessions, sums, .. } = &mut *self.state();
            sessions.resize(id, connection, size, left_until, sums)
        };
        self.server.added(added);
    }

    /// The connection of a session has ended. The session lives for another `ttl`.
    pub(crate) fn detached(&self, id: SessionId, connection: ConnectionId, ttl: Duration) {
        let end = self.second(Instant::now() + ttl + LEFT_ROOM_TTL);
        self.state().sessions.detach(id, connection, end);
    }

    /// The first full second after an instant, counted from when this value was created.
    fn second(&self, instant: Instant) -> u64 {
        instant.saturating_duration_since(self.began).as_secs() + 1
    }

    /// Stops counting what Redis has deleted by now.
    pub(crate) fn sweep(&self) {
        while self.sweep_some() {}
        let mut state = self.state();
        state.rooms.shrink();
        state.sessions.shrink();
    }

    /// Removes some of it. Returns whether there may be more.
    fn sweep_some(&self) -> bool {
        let second = self.began.elapsed().as_secs();
        let UsageState { rooms, sessions, sums } = &mut *self.state();
        let mut seen = sums.expire(second, MAX_SWEPT);
        seen += sessions.expire(second, MAX_SWEPT - seen, sums);
        seen += rooms.expire(second, MAX_SWEPT - seen, sums);
        seen == MAX_SWEPT
    }

    /// How many bytes a principal uses.
    #[cfg(test)]
    pub(crate) fn used_by(&self, principal: &str) -> usize {
        self.state().sums.of(principal)
    }

    fn state(&self) -> MutexGuard<'_, UsageState> {
        self.state.locked()
    }
}

#[cfg(test)]
mod tests {
    use super::{rooms::ROOM_NOTE_BYTES, *};
    use crate::{HistoryConfig, SessionToken, redis::stored_rooms::MEMBERSHIP_BYTES};
    use switchyard_process::memory::MemoryKind;

    const SESSION_TTL: Duration = Duration::from_secs(120);

    fn usage(limit: usize, account: &Arc<MemoryAccount>) -> Arc<RedisUsage> {
        let history =
            HistoryConfig { messages: 10, age: Duration::from_secs(600), ..HistoryConfig::default() };
        let key = Duration::from_secs(300);
        let server = Arc::new(FullestServer::default());
        server.set(ServerMemory { used: 0, limit });
        Arc::new(RedisUsage::new(
            Retention { history: history.into(), session_ttl: SESSION_TTL, idempotency_key_ttl: key },
            &server,
            account,
        ))
    }

    fn room(n: usize) -> RoomName {
        RoomName::parse(&format!("room:{n}")).unwrap()
    }

    /// One key filled Redis with fresh rooms at 63 MB/s, until nobody could publish.
    #[tokio::test(start_paused = true)]
    async fn a_principal_that_uses_much_of_redis_is_refused_while_others_are_not() {
        let account = MemoryAccount::unlimited();
        let usage = usage(10_000_000, &account);
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
        assert_eq!((account.total(), usage.state().sums.is_empty()), (0, true));
    }

    #[tokio::test(start_paused = true)]
    async fn expired_data_is_no_longer_counted() {
        let account = MemoryAccount::unlimited();
        let usage = usage(usize::MAX, &account);
        let [feed, other] = ["feed", "other"].map(|name| account.share(&name.into()));
        let sum = |share: &MemoryShare| usage.used_by(share.principal());
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
        let id = SessionId::of(&SessionToken::random());
        let before = sum(&feed);
        // A join counts while it is on its way, and is no longer counted when nobody waits for it any more.
        let joining = usage.joining(who, 10_000).unwrap();
        assert_eq!(sum(&feed), before + 10_000);
        drop(joining);
        let size = |rooms, filter_bytes| RoomsSize { rooms, filter_bytes };
        usage.created(who, id, connection, size(10, 100));
        assert_eq!(sum(&feed), before + 10 * MEMBERSHIP_BYTES + 100);
        usage.resized(id, connection, size(5, 50));
        assert_eq!(
            sum(&feed),
            before + 10 * MEMBERSHIP_BYTES + 50,
            "Redis keeps rooms that were left for a while"
        );
        tokio::time::advance(LEFT_ROOM_TTL + Duration::from_secs(2)).await;
        usage.sweep();
        let session = 5 * MEMBERSHIP_BYTES + 50;
        assert_eq!(sum(&feed), before + session);
        usage.detached(id, connection, SESSION_TTL);
        let reserved = usage.publishing(&room(2), who, 100);
        assert_eq!((sum(&feed), usage.server.memory().used > 0), (before + session + 100 + ROOM_BYTES, true));
        drop(reserved);
        tokio::time::advance(SESSION_TTL + LEFT_ROOM_TTL + Duration::from_secs(2)).await;
        usage.sweep();
        assert_eq!((sum(&feed), usage.state().sessions.is_empty()), (0, true));
        assert_eq!(sum(&other), others);
    }

    /// Regression: each resume counted the session once more.
    #[tokio::test(start_paused = true)]
    async fn a_session_counts_once_however_often_it_is_resumed() {
        let account = MemoryAccount::unlimited();
        let (usage, acme) = (usage(usize::MAX, &account), "acme".into());
        let [first, second] = [ConnectionId::random(), ConnectionId::random()];
        let id = SessionId::of(&SessionToken::random());
        let size = RoomsSize { rooms: 3, filter_bytes: 10 };
        usage.created(&acme, id, first, size);
        usage.detached(id, first, SESSION_TTL);
        usage.resumed(&acme, id, second, size);
        assert_eq!(usage.used_by(&acme), size.bytes());
        // The first connection has lost the session, and changes nothing any more.
        usage.resized(id, first, RoomsSize::default());
        usage.detached(id, first, SESSION_TTL);
        tokio::time::advance(SESSION_TTL + LEFT_ROOM_TTL + Duration::from_secs(2)).await;
        usage.sweep();
        assert_eq!(usage.used_by(&acme), size.bytes());
        usage.detached(id, second, Duration::ZERO);
        tokio::time::advance(LEFT_ROOM_TTL + Duration::from_secs(2)).await;
        usage.sweep();
        assert_eq!((usage.used_by(&acme), account.total()), (0, 0));
    }
}
