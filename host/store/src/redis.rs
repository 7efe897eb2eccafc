//! Many nodes on one Redis or Valkey: standalone, behind Sentinels, or a Cluster. Nothing outside of here knows of it.
//! What its keys are and how long each lives is in docs/nodes.md.

mod answer;
mod batcher;
mod clock;
mod cluster_time;
mod connections;
mod estate;
mod holdings;
mod interest;
mod keyring;
mod lease;
mod link;
mod listener;
mod listing;
mod looks;
mod members;
#[cfg(test)]
pub(crate) mod model;
mod names;
mod opening;
mod patrol;
mod plugins;
mod publishing;
mod reaper;
mod record;
mod rooms;
mod rounds;
mod scripts;
mod servers;
mod sessions;
mod shared;
mod trouble;
mod unsure;
mod url;
mod wire;

pub use keyring::Keyring;
pub use link::Replication;
pub use url::RedisUrl;

use super::*;
use crate::StoreMetrics;
use holdings::{Joining, MEMBERSHIP};
use keyring::Synced;
use link::Link;
use listener::{Listener, Request};
use names::Names;
use opening::{Waiting, claim_schema, open};
use plugins::Plugins;
use publishing::Publishing;
use record::Change as Rooming;
use rooms::Rooms;
use sessions::Leaving;
use shared::{Fault, Shared};
use switchyard_process::{
    memory::{MemoryAccount, MemoryShare},
    vital::VitalTasks,
};
use tokio::sync::mpsc;

/// Of the keys. A node refuses to start on keys of another.
const SCHEMA: &str = "3";
/// How long a room, a membership or a session is kept that nobody touches. What is in use is written again within a quarter
/// of it.
const KEEP: Duration = Duration::from_secs(24 * 3600);
/// How long a room is kept that has no messages, no key to remember and nobody in it. Nodes that listen to a room look at it every
/// 5 s, and so keep it.
const UNNEEDED: Duration = Duration::from_secs(45);

/// What a session is called in Redis: a digest of its token, which is never seen there.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SessionId([u8; 16]);

impl SessionToken {
    fn id(&self) -> SessionId {
        use sha2::Digest;
        let digest = sha2::Sha256::digest(self.0);
        SessionId(digest[..16].try_into().expect("sixteen bytes"))
    }
}

impl SessionId {
    fn parse(text: &str) -> Option<Self> {
        let bits = u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32)?;
        Some(Self(bits.to_be_bytes()))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// Where the store is.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    pub url: RedisUrl,
    /// Of all keys.
    pub prefix: String,
}

pub struct Redis {
    shared: Arc<Shared>,
    publishing: Arc<Publishing>,
    listener: mpsc::UnboundedSender<Request>,
}

impl Redis {
    /// Waits until Redis is there and answers, and says what is in the way. The error tells why these keys are not for this version.
    pub async fn connect(
        site: &Site,
        retention: Retention,
        metrics: StoreMetrics,
        feed: Feed,
        memory: &Arc<MemoryAccount>,
        status: impl Fn(&str) + Send + Sync,
        vitals: &VitalTasks,
    ) -> Result<Arc<Self>, String> {
        let mut waiting = Waiting::new(site, status);
        let (link, signals, connected) = open(&mut waiting, metrics.clone(), vitals).await?;
        let names = Names::of(site);
        let shared = Shared::new(link, names, retention, metrics, feed, memory.clone());
        let (listener, requests) = mpsc::unbounded_channel();
        let listens = Listener::new(&shared, listener.downgrade());
        servers::watch(&shared, connected, vitals).await;
        holdings::watch(&shared, vitals);
        vitals.spawn("the listener of the Redis store", listens.run(requests, signals));
        let publishing = Publishing::new(&shared);
        let store = Arc::new(Self { shared, publishing, listener });
        while let Err(error) = lease::hold(&store, vitals).await {
            waiting.pauses(&error).await;
        }
        store.shared.look_at_clock().await;
        Ok(store)
    }
}

#[async_trait::async_trait]
impl Store for Redis {
    fn watch(&self, room: &RoomName) {
        self.shared.list(room);
        self.listener.send(Request::Watch(room.clone())).ok();
    }

    fn unwatch(&self, room: &RoomName) {
        self.listener.send(Request::Unwatch(room.clone())).ok();
    }

    fn has_room(&self, share: &MemoryShare) -> bool {
        self.shared.holdings.has_room(share.principal())
    }

    fn publish(&self, message: Message<'_>) -> Storing {
        self.publishing.publish(message)
    }

    async fn history(
        &self,
        room: &RoomName,
        after: Option<&Position>,
        limit: PageLimit,
        reader: Reader,
    ) -> Result<History, Unavailable> {
        let page = match reader {
            Reader::Member => self.shared.rooms.follow(&room.shared(), after, limit).await?,
            Reader::Other => self.shared.rooms.read(&room.shared(), after, limit).await?,
        };
        let (more, whole) = (page.has_more(), after.is_none_or(|after| page.is_whole_after(after)));
        let messages = page.messages.into_iter().map(|heard| heard.publication).collect();
        Ok(History { newest: page.newest, oldest: page.oldest, messages, more, whole })
    }

    async fn take_place(&self, principal: &Arc<str>, most: u32) -> Result<Result<Permit, u32>, Unavailable> {
        self.shared.connections.take(principal, most).await
    }

    async fn create_session(
        &self,
        principal: &Arc<str>,
        connection: ConnectionId,
        joins: Vec<Join>,
    ) -> Result<SessionToken, Unavailable> {
        let (count, bytes) = (joins.len(), size(&joins));
        let created = self.shared.create(principal, connection, joins).await?;
        self.shared.holdings.joined(connection, principal, count, bytes);
        Ok(created)
    }

    async fn resume_session(
        &self,
        token: SessionToken,
        principal: &Arc<str>,
        connection: ConnectionId,
        asked: Instant,
        most: Option<u32>,
    ) -> Result<Resume, Unavailable> {
        let resumed = self.shared.resume(token, principal, connection, asked, most).await?;
        if let Resume::Held(Resumed { rooms, .. }) = &resumed {
            let filter = |membership: &Membership| membership.filter.as_deref().map_or(0, str::len);
            let bytes = rooms.iter().map(|(_, membership)| MEMBERSHIP + filter(membership)).sum();
            self.shared.holdings.joined(connection, principal, rooms.len(), bytes);
        }
        Ok(resumed)
    }

    fn detach(&self, hold: Hold) {
        self.shared.holdings.detached(hold.connection, self.shared.retention.session);
        self.shared.let_go(hold.connection, Leaving::Detached);
    }

    fn end_session(&self, hold: Hold) {
        self.shared.holdings.detached(hold.connection, Duration::ZERO);
        self.shared.let_go(hold.connection, Leaving::Over);
    }

    fn vouch(&self, hold: Hold) {
        self.shared.vouch(hold.connection);
    }

    async fn join(&self, hold: Hold, join: Vec<Join>) -> Result<(), Unavailable> {
        let (count, bytes, holdings) = (join.len(), size(&join), &self.shared.holdings);
        let who = self.shared.sessions.of(hold.connection).map(|session| session.principal.clone());
        let joining = who.map(|who| holdings.joining(hold.connection, &who, count, bytes)).transpose()?;
        self.shared.change(hold.token, hold.connection, Rooming { join, leave: vec![] }).await?;
        joining.into_iter().for_each(Joining::done);
        Ok(())
    }

    async fn leave(&self, hold: Hold, leave: Vec<RoomName>) -> Result<(), Unavailable> {
        let count = leave.len();
        self.shared.change(hold.token, hold.connection, Rooming { join: vec![], leave }).await?;
        self.shared.holdings.left(hold.connection, count);
        Ok(())
    }

    fn acknowledge(&self, hold: Hold, room: &RoomName, position: &Position) {
        self.shared.acknowledge(hold.connection, room, position);
    }

    fn advance(&self, hold: Hold, room: &RoomName, position: &Position) {
        self.shared.advance(hold.connection, room, position);
    }

    async fn members(&self, room: &str, most: usize) -> Result<Members, Unavailable> {
        self.shared.rooms.members(room, most).await
    }

    async fn receipt(&self, room: &str, offset: u64) -> Result<Option<Receipt>, Unavailable> {
        self.shared.rooms.receipt(room, offset).await
    }

    async fn room(&self, room: &str) -> Result<Option<RoomSummary>, Unavailable> {
        let summary = self.shared.rooms.summary(room).await?;
        Ok(summary.filter(is_in_use))
    }

    async fn rooms(&self, after: &str, limit: usize) -> Result<Vec<RoomSummary>, Unavailable> {
        let (mut found, mut from) = (vec![], "-".to_owned());
        if !after.is_empty() {
            from = format!("({after}");
        }
        while found.len() < limit {
            let page = self.shared.rooms.page(&from, (limit - found.len()) as u64).await?;
            let Some((last, _)) = page.last() else { break };
            from = format!("({last}");
            found.extend(page.into_iter().filter_map(|(_, summary)| summary).filter(is_in_use));
        }
        Ok(found)
    }

    async fn keys(&self, known: &StoredKeys) -> Result<Option<StoredKeys>, Unavailable> {
        let keyring = Keyring::of(self.shared.link.clone(), self.shared.names.clone());
        let Some(Synced { keys, lost }) = keyring.sync(known).await? else { return Ok(None) };
        self.shared.faults.set(Fault::Keys, lost);
        Ok(Some(keys))
    }

    async fn plugins(&self, known: Option<&Revision>) -> Result<Option<StoredPlugins>, Unavailable> {
        self.versions().newer(known).await
    }

    async fn lineage(&self, plugin: &str) -> Result<Lineage, Unavailable> {
        self.versions().lineage(plugin).await
    }

    async fn change_plugin(&self, plugin: &str, change: Change<'_>) -> Result<bool, Unavailable> {
        self.versions().change(plugin, change).await
    }

    async fn restore_plugin(
        &self,
        plugin: &str,
        lineage: &Lineage,
        code: Vec<(String, Bytes)>,
    ) -> Result<(), Unavailable> {
        self.versions().restore(plugin, lineage, code).await
    }

    async fn plugin_code(&self, plugin: &str, sha256: &str) -> Result<Option<Bytes>, Unavailable> {
        self.versions().code(plugin, sha256).await
    }

    async fn report_plugins(&self, report: &str) -> Result<(), Unavailable> {
        let now = self.shared.cluster_time().await?;
        self.versions().report(&self.shared.node.load(), now, report).await
    }

    async fn plugin_reports(&self) -> Result<Vec<(Arc<str>, String)>, Unavailable> {
        self.versions().reports(self.shared.cluster_time().await?).await
    }

    async fn check(&self) -> Result<Option<String>, Unavailable> {
        self.shared.link.ping().await?;
        if self.shared.metrics.lease.get() != 1 {
            let why = self.shared.link.trouble.lease().map_or(String::new(), |error| format!(": {error}"));
            return Err(Unavailable(format!("this node could not renew its lease yet{why}")));
        }
        if let Some(reason) = self.shared.faults.first() {
            return Err(Unavailable(reason));
        }
        // A server of a Cluster may refuse what others do.
        match self.shared.link.trouble.refusal() {
            Some(refusal) if self.shared.link.is_clustered() => {
                return Ok(Some(format!("a server of the Cluster refuses: {refusal}")));
            }
            Some(refusal) => return Err(Unavailable(format!("Redis refuses: {refusal}"))),
            None => {}
        }
        let failing = |slots| {
            format!(
                "{slots} slots of the Cluster cannot be reached: rooms and sessions that are there are refused"
            )
        };
        Ok(Some(self.shared.link.failing_slots()).filter(|slots| *slots > 0).map(failing))
    }

    async fn close(&self) {
        let shared = &self.shared;
        tokio::time::timeout(PATIENCE, self.publishing.idle()).await.ok();
        tokio::join!(shared.sessions.left(), shared.members.written(), shared.connections.written());
        shared.write_list().await;
        self.versions().unreport(&shared.node.load()).await.ok();
        // Otherwise others find out when the lease runs out, and clear away what is left.
        lease::give_up(shared).await;
        shared.link.close();
    }
}

/// What memberships take in Redis, about.
fn size(joins: &[Join]) -> usize {
    joins.iter().map(|join| MEMBERSHIP + join.membership.filter.as_deref().map_or(0, str::len)).sum()
}

/// In which epoch a registry begins that is not there.
fn new_registry() -> String {
    format!("{:08x}", u32::from_le_bytes(random()))
}

/// A room of which only its position is left is not shown.
fn is_in_use(room: &RoomSummary) -> bool {
    room.members > 0 || room.messages > 0
}

impl Redis {
    fn versions(&self) -> Plugins<'_> {
        Plugins { link: &self.shared.link, names: &self.shared.names }
    }
}

#[cfg(test)]
mod tests;
