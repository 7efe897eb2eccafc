//! What Redis holds for each principal, about, as far as it came by way of this node, and how full Redis is. Redis tells nobody apart:
//! where little is left, it is the nodes that give no more to whom they have given much.

use super::Shared;
use crate::{
    memory::{self, Charge, Kind, Share},
    room::RoomName,
    store::Retention,
    vital::Vitals,
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// How often the servers are asked; what this node adds meanwhile it counts itself.
const LOOK: Duration = Duration::from_secs(2);
/// Where this node alone added this part of the limit since, others may have as well: they are asked at once, but not more often than this.
const MUCH: usize = 50;
const PAUSE: Duration = Duration::from_millis(50);
/// How often it is told at most that little is left.
const TELL: Duration = Duration::from_secs(60);

/// What these take in Redis beside their texts, about, as measured with version 7.
const ROOM: usize = 4700;
const MESSAGE: usize = 100;
const KEY: usize = 200;
const SESSION: usize = 1000;
const MEMBERSHIP: usize = 1800;
/// What this node keeps of a room.
const NOTE: usize = 200;

/// How full a server is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fill {
    pub used: usize,
    pub limit: usize,
}

pub struct Holdings {
    retention: Retention,
    /// Of the server that is fullest.
    used: AtomicUsize,
    limit: AtomicUsize,
    /// What this node added since it looked.
    added: AtomicUsize,
    much: Notify,
    began: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    rooms: HashMap<RoomName, Room>,
    /// What ends by itself, by the second, and whose it is.
    ends: BTreeMap<(u64, Arc<str>), usize>,
    sums: HashMap<Arc<str>, usize>,
}

/// A room that was published to.
struct Room {
    /// Of who published last, who answers for all that the room holds.
    charge: Charge,
    messages: usize,
    bytes: usize,
    until: Instant,
}

impl Room {
    fn size(&self) -> usize {
        ROOM + self.bytes
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
        *sum -= bytes;
        if *sum == 0 {
            self.sums.remove(who);
        }
    }
}

impl Holdings {
    pub fn new(retention: Retention) -> Self {
        let (used, limit, added) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX), AtomicUsize::new(0));
        let much = Notify::new();
        Self { retention, used, limit, added, much, began: Instant::now(), state: Mutex::default() }
    }

    /// Whether Redis may hold more for a principal.
    pub fn has_room(&self, who: &Arc<str>) -> bool {
        let Fill { used, limit } = self.fill();
        !memory::is_tight(used, limit) || {
            let own = self.state().sums.get(who).copied().unwrap_or(0);
            memory::may_grow(own, used, limit)
        }
    }

    fn fill(&self) -> Fill {
        Fill { used: self.used.load(Ordering::Relaxed), limit: self.limit.load(Ordering::Relaxed) }
    }

    /// A message was stored, maybe with its idempotency key, of so many bytes.
    pub fn published(&self, room: &RoomName, share: &Arc<Share>, bytes: usize, key: Option<usize>) {
        let (now, history) = (Instant::now(), &self.retention.history);
        let (who, mut state) = (share.principal(), self.state());
        let new = || {
            let charge = share.charge(Kind::Rooms, NOTE + room.len());
            Room { charge, messages: 0, bytes: 0, until: now }
        };
        let is_new = !state.rooms.contains_key(room);
        let known = state.rooms.entry(room.clone()).or_insert_with(new);
        let before = if is_new { 0 } else { known.size() };
        let payer = known.charge.share().principal().clone();
        if payer != *who {
            known.charge.move_to(share);
        }
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
        let size = known.size();
        if payer != *who {
            state.subtract(&payer, before);
            state.add(who, before);
        }
        match size >= before {
            true => state.add(who, size - before),
            false => state.subtract(who, before - size),
        }
        drop(state);
        let mut grown = size.saturating_sub(before);
        if let Some(length) = key {
            grown += KEY + length;
            self.until(who, KEY + length, self.retention.key);
        }
        self.used.fetch_add(grown, Ordering::Relaxed);
        let added = self.added.fetch_add(grown, Ordering::Relaxed) + grown;
        if added > self.limit.load(Ordering::Relaxed) / MUCH {
            self.much.notify_one();
        }
    }

    /// A session was let go that may be resumed, and is in so many rooms.
    pub fn detached(&self, who: &Arc<str>, rooms: usize) {
        self.until(who, SESSION + rooms * MEMBERSHIP, self.retention.session);
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
        for (_, room) in over {
            state.subtract(room.charge.share().principal(), room.size());
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
pub fn watch(shared: &Arc<Shared>, vitals: &Vitals) {
    let shared = Arc::downgrade(shared);
    vitals.task("the watch over Redis' memory", async move {
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
            if memory::is_tight(used, limit) && told.is_none_or(|told| told.elapsed() >= TELL) {
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
    use crate::{memory::Account, store::HistoryConfig};

    const SESSION_TTL: Duration = Duration::from_secs(120);

    fn holdings(limit: usize) -> Holdings {
        let history =
            HistoryConfig { messages: 10, age: Duration::from_secs(600), ..HistoryConfig::default() };
        let key = Duration::from_secs(300);
        let holdings = Holdings::new(Retention { history, session: SESSION_TTL, key });
        holdings.limit.store(limit, Ordering::Relaxed);
        holdings
    }

    fn room(n: usize) -> RoomName {
        RoomName::parse(&format!("room:{n}")).unwrap()
    }

    /// One key filled Redis with fresh rooms at 63 MB/s, until nobody could publish.
    #[tokio::test(start_paused = true)]
    async fn who_has_redis_hold_much_is_refused_and_others_are_not() {
        let (holdings, account) = (holdings(10_000_000), Account::boundless());
        let [mallory, acme] = ["mallory", "acme"].map(|name| account.share(&name.into()));
        let mut n = 0;
        while holdings.has_room(mallory.principal()) {
            holdings.published(&room(n), &mallory, 10, None);
            n += 1;
            assert!(n < 10_000, "it is never refused");
        }
        assert!(holdings.fill().used < 8_100_000, "{:?}", holdings.fill());
        assert!(holdings.has_room(acme.principal()));
        assert!(account.used(Kind::Rooms) > n * NOTE, "what is noted of them is counted");
        tokio::time::advance(Duration::from_secs(601)).await;
        holdings.sweep();
        assert!(holdings.has_room(mallory.principal()));
        assert_eq!((account.total(), holdings.state().sums.len()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_goes_again_is_not_counted_for_ever() {
        let (holdings, account) = (holdings(usize::MAX), Account::boundless());
        let [feed, other] = ["feed", "other"].map(|name| account.share(&name.into()));
        let sum = |share: &Share| holdings.state().sums.get(share.principal()).copied().unwrap_or(0);
        for _ in 0..1000 {
            holdings.published(&room(1), &feed, 1000, None);
        }
        assert_eq!(sum(&feed), ROOM + 10 * 1100, "a room holds no more than its newest messages");
        holdings.published(&room(1), &other, 1000, Some(20));
        assert_eq!((sum(&feed), sum(&other)), (0, ROOM + 10 * 1100 + KEY + 20));
        holdings.detached(feed.principal(), 5);
        assert_eq!(sum(&feed), SESSION + 5 * MEMBERSHIP);
        tokio::time::advance(SESSION_TTL + Duration::from_secs(2)).await;
        holdings.sweep();
        assert_eq!(sum(&feed), 0);
        tokio::time::advance(Duration::from_secs(182)).await;
        holdings.sweep();
        assert_eq!(sum(&other), ROOM + 10 * 1100);
    }
}
