//! What Redis holds for each principal, about, as far as it came by way of this node, and how full Redis is. Redis tells nobody apart:
//! where little is left, it is the nodes that give no more to whom they have given much.

use crate::{ConnectionId, Retention, Unavailable};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use switchyard_process::memory::{self, MemoryCharge, MemoryKind, MemoryShare};
use switchyard_protocol::room::RoomName;
use tokio::{sync::Notify, time::Instant};

/// Where this node alone added this part of the limit since, others may have as well: they are asked at once.
const MUCH: usize = 50;

/// What these take in Redis beside their texts, about, as measured with version 7. A membership is that of a room which nobody else needs.
const ROOM: usize = 4700;
const MESSAGE: usize = 100;
const KEY: usize = 200;
pub(crate) const MEMBERSHIP: usize = 1800;
/// How long a room that was left is kept.
const LEFT: Duration = Duration::from_secs(60);
/// What this node keeps of a room.
const NOTE: usize = 200;

/// What is forgotten at a time, until others have their turn.
const AT_ONCE: usize = 256;

/// How full a server is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Fill {
    pub used: usize,
    pub limit: usize,
}

pub(crate) struct Holdings {
    retention: Retention,
    /// Of the server that is fullest.
    used: AtomicUsize,
    limit: AtomicUsize,
    /// What this node added since it looked.
    added: AtomicUsize,
    /// Of what is on its way there.
    reserved: AtomicUsize,
    much: Notify,
    began: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// That were published to, by whom.
    rooms: HashMap<(RoomName, Arc<str>), Room>,
    /// When each of them is looked at the next time, by the second: it may be over then.
    checks: BTreeSet<(u64, RoomName, Arc<str>)>,
    /// What sessions hold that have a connection here.
    sessions: HashMap<ConnectionId, Session>,
    /// What ends by itself, by the second, and whose it is.
    ends: BTreeMap<(u64, Arc<str>), usize>,
    sums: HashMap<Arc<str>, usize>,
}

/// What a principal published to a room.
struct Room {
    /// What this node keeps of it.
    _charge: MemoryCharge,
    messages: usize,
    bytes: usize,
    until: Instant,
}

impl Room {
    fn size(&self) -> usize {
        ROOM + self.bytes
    }
}

struct Session {
    who: Arc<str>,
    rooms: usize,
    bytes: usize,
}

/// Bytes that are on their way to Redis, until this is dropped.
pub(crate) struct Reserved {
    who: Arc<str>,
    bytes: usize,
    holdings: Arc<Holdings>,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.holdings.reserved.fetch_sub(self.bytes, Ordering::Relaxed);
        self.holdings.state().subtract(&self.who, self.bytes);
    }
}

/// Rooms that a session is about to be in; dropped, they are given back.
pub(crate) struct Joining<'a> {
    holdings: &'a Holdings,
    connection: ConnectionId,
    rooms: usize,
}

impl Joining<'_> {
    /// It is in them.
    pub(crate) fn done(mut self) {
        self.rooms = 0;
    }
}

impl Drop for Joining<'_> {
    fn drop(&mut self) {
        if self.rooms > 0 {
            self.holdings.left(self.connection, self.rooms);
        }
    }
}

impl State {
    fn add(&mut self, who: &Arc<str>, bytes: usize) {
        match self.sums.get_mut(who) {
            Some(sum) => *sum += bytes,
            None => drop(self.sums.insert(who.clone(), bytes)),
        }
    }

    fn subtract(&mut self, who: &Arc<str>, bytes: usize) {
        let Some(sum) = self.sums.get_mut(who) else { return };
        debug_assert!(*sum >= bytes, "no more than was added");
        *sum = sum.saturating_sub(bytes);
        if *sum == 0 {
            self.sums.remove(who);
        }
    }
}

impl Holdings {
    pub(crate) fn new(retention: Retention) -> Self {
        let (used, limit, added) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX), AtomicUsize::new(0));
        let (reserved, much, state) = (AtomicUsize::new(0), Notify::new(), Mutex::default());
        Self { retention, used, limit, added, reserved, much, began: Instant::now(), state }
    }

    /// Whether Redis may hold more for a principal.
    pub(crate) fn has_room(&self, who: &Arc<str>) -> bool {
        let Fill { used, limit } = self.fill();
        !memory::is_under_pressure(used, limit) || {
            let own = self.state().sums.get(who).copied().unwrap_or(0);
            memory::may_grow(own, used, limit)
        }
    }

    /// What is known of the fullest server is so from now on.
    pub(crate) fn looked(&self, Fill { used, limit }: Fill) {
        self.used.store(used, Ordering::Relaxed);
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// The servers are about to be asked: from now on this node counts what it adds anew.
    pub(crate) fn begin_to_look(&self) {
        self.added.store(0, Ordering::Relaxed);
    }

    /// Waits until this node alone has added much since the servers were asked.
    pub(crate) async fn has_added_much(&self) {
        self.much.notified().await;
    }

    fn fill(&self) -> Fill {
        let used = self.used.load(Ordering::Relaxed) + self.reserved.load(Ordering::Relaxed);
        Fill { used, limit: self.limit.load(Ordering::Relaxed) }
    }

    /// A message of so many bytes is on its way.
    pub(crate) fn publishing(self: &Arc<Self>, room: &RoomName, who: &Arc<str>, bytes: usize) -> Reserved {
        let mut state = self.state();
        let is_known = state.rooms.contains_key(&(room.clone(), who.clone()));
        let bytes = bytes + if is_known { MESSAGE } else { ROOM };
        state.add(who, bytes);
        self.reserved.fetch_add(bytes, Ordering::Relaxed);
        Reserved { who: who.clone(), bytes, holdings: self.clone() }
    }

    /// A message was stored, maybe with its idempotency key, of so many bytes.
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
                grown += ROOM;
                let charge = share.charge(MemoryKind::Rooms, NOTE + room.len());
                Room { _charge: charge, messages: 0, bytes: 0, until: now }
            };
            let known = state.rooms.entry((room.clone(), who.clone())).or_insert_with(new);
            let before = known.bytes;
            known.until = now + history.age;
            if history.messages > 0 {
                (known.messages, known.bytes) = (known.messages + 1, known.bytes + bytes + MESSAGE);
                if known.messages > history.messages {
                    // The oldest goes: one of average size.
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
            grown += KEY + length;
            self.until(who, KEY + length, self.retention.key);
        }
        self.added(grown);
    }

    fn added(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        let added = self.added.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if added > self.limit.load(Ordering::Relaxed) / MUCH {
            self.much.notify_one();
        }
    }

    /// A session is about to be in so many more rooms, which take so many bytes, unless there is no room for them.
    pub(crate) fn joining(
        &self,
        connection: ConnectionId,
        who: &Arc<str>,
        rooms: usize,
        bytes: usize,
    ) -> Result<Joining<'_>, Unavailable> {
        if !self.has_room(who) {
            return Err(Unavailable("OOM: Redis holds much of this principal's already".to_owned()));
        }
        self.joined(connection, who, rooms, bytes);
        Ok(Joining { holdings: self, connection, rooms })
    }

    /// A session is in so many more rooms.
    pub(crate) fn joined(&self, connection: ConnectionId, who: &Arc<str>, rooms: usize, bytes: usize) {
        {
            let mut state = self.state();
            state.add(who, bytes);
            let new = || Session { who: who.clone(), rooms: 0, bytes: 0 };
            let session = state.sessions.entry(connection).or_insert_with(new);
            (session.rooms, session.bytes) = (session.rooms + rooms, session.bytes + bytes);
        }
        self.added(bytes);
    }

    /// It has left so many.
    pub(crate) fn left(&self, connection: ConnectionId, rooms: usize) {
        let (who, bytes) = {
            let mut state = self.state();
            let Some(session) = state.sessions.get_mut(&connection) else { return };
            // As large as the average.
            let bytes = session.bytes * rooms.min(session.rooms) / session.rooms.max(1);
            (session.rooms, session.bytes) = (session.rooms.saturating_sub(rooms), session.bytes - bytes);
            let who = session.who.clone();
            state.subtract(&who, bytes);
            (who, bytes)
        };
        self.until(&who, bytes, LEFT);
    }

    /// Its connection has ended; the session, for so long, has not.
    pub(crate) fn detached(&self, connection: ConnectionId, ttl: Duration) {
        let Session { who, bytes, .. } = {
            let mut state = self.state();
            let Some(session) = state.sessions.remove(&connection) else { return };
            state.subtract(&session.who, session.bytes);
            session
        };
        self.until(&who, bytes, ttl + LEFT);
    }

    fn until(&self, who: &Arc<str>, bytes: usize, ttl: Duration) {
        let second = self.second(Instant::now() + ttl);
        let mut state = self.state();
        state.add(who, bytes);
        *state.ends.entry((second, who.clone())).or_default() += bytes;
    }

    /// The first second since this began in which an instant has passed.
    fn second(&self, instant: Instant) -> u64 {
        instant.saturating_duration_since(self.began).as_secs() + 1
    }

    /// Forgets what is over.
    pub(crate) fn sweep(&self) {
        while self.sweep_some() {}
        let mut state = self.state();
        if state.rooms.len() < state.rooms.capacity() / 4 {
            let most = 2 * state.rooms.len();
            state.rooms.shrink_to(most);
        }
    }

    /// Forgets some of what is over: whether there may be more. Every publish takes the same lock.
    fn sweep_some(&self) -> bool {
        let (now, second) = (Instant::now(), self.began.elapsed().as_secs());
        let mut state = self.state();
        let mut seen = 0;
        while seen < AT_ONCE
            && let Some(first) = state.ends.first_entry().filter(|first| first.key().0 <= second)
        {
            let ((_, who), bytes) = first.remove_entry();
            state.subtract(&who, bytes);
            seen += 1;
        }
        while seen < AT_ONCE && state.checks.first().is_some_and(|(at, ..)| *at <= second) {
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
        seen == AT_ONCE
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds what Redis holds")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HistoryConfig;
    use switchyard_process::memory::MemoryAccount;

    const SESSION_TTL: Duration = Duration::from_secs(120);

    fn holdings(limit: usize) -> Arc<Holdings> {
        let history =
            HistoryConfig { messages: 10, age: Duration::from_secs(600), ..HistoryConfig::default() };
        let key = Duration::from_secs(300);
        let holdings = Holdings::new(Retention { history, session: SESSION_TTL, key });
        holdings.limit.store(limit, Ordering::Relaxed);
        Arc::new(holdings)
    }

    fn room(n: usize) -> RoomName {
        RoomName::parse(&format!("room:{n}")).unwrap()
    }

    /// One key filled Redis with fresh rooms at 63 MB/s, until nobody could publish.
    #[tokio::test(start_paused = true)]
    async fn who_has_redis_hold_much_is_refused_and_others_are_not() {
        let (holdings, account) = (holdings(10_000_000), MemoryAccount::unlimited());
        let [mallory, acme] = ["mallory", "acme"].map(|name| account.share(&name.into()));
        let mut n = 0;
        while holdings.has_room(mallory.principal()) {
            holdings.published(&room(n), &mallory, 10, None);
            n += 1;
            assert!(n < 10_000, "it is never refused");
        }
        assert!(holdings.fill().used < 8_100_000, "{:?}", holdings.fill());
        assert!(holdings.has_room(acme.principal()));
        assert!(account.used(MemoryKind::Rooms) > n * NOTE, "what is noted of them is counted");
        tokio::time::advance(Duration::from_secs(601)).await;
        holdings.sweep();
        assert!(holdings.has_room(mallory.principal()));
        assert_eq!((account.total(), holdings.state().sums.len()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_goes_again_is_not_counted_for_ever() {
        let (holdings, account) = (holdings(usize::MAX), MemoryAccount::unlimited());
        let [feed, other] = ["feed", "other"].map(|name| account.share(&name.into()));
        let sum = |share: &MemoryShare| holdings.state().sums.get(share.principal()).copied().unwrap_or(0);
        for _ in 0..1000 {
            holdings.published(&room(1), &feed, 1000, None);
        }
        assert_eq!(sum(&feed), ROOM + 10 * 1100, "a room holds no more than its newest messages");
        holdings.published(&room(1), &other, 1000, Some(20));
        let others = ROOM + 1100;
        assert_eq!(sum(&other), others + KEY + 20, "each answers for its own");
        tokio::time::advance(Duration::from_secs(400)).await;
        holdings.published(&room(1), &other, 0, None);
        let others = others + MESSAGE;
        let (connection, who) = (ConnectionId::random(), feed.principal());
        let before = sum(&feed);
        holdings.joining(connection, who, 10, 10_000).unwrap().done();
        assert_eq!(sum(&feed), before + 10_000);
        // One that nobody waits for any more is given back.
        drop(holdings.joining(connection, who, 10, 10_000).unwrap());
        holdings.left(connection, 5);
        tokio::time::advance(LEFT + Duration::from_secs(2)).await;
        holdings.sweep();
        assert_eq!(sum(&feed), before + 5_000);
        holdings.detached(connection, SESSION_TTL);
        let reserved = holdings.publishing(&room(2), who, 100);
        assert_eq!((sum(&feed), holdings.fill().used > 0), (before + 5_000 + 100 + ROOM, true));
        drop(reserved);
        tokio::time::advance(SESSION_TTL + LEFT + Duration::from_secs(2)).await;
        holdings.sweep();
        assert_eq!((sum(&feed), holdings.state().sessions.len()), (0, 0));
        assert_eq!(sum(&other), others);
    }
}
