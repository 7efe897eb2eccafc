//! Many nodes on one Redis or Valkey: standalone, behind Sentinels, or a Cluster. Nothing outside of here knows of it.
//! What its keys are and how long each lives is in docs/nodes.md.

mod answer;
mod batch;
mod held;
mod interest;
mod keyring;
mod lease;
mod link;
mod listener;
mod names;
mod plugins;
mod reaper;
mod rooms;
mod rounds;
mod scripts;
mod sessions;
mod shared;
mod url;
mod wire;
mod writer;

pub use keyring::Keyring;
pub use url::RedisUrl;

use super::*;
use crate::metrics::StoreMetrics;
use held::{Held, Leaving};
use link::Link;
use listener::{Listener, Request};
use names::Names;
use plugins::Plugins;
use rooms::Rooms;
use shared::Shared;
use tokio::sync::mpsc;
use writer::Writer;

/// Of the keys. A node refuses to start on keys of another.
const SCHEMA: &str = "1";
/// How long a room, a membership or a session is kept that nobody touches. What is in use is written again within a quarter
/// of it.
const KEEP: Duration = Duration::from_secs(24 * 3600);

/// What a session is called in Redis: a digest of its token, which is never seen there.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId([u8; 16]);

impl SessionToken {
    fn id(&self) -> SessionId {
        use sha2::Digest;
        let digest = sha2::Sha256::digest(self.0);
        SessionId(digest[..16].try_into().expect("sixteen bytes"))
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
    listener: mpsc::UnboundedSender<Request>,
    writer: Writer,
}

impl Redis {
    /// Waits until Redis is there, and says so. The error tells why these keys are not for this version.
    pub async fn connect(
        site: &Site,
        retention: Retention,
        metrics: StoreMetrics,
        feed: Feed,
    ) -> Result<Arc<Self>, String> {
        let (link, signals) = open(site, metrics.clone()).await?;
        let names = Names::new(&site.prefix);
        let shared = Shared::new(link, names, retention, metrics.clone(), feed.clone());
        let writer = Writer::start(&shared);
        let (listener, requests) = mpsc::unbounded_channel();
        // Members of a room that begins anew go on from there, also when they come back on another node.
        let rebasing = shared.clone();
        let feed: Feed = Arc::new(move |event| {
            if let Event::Lost { room, position } = &event {
                rebasing.held().rebase(room, position);
            }
            feed(event)
        });
        let (rooms, clock) = (shared.rooms.clone(), shared.clock.clone());
        let listens = Listener::new(rooms, feed, metrics, clock, listener.downgrade());
        tokio::spawn(listens.run(requests, signals));
        let store = Arc::new(Self { shared, listener, writer });
        lease::hold(&store).await.map_err(|error| error.to_string())?;
        Ok(store)
    }
}

/// Connects and compares the schema.
async fn open(site: &Site, metrics: StoreMetrics) -> Result<(Link, link::Signals), String> {
    let (mut said, mut count) = (String::new(), 0);
    // Each error once, and again now and then.
    let says = |error: &str| {
        if error != said || count % 10 == 0 {
            tracing::warn!(store = %site.url, error, "waiting for the store");
        }
        (said, count) = (error.to_owned(), count + 1);
    };
    let (link, signals) = Link::open(&site.url, metrics, says).await?;
    link.check_version().await?;
    let key = Names::new(&site.prefix).schema();
    let found = async {
        link.command("SET", vec![key.as_str().into(), SCHEMA.into(), "NX".into()]).await?;
        answer::text(link.command("GET", vec![key.as_str().into()]).await?)
    };
    let found = found.await.map_err(|error| error.to_string())?;
    if *found != *SCHEMA {
        return Err(format!(
            "the keys '{}:…' in {} are of schema {found}, this version has schema {SCHEMA}: run the version that they \
             belong to, or choose another store.prefix",
            site.prefix, site.url
        ));
    }
    Ok((link, signals))
}

#[async_trait::async_trait]
impl Store for Redis {
    fn watch(&self, room: &RoomName) {
        self.change(|held| held.list(room.shared()));
        self.listener.send(Request::Watch(room.clone())).ok();
    }

    fn unwatch(&self, room: &RoomName) {
        self.listener.send(Request::Unwatch(room.clone())).ok();
    }

    async fn publish(&self, message: Message<'_>) -> Result<Stored, Unavailable> {
        let (stored, new) = self.shared.rooms.publish(message).await?;
        self.list(message.room, new);
        Ok(stored)
    }

    async fn history(
        &self,
        room: &RoomName,
        after: Option<&Position>,
        limit: usize,
    ) -> Result<History, Unavailable> {
        let (page, new) = self.shared.rooms.read(&room.shared(), after, limit).await?;
        self.list(room, new);
        let (more, whole) = (page.has_more(), after.is_none_or(|after| page.is_whole_after(after)));
        let messages = page.messages.into_iter().map(|heard| heard.publication).collect();
        Ok(History { newest: page.newest, messages, more, whole })
    }

    async fn take_place(&self, principal: &Arc<str>, most: u32) -> Result<Result<(), u32>, Unavailable> {
        self.count(principal, most).await
    }

    fn give_back(&self, principal: &Arc<str>) {
        self.uncount(principal);
    }

    async fn create_session(
        &self,
        principal: &Arc<str>,
        connection: ConnectionId,
    ) -> Result<SessionToken, Unavailable> {
        self.create(principal, connection).await
    }

    async fn resume_session(
        &self,
        token: SessionToken,
        principal: &Arc<str>,
        connection: ConnectionId,
    ) -> Result<Option<Resumed>, Unavailable> {
        self.resume(token, principal, connection).await
    }

    fn detach(&self, token: SessionToken, connection: ConnectionId) {
        self.change(|held| held.let_go(token, connection, Leaving::Detached));
    }

    fn end_session(&self, token: SessionToken, connection: ConnectionId) {
        self.change(|held| held.let_go(token, connection, Leaving::Over));
    }

    async fn join(&self, token: SessionToken, joins: Vec<Join>) -> Result<(), Unavailable> {
        if joins.is_empty() {
            return Ok(());
        }
        self.change(|held| joins.into_iter().for_each(|join| held.join(token, join)));
        self.writer.written().await
    }

    async fn leave(&self, token: SessionToken, room: &RoomName) -> Result<(), Unavailable> {
        self.change(|held| held.leave(token, room));
        self.writer.written().await
    }

    fn acknowledge(&self, token: SessionToken, room: &RoomName, offset: u64) {
        self.change(|held| held.acknowledge(token, room, offset));
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

    async fn keys(&self, known: u64) -> Result<Option<StoredKeys>, Unavailable> {
        Keyring::of(self.shared.link.clone(), self.shared.names.clone()).newer(known).await
    }

    async fn plugins(&self, known: Option<u64>) -> Result<Option<StoredPlugins>, Unavailable> {
        self.versions().newer(known).await
    }

    async fn lineage(&self, plugin: &str) -> Result<Lineage, Unavailable> {
        self.versions().lineage(plugin).await
    }

    async fn change_plugin(&self, plugin: &str, change: Change<'_>) -> Result<bool, Unavailable> {
        self.versions().change(plugin, change).await
    }

    async fn plugin_code(&self, plugin: &str, sha256: &str) -> Result<Option<Bytes>, Unavailable> {
        self.versions().code(plugin, sha256).await
    }

    async fn report_plugins(&self, report: &str) -> Result<(), Unavailable> {
        self.versions().report(&self.shared.node.load(), self.shared.now(), report).await
    }

    async fn plugin_reports(&self) -> Result<Vec<(Arc<str>, String)>, Unavailable> {
        self.versions().reports(self.shared.now()).await
    }

    async fn check(&self) -> Result<(), Unavailable> {
        self.shared.link.ping().await?;
        match self.shared.metrics.lease.get() {
            1 => Ok(()),
            _ => Err(Unavailable("this node could not renew its lease yet".to_owned())),
        }
    }

    async fn close(&self) {
        // Otherwise others find out when the lease runs out, and clear away what is left.
        if self.writer.written().await.is_ok() {
            self.versions().unreport(&self.shared.node.load()).await.ok();
            lease::give_up(&self.shared).await;
        }
        self.shared.link.close();
    }
}

/// A room of which only its position is left is not shown.
fn is_in_use(room: &RoomSummary) -> bool {
    room.members > 0 || room.messages > 0
}

impl Redis {
    /// Notes what is to be written.
    fn change(&self, change: impl FnOnce(&mut Held)) {
        change(&mut self.shared.held());
        self.writer.wake();
    }

    fn versions(&self) -> Plugins<'_> {
        Plugins { link: &self.shared.link, names: &self.shared.names }
    }

    fn list(&self, room: &RoomName, new: bool) {
        if new {
            self.change(|held| held.list(room.shared()));
        }
    }
}

#[cfg(test)]
mod tests;
