//! What Redis holds for each principal, about, as far as it came by way of this node, and how full Redis is. Redis tells nobody apart:
//! where little is left, it is the nodes that give no more to whom they have given much.

use super::Shared;
use crate::{ConnectionId, Retention, Unavailable};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use switchyard_process::{
    memory::{self, MemoryCharge, MemoryKind, MemoryShare},
    vital::VitalTasks,
};
use switchyard_protocol::room::RoomName;
use tokio::{sync::Notify, time::Instant};

/// How often the servers are asked; what this node adds meanwhile it counts itself.
const LOOK: Duration = Duration::from_secs(2);
/// Where this node alone added this part of the limit since, others may have as well: they are asked at once, but not more often than this.
const MUCH: usize = 50;
const PAUSE: Duration = Duration::from_millis(50);
/// How often it is told at most that little is left.
const TELL: Duration = Duration::from_secs(60);

/// What these take in Redis beside their texts, about, as measured with version 7. A membership is that of a room which nobody else needs.
const ROOM: usize = 4700;
const MESSAGE: usize = 100;
const KEY: usize = 200;
pub(super) const MEMBERSHIP: usize = 1800;
/// How long a room that was left is kept.
const LEFT: Duration = Duration::from_secs(60);
/// What this node keeps of a room.
const NOTE: usize = 200;

/// How full a server is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Fill {
    pub used: usize,
    pub limit: usize,
}

pub(super) struct Holdings {
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
pub(super) struct Reserved {
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
pub(super) struct Joining<'a> {
    holdings: &'a Holdings,
    connection: ConnectionId,
    rooms: usize,
}

impl Joining<'_> {
    /// It is in them.
    pub(super) fn done(mut self) {
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
    pub(super) fn new(retention: Retention) -> Self {
        let (used, limit, added) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX), AtomicUsize::new(0));
        let (reserved, much, state) = (AtomicUsize::new(0), Notify::new(), Mutex::default());
        Self { retention, used, limit, added, reserved, much, began: Instant::now(), state }
    }

    /// Whether Redis may hold more for a principal.
    pub(super) fn has_room(&self, who: &Arc<str>) -> bool {
        let Fill { used, limit } = self.fill();
        !memory::is_under_pressure(used, limit) || {
            let own = self.state().sums.get(who).copied().unwrap_or(0);
            memory::may_grow(own, used, limit)
        }
    }

    fn fill(&self) -> Fill {
        let used = self.used.load(Ordering::Relaxed) + self.reserved.load(Ordering::Relaxed);
        Fill { used, limit: self.limit.load(Ordering::Relaxed) }
    }

    /// A message of so many bytes is on its way.
    pub(super) fn publishing(self: &Arc<Self>, room: &RoomName, who: &Arc<str>, bytes: usize) -> Reserved {
        let mut state = self.state();
        let is_known = state.rooms.contains_key(&(room.clone(), who.clone()));
        let bytes = bytes + if is_known { MESSAGE } else { ROOM };
        state.add(who, bytes);
        self.reserved.fetch_add(bytes, Ordering::Relaxed);
        Reserved { who: who.clone(), bytes, holdings: self.clone() }
    }

    /// A message was stored, maybe with its idempotency key, of so many bytes.
    pub(super) fn published(
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
            let shrunk = before.saturating_sub(known.bytes);
            grown += known.bytes.saturating_sub(before);
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
    pub(super) fn joining(
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
    pub(super) fn joined(&self, connection: ConnectionId, who: &Arc<str>, rooms: usize, bytes: usize) {
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
    pub(super) fn left(&self, connection: ConnectionId, rooms: usize) {
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
    pub(super) fn detached(&self, connection: ConnectionId, ttl: Duration) {
        let Session { who, bytes, .. } = {
            let mut state = self.state();
            let Some(session) = state.sessions.remove(&connection) else { return };
            state.subtract(&session.who, session.bytes);
            session
        };
        self.until(&who, bytes, ttl + LEFT);
    }

    fn until(&self, who: &Arc<str>, bytes: usize, ttl: Duration) {
        let second = (self.began.elapsed() + ttl).as_secs() + 1;
        let mut state = self.state();
        state.add(who, bytes);
        *state.ends.entry((second, who.clone())).or_default() += bytes;
    }

    /// Forgets what is over.
    fn sweep(&self) {
        let (now, second) = (Instant::now(), self.began.elapsed().as_secs());
        let mut state = self.state();
        let later = state.ends.split_off(&(second + 1, "".into()));
        for ((_, who), bytes) in std::mem::replace(&mut state.ends, later) {
            state.subtract(&who, bytes);
        }
        let over: Vec<_> = state.rooms.extract_if(|_, room| room.until <= now).collect();
        for ((_, who), room) in over {
            state.subtract(&who, room.size());
        }
        if state.rooms.len() < state.rooms.capacity() / 4 {
            let most = 2 * state.rooms.len();
            state.rooms.shrink_to(most);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds what Redis holds")
    }
}

/// Looks at how full the servers are from now on.
pub(super) fn watch(shared: &Arc<Shared>, vitals: &VitalTasks) {
    let shared = Arc::downgrade(shared);
    vitals.spawn("the watch over Redis' memory", async move {
        let (mut ticks, mut told) = (tokio::time::interval(LOOK), None::<Instant>);
        loop {
            {
                let Some(shared) = shared.upgrade() else { return };
                tokio::select! {
                    _ = ticks.tick() => shared.holdings.sweep(),
                    () = shared.holdings.much.notified() => tokio::time::sleep(PAUSE).await,
                }
            }
            let Some(shared) = shared.upgrade() else { return };
            shared.holdings.added.store(0, Ordering::Relaxed);
            let mut fullest = None::<Fill>;
            for server in shared.link.servers() {
                // One that does not answer is asked again; what was known stays.
                let Ok(fill) = shared.link.fill(&server).await else { continue };
                let share = |fill: Fill| fill.used as f64 / fill.limit as f64;
                if fullest.is_none_or(|fullest| share(fill) > share(fullest)) {
                    fullest = Some(fill);
                }
            }
            let Some(Fill { used, limit }) = fullest else { continue };
            shared.holdings.used.store(used, Ordering::Relaxed);
            shared.holdings.limit.store(limit, Ordering::Relaxed);
            shared.metrics.filled(used, limit);
            if memory::is_under_pressure(used, limit) && told.is_none_or(|told| told.elapsed() >= TELL) {
                told = Some(Instant::now());
                tracing::warn!(
                    used,
                    limit,
                    "little memory is left in Redis: it takes no more of those for whom it holds most"
                );
            }
        }
    });
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
