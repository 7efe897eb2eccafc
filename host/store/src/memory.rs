//! The embedded store: everything in this process, gone with it. Rooms are spread over locks by name; a call
//! takes the lock of a session before that of a room, never the other way.

mod log;
mod plugins;
mod relief;
mod sessions;

use super::*;
use log::Log;
use plugins::Plugins;
use relief::Relief;
use sessions::{Sessions, Taken};
use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Mutex, MutexGuard},
};
use switchyard_process::{memory::MemoryAccount, vital::VitalTasks};

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
        let expired = self.sessions().expire(now);
        for (token, rooms) in expired {
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

    fn held_plugins(&self) -> MutexGuard<'_, Plugins> {
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

    /// A place, or how many are taken.
    fn permit(&self, principal: &Arc<str>, most: u32) -> Result<Permit, u32> {
        let count = self.counts.add(principal);
        let permit = Permit::new(principal.clone(), self.counts.clone());
        if count > most { Err(count - 1) } else { Ok(permit) }
    }

    fn forget(&self, token: SessionToken, room: &str) {
        self.existing(room, |log| log.forget(token));
    }
}

const HELD: &str = "no code panics while it holds the store";

fn taken_over() -> Unavailable {
    Unavailable("the session is another connection's".to_owned())
}

#[async_trait::async_trait]
impl Store for Memory {
    fn watch(&self, room: &RoomName) {
        self.with(room, |log| {
            log.watched = true;
            (self.feed)(Event::Watched { room: log.name.clone(), position: log.newest() });
        });
    }

    fn unwatch(&self, room: &RoomName) {
        self.existing(room, Log::unwatch);
    }

    fn publish(&self, message: Message<'_>) -> Storing {
        let publish = |log: &mut Log| {
            let now = Instant::now();
            if let Some(offset) = message.once().and_then(|once| log.known(once, now)) {
                return Some(Stored { position: log.position(offset), duplicate: true });
            }
            if message.needs_member && log.members.is_empty() {
                return None;
            }
            let publication = log.append(&message, &self.retention, now);
            let position = log.position(publication.offset);
            if log.watched {
                // Under the lock, so that the feed has the order of the offsets.
                (self.feed)(Event::Published(publication));
            }
            Some(Stored { position, duplicate: false })
        };
        let stored = match message.needs_member {
            true => self.existing(message.room, publish).flatten(),
            false => self.with(message.room, publish),
        };
        if self.account.is_under_pressure() {
            self.relieve();
        }
        Storing::Done(Some(Ok(stored)))
    }

    async fn history(
        &self,
        room: &RoomName,
        after: Option<&Position>,
        limit: PageLimit,
        reader: Reader,
    ) -> Result<History, Unavailable> {
        let read = match reader {
            Reader::Member => Some(self.with(room, |log| log.read(after, limit))),
            Reader::Other => self.existing(room, |log| log.read(after, limit)),
        };
        // Whoever only reads makes no room: the epoch of this one nobody else is told.
        Ok(read.unwrap_or_else(|| Log::new(room.shared(), Instant::now(), &self.account).read(after, limit)))
    }

    async fn take_place(&self, principal: &Arc<str>, most: u32) -> Result<Result<Permit, u32>, Unavailable> {
        Ok(self.permit(principal, most))
    }

    async fn create_session(
        &self,
        principal: &Arc<str>,
        connection: ConnectionId,
        joins: Vec<Join>,
    ) -> Result<SessionToken, Unavailable> {
        let token = self.sessions().create(principal, connection);
        self.join(Hold { token, connection }, joins).await?;
        Ok(token)
    }

    async fn resume_session(
        &self,
        token: SessionToken,
        principal: &Arc<str>,
        connection: ConnectionId,
        asked: Instant,
        most: Option<u32>,
    ) -> Result<Resume, Unavailable> {
        let mut sessions = self.sessions();
        let is_taken_over = sessions.is_taken_over(token, principal);
        let most = if is_taken_over { most.map(|_| u32::MAX) } else { most };
        let permit = match most.map(|most| self.permit(principal, most)).transpose() {
            Ok(permit) => permit,
            Err(count) => return Ok(Resume::Full(count)),
        };
        let (previous, names) = match sessions.resume(token, principal, connection, asked) {
            Taken::Held(previous, names) => (previous, names),
            Taken::Gone => return Ok(Resume::Gone(permit)),
            Taken::Again => return Ok(Resume::Again),
        };
        let membership = |room: RoomName| {
            let membership = self.existing(&room, |log| log.members.get(token))??;
            Some((room, membership))
        };
        let rooms = names.into_iter().filter_map(membership).collect();
        Ok(Resume::Held(Resumed { previous, rooms, permit }))
    }

    fn detach(&self, hold: Hold) {
        self.sessions().detach(hold, Instant::now());
    }

    fn end_session(&self, hold: Hold) {
        let rooms = self.sessions().end(hold);
        rooms.iter().for_each(|room| self.forget(hold.token, room));
    }

    fn vouch(&self, _hold: Hold) {}

    async fn join(&self, hold: Hold, joins: Vec<Join>) -> Result<(), Unavailable> {
        let mut sessions = self.sessions();
        for Join { room, membership, anew } in joins {
            let share = sessions.enter(hold, &room).ok_or_else(taken_over)?;
            self.with(&room, |log| log.enter(hold.token, &share, membership, anew));
        }
        Ok(())
    }

    async fn leave(&self, hold: Hold, rooms: Vec<RoomName>) -> Result<(), Unavailable> {
        let mut sessions = self.sessions();
        if !sessions.is_held(hold) {
            return Err(taken_over());
        }
        for room in rooms {
            sessions.exit(hold, &room);
            self.forget(hold.token, &room);
        }
        Ok(())
    }

    fn acknowledge(&self, hold: Hold, room: &RoomName, position: &Position) {
        let mut sessions = self.sessions();
        if sessions.is_held(hold) {
            self.existing(room, |log| log.members.acknowledge(hold.token, position));
        }
    }

    fn advance(&self, hold: Hold, room: &RoomName, position: &Position) {
        let mut sessions = self.sessions();
        if sessions.is_held(hold) {
            self.existing(room, |log| log.members.advance(hold.token, position));
        }
    }

    async fn members(&self, room: &str, most: usize) -> Result<Members, Unavailable> {
        let members = self.existing(room, |log| log.members.list(most));
        Ok(members.unwrap_or(Members { count: 0, principals: vec![], more: false }))
    }

    async fn receipt(&self, room: &str, offset: u64) -> Result<Option<Receipt>, Unavailable> {
        let receipt = self.existing(room, |log| {
            let known = (1..=log.newest().offset).contains(&offset);
            known.then(|| log.members.receipt(&log.position(offset)))
        });
        Ok(receipt.flatten())
    }

    async fn room(&self, room: &str) -> Result<Option<RoomSummary>, Unavailable> {
        Ok(self.existing(room, |log| log.summary()))
    }

    async fn rooms(&self, after: &str, limit: usize) -> Result<Vec<RoomSummary>, Unavailable> {
        let mut rooms = vec![];
        for stripe in &self.rooms {
            let logs = stripe.lock().expect(HELD);
            rooms.extend(logs.values().filter(|log| *log.name > *after).map(Log::summary));
        }
        rooms.sort_by(|a, b| a.room.cmp(&b.room));
        rooms.truncate(limit);
        Ok(rooms)
    }

    async fn keys(&self, _known: &StoredKeys) -> Result<Option<StoredKeys>, Unavailable> {
        Ok(None)
    }

    async fn plugins(&self, known: Option<&Revision>) -> Result<Option<StoredPlugins>, Unavailable> {
        Ok(self.held_plugins().newer(known))
    }

    async fn lineage(&self, plugin: &str) -> Result<Lineage, Unavailable> {
        Ok(self.held_plugins().lineage(plugin))
    }

    async fn change_plugin(&self, plugin: &str, change: Change<'_>) -> Result<bool, Unavailable> {
        Ok(self.held_plugins().change(plugin, change))
    }

    /// It loses nothing.
    async fn restore_plugin(
        &self,
        _plugin: &str,
        _lineage: &Lineage,
        _code: Vec<(String, Bytes)>,
    ) -> Result<(), Unavailable> {
        Ok(())
    }

    async fn plugin_code(&self, plugin: &str, sha256: &str) -> Result<Option<Bytes>, Unavailable> {
        Ok(self.held_plugins().code(plugin, sha256))
    }

    async fn report_plugins(&self, report: &str) -> Result<(), Unavailable> {
        self.held_plugins().report(report);
        Ok(())
    }

    async fn plugin_reports(&self) -> Result<Vec<(Arc<str>, String)>, Unavailable> {
        Ok(self.held_plugins().reports())
    }

    fn has_room(&self, share: &MemoryShare) -> bool {
        if !self.account.is_under_pressure() {
            return true;
        }
        self.relieve();
        share.may_grow()
    }

    async fn check(&self) -> Result<Option<String>, Unavailable> {
        Ok(None)
    }

    async fn close(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_keeps_the_contract() {
        super::contract::suite(Duration::from_secs(1), |retention, feed| async move {
            Memory::new(retention, feed, &MemoryAccount::unlimited(), &VitalTasks::default())
                as Arc<dyn Store>
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
        assert_eq!(store.rooms("", 10).await.unwrap().len(), 1);
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(store.rooms("", 10).await.unwrap(), []);
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
        assert_eq!(store.rooms("", 10).await.unwrap(), [], "reading makes no room");
        let connection = ConnectionId::random();
        let token = store.create_session(&"acme".into(), connection, vec![]).await.unwrap();
        let hold = Hold { token, connection };
        for name in &names {
            store.watch(name);
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
        names.iter().for_each(|name| store.unwatch(name));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(store.rooms("", 1000).await.unwrap().len(), kept.len());
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert_eq!(store.rooms("", 10).await.unwrap(), []);
        let places: usize = store.rooms.iter().map(|rooms| rooms.lock().unwrap().capacity()).sum();
        assert!(places < 10 * STRIPES, "{places} places for no room");
    }
}
