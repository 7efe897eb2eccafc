//! Sessions and connections that come: each is asked of Redis at once, because its answer decides.

use super::{
    KEEP, Redis, answer,
    held::{Place, Session},
    scripts,
};
use crate::{
    protocol::Position,
    room::RoomName,
    store::{ConnectionId, Membership, Resumed, SessionToken, Unavailable},
};
use fred::types::Value;
use futures_util::future::try_join_all;
use std::{collections::BTreeMap, sync::Arc};

/// A session as its node's estate and the list of ends have it.
pub fn entry(principal: &str, token: SessionToken) -> String {
    format!("{principal} {}", token.id())
}

/// A place in a room as a session's hash has it: epoch, offset, and the filter where there is one.
pub fn written(place: &Place) -> String {
    let Position { epoch, offset } = &place.joined;
    match &place.filter {
        Some(filter) => format!("{epoch} {offset} {filter}"),
        None => format!("{epoch} {offset}"),
    }
}

fn read(text: &str) -> Option<Place> {
    let mut parts = text.splitn(3, ' ');
    let joined = Position { epoch: parts.next()?.into(), offset: parts.next()?.parse().ok()? };
    Some(Place { filter: parts.next().map(Into::into), joined, acknowledged: None })
}

impl Redis {
    /// A place for one more connection of a principal.
    pub(super) async fn count(
        &self,
        principal: &Arc<str>,
        most: u32,
    ) -> Result<Result<(), u32>, Unavailable> {
        let shared = &self.shared;
        let (own, node) = (shared.counts.add(principal), shared.node.load_full());
        let arguments = vec![
            node.as_str().into(),
            answer::integer(own.into()),
            answer::integer(most.into()),
            answer::millis(KEEP),
        ];
        let left = [shared.names.estate(&node).into(), Value::from(&**principal)];
        let (taken, noted) = tokio::join!(
            shared.link.run(&scripts::PLACE, vec![shared.names.connections(principal)], arguments),
            shared.link.command("SADD", left.to_vec()),
        );
        let taken = noted.and(taken).and_then(|taken| match taken {
            Value::Integer(-1) => Ok(Ok(())),
            taken => answer::number(&taken).map(|count| Err(count as u32)),
        });
        if !matches!(taken, Ok(Ok(()))) {
            shared.counts.subtract(principal);
        }
        // Counts cross one another on the way: what is so in the end is written afterwards.
        self.recount(principal);
        taken
    }

    pub(super) fn uncount(&self, principal: &Arc<str>) {
        self.shared.counts.subtract(principal);
        self.recount(principal);
    }

    fn recount(&self, principal: &Arc<str>) {
        self.change(|held| held.recount(principal));
    }

    pub(super) async fn create(
        &self,
        principal: &Arc<str>,
        connection: ConnectionId,
    ) -> Result<SessionToken, Unavailable> {
        let (shared, token) = (&self.shared, SessionToken::random());
        let node = shared.node.load_full();
        let arguments = vec![connection.to_string().into(), node.as_str().into(), answer::millis(KEEP)];
        let (made, noted) = tokio::join!(
            shared.link.run(&scripts::CLAIM, vec![shared.names.session(principal, token.id())], arguments),
            self.note(&node, principal, token),
        );
        made.and(noted)?;
        let session = Session { principal: principal.clone(), connection, rooms: BTreeMap::new() };
        shared.held().insert(token, session);
        Ok(token)
    }

    /// Puts a session among what this node would leave behind.
    async fn note(&self, node: &str, principal: &str, token: SessionToken) -> Result<(), Unavailable> {
        let arguments = vec![self.shared.names.estate(node).into(), entry(principal, token).into()];
        self.shared.link.command("SADD", arguments).await.map(drop)
    }

    pub(super) async fn resume(
        &self,
        token: SessionToken,
        principal: &Arc<str>,
        connection: ConnectionId,
    ) -> Result<Option<Resumed>, Unavailable> {
        let shared = &self.shared;
        // What this node knows of it and Redis not yet must be there before it is read.
        if shared.held().is_leaving(token) {
            self.writer.written().await?;
        }
        let node = shared.node.load_full();
        let arguments = vec![connection.to_string().into(), node.as_str().into(), answer::millis(KEEP)];
        let keys = vec![shared.names.session(principal, token.id())];
        let found = shared.link.run(&scripts::RESUME, keys, arguments).await?;
        if found.is_null() {
            return Ok(None);
        }
        let mut parts = answer::list(found)?.into_iter();
        let mut next = || parts.next().unwrap_or(Value::Null);
        let (previous, on) = (answer::text(next())?, answer::text(next())?);
        let places = places(answer::list(next())?)?;
        let ended = vec![shared.names.ends().into(), entry(principal, token).into()];
        let (noted, ends, acknowledged) = tokio::join!(
            self.note(&node, principal, token),
            shared.link.command("ZREM", ended),
            self.acknowledged(token, &places),
        );
        noted.and(ends)?;
        let mut rooms = BTreeMap::new();
        for ((room, mut place), acknowledged) in places.into_iter().zip(acknowledged?) {
            place.acknowledged = acknowledged;
            rooms.insert(room, place);
        }
        let memberships = rooms.iter().map(|(room, place)| (room.clone(), membership(place))).collect();
        let session = Session { principal: principal.clone(), connection, rooms };
        shared.held().insert(token, session);
        if !previous.is_empty() && *on != *node {
            self.call(&on, &previous).await;
        }
        Ok(Some(Resumed { previous: ConnectionId::parse(&previous), rooms: memberships }))
    }

    /// What a session has acknowledged in each room.
    async fn acknowledged(
        &self,
        token: SessionToken,
        places: &[(RoomName, Place)],
    ) -> Result<Vec<Option<u64>>, Unavailable> {
        let asked = places.iter().map(async |(room, _)| {
            let arguments = vec![self.shared.names.acks(room).into(), token.id().to_string().into()];
            match self.shared.link.command("ZSCORE", arguments).await? {
                Value::Null => Ok(None),
                // 0 stands for a member that has acknowledged nothing.
                score => answer::number(&score).map(|offset| Some(offset).filter(|offset| *offset > 0)),
            }
        });
        try_join_all(asked).await
    }

    /// Tells another node that one of its connections is not needed any more. It looks each second; if it is gone, nobody
    /// has to be told.
    async fn call(&self, node: &str, connection: &str) {
        let key = self.shared.names.calls(node);
        let told = self.shared.link.command("RPUSH", vec![key.as_str().into(), connection.into()]).await;
        let kept = vec![key.into(), answer::millis(super::lease::LEASE * 6)];
        if let Err(error) = told.and(self.shared.link.command("PEXPIRE", kept).await) {
            tracing::debug!(%error, "a node was not told of a takeover");
        }
    }
}

fn membership(place: &Place) -> Membership {
    let Place { filter, joined: Position { epoch, offset }, acknowledged } = place;
    let offset = acknowledged.map_or(*offset, |acknowledged| acknowledged.max(*offset));
    Membership { filter: filter.clone(), position: Position { epoch: epoch.clone(), offset } }
}

fn places(fields: Vec<Value>) -> Result<Vec<(RoomName, Place)>, Unavailable> {
    let texts: Vec<_> = fields.into_iter().map(answer::text).collect::<Result<_, _>>()?;
    let mut places = vec![];
    for pair in texts.chunks_exact(2).filter(|pair| !pair[0].starts_with('/')) {
        let place = RoomName::parse(&pair[0]).ok().zip(read(&pair[1]));
        places.push(place.ok_or_else(|| Unavailable("a session holds what is no room".to_owned()))?);
    }
    places.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(places)
}
