//! The sessions that connections of this node hold, and what of them Redis does not know yet. Changes are recorded by what
//! is so when they are written, not one by one: what changed twice in between is written once.

use crate::{
    protocol::Position,
    room::RoomName,
    store::{ConnectionId, Join, Membership, SessionToken},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

#[derive(Default)]
pub struct Held {
    sessions: HashMap<SessionToken, Session>,
    /// Sessions that were let go, until that is written.
    leaving: HashSet<SessionToken>,
    /// Rooms that go on with another epoch, until their members do.
    rebased: HashMap<Arc<str>, Position>,
    dirty: Dirty,
}

#[derive(Clone)]
pub struct Session {
    pub principal: Arc<str>,
    pub connection: ConnectionId,
    pub rooms: BTreeMap<RoomName, Place>,
}

/// A session's place in a room.
#[derive(Clone)]
pub struct Place {
    pub filter: Option<Arc<str>>,
    pub joined: Position,
    pub acknowledged: Option<u64>,
}

impl Place {
    /// Goes on from a position if it is of another epoch: whether it was.
    fn rebase(&mut self, position: &Position) -> bool {
        let is_other = self.joined.epoch != position.epoch;
        if is_other {
            (self.joined, self.acknowledged) = (position.clone(), None);
        }
        is_other
    }
}

/// What is to be written.
#[derive(Default)]
pub struct Dirty {
    /// Sessions whose membership in some rooms changed.
    pub rooms: HashMap<SessionToken, BTreeSet<RoomName>>,
    /// Sessions that are written whole, because Redis may have another picture of them.
    pub whole: HashSet<SessionToken>,
    pub acknowledged: HashMap<RoomName, HashSet<SessionToken>>,
    /// Sessions that lost their connection, or are over.
    pub left: Vec<(SessionToken, Session, Leaving)>,
    /// Principals whose number of connections changed.
    pub counts: HashSet<Arc<str>>,
    /// Rooms to be listed.
    pub names: HashSet<Arc<str>>,
    /// Sessions that are another node's by now, with their principals.
    pub gone: Vec<(SessionToken, Arc<str>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// It can be resumed.
    Detached,
    Over,
}

impl Held {
    pub fn get(&self, token: SessionToken) -> Option<&Session> {
        self.sessions.get(&token)
    }

    pub fn insert(&mut self, token: SessionToken, session: Session) {
        self.sessions.insert(token, session);
    }

    /// The session is another's now: nothing more is written of it.
    pub fn forget(&mut self, token: SessionToken) {
        self.dirty.rooms.remove(&token);
        self.dirty.whole.remove(&token);
        if let Some(session) = self.sessions.remove(&token) {
            self.dirty.gone.push((token, session.principal));
        }
    }

    /// The session of a connection.
    pub fn of(&self, connection: ConnectionId) -> Option<SessionToken> {
        self.sessions.iter().find(|(_, session)| session.connection == connection).map(|(token, _)| *token)
    }

    pub fn join(&mut self, token: SessionToken, join: Join) {
        let Some(session) = self.sessions.get_mut(&token) else { return };
        let Join { room, membership: Membership { filter, position }, anew } = join;
        match session.rooms.get_mut(&room) {
            Some(place) if !anew && place.joined.epoch == position.epoch => place.filter = filter,
            _ => {
                let place = Place { filter, joined: position, acknowledged: None };
                session.rooms.insert(room.clone(), place);
            }
        }
        self.dirty.rooms.entry(token).or_default().insert(room);
    }

    pub fn leave(&mut self, token: SessionToken, room: &RoomName) {
        let Some(session) = self.sessions.get_mut(&token) else { return };
        if session.rooms.remove(room).is_some() {
            self.dirty.rooms.entry(token).or_default().insert(room.clone());
        }
    }

    pub fn acknowledge(&mut self, token: SessionToken, room: &RoomName, offset: u64) {
        let Some(session) = self.sessions.get_mut(&token) else { return };
        let Some(place) = session.rooms.get_mut(room) else { return };
        // What is acknowledged is of the epoch that the room has by now.
        if let Some(position) = self.rebased.get(room.as_str())
            && place.rebase(position)
        {
            self.dirty.rooms.entry(token).or_default().insert(room.clone());
        }
        if place.acknowledged < Some(offset) {
            place.acknowledged = Some(offset);
            self.dirty.acknowledged.entry(room.clone()).or_default().insert(token);
        }
    }

    /// Unless another connection holds it by now.
    pub fn let_go(&mut self, token: SessionToken, connection: ConnectionId, how: Leaving) {
        if self.sessions.get(&token).is_some_and(|session| session.connection == connection) {
            let session = self.sessions.remove(&token).expect("seen above");
            self.leaving.insert(token);
            self.dirty.left.push((token, session, how));
        }
    }

    pub fn is_leaving(&self, token: SessionToken) -> bool {
        self.leaving.contains(&token)
    }

    pub fn has_left(&mut self, token: SessionToken) {
        self.leaving.remove(&token);
    }

    /// A room goes on from a position, of another epoch maybe: then so do its members.
    pub fn rebase(&mut self, room: &Arc<str>, position: &Position) {
        self.rebased.insert(room.clone(), position.clone());
    }

    /// A principal's number of connections changed.
    pub fn recount(&mut self, principal: &Arc<str>) {
        self.dirty.counts.insert(principal.clone());
    }

    /// A room is to be listed.
    pub fn list(&mut self, room: Arc<str>) {
        self.dirty.names.insert(room);
    }

    /// Redis may have another picture of a session: it is written whole.
    pub fn reclaim(&mut self, token: SessionToken) {
        self.dirty.whole.insert(token);
    }

    /// Everything is written again.
    pub fn rewrite(&mut self) {
        self.dirty.whole.extend(self.sessions.keys());
    }

    pub fn is_written(&self) -> bool {
        self.dirty.is_empty() && self.rebased.is_empty()
    }

    /// What is to be written now.
    pub fn take(&mut self) -> Dirty {
        let rebased = std::mem::take(&mut self.rebased);
        if !rebased.is_empty() {
            // Once for all rooms, of which there may be many at a time.
            for (token, session) in &mut self.sessions {
                for (room, place) in &mut session.rooms {
                    let Some(position) = rebased.get(room.as_str()) else { continue };
                    if place.rebase(position) {
                        self.dirty.rooms.entry(*token).or_default().insert(room.clone());
                    }
                }
            }
        }
        std::mem::take(&mut self.dirty)
    }

    /// What could not be written is to be written still, beside what changed meanwhile.
    pub fn put_back(&mut self, dirty: Dirty) {
        self.dirty.extend(dirty);
    }
}

impl Dirty {
    pub fn is_empty(&self) -> bool {
        self.rooms.is_empty()
            && self.whole.is_empty()
            && self.acknowledged.is_empty()
            && self.left.is_empty()
            && self.counts.is_empty()
            && self.names.is_empty()
            && self.gone.is_empty()
    }

    fn extend(&mut self, other: Dirty) {
        for (token, rooms) in other.rooms {
            self.rooms.entry(token).or_default().extend(rooms);
        }
        self.whole.extend(other.whole);
        for (room, tokens) in other.acknowledged {
            self.acknowledged.entry(room).or_default().extend(tokens);
        }
        self.left.extend(other.left);
        self.counts.extend(other.counts);
        self.names.extend(other.names);
        self.gone.extend(other.gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_twice_is_written_once_as_it_is_then() {
        let (mut held, token) = (Held::default(), SessionToken::random());
        let connection = ConnectionId::random();
        let room = |name: &str| RoomName::parse(name).unwrap();
        let at = |epoch: &str, offset| Position { epoch: epoch.into(), offset };
        let join = |name: &str, position| Join {
            room: room(name),
            membership: Membership { filter: None, position },
            anew: false,
        };
        held.insert(token, Session { principal: "acme".into(), connection, rooms: BTreeMap::new() });
        held.join(token, join("a", at("e", 1)));
        held.join(token, join("b", at("e", 1)));
        held.leave(token, &room("b"));
        held.acknowledge(token, &room("a"), 5);
        held.acknowledge(token, &room("a"), 4);
        held.join(token, join("a", at("e", 9)));
        let place = &held.get(token).unwrap().rooms["a"];
        assert_eq!((place.joined.offset, place.acknowledged), (1, Some(5)), "its position stays as it was");
        let dirty = held.take();
        assert_eq!(dirty.rooms[&token].len(), 2, "one that comes and one that goes");
        assert!(held.is_written());
        held.put_back(dirty);

        held.rebase(&"a".into(), &at("f", 0));
        assert_eq!(held.take().rooms[&token].len(), 2);
        let place = &held.get(token).unwrap().rooms["a"];
        assert_eq!((&place.joined, place.acknowledged), (&at("f", 0), None));
        held.rebase(&"a".into(), &at("g", 0));
        held.acknowledge(token, &room("a"), 1);
        held.take();
        let place = &held.get(token).unwrap().rooms["a"];
        assert_eq!(
            (&place.joined, place.acknowledged),
            (&at("g", 0), Some(1)),
            "acknowledged in the new epoch"
        );

        held.let_go(token, ConnectionId::random(), Leaving::Detached);
        assert!(held.dirty.left.is_empty(), "another connection's");
        held.let_go(token, connection, Leaving::Detached);
        assert_eq!((held.dirty.left.len(), held.get(token).is_none()), (1, true));
    }
}
