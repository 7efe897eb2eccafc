//! Sessions in memory: who holds each and which rooms it is in.

use super::*;
use std::collections::{BTreeSet, VecDeque};

pub struct Sessions {
    ttl: Duration,
    all: HashMap<SessionToken, Session>,
    /// Sessions without a connection, by the time they end; the time to live is the same for all. One that
    /// was resumed meanwhile no longer has that end.
    ends: VecDeque<(Instant, SessionToken)>,
}

struct Session {
    principal: Arc<str>,
    rooms: BTreeSet<RoomName>,
    holder: Holder,
}

enum Holder {
    Connection(ConnectionId),
    NobodyUntil(Instant),
}

impl Sessions {
    pub fn new(ttl: Duration) -> Self {
        Self { ttl, all: HashMap::new(), ends: VecDeque::new() }
    }

    pub fn create(&mut self, principal: Arc<str>, connection: ConnectionId) -> SessionToken {
        let token = SessionToken::random();
        let holder = Holder::Connection(connection);
        self.all.insert(token, Session { principal, rooms: BTreeSet::new(), holder });
        token
    }

    /// The connection that held it and its rooms.
    pub fn resume(
        &mut self,
        token: SessionToken,
        principal: &str,
        connection: ConnectionId,
    ) -> Option<(Option<ConnectionId>, Vec<RoomName>)> {
        let session = self.all.get_mut(&token).filter(|session| *session.principal == *principal)?;
        let previous = match session.holder {
            Holder::Connection(previous) => Some(previous),
            Holder::NobodyUntil(end) if end <= Instant::now() => return None,
            Holder::NobodyUntil(_) => None,
        };
        session.holder = Holder::Connection(connection);
        Some((previous, session.rooms.iter().cloned().collect()))
    }

    pub fn detach(&mut self, token: SessionToken, connection: ConnectionId, now: Instant) {
        let end = now + self.ttl;
        if let Some(session) = self.held(token, connection) {
            session.holder = Holder::NobodyUntil(end);
            self.ends.push_back((end, token));
        }
    }

    /// Removes the session and gives its rooms.
    pub fn end(&mut self, token: SessionToken, connection: ConnectionId) -> BTreeSet<RoomName> {
        match self.held(token, connection) {
            Some(_) => self.all.remove(&token).map(|session| session.rooms).unwrap_or_default(),
            None => BTreeSet::new(),
        }
    }

    fn held(&mut self, token: SessionToken, connection: ConnectionId) -> Option<&mut Session> {
        let by =
            |session: &&mut Session| matches!(session.holder, Holder::Connection(id) if id == connection);
        self.all.get_mut(&token).filter(by)
    }

    /// The principal, when the session is there.
    pub fn enter(&mut self, token: SessionToken, room: &RoomName) -> Option<Arc<str>> {
        let session = self.all.get_mut(&token)?;
        session.rooms.insert(room.clone());
        Some(session.principal.clone())
    }

    pub fn exit(&mut self, token: SessionToken, room: &str) {
        if let Some(session) = self.all.get_mut(&token) {
            session.rooms.remove(room);
        }
    }

    /// Removes the sessions whose time has come and gives their rooms.
    pub fn expire(&mut self, now: Instant) -> Vec<(SessionToken, BTreeSet<RoomName>)> {
        let mut expired = vec![];
        while let Some((end, token)) = self.ends.front().copied().filter(|(end, _)| *end <= now) {
            self.ends.pop_front();
            let still = matches!(self.all.get(&token), Some(s) if matches!(s.holder, Holder::NobodyUntil(at) if at == end));
            if still && let Some(session) = self.all.remove(&token) {
                expired.push((token, session.rooms));
            }
        }
        expired
    }
}
