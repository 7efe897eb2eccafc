//! The embedded store: everything in this process, gone with it. Rooms are spread over locks by name; a call
//! takes the lock of a session before that of a room, never the other way.

mod broker;
mod log;
mod plugins;
mod relief;
mod room_directory;
mod session_store;
mod sessions;

use crate::{Feed, Retention, SessionToken, Store, counts::Counts};
use log::Log;
use plugins::Plugins;
use relief::Relief;
use sessions::Sessions;
use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use switchyard_process::{memory::MemoryAccount, vital::VitalTasks};
use switchyard_protocol::room::RoomName;
use tokio::time::Instant;

/// Locks over which rooms are spread: well above the number of cores, so that two seldom meet.
const STRIPES: usize = 64;
/// How often what has passed its age is dropped.
const SWEEP: Duration = Duration::from_secs(1);
/// A room that nobody is in, that holds nothing and was not used for so long is forgotten; its epoch ends.
const IDLE: Duration = Duration::from_secs(30);

pub struct Memory {
    retention: Retention,
    feed: Feed,
    counts: Arc<Counts>,
    hasher: RandomState,
    rooms: Vec<Mutex<HashMap<Arc<str>, Log>>>,
    sessions: Mutex<Sessions>,
    plugins: Mutex<Plugins>,
    account: Arc<MemoryAccount>,
    relief: Relief,
}

impl Memory {
    /// A store whose sweeping ends with it.
    pub fn new(
        retention: Retention,
        feed: Feed,
        account: &Arc<MemoryAccount>,
        vitals: &VitalTasks,
    ) -> Arc<Self> {
        let store = Arc::new(Self {
            retention,
            feed,
            counts: Arc::default(),
            hasher: RandomState::new(),
            rooms: (0..STRIPES).map(|_| Mutex::default()).collect(),
            sessions: Mutex::new(Sessions::new(retention.session, account)),
            plugins: Mutex::default(),
            account: account.clone(),
            relief: Relief::default(),
        });
        let weak = Arc::downgrade(&store);
        vitals.spawn("the sweep of the memory store", async move {
            let mut ticks = tokio::time::interval(SWEEP);
            loop {
                ticks.tick().await;
                let Some(store) = weak.upgrade() else { return };
                store.sweep();
                store.relieve();
            }
        });
        store
    }

    fn sweep(&self) {
        let now = Instant::now();
        let expire = || self.sessions().expire(now);
        for (token, rooms) in std::iter::from_fn(expire).flatten() {
            rooms.iter().for_each(|room| self.forget(token, room));
        }
        for stripe in &self.rooms {
            let mut rooms = stripe.lock().expect(HELD);
            rooms.retain(|_, log| {
                log.trim(&self.retention, now);
                !log.is_idle(now, IDLE)
            });
            // What a flood of names took is given back when they are gone.
            if rooms.len() < rooms.capacity() / 4 {
                let most = 2 * rooms.len();
                rooms.shrink_to(most);
            }
        }
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().expect(HELD)
    }

    fn plugins(&self) -> MutexGuard<'_, Plugins> {
        self.plugins.lock().expect(HELD)
    }

    fn stripe(&self, room: &str) -> MutexGuard<'_, HashMap<Arc<str>, Log>> {
        let stripe = self.hasher.hash_one(room) as usize % STRIPES;
        self.rooms[stripe].lock().expect(HELD)
    }

    /// The room's log, made where there is none, trimmed.
    fn with<T>(&self, room: &RoomName, act: impl FnOnce(&mut Log) -> T) -> T {
        let now = Instant::now();
        let mut rooms = self.stripe(room);
        let log = match rooms.get_mut(room.as_str()) {
            Some(log) => log,
            None => rooms.entry(room.shared()).or_insert_with(|| Log::new(room.shared(), now, &self.account)),
        };
        log.trim(&self.retention, now);
        act(log)
    }

    fn existing<T>(&self, room: &str, act: impl FnOnce(&mut Log) -> T) -> Option<T> {
        let mut rooms = self.stripe(room);
        rooms.get_mut(room).map(|log| {
            log.trim(&self.retention, Instant::now());
            act(log)
        })
    }

    fn forget(&self, token: SessionToken, room: &str) {
        self.existing(room, |log| log.forget(token));
    }
}

const HELD: &str = "no code panics while it holds the store";

impl From<Arc<Memory>> for Store {
    fn from(memory: Arc<Memory>) -> Self {
        Self {
            broker: memory.clone(),
            sessions: memory.clone(),
            rooms: memory.clone(),
            plugins: memory,
            keys: None,
            remote: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Broker, ConnectionId, HistoryConfig, Hold, Join, KEY_TTL, Membership, Message, PageLimit, Reader,
        RoomDirectory, SessionStore,
    };

    #[tokio::test(start_paused = true)]
    async fn it_keeps_the_contract() {
        crate::contract::suite(Duration::from_secs(1), |retention, feed| async move {
            Store::from(Memory::new(retention, feed, &MemoryAccount::unlimited(), &VitalTasks::default()))
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_room_that_nobody_needs_is_forgotten() {
        let retention =
            Retention { history: HistoryConfig::default(), session: Duration::from_secs(120), key: KEY_TTL };
        let store =
            Memory::new(retention, Arc::new(|_| true), &MemoryAccount::unlimited(), &VitalTasks::default());
        let room = RoomName::parse("fleeting").unwrap();
        store
            .publish(Message {
                room: &room,
                event: None,
                data: "1",
                who: &"p".into(),
                key: None,
                needs_member: false,
            })
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_secs(590)).await;
        assert_eq!(store.list("", 10).await.unwrap().len(), 1);
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(store.list("", 10).await.unwrap(), []);
    }

    /// Each such name stayed for ten minutes, and so did what was only read.
    #[tokio::test(start_paused = true)]
    async fn names_that_were_only_visited_are_gone_within_a_minute() {
        let retention =
            Retention { history: HistoryConfig::default(), session: Duration::from_secs(120), key: KEY_TTL };
        let store =
            Memory::new(retention, Arc::new(|_| true), &MemoryAccount::unlimited(), &VitalTasks::default());
        let names: Vec<_> = (0..1000).map(|n| RoomName::parse(&format!("visited:{n}")).unwrap()).collect();
        for name in &names {
            let (read, again) = (
                store.history(name, None, PageLimit::NONE, Reader::Other).await,
                store.history(name, None, PageLimit::NONE, Reader::Other).await,
            );
            let (read, again) = (read.unwrap(), again.unwrap());
            assert!(read.messages.is_empty() && read.newest.offset == 0 && read.newest != again.newest);
            store.members(name, 10).await.unwrap();
            store.receipt(name, 1).await.unwrap();
        }
        assert_eq!(store.list("", 10).await.unwrap(), [], "reading makes no room");
        let connection = ConnectionId::random();
        let token = store.create(&"acme".into(), connection, vec![]).await.unwrap();
        let hold = Hold { token, connection };
        for name in &names {
            store.subscribe(name);
            let position = store.history(name, None, PageLimit::NONE, Reader::Other).await.unwrap().newest;
            let membership = Membership { filter: None, position: position.clone() };
            store.join(hold, vec![Join { room: name.clone(), membership, anew: true }]).await.unwrap();
            assert_eq!(
                store.history(name, None, PageLimit::NONE, Reader::Other).await.unwrap().newest,
                position
            );
        }
        // A member that may come back keeps its rooms, and nothing else does.
        let (kept, left) = names.split_at(10);
        store.leave(hold, left.to_vec()).await.unwrap();
        store.detach(hold);
        names.iter().for_each(|name| store.unsubscribe(name));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(store.list("", 1000).await.unwrap().len(), kept.len());
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert_eq!(store.list("", 10).await.unwrap(), []);
        let places: usize = store.rooms.iter().map(|rooms| rooms.lock().unwrap().capacity()).sum();
        assert!(places < 10 * STRIPES, "{places} places for no room");
    }
}
