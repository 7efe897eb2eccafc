//! The store in Redis: assembles its parts, and passes each call to the part that answers it.

use crate::{
    Broker, ConnectionId, EventFeed, History, HistoryChange, Join, KeyRegistry, Members, Message, PageLimit,
    PendingPublish, PluginRegistry, RESPONSE_TIMEOUT, Reader, Receipt, RemoteStore, ResumeCheck,
    ResumeResult, Retention, Revision, RoomDirectory, RoomSummary, SessionHandle, SessionStore, SessionToken,
    SlotResult, Store, StoreMetrics, StoredKeys, StoredPlugins, Unavailable, VersionHistory,
    redis::{
        connecting::{StartupReporter, connect},
        context::{Context, faults::NodeFault},
        keyring::{Keyring, SyncedKeys},
        names::Names,
        nodes::{
            fullness,
            lease::{self, Leased},
            servers,
        },
        open_error::OpenError,
        plugins::PluginVersions,
        pubsub::{listener::PubsubListener, listener_request::ListenerRequest, publish_queue::PublishQueue},
        room_index::RoomIndex,
        sessions::{RedisSessions, ReleaseMode, record::RoomChanges},
        site::Site,
    },
};
use bytes::Bytes;
use std::sync::Arc;
use switchyard_process::{
    memory::{MemoryAccount, MemoryShare},
    vital::VitalTasks,
};
use switchyard_protocol::{Position, room::RoomName};
use tokio::{sync::mpsc, time::Instant};

/// The store in Redis, and this node's lease there. Convert it to a [`Store`] to use it.
pub struct RedisStore {
    pub(super) leased: Arc<Leased>,
    pub(super) publish_queue: Arc<PublishQueue>,
}

impl RedisStore {
    /// Connects as soon as Redis answers, and acquires this node's lease. Until then, `report` is called with
    /// each error, and each error is logged.
    ///
    /// What the node keeps for the store is charged to `memory`, and its long-running tasks are spawned on
    /// `vitals`.
    ///
    /// # Errors
    ///
    /// If the URL or the server cannot be used, or the keys there belong to another version of Switchyard.
    pub async fn connect(
        site: &Site,
        retention: Retention,
        metrics: StoreMetrics,
        feed: EventFeed,
        memory: &Arc<MemoryAccount>,
        report: impl Fn(&str) + Send + Sync,
        vitals: &VitalTasks,
    ) -> Result<Arc<Self>, OpenError> {
        let mut reporter = StartupReporter::new(site, report);
        let (link, events, connected) = connect(&mut reporter, metrics.clone(), vitals).await?;
        let names = Names::of(site);
        let context = Context::new(link, names, retention, metrics, feed, memory.clone());
        let (sessions, room_index) = (RedisSessions::new(&context), RoomIndex::new(&context));
        let (listener, requests) = mpsc::unbounded_channel();
        let listener_task = PubsubListener::new(&context, &sessions, &room_index, listener.downgrade());
        servers::watch(&context, connected, vitals).await;
        fullness::watch(&context, vitals);
        vitals.spawn("the listener of the Redis store", listener_task.run(requests, events));
        let publish_queue = PublishQueue::new(&context, &room_index);
        let leased = Arc::new(Leased { context, sessions, room_index, listener });
        while let Err(error) = lease::acquire(&leased, vitals).await {
            reporter.report_and_wait(&error).await;
        }
        leased.context.sample_clock().await;
        Ok(Arc::new(Self { leased, publish_queue }))
    }
}

#[async_trait::async_trait]
impl Broker for RedisStore {
    fn subscribe(&self, room: &RoomName) {
        self.leased.room_index.add(room);
        self.leased.listener.send(ListenerRequest::Subscribe(room.clone())).ok();
    }

    fn unsubscribe(&self, room: &RoomName) {
        self.leased.listener.send(ListenerRequest::Unsubscribe(room.clone())).ok();
    }

    fn publish(&self, message: Message<'_>) -> PendingPublish {
        self.publish_queue.publish(message)
    }

    fn find_stored(&self, room: &RoomName, principal: &str, idempotency_key: &str) -> Option<Position> {
        let Context { names, recent_keys, .. } = self.context();
        recent_keys.find(&names.once(room, (principal, idempotency_key)))
    }

    async fn history(
        &self,
        room: &RoomName,
        after: Option<&Position>,
        limit: PageLimit,
        reader: Reader,
    ) -> Result<History, Unavailable> {
        let page = match reader {
            Reader::Member => self.context().rooms.follow(&room.shared(), after, limit).await?,
            Reader::Other => self.context().rooms.read(&room.shared(), after, limit).await?,
        };
        let (more, whole) = (page.has_more(), after.is_none_or(|after| page.is_whole_after(after)));
        let messages = page.entries.into_iter().map(|entry| entry.publication).collect();
        Ok(History { newest: page.newest, oldest: page.oldest, messages, more, whole })
    }

    async fn clear_history(&self, room: &RoomName, epoch: &str) -> Result<(), Unavailable> {
        self.context().rooms.clear_history(room, epoch).await
    }

    fn has_capacity_for(&self, share: &MemoryShare) -> bool {
        self.context().usage.may_grow(share.principal())
    }
}

#[async_trait::async_trait]
impl SessionStore for RedisStore {
    async fn acquire_connection_slot(
        &self,
        principal: &Arc<str>,
        limit: u32,
    ) -> Result<SlotResult, Unavailable> {
        self.context().connections.acquire(principal, limit).await
    }

    async fn create(
        &self,
        principal: &Arc<str>,
        connection: ConnectionId,
        joins: Vec<Join>,
    ) -> Result<SessionToken, Unavailable> {
        self.leased.sessions.create(principal, connection, joins).await
    }

    async fn check_resume(
        &self,
        token: SessionToken,
        principal: &Arc<str>,
        limit: Option<u32>,
    ) -> Result<ResumeCheck, Unavailable> {
        self.leased.sessions.check_resume(token, principal, limit).await
    }

    async fn resume(
        &self,
        token: SessionToken,
        principal: &Arc<str>,
        connection: ConnectionId,
        requested_at: Instant,
        limit: Option<u32>,
    ) -> Result<ResumeResult, Unavailable> {
        self.leased.sessions.resume(token, principal, connection, requested_at, limit).await
    }

    fn detach(&self, handle: SessionHandle) {
        self.leased.sessions.release(handle.connection, ReleaseMode::Detach);
    }

    fn end(&self, handle: SessionHandle) {
        self.leased.sessions.release(handle.connection, ReleaseMode::End);
    }

    async fn join(&self, handle: SessionHandle, join: Vec<Join>) -> Result<(), Unavailable> {
        self.leased
            .sessions
            .change(handle.token, handle.connection, RoomChanges { join, leave: vec![] })
            .await
    }

    async fn leave(&self, handle: SessionHandle, leave: Vec<RoomName>) -> Result<(), Unavailable> {
        self.leased
            .sessions
            .change(handle.token, handle.connection, RoomChanges { join: vec![], leave })
            .await
    }

    fn acknowledge(&self, handle: SessionHandle, room: &RoomName, position: &Position) {
        self.leased.sessions.acknowledge(handle.connection, room, position);
    }

    fn advance(&self, handle: SessionHandle, room: &RoomName, position: &Position) {
        self.leased.sessions.advance(handle.connection, room, position);
    }
}

#[async_trait::async_trait]
impl RoomDirectory for RedisStore {
    async fn members(&self, room: &str, max_principals: usize) -> Result<Members, Unavailable> {
        self.context().rooms.members(room, max_principals).await
    }

    async fn receipt(&self, room: &str, offset: u64) -> Result<Option<Receipt>, Unavailable> {
        self.context().rooms.receipt(room, offset).await
    }

    async fn summary(&self, room: &str) -> Result<Option<RoomSummary>, Unavailable> {
        let summary = self.context().rooms.summary(room).await?;
        Ok(summary.filter(is_in_use))
    }

    async fn flush(&self) -> Result<(), Unavailable> {
        self.leased.room_index.try_write().await
    }

    async fn list(&self, after: &str, limit: usize) -> Result<Vec<RoomSummary>, Unavailable> {
        let (mut found, mut from) = (vec![], "-".to_owned());
        if !after.is_empty() {
            from = format!("({after}");
        }
        while found.len() < limit {
            let page = self.leased.room_index.page(&from, (limit - found.len()) as u64).await?;
            let Some(last) = page.last() else { break };
            from = format!("({}", last.name);
            found.extend(page.into_iter().filter_map(|room| room.summary).filter(is_in_use));
        }
        Ok(found)
    }
}

#[async_trait::async_trait]
impl KeyRegistry for RedisStore {
    async fn read(&self, known: &StoredKeys) -> Result<Option<StoredKeys>, Unavailable> {
        let keyring = Keyring::of(self.context().link.clone(), self.context().names.clone());
        let Some(SyncedKeys { keys, lost }) = keyring.sync(known).await? else { return Ok(None) };
        self.context().faults.set(NodeFault::Keys, lost);
        Ok(Some(keys))
    }
}

#[async_trait::async_trait]
impl PluginRegistry for RedisStore {
    async fn read(&self, known: Option<&Revision>) -> Result<Option<StoredPlugins>, Unavailable> {
        self.versions().newer(known).await
    }

    async fn history(&self, plugin: &str) -> Result<VersionHistory, Unavailable> {
        self.versions().history(plugin).await
    }

    async fn change(&self, plugin: &str, change: HistoryChange<'_>) -> Result<bool, Unavailable> {
        self.versions().change(plugin, change).await
    }

    async fn restore(
        &self,
        plugin: &str,
        history: &VersionHistory,
        code: Vec<(String, Bytes)>,
    ) -> Result<(), Unavailable> {
        self.versions().restore(plugin, history, code).await
    }

    async fn forget(&self, plugin: &str) -> Result<(), Unavailable> {
        self.versions().forget(plugin).await
    }

    async fn code(&self, plugin: &str, sha256: &str) -> Result<Option<Bytes>, Unavailable> {
        self.versions().code(plugin, sha256).await
    }

    async fn report(&self, report: &str) -> Result<(), Unavailable> {
        let now = self.context().cluster_time().await?;
        self.versions().report(&self.context().node.get(), now, report).await
    }

    async fn reports(&self) -> Result<Vec<(Arc<str>, String)>, Unavailable> {
        self.versions().reports(self.context().cluster_time().await?).await
    }
}

#[async_trait::async_trait]
impl RemoteStore for RedisStore {
    async fn check(&self) -> Result<Option<String>, Unavailable> {
        self.context().link.ping().await?;
        if self.context().metrics.lease.get() != 1 {
            let why = self.context().link.errors.lease().map_or(String::new(), |error| format!(": {error}"));
            return Err(Unavailable(format!("this node has not renewed its lease yet{why}")));
        }
        if let Some(reason) = self.context().faults.first() {
            return Err(Unavailable(reason));
        }
        // One server of a Cluster may refuse what other servers do.
        match self.context().link.errors.refusal() {
            Some(refusal) if self.context().link.is_clustered() => {
                return Ok(Some(format!("a server of the Cluster rejects commands: {refusal}")));
            }
            Some(refusal) => return Err(Unavailable(format!("Redis rejects commands: {refusal}"))),
            None => {}
        }
        let failing = |slots| {
            format!(
                "{slots} slots of the Cluster cannot be reached; their rooms and sessions are not available"
            )
        };
        Ok(Some(self.context().link.failing_slots()).filter(|slots| *slots > 0).map(failing))
    }

    fn has_one_server(&self) -> bool {
        !self.context().link.is_clustered()
    }

    fn confirm_alive(&self, handle: SessionHandle) {
        self.leased.sessions.reclaim(handle.connection);
    }

    async fn close(&self) {
        let Leased { context, sessions, room_index, .. } = &*self.leased;
        tokio::time::timeout(RESPONSE_TIMEOUT, self.publish_queue.wait_until_idle()).await.ok();
        tokio::join!(
            sessions.all_released(),
            context.acknowledgements.written(),
            context.connections.written()
        );
        room_index.write().await;
        self.versions().delete_report(&context.node.get()).await.ok();
        // Otherwise, the other nodes notice only when the lease expires.
        lease::release(context).await;
        context.link.close();
    }
}

impl From<Arc<RedisStore>> for Store {
    fn from(redis: Arc<RedisStore>) -> Self {
        Self {
            broker: redis.clone(),
            sessions: redis.clone(),
            rooms: redis.clone(),
            plugins: redis.clone(),
            governance: redis.clone(),
            denials: redis.clone(),
            keys: Some(redis.clone()),
            shared_values: Some(redis.clone()),
            remote: Some(redis),
        }
    }
}

/// Whether the room has more than its position. Other rooms are not shown.
fn is_in_use(room: &RoomSummary) -> bool {
    room.members > 0 || room.messages > 0
}

impl RedisStore {
    pub(super) fn context(&self) -> &Context {
        &self.leased.context
    }

    fn versions(&self) -> PluginVersions<'_> {
        PluginVersions { link: &self.context().link, names: &self.context().names }
    }
}
