//! Sessions in memory: which connection holds each, and which rooms it is in. Knows no positions and no
//! filters.

use crate::{ConnectionId, SessionHandle, SessionToken};
use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};
use switchyard_process::memory::{MemoryAccount, MemoryCharge, MemoryKind, MemoryShare};
use switchyard_protocol::room::RoomName;
use tokio::time::Instant;

pub(super) struct SessionTable {
    ttl: Duration,
    account: Arc<MemoryAccount>,
    all: HashMap<SessionToken, MemorySession>,
    /// When sessions without a connection expire. All live equally long, so this is in order. An entry whose
    /// time is no longer that of its session is stale: the session was resumed.
    expiries: VecDeque<(Instant, SessionToken)>,
}

struct MemorySession {
    rooms: BTreeSet<RoomName>,
    holder: Holder,
    /// When a connection last created or resumed it.
    taken: Instant,
    /// Charged to its principal.
    charge: MemoryCharge,
}

/// Bytes of memory that a session takes without its rooms, roughly, as measured.
const SESSION_BYTES: usize = 400;
/// How many sessions expire before the lock is released.
const MAX_EXPIRED_PER_CALL: usize = 256;

impl MemorySession {
    fn principal(&self) -> &str {
        self.charge.share().principal()
    }
}

enum Holder {
    Connection(ConnectionId),
    NobodyUntil(Instant),
}

/// Why a connection does not get a session.
pub(super) enum ResumeError {
    NotFound,
    /// Another connection has taken the session since this one requested it.
    TakenSince,
}

impl SessionTable {
    pub(super) fn new(ttl: Duration, account: &Arc<MemoryAccount>) -> Self {
        Self { ttl, account: account.clone(), all: HashMap::new(), expiries: VecDeque::new() }
    }

    pub(super) fn create(&mut self, principal: &Arc<str>, connection: ConnectionId) -> SessionToken {
        let token = SessionToken::random();
        let holder = Holder::Connection(connection);
        let (taken, charge) =
            (Instant::now(), self.account.share(principal).charge(MemoryKind::Sessions, SESSION_BYTES));
        let session = MemorySession { rooms: BTreeSet::new(), holder, taken, charge };
        self.all.insert(token, session);
        token
    }

    /// Whether a connection holds the session. `None` if the principal cannot resume it.
    pub(super) fn has_holder(&self, token: SessionToken, principal: &str) -> Option<bool> {
        let session = self.all.get(&token).filter(|session| *session.principal() == *principal)?;
        match session.holder {
            Holder::Connection(_) => Some(true),
            Holder::NobodyUntil(end) => (end > Instant::now()).then_some(false),
        }
    }

    /// Hands the session to a connection that requested it at `requested_at`. Returns the connection that
    /// held it until now, and its rooms.
    pub(super) fn resume(
        &mut self,
        token: SessionToken,
        principal: &str,
        connection: ConnectionId,
        requested_at: Instant,
    ) -> Result<(Option<ConnectionId>, Vec<RoomName>), ResumeError> {
        let session = self.all.get_mut(&token).filter(|session| *session.principal() == *principal);
        let Some(session) = session else { return Err(ResumeError::NotFound) };
        let previous = match session.holder {
            Holder::Connection(previous) => Some(previous),
            Holder::NobodyUntil(end) if end <= Instant::now() => return Err(ResumeError::NotFound),
            Holder::NobodyUntil(_) => None,
        };
        if requested_at < session.taken {
            return Err(ResumeError::TakenSince);
        }
        (session.holder, session.taken) = (Holder::Connection(connection), Instant::now());
        Ok((previous, session.rooms.iter().cloned().collect()))
    }

    pub(super) fn detach(&mut self, handle: SessionHandle, now: Instant) {
        let end = now + self.ttl;
        if let Some(session) = self.held_by(handle) {
            session.holder = Holder::NobodyUntil(end);
            self.expiries.push_back((end, handle.token));
        }
    }

    /// Removes the session and returns its rooms.
    pub(super) fn end(&mut self, handle: SessionHandle) -> BTreeSet<RoomName> {
        match self.held_by(handle) {
            Some(_) => self.all.remove(&handle.token).map(|session| session.rooms).unwrap_or_default(),
            None => BTreeSet::new(),
        }
    }

    fn held_by(&mut self, handle: SessionHandle) -> Option<&mut MemorySession> {
        let by = |session: &&mut MemorySession| matches!(session.holder, Holder::Connection(id) if id == handle.connection);
        self.all.get_mut(&handle.token).filter(by)
    }

    pub(super) fn is_held(&mut self, handle: SessionHandle) -> bool {
        self.held_by(handle).is_some()
    }

    /// Adds a room and returns the share of the session's principal, or `None` if the connection does not
    /// hold the session.
    pub(super) fn add_room(&mut self, handle: SessionHandle, room: &RoomName) -> Option<Arc<MemoryShare>> {
        let session = self.held_by(handle)?;
        session.rooms.insert(room.clone());
        Some(session.charge.share().clone())
    }

    pub(super) fn remove_room(&mut self, handle: SessionHandle, room: &str) {
        if let Some(session) = self.held_by(handle) {
            session.rooms.remove(room);
        }
    }

    /// Removes at most [`MAX_EXPIRED_PER_CALL`] expired sessions and returns their rooms. `None` when no
    /// entry is left that has expired.
    pub(super) fn expire(&mut self, now: Instant) -> Option<Vec<(SessionToken, BTreeSet<RoomName>)>> {
        let mut expired = vec![];
        self.expiries.front().filter(|(end, _)| *end <= now)?;
        for _ in 0..MAX_EXPIRED_PER_CALL {
            let Some((end, token)) = self.expiries.pop_front_if(|(end, _)| *end <= now) else { break };
            let has_expired = matches!(self.all.get(&token), Some(s) if matches!(s.holder, Holder::NobodyUntil(at) if at == end));
            if has_expired && let Some(session) = self.all.remove(&token) {
                expired.push((token, session.rooms));
            }
        }
        Some(expired)
    }
}
