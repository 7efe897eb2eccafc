//! The live connections of this node: found by id, within the limit of their principal, ended when their key is.

use super::{Hub, pings::Pings, unavailable};
use crate::{
    key::{Key, Keys},
    outbox::Outbox,
};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    ops::Bound,
    sync::{
        Arc, OnceLock, RwLock,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
};
use switchyard_process::memory::{MemoryAccount, MemoryCharge, MemoryKind, MemoryShare};
use switchyard_protocol::{Close, ErrorCode, Frame, Position, Refusal, reply, room::RoomName, unix_ms};
use switchyard_store::{
    ConnectionId, Hold, Permit, SessionToken,
    key::{Digest, Scope},
};

/// An authenticated connection, as everybody but its own task sees it.
pub(crate) struct Connection {
    pub id: ConnectionId,
    /// Set before the client hears of it.
    pub session: OnceLock<SessionToken>,
    pub key: Digest,
    pub principal: Arc<str>,
    /// What the principal answers for of what the node keeps.
    pub share: Arc<MemoryShare>,
    pub remote: SocketAddr,
    /// Unix milliseconds.
    pub since: u64,
    /// Rooms joined, `*` and the inbox not counted.
    pub rooms: AtomicU32,
    /// An operator ended it: its session does not outlive it.
    pub ended: AtomicBool,
    pub outbox: Outbox,
    /// Bytes kept back in all rooms in which it catches up.
    pub kept_back: AtomicUsize,
    pub pings: Pings,
}

#[derive(Default)]
pub(crate) struct Connections {
    by_id: RwLock<BTreeMap<ConnectionId, Arc<Connection>>>,
}

const HELD: &str = "no code panics while it holds the connections";

impl Hub {
    /// A connection slot within the tier's limit, on all nodes together.
    pub(crate) async fn acquire_connection_slot(&self, key: &Key) -> Result<Permit, Refusal> {
        let taken = self.store.sessions.acquire_connection_slot(&key.principal, key.limits.connections).await;
        taken.map_err(unavailable)?.map_err(|count| too_many(key, count))
    }
}

/// A principal that has so many connections gets no more.
pub(crate) fn too_many(key: &Key, count: u32) -> Refusal {
    let (principal, tier, most) = (&key.principal, &key.tier, key.limits.connections);
    let message =
        format!("principal '{principal}' has {count} connections, tier '{tier}' allows {most}; close one");
    Refusal::new(ErrorCode::ConnectionLimit, message)
}

impl Connections {
    pub(crate) fn get(&self, id: ConnectionId) -> Option<Arc<Connection>> {
        self.by_id.read().expect(HELD).get(&id).cloned()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.read().expect(HELD).len()
    }

    /// At most `limit` connections after `after`, by id.
    pub(crate) fn page(&self, after: Option<ConnectionId>, limit: usize) -> Vec<Arc<Connection>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let all = self.by_id.read().expect(HELD);
        all.range((from, Bound::Unbounded)).take(limit).map(|(_, connection)| connection.clone()).collect()
    }

    /// Closes every connection, each with its own reason.
    pub(crate) fn close_all(&self, mut reason: impl FnMut() -> Close) {
        for connection in self.by_id.read().expect(HELD).values() {
            connection.outbox.close(reason());
        }
    }

    /// Closes those whose key is gone (4410) or has expired (4401), or may no longer hear the rooms that they are in (4600): those
    /// come back without them.
    pub(crate) fn recheck(&self, keys: &Keys) {
        let refused = |connection: &Arc<Connection>| {
            connection.hears_by(keys).err().map(|refusal| (connection.clone(), refusal))
        };
        // Told without the lock: whoever comes or leaves meanwhile is not held up.
        let refused: Vec<_> = self.by_id.read().expect(HELD).values().filter_map(refused).collect();
        for (connection, refusal) in refused {
            connection.outbox.push(reply::error(None, &refusal).into());
            connection.outbox.close(refused_by_key(&refusal));
        }
    }
}

/// How a connection ends whose key is good no more.
pub(crate) fn refused_by_key(refusal: &Refusal) -> Close {
    match refusal.code {
        ErrorCode::ExpiredKey => Close::Unauthorized,
        ErrorCode::Forbidden => Close::Draining(0),
        _ => Close::Revoked,
    }
}

/// A connection that is found by others, until this is dropped; then its session is resumable, or ended where an
/// operator ended it.
pub(crate) struct Registered {
    hub: Arc<Hub>,
    pub connection: Arc<Connection>,
    _charge: MemoryCharge,
}

/// What a connection takes in memory that has nothing to do, about, in a room or two.
pub(crate) const CONNECTION_BYTES: usize = 8 << 10;

impl Registered {
    pub(crate) fn new(hub: Arc<Hub>, connection: Arc<Connection>) -> Self {
        let charge = connection.share.charge(MemoryKind::Sessions, CONNECTION_BYTES);
        hub.connections.by_id.write().expect(HELD).insert(connection.id, connection.clone());
        hub.metrics.connections.inc();
        Self { hub, connection, _charge: charge }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let Self { hub, connection, .. } = self;
        connection.outbox.end();
        hub.connections.by_id.write().expect(HELD).remove(&connection.id);
        hub.metrics.connections.dec();
        if connection.session.get().is_none() {
            return;
        }
        match connection.ended.load(Ordering::Relaxed) {
            true => hub.store.sessions.end(connection.hold()),
            false => hub.store.sessions.detach(connection.hold()),
        }
    }
}

impl Connection {
    /// Whether it may stay as it is, by what its key is now.
    pub(crate) fn hears_by(&self, keys: &Keys) -> Result<(), Refusal> {
        let key = keys.find(&self.key)?;
        match self.rooms.load(Ordering::SeqCst) {
            0 => Ok(()),
            _ => key.require(Scope::Subscribe, "hear its rooms any more"),
        }
    }

    /// Asks the client for a sign of life.
    pub(crate) fn probe(&self) {
        let nonce = self.pings.probe();
        self.outbox.push(Frame::ping(nonce));
    }

    pub(crate) fn hold(&self) -> Hold {
        Hold { token: self.session(), connection: self.id }
    }

    /// For what happens after it was authenticated.
    pub(crate) fn session(&self) -> SessionToken {
        *self.session.get().expect("an authenticated connection has a session")
    }

    pub(crate) fn new(key: &Key, remote: SocketAddr, outbox: Outbox, memory: &MemoryAccount) -> Arc<Self> {
        let share = memory.share(&key.principal);
        outbox.move_to(&share);
        Arc::new(Self {
            share,
            id: ConnectionId::random(),
            session: OnceLock::new(),
            key: key.digest,
            principal: key.principal.clone(),
            remote,
            since: unix_ms(),
            rooms: AtomicU32::new(0),
            ended: AtomicBool::new(false),
            outbox,
            kept_back: AtomicUsize::new(0),
            pings: Pings::default(),
        })
    }

    /// Sends a gap that tells of another epoch than `before`, and a ping behind it: once that is answered, the client has
    /// heard that the room goes on after `position`. `false`: it was not taken.
    pub(crate) fn tell(&self, gap: Frame, room: &RoomName, before: &Arc<str>, position: &Position) -> bool {
        // In this order: whoever answers a ping has read every gap whose nonce is not greater, whichever shard sent it.
        if !self.outbox.push(gap) {
            return false;
        }
        let nonce = self.pings.moved(room, before, position);
        self.outbox.push(Frame::ping(nonce))
    }

    /// The same behind an answer that said so of some rooms.
    pub(crate) fn told<'a>(&self, moved: impl Iterator<Item = &'a (RoomName, Arc<str>, Position)>) {
        let nonces = moved.map(|(room, before, position)| self.pings.moved(room, before, position));
        if let Some(nonce) = nonces.last() {
            self.outbox.push(Frame::ping(nonce));
        }
    }
}
