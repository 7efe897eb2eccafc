//! Sessions in memory: who holds each and which rooms it is in.

use crate::{ConnectionId, Hold, SessionToken};
use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};
use switchyard_process::memory::{MemoryAccount, MemoryCharge, MemoryKind, MemoryShare};
use switchyard_protocol::room::RoomName;
use tokio::time::Instant;

pub(super) struct Sessions {
    ttl: Duration,
    account: Arc<MemoryAccount>,
    all: HashMap<SessionToken, Session>,
    /// Sessions without a connection, by the time they end; the time to live is the same for all. One that
    /// was resumed meanwhile no longer has that end.
    ends: VecDeque<(Instant, SessionToken)>,
}

struct Session {
    rooms: BTreeSet<RoomName>,
    holder: Holder,
    /// When it was handed to a connection last.
    taken: Instant,
    /// Of its principal.
    charge: MemoryCharge,
}

/// What one takes in memory, about, beside the rooms that it is in.
const SESSION: usize = 400;
/// Sessions that end at a time, until others have their turn.
const AT_ONCE: usize = 256;

impl Session {
    fn principal(&self) -> &str {
        self.charge.share().principal()
    }
}

enum Holder {
    Connection(ConnectionId),
    NobodyUntil(Instant),
}

pub(super) enum Taken {
    /// The connection that held it, and its rooms.
    Held(Option<ConnectionId>, Vec<RoomName>),
    Gone,
    Again,
}

impl Sessions {
    pub(super) fn new(ttl: Duration, account: &Arc<MemoryAccount>) -> Self {
        Self { ttl, account: account.clone(), all: HashMap::new(), ends: VecDeque::new() }
    }

    pub(super) fn create(&mut self, principal: &Arc<str>, connection: ConnectionId) -> SessionToken {
        let token = SessionToken::random();
        let holder = Holder::Connection(connection);
        let (taken, charge) =
            (Instant::now(), self.account.share(principal).charge(MemoryKind::Sessions, SESSION));
        let session = Session { rooms: BTreeSet::new(), holder, taken, charge };
        self.all.insert(token, session);
        token
    }

    /// Whether a connection holds the session.
    pub(super) fn is_taken_over(&self, token: SessionToken, principal: &str) -> bool {
        self.all.get(&token).is_some_and(|session| {
            *session.principal() == *principal && matches!(session.holder, Holder::Connection(_))
        })
    }

    /// The connection that held it and its rooms.
    pub(super) fn resume(
        &mut self,
        token: SessionToken,
        principal: &str,
        connection: ConnectionId,
        asked: Instant,
    ) -> Taken {
        let session = self.all.get_mut(&token).filter(|session| *session.principal() == *principal);
        let Some(session) = session else { return Taken::Gone };
        let previous = match session.holder {
            Holder::Connection(previous) => Some(previous),
            Holder::NobodyUntil(end) if end <= Instant::now() => return Taken::Gone,
            Holder::NobodyUntil(_) => None,
        };
        if asked < session.taken {
            return Taken::Again;
        }
        (session.holder, session.taken) = (Holder::Connection(connection), Instant::now());
        Taken::Held(previous, session.rooms.iter().cloned().collect())
    }

    pub(super) fn detach(&mut self, hold: Hold, now: Instant) {
        let end = now + self.ttl;
        if let Some(session) = self.held(hold) {
            session.holder = Holder::NobodyUntil(end);
            self.ends.push_back((end, hold.token));
        }
    }

    /// Removes the session and gives its rooms.
    pub(super) fn end(&mut self, hold: Hold) -> BTreeSet<RoomName> {
        match self.held(hold) {
            Some(_) => self.all.remove(&hold.token).map(|session| session.rooms).unwrap_or_default(),
            None => BTreeSet::new(),
        }
    }

    fn held(&mut self, hold: Hold) -> Option<&mut Session> {
        let by = |session: &&mut Session| matches!(session.holder, Holder::Connection(id) if id == hold.connection);
        self.all.get_mut(&hold.token).filter(by)
    }

    pub(super) fn is_held(&mut self, hold: Hold) -> bool {
        self.held(hold).is_some()
    }

    /// What the principal answers for, where the connection holds the session.
    pub(super) fn enter(&mut self, hold: Hold, room: &RoomName) -> Option<Arc<MemoryShare>> {
        let session = self.held(hold)?;
        session.rooms.insert(room.clone());
        Some(session.charge.share().clone())
    }

    pub(super) fn exit(&mut self, hold: Hold, room: &str) {
        if let Some(session) = self.held(hold) {
            session.rooms.remove(room);
        }
    }

    /// Removes some of the sessions whose time has come and gives their rooms; `None`: there are none.
    pub(super) fn expire(&mut self, now: Instant) -> Option<Vec<(SessionToken, BTreeSet<RoomName>)>> {
        let mut expired = vec![];
        self.ends.front().filter(|(end, _)| *end <= now)?;
        for _ in 0..AT_ONCE {
            let Some((end, token)) = self.ends.pop_front_if(|(end, _)| *end <= now) else { break };
            let still = matches!(self.all.get(&token), Some(s) if matches!(s.holder, Holder::NobodyUntil(at) if at == end));
            if still && let Some(session) = self.all.remove(&token) {
                expired.push((token, session.rooms));
            }
        }
        Some(expired)
    }
}
