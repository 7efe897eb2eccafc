//! Clears away what is nobody's any more: what a dead node left behind, and sessions whose time is over. A task is given to
//! one node at a time; each step can be done twice, so that another node goes on where one was cut off.

use super::{
    KEEP, Shared, answer,
    batch::{Step, all},
    scripts,
};
use crate::store::Unavailable;
use fred::types::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// Entries of an estate at a time.
const PIECE: u64 = 200;

/// Sees to these nodes and sessions, beside everything else.
pub fn start(shared: &Arc<Shared>, dead: Vec<Arc<str>>, due: Vec<Arc<str>>) {
    for node in dead {
        let shared = shared.clone();
        tokio::spawn(async move {
            tracing::warn!(%node, "a node died; its sessions wait to be resumed");
            match reap(&shared, &node).await {
                Ok(()) => drop(shared.metrics.reaped.inc()),
                Err(error) => tracing::warn!(%node, %error, "what it left is cleared away later"),
            }
        });
    }
    if !due.is_empty() {
        let shared = shared.clone();
        tokio::spawn(async move {
            if let Err(error) = end(&shared, &due).await {
                tracing::debug!(%error, "sessions are ended later");
            }
        });
    }
}

/// Takes rooms that are gone from the list of rooms, unless another node did within `pause`.
pub fn prune(shared: &Arc<Shared>, pause: Duration) {
    let shared = shared.clone();
    tokio::spawn(async move {
        match prune_rooms(&shared, pause).await {
            Ok(0) => {}
            Ok(gone) => tracing::debug!(gone, "took rooms that are gone from the list"),
            Err(error) => tracing::debug!(%error, "the list of rooms is seen to later"),
        }
    });
}

async fn prune_rooms(shared: &Shared, pause: Duration) -> Result<usize, Unavailable> {
    let Shared { link, names, node, .. } = shared;
    let node = node.load().as_str().into();
    let turn = vec![names.pruned().into(), node, "NX".into(), "PX".into(), answer::millis(pause / 2)];
    if link.command("SET", turn).await?.is_null() {
        return Ok(0);
    }
    let (mut gone, mut from) = (0, "-".to_owned());
    loop {
        let page = shared.rooms.page(&from, PIECE).await?;
        let Some((last, _)) = page.last() else { return Ok(gone) };
        from = format!("({last}");
        gone += page.iter().filter(|(_, summary)| summary.is_none()).count();
    }
}

/// Principal and session of an entry.
fn split(entry: &str) -> Option<(&str, &str)> {
    entry.split_once(' ')
}

async fn reap(shared: &Shared, node: &str) -> Result<(), Unavailable> {
    let Shared { link, names, retention, .. } = shared;
    let estate: Value = names.estate(node).into();
    loop {
        let piece = vec![estate.clone(), answer::integer(PIECE)];
        let entries = answer::list(link.command("SRANDMEMBER", piece).await?)?;
        if entries.is_empty() {
            break;
        }
        let texts: Vec<_> = entries.iter().cloned().map(answer::text).collect::<Result<_, _>>()?;
        let end = answer::integer(shared.now() + retention.session.as_millis() as u64);
        let mut ends: Vec<Value> = vec![names.ends().into()];
        let sessions = texts.iter().filter(|entry| split(entry).is_some());
        ends.extend(sessions.flat_map(|entry| [end.clone(), (&**entry).into()]));
        if ends.len() > 1 {
            link.command("ZADD", ends).await?;
        }
        let mut steps: Vec<Step<Value>> = vec![];
        for entry in &texts {
            let Some((principal, session)) = split(entry) else {
                let count = vec![names.connections(entry).into(), Value::from(node)];
                steps.push(Box::pin(link.command("HDEL", count)));
                continue;
            };
            let (ttl, keep) = (answer::millis(retention.session), answer::millis(KEEP));
            let arguments = vec!["/node".into(), node.into(), ttl, keep];
            let keys = vec![names.session_by_id(principal, session)];
            steps.push(Box::pin(link.run(&scripts::DETACH, keys, arguments)));
        }
        all(steps).await?;
        link.command("SREM", [vec![estate.clone()], entries].concat()).await?;
    }
    link.command("DEL", vec![names.calls(node).into()]).await?;
    link.command("ZREM", vec![names.dead().into(), node.into()]).await.map(drop)
}

/// Ends sessions whose time is over, unless they were resumed.
async fn end(shared: &Shared, due: &[Arc<str>]) -> Result<(), Unavailable> {
    let Shared { link, names, .. } = shared;
    let sessions: Vec<_> = due.iter().map(|entry| split(entry).unwrap_or((entry, ""))).collect();
    let mut asked: Vec<Step<Value>> = vec![];
    for (principal, session) in &sessions {
        let keys = vec![names.session_by_id(principal, session)];
        asked.push(Box::pin(link.run(&scripts::ROOMS_OF_ENDED, keys, vec![])));
    }
    let fields = all(asked).await?;
    let mut rooms: BTreeMap<Arc<str>, BTreeSet<(&str, &str)>> = BTreeMap::new();
    let (mut over, mut done) = (vec![], vec![]);
    for ((session, entry), fields) in sessions.into_iter().zip(due).zip(fields) {
        let entry = Value::from(&**entry);
        if !fields.is_null() && !fields.is_array() {
            // It was put on the list by a clock that is ahead of Redis', if only by a millisecond.
            let later = answer::integer(answer::number(&fields)?);
            link.command("ZADD", vec![names.ends().into(), later, entry]).await?;
            continue;
        }
        done.push(entry);
        if fields.is_null() {
            continue;
        }
        over.push(session);
        for room in answer::list(fields)?.into_iter().map(answer::text) {
            let room = room?;
            if !room.starts_with('/') {
                rooms.entry(room).or_default().insert(session);
            }
        }
    }
    let mut leaving: Vec<Step<Value>> = vec![];
    for (room, sessions) in &rooms {
        let mut arguments = vec![answer::millis(KEEP), answer::integer(0)];
        arguments.extend(sessions.iter().flat_map(|(p, s)| [Value::from(*p), Value::from(*s)]));
        let keys = vec![names.members(room), names.acks(room)];
        leaving.push(Box::pin(link.run(&scripts::ENROL, keys, arguments)));
    }
    all(leaving).await?;
    let mut burials: Vec<Step<Value>> = vec![];
    for (principal, session) in over {
        let keys = vec![names.session_by_id(principal, session)];
        burials.push(Box::pin(link.run(&scripts::BURY, keys, vec![])));
    }
    all(burials).await?;
    if done.is_empty() {
        return Ok(());
    }
    link.command("ZREM", [vec![names.ends().into()], done].concat()).await.map(drop)
}
