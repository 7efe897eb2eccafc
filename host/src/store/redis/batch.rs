//! One batch of what changed: a command a session, one or two a room, however many members changed in it.

use super::{
    KEEP, Shared, answer,
    held::{Dirty, Leaving, Session},
    scripts,
    sessions::{entry, written},
};
use crate::{
    room::RoomName,
    store::{ConnectionId, Event, SessionToken, Unavailable},
};
use fred::types::Value;
use futures_util::{StreamExt, TryStreamExt, future::BoxFuture, stream};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

/// Commands on their way at a time.
const AT_ONCE: usize = 256;
/// Members in one command.
const MEMBERS: usize = 500;

/// One of several things that are asked beside one another.
pub type Step<'a, T = ()> = BoxFuture<'a, Result<T, Unavailable>>;

/// Members that come into a room, with principal, session and what they have acknowledged, and those that go.
#[derive(Default)]
struct Roll {
    come: Vec<(Arc<str>, SessionToken, u64)>,
    go: Vec<(Arc<str>, SessionToken)>,
}

/// Writes it, or puts it back.
pub async fn write(shared: &Shared, dirty: Dirty) -> Result<(), Unavailable> {
    let written = Batch::new(shared, &dirty).write().await;
    let mut held = shared.held();
    match &written {
        Ok(()) => dirty.left.iter().for_each(|(token, ..)| held.has_left(*token)),
        Err(_) => held.put_back(dirty),
    }
    written
}

struct Batch<'a> {
    shared: &'a Shared,
    dirty: &'a Dirty,
    node: Arc<String>,
    /// The sessions that are spoken of, as they are now.
    sessions: HashMap<SessionToken, Session>,
}

impl<'a> Batch<'a> {
    fn new(shared: &'a Shared, dirty: &'a Dirty) -> Self {
        let mut sessions: HashMap<_, _> =
            dirty.left.iter().map(|(token, session, _)| (*token, session.clone())).collect();
        let held = shared.held();
        let tokens = dirty.rooms.keys().chain(&dirty.whole).chain(dirty.acknowledged.values().flatten());
        for token in tokens {
            if let Some(session) = held.get(*token).filter(|_| !sessions.contains_key(token)) {
                sessions.insert(*token, session.clone());
            }
        }
        drop(held);
        Self { shared, dirty, node: shared.node.load_full(), sessions }
    }

    async fn write(&self) -> Result<(), Unavailable> {
        let mut steps: Vec<Step> = vec![];
        for (token, session) in &self.sessions {
            if self.dirty.whole.contains(token) {
                steps.push(Box::pin(self.claim(*token, session)));
            } else if let Some(rooms) = self.dirty.rooms.get(token) {
                steps.push(Box::pin(self.amend(*token, session, rooms.iter())));
            }
        }
        for (room, roll) in self.rolls() {
            steps.push(Box::pin(self.enrol(room, roll)));
        }
        for (room, tokens) in &self.dirty.acknowledged {
            steps.push(Box::pin(self.acknowledge(room, tokens)));
        }
        for principal in &self.dirty.counts {
            steps.push(Box::pin(self.count(principal)));
        }
        if !self.dirty.names.is_empty() {
            steps.push(Box::pin(self.list()));
        }
        all(steps).await?;
        self.leave().await
    }

    /// Who comes into each room and who goes.
    fn rolls(&self) -> BTreeMap<RoomName, Roll> {
        let mut rolls: BTreeMap<RoomName, Roll> = BTreeMap::new();
        for (token, session) in &self.sessions {
            let whole = self.dirty.whole.contains(token).then(|| session.rooms.keys());
            let changed = self.dirty.rooms.get(token).into_iter().flatten();
            let rooms: HashSet<_> = whole.into_iter().flatten().chain(changed).collect();
            for room in rooms {
                let roll = rolls.entry(room.clone()).or_default();
                match session.rooms.get(room) {
                    Some(place) => {
                        let acknowledged = place.acknowledged.unwrap_or(0);
                        roll.come.push((session.principal.clone(), *token, acknowledged));
                    }
                    None => roll.go.push((session.principal.clone(), *token)),
                }
            }
        }
        rolls
    }

    async fn enrol(&self, room: RoomName, roll: Roll) -> Result<(), Unavailable> {
        let Shared { link, names, retention, .. } = self.shared;
        let (mut come, mut go) = (roll.come.chunks(MEMBERS), roll.go.chunks(MEMBERS));
        loop {
            let (come, go) = (come.next().unwrap_or_default(), go.next().unwrap_or_default());
            if come.is_empty() && go.is_empty() {
                return Ok(());
            }
            let mut arguments =
                vec![answer::millis(KEEP + retention.history.age), answer::integer(come.len() as u64)];
            for (principal, token, acknowledged) in come {
                let session = token.id().to_string().into();
                arguments.extend([(&**principal).into(), session, answer::integer(*acknowledged)]);
            }
            for (principal, token) in go {
                arguments.extend([(&**principal).into(), token.id().to_string().into()]);
            }
            let keys = vec![names.members(&room), names.acks(&room), names.room(&room)];
            link.run(&scripts::ENROL, keys, arguments).await?;
        }
    }

    async fn acknowledge(&self, room: &RoomName, tokens: &HashSet<SessionToken>) -> Result<(), Unavailable> {
        let place = |token| self.sessions.get(token).and_then(|session| session.rooms.get(room));
        let offsets = tokens.iter().filter_map(|token| Some((token, place(token)?.acknowledged?)));
        let offsets: Vec<_> = offsets.collect();
        for chunk in offsets.chunks(MEMBERS) {
            // Only of members, and never back.
            let mut arguments: Vec<Value> =
                vec![self.shared.names.acks(room).into(), "XX".into(), "GT".into()];
            for (token, offset) in chunk {
                arguments.extend([answer::integer(*offset), token.id().to_string().into()]);
            }
            self.shared.link.command("ZADD", arguments).await?;
        }
        Ok(())
    }

    /// Writes a session whole.
    async fn claim(&self, token: SessionToken, session: &Session) -> Result<(), Unavailable> {
        let Shared { link, names, .. } = self.shared;
        let estate = vec![names.estate(&self.node).into(), entry(&session.principal, token).into()];
        link.command("SADD", estate).await?;
        let mut arguments: Vec<Value> =
            vec![session.connection.to_string().into(), self.node.as_str().into(), answer::millis(KEEP)];
        for (room, place) in &session.rooms {
            arguments.extend([Value::from(room.as_str()), written(place).into()]);
        }
        let keys = vec![names.session(&session.principal, token.id())];
        match link.run(&scripts::CLAIM, keys, arguments).await? {
            Value::Integer(1) => {}
            Value::Integer(0) => self.taken_over(token, session.connection),
            // Somebody is about to end it; afterwards it can be made anew.
            _ => self.shared.held().reclaim(token),
        }
        Ok(())
    }

    async fn amend(
        &self,
        token: SessionToken,
        session: &Session,
        rooms: impl Iterator<Item = &RoomName>,
    ) -> Result<(), Unavailable> {
        let (joined, left): (Vec<_>, Vec<_>) = rooms.partition(|room| session.rooms.contains_key(*room));
        let mut arguments: Vec<Value> = vec![
            session.connection.to_string().into(),
            answer::millis(KEEP),
            answer::integer(joined.len() as u64),
        ];
        for room in joined {
            arguments.extend([Value::from(room.as_str()), written(&session.rooms[room]).into()]);
        }
        arguments.extend(left.into_iter().map(|room| Value::from(room.as_str())));
        let keys = vec![self.shared.names.session(&session.principal, token.id())];
        match self.shared.link.run(&scripts::AMEND, keys, arguments).await? {
            Value::Integer(1) => {}
            Value::Integer(0) => self.taken_over(token, session.connection),
            // Redis has forgotten whose it is, or took this node for dead.
            _ => self.shared.held().reclaim(token),
        }
        Ok(())
    }

    fn taken_over(&self, token: SessionToken, connection: ConnectionId) {
        let mut held = self.shared.held();
        if held.get(token).is_some_and(|session| session.connection == connection) {
            held.forget(token);
            drop(held);
            (self.shared.feed)(Event::TakenOver(connection));
        }
    }

    async fn count(&self, principal: &Arc<str>) -> Result<(), Unavailable> {
        let Shared { link, names, counts, .. } = self.shared;
        let key: Value = names.connections(principal).into();
        let estate = vec![names.estate(&self.node).into(), Value::from(&**principal)];
        match counts.of(principal) {
            0 => {
                link.command("HDEL", vec![key, self.node.as_str().into()]).await?;
                link.command("SREM", estate).await?;
            }
            count => {
                link.command("SADD", estate).await?;
                let count = answer::integer(count.into());
                link.command("HSET", vec![key.clone(), self.node.as_str().into(), count]).await?;
                link.command("PEXPIRE", vec![key, answer::millis(KEEP)]).await?;
            }
        }
        Ok(())
    }

    async fn list(&self) -> Result<(), Unavailable> {
        let mut arguments: Vec<Value> = vec![self.shared.names.rooms().into()];
        for room in &self.dirty.names {
            arguments.extend([Value::from("0"), Value::from(&**room)]);
        }
        self.shared.link.command("ZADD", arguments).await.map(drop)
    }

    /// The sessions that lost their connection or are over, once all else is written of them.
    async fn leave(&self) -> Result<(), Unavailable> {
        if self.dirty.left.is_empty() && self.dirty.gone.is_empty() {
            return Ok(());
        }
        let Shared { link, names, retention, .. } = self.shared;
        // On the list first: an entry too many is found out by who works it off.
        let mut ends: Vec<Value> = vec![names.ends().into()];
        let end = self.shared.now() + retention.session.as_millis() as u64;
        for (token, session, how) in &self.dirty.left {
            if *how == Leaving::Detached {
                ends.extend([answer::integer(end), entry(&session.principal, *token).into()]);
            }
        }
        if ends.len() > 1 {
            link.command("ZADD", ends).await?;
        }
        let steps = self.dirty.left.iter().map(|(token, session, how)| -> Step {
            match how {
                Leaving::Detached => Box::pin(self.detach(*token, session)),
                Leaving::Over => Box::pin(self.finish(*token, session)),
            }
        });
        all(steps.collect()).await?;
        let mut estate: Vec<Value> = vec![names.estate(&self.node).into()];
        let is_gone = |token| self.shared.held().get(token).is_none();
        let left = self.dirty.left.iter().map(|(token, session, _)| (token, &session.principal));
        let gone = left.chain(self.dirty.gone.iter().map(|(token, principal)| (token, principal)));
        let gone = gone.filter(|(token, _)| is_gone(**token));
        estate.extend(gone.map(|(token, principal)| Value::from(entry(principal, *token))));
        match estate.len() {
            1 => Ok(()),
            _ => link.command("SREM", estate).await.map(drop),
        }
    }

    async fn detach(&self, token: SessionToken, session: &Session) -> Result<(), Unavailable> {
        let Shared { link, names, retention, .. } = self.shared;
        let arguments = vec![
            "/connection".into(),
            session.connection.to_string().into(),
            answer::millis(retention.session),
            answer::millis(KEEP),
        ];
        link.run(&scripts::DETACH, vec![names.session(&session.principal, token.id())], arguments)
            .await
            .map(drop)
    }

    async fn finish(&self, token: SessionToken, session: &Session) -> Result<(), Unavailable> {
        let Shared { link, names, .. } = self.shared;
        let (key, connection) =
            (names.session(&session.principal, token.id()), session.connection.to_string());
        let holder = link.command("HGET", vec![key.as_str().into(), "/connection".into()]).await?;
        if holder.as_str().is_none_or(|holder| *holder != *connection) {
            return Ok(());
        }
        // Out of the rooms first: should this be cut off, it can be done again.
        for room in session.rooms.keys() {
            let roll = Roll { come: vec![], go: vec![(session.principal.clone(), token)] };
            self.enrol(room.clone(), roll).await?;
        }
        link.run(&scripts::FINISH, vec![key], vec![connection.into()]).await.map(drop)
    }
}

/// Some at a time; ends with the first error. The answers are in the order of the steps.
pub async fn all<T>(steps: Vec<Step<'_, T>>) -> Result<Vec<T>, Unavailable> {
    stream::iter(steps).buffered(AT_ONCE).try_collect().await
}
