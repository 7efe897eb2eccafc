//! The live connections of this node: finding them by id, and closing them when their key no longer allows
//! them. Does not accept connections.

use super::{
    Hub, RemovedSeat, pings::Pings, removals::Removals, token_expirations::TokenExpirations, unavailable,
};
use crate::{
    key::{Key, Keys},
    limits::Budget,
    outbox::{Outbox, Pipe},
};
use arc_swap::ArcSwap;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    ops::{Bound, ControlFlow},
    sync::{
        Arc, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
};
use switchyard_process::{
    lock::NOT_POISONED,
    memory::{MemoryAccount, MemoryCharge, MemoryKind, MemoryShare},
};
use switchyard_protocol::{Close, ErrorCode, Frame, Position, Refusal, reply, room::RoomName, unix_ms};
use switchyard_store::{ConnectionId, Permit, SessionHandle, SessionToken, SlotResult};

/// An authenticated connection, as all tasks see it.
pub(crate) struct Connection {
    pub id: ConnectionId,
    /// Set before the client is told about it.
    pub session: OnceLock<SessionToken>,
    /// The key as it is configured, which may have changed since the connection authenticated.
    pub key: ArcSwap<Key>,
    pub principal: Arc<str>,
    /// The principal's share of the memory account.
    pub share: Arc<MemoryShare>,
    /// What the principal may still use of the rates of its tier.
    pub budget: Arc<Budget>,
    pub remote: SocketAddr,
    /// When it connected, in Unix milliseconds.
    pub since: u64,
    /// How many rooms it has joined. `*` and the inbox do not count.
    pub rooms: AtomicU32,
    /// Whether an operator ended it. Its session then ends with it.
    pub ended: AtomicBool,
    pub outbox: Outbox,
    /// Bytes that are buffered for it in all rooms in which it catches up.
    pub buffered_bytes: AtomicUsize,
    pub pings: Pings,
    pub removals: Removals,
}

/// Whether the key of a connection is as it was.
enum KeyCheck {
    Same,
    Changed,
}

/// All authenticated connections of this node.
#[derive(Default)]
pub(crate) struct Connections {
    by_id: RwLock<ConnectionMap>,
    expirations: TokenExpirations,
}

type ConnectionMap = BTreeMap<ConnectionId, Arc<Connection>>;

/// Clients of a stopping node are told to reconnect after a random delay of less than this many milliseconds.
const MAX_RECONNECT_DELAY_MS: u32 = 3000;

/// How many connections [`Connections::for_each`] copies at a time. Copying them takes a few microseconds.
const PAGE_SIZE: usize = 256;

impl Hub {
    /// Takes a connection slot. The limit of the key's tier applies to all nodes together.
    pub(crate) async fn acquire_connection_slot(&self, key: &Key) -> Result<Permit, Refusal> {
        let result =
            self.store.sessions.acquire_connection_slot(&key.principal, key.limits.connections).await;
        match result.map_err(unavailable)? {
            SlotResult::Acquired(permit) => Ok(permit),
            SlotResult::LimitReached(count) => Err(connection_limit_reached(key, count)),
        }
    }
}

/// Refuses a further connection to a principal that has `count` already.
pub(crate) fn connection_limit_reached(key: &Key, count: u32) -> Refusal {
    let (principal, tier, max) = (&key.principal, &key.tier, key.limits.connections);
    let message =
        format!("principal '{principal}' has {count} connections, tier '{tier}' allows {max}; close one");
    Refusal::new(ErrorCode::ConnectionLimit, message)
}

impl Connections {
    fn all(&self) -> RwLockReadGuard<'_, ConnectionMap> {
        self.by_id.read().expect(NOT_POISONED)
    }

    fn all_mut(&self) -> RwLockWriteGuard<'_, ConnectionMap> {
        self.by_id.write().expect(NOT_POISONED)
    }

    pub(crate) fn get(&self, id: ConnectionId) -> Option<Arc<Connection>> {
        self.all().get(&id).cloned()
    }

    pub(crate) fn len(&self) -> usize {
        self.all().len()
    }

    /// The next connections after `after` in the order of their ids, at most `limit`.
    pub(crate) fn page(&self, after: Option<ConnectionId>, limit: usize) -> Vec<Arc<Connection>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let all = self.all();
        all.range((from, Bound::Unbounded)).take(limit).map(|(_, connection)| connection.clone()).collect()
    }

    /// Calls `visit` for every connection without holding the lock, so that connections can be added and
    /// removed meanwhile. One that is added meanwhile may be visited or not.
    pub(super) fn for_each(&self, mut visit: impl FnMut(&Arc<Connection>)) {
        let mut last = None;
        loop {
            let page = self.page(last, PAGE_SIZE);
            page.iter().for_each(&mut visit);
            match page.last() {
                Some(connection) => last = Some(connection.id),
                None => return,
            }
        }
    }

    /// Closes every connection, each with its own reason.
    pub(crate) fn close_all(&self, mut reason: impl FnMut() -> Close) {
        self.for_each(|connection| connection.outbox.close(reason()));
    }

    /// Closes the connections whose key was removed (4410) or has expired (4401), and has the others leave rooms that
    /// their key does not allow any more. A connection that is added meanwhile has to check its key itself. Returns
    /// those whose key has changed.
    pub(crate) fn recheck_keys(&self, keys: &ArcSwap<Keys>) -> Vec<Weak<Connection>> {
        let mut changed = vec![];
        self.for_each(|connection| {
            if self.recheck_key(connection, keys) {
                changed.push(Arc::downgrade(connection));
            }
        });
        changed
    }

    /// Whether the key of the connection has changed. If it is not valid any more, the connection is closed.
    fn recheck_key(&self, connection: &Connection, keys: &ArcSwap<Keys>) -> bool {
        match self.check_key(connection, keys) {
            Ok(KeyCheck::Same) => false,
            Ok(KeyCheck::Changed) => true,
            Err(refusal) => {
                connection.outbox.push(reply::error(None, &refusal).into());
                connection.outbox.close(close_for_key(&refusal));
                false
            }
        }
    }

    fn check_key(&self, connection: &Connection, keys: &ArcSwap<Keys>) -> Result<KeyCheck, Refusal> {
        let check = connection.check_key(keys)?;
        // Even if it is the same: somebody else may have replaced it just now.
        self.expirations.change(connection.id, || connection.key.load().token_ends());
        Ok(check)
    }

    /// Connections whose token has expired, and that are not being closed already.
    fn expired(&self, now: u64) -> impl Iterator<Item = Arc<Connection>> {
        let due = self.expirations.due(now).into_iter().filter_map(|id| self.get(id));
        due.filter(|connection| !connection.outbox.is_closing())
    }

    /// Whether tokens have expired, and otherwise when the next one will, in Unix milliseconds.
    pub(crate) fn next_expiration(&self, now: u64) -> ControlFlow<(), Option<u64>> {
        match self.expired(now).next() {
            Some(_) => ControlFlow::Break(()),
            None => ControlFlow::Continue(self.expirations.next_after(now)),
        }
    }

    /// Closes the connections whose token has expired (4401).
    pub(crate) fn close_expired(&self, now: u64, keys: &ArcSwap<Keys>) {
        for connection in self.expired(now) {
            self.recheck_key(&connection, keys);
        }
    }
}

/// The close code for a connection whose key was refused.
pub(crate) fn close_for_key(refusal: &Refusal) -> Close {
    match refusal.code {
        ErrorCode::ExpiredKey | ErrorCode::ExpiredToken => Close::Unauthorized,
        _ => Close::Revoked,
    }
}

/// The close code for a client of a stopping node, with a delay of its own, so that not all clients come back
/// at once.
pub(crate) fn close_for_drain() -> Close {
    Close::Draining(getrandom::u32().unwrap_or(0) % MAX_RECONNECT_DELAY_MS)
}

/// Keeps a connection in [`Connections`] until this is dropped. Its session can then be resumed, unless an
/// operator ended the connection, which ends its session as well.
pub(crate) struct Registration {
    hub: Arc<Hub>,
    pub connection: Arc<Connection>,
    charge: MemoryCharge,
}

/// The approximate memory of an idle connection in one or two rooms.
pub(crate) const CONNECTION_BYTES: usize = 8 << 10;

impl Registration {
    pub(crate) fn new(hub: Arc<Hub>, connection: Arc<Connection>) -> Self {
        let bytes = CONNECTION_BYTES + connection.key.load().memory();
        let charge = connection.share.charge(MemoryKind::Sessions, bytes);
        hub.connections.all_mut().insert(connection.id, connection.clone());
        hub.connections.expirations.set(connection.id, connection.key.load().token_ends());
        hub.metrics.connections.inc();
        Self { hub, connection, charge }
    }

    /// The client goes on with another key or token of the same principal. Its session has to check its rooms.
    pub(crate) fn replace_key(&mut self, key: Arc<Key>) {
        let ends = key.token_ends();
        self.connection.budget.bound_memory(&key, &self.connection.share);
        let bytes = CONNECTION_BYTES + key.memory();
        self.charge = self.connection.share.charge(MemoryKind::Sessions, bytes);
        self.connection.key.store(key);
        self.hub.connections.expirations.set(self.connection.id, ends);
        self.connection.removals.request_key_check();
    }

    /// Checks whether the key, as it is configured now, still allows this connection, and whether the token was revoked:
    /// the connections may have been searched for it before this one was there, or had it. If the key has changed, the
    /// session checks its rooms.
    pub(crate) fn check_key(&self, keys: &ArcSwap<Keys>) -> Result<(), Refusal> {
        self.hub.connections.check_key(&self.connection, keys)?;
        self.hub.denials.check_token(&self.connection.key.load())
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let Self { hub, connection, .. } = self;
        connection.outbox.end();
        hub.connections.all_mut().remove(&connection.id);
        hub.connections.expirations.set(connection.id, None);
        hub.metrics.connections.dec();
        if connection.session.get().is_none() {
            return;
        }
        match connection.ended.load(Ordering::Relaxed) {
            true => hub.store.sessions.end(connection.session_handle()),
            false => hub.store.sessions.detach(connection.session_handle()),
        }
    }
}

impl Connection {
    /// Checks whether the key, as it is configured now, still allows this connection. If the key has changed, the
    /// session checks its rooms.
    fn check_key(&self, keys: &ArcSwap<Keys>) -> Result<KeyCheck, Refusal> {
        // In this order, so that nothing older replaces what somebody else stores meanwhile.
        let known = self.key.load_full();
        let key = keys.load().renewed(&known)?;
        if *key == *known {
            return Ok(KeyCheck::Same);
        }
        self.budget.bound_memory(&key, &self.share);
        self.key.compare_and_swap(&known, key);
        self.removals.request_key_check();
        Ok(KeyCheck::Changed)
    }

    /// Closes the connection if its session has not checked its rooms since its key has changed, because something keeps
    /// it busy. When the client resumes, it is in the rooms that the key allows.
    pub(crate) fn close_unless_checked(&self) {
        if self.removals.key_change().is_some() {
            self.outbox.close(Close::Draining(0));
        }
    }

    /// Tells the session that the connection is not in a room any more.
    pub(super) fn remove_seat(&self, removed: RemovedSeat) {
        self.removals.push(removed);
    }

    /// Sends a ping whose answer confirms that the client is alive.
    pub(crate) fn probe(&self) {
        let nonce = self.pings.probe();
        self.outbox.push(Frame::ping(nonce));
    }

    /// Identifies the connection and its session to the store.
    pub(crate) fn session_handle(&self) -> SessionHandle {
        SessionHandle { token: self.session(), connection: self.id }
    }

    /// The token of its session. Call it only after the connection was authenticated.
    pub(crate) fn session(&self) -> SessionToken {
        *self.session.get().expect("an authenticated connection has a session")
    }

    pub(crate) fn new(
        key: &Arc<Key>,
        remote: SocketAddr,
        outbox: Outbox,
        memory: &MemoryAccount,
        budget: Arc<Budget>,
    ) -> Arc<Self> {
        let share = memory.share(&key.principal);
        budget.bound_memory(key, &share);
        outbox.move_to(&share);
        Arc::new(Self {
            share,
            budget,
            id: ConnectionId::random(),
            session: OnceLock::new(),
            key: ArcSwap::new(key.clone()),
            principal: key.principal.clone(),
            remote,
            since: unix_ms(),
            rooms: AtomicU32::new(0),
            ended: AtomicBool::new(false),
            outbox,
            buffered_bytes: AtomicUsize::new(0),
            pings: Pings::default(),
            removals: Removals::default(),
        })
    }

    /// A connection of the principal `acme` that writes to this pipe, without a session or a key. For tests
    /// and benchmarks.
    pub(crate) fn detached(pipe: Arc<dyn Pipe>) -> Arc<Self> {
        let share = MemoryAccount::unlimited().share(&"acme".into());
        Arc::new(Self {
            id: ConnectionId::random(),
            session: OnceLock::new(),
            key: ArcSwap::new(Key::detached("acme")),
            principal: "acme".into(),
            remote: ([127, 0, 0, 1], 1).into(),
            since: 0,
            rooms: AtomicU32::new(0),
            ended: AtomicBool::new(false),
            outbox: Outbox::new(1 << 20, std::time::Duration::from_secs(10), pipe, &share),
            share,
            budget: Budget::detached("acme"),
            buffered_bytes: AtomicUsize::new(0),
            pings: Pings::default(),
            removals: Removals::default(),
        })
    }

    /// Sends a gap to another epoch than `before`, and a ping after it. The answer to the ping confirms that
    /// the client knows that the room continues after `position`. Returns whether the outbox accepted them.
    pub(crate) fn push_epoch_gap(
        &self,
        gap: Frame,
        room: &RoomName,
        before: &Arc<str>,
        position: &Position,
    ) -> bool {
        // The nonce is made after the gap is queued. So a client that answers a ping has read the gaps of all
        // lower nonces, even if another shard sent them.
        if !self.outbox.push(gap) {
            return false;
        }
        let nonce = self.pings.epoch_change(room, before, position);
        self.outbox.push(Frame::ping(nonce))
    }

    /// Sends a ping after an answer that told the client about other epochs of some rooms. The items are like
    /// the arguments of [`Self::push_epoch_gap`].
    pub(crate) fn ping_after_answer<'a>(
        &self,
        changes: impl Iterator<Item = &'a (RoomName, Arc<str>, Position)>,
    ) {
        let nonces = changes.map(|(room, before, position)| self.pings.epoch_change(room, before, position));
        if let Some(nonce) = nonces.last() {
            self.outbox.push(Frame::ping(nonce));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{hub::tests::hub, outbox::tests::TestPipe};
    use std::collections::BTreeSet;
    use switchyard_store::denial::{Denial, DenialTarget};

    /// The connections are searched for its token before it is there, or has it.
    #[tokio::test]
    async fn a_token_that_is_revoked_while_its_client_connects_or_refreshes_is_refused() {
        let hub = hub(1).await;
        let (keys, [before, after]) = Keys::with_tokens(["before", "after"]);
        let keys = ArcSwap::from_pointee(keys);
        let connection = Connection::detached(TestPipe::new(0));
        connection.key.store(before.clone());
        let revoke = |id: &str| {
            let denial = Denial { target: DenialTarget::token(id).unwrap(), since: 1, until: u64::MAX };
            hub.denials.replace(FromIterator::from_iter([denial]));
            hub.connections.close_denied(&hub);
        };
        revoke("before");
        let mut registration = Registration::new(hub.clone(), connection);
        let refusal = registration.check_key(&keys).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::InvalidToken);
        assert!(matches!(close_for_key(&refusal), Close::Revoked));
        revoke("after");
        assert!(registration.check_key(&keys).is_ok(), "another one was revoked");
        registration.replace_key(after);
        assert_eq!(registration.check_key(&keys).unwrap_err().code, ErrorCode::InvalidToken);
    }

    #[test]
    fn every_connection_is_visited_without_the_lock_although_others_come_and_go() {
        let connections = Connections::default();
        let add = |connection: &Arc<Connection>| {
            let mut all = connections.by_id.try_write().expect("the lock is free during a visit");
            all.insert(connection.id, connection.clone());
        };
        let new = || Connection::detached(TestPipe::new(0));
        let before: Vec<_> = (0..3 * PAGE_SIZE + 1).map(|_| new()).collect();
        before.iter().for_each(add);
        let mut visited = BTreeSet::new();
        connections.for_each(|connection| {
            assert!(visited.insert(connection.id), "visited once");
            if visited.len() % 2 == 0 {
                connections.by_id.try_write().expect("the lock is free").remove(&connection.id);
                add(&new());
            }
        });
        assert!(before.iter().all(|connection| visited.contains(&connection.id)));
    }
}
