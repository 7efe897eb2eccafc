//! Clears away what is nobody's any more: what a dead node left behind, and sessions whose time is over. A task is given to
//! one node at a time; each step can be done twice, so that another node goes on where one was cut off.

use super::{
    KEEP, SessionId, Shared, answer, lease,
    record::{Enrolled, Enrolment, Rooms, entry},
    scripts,
};
use crate::{ConnectionId, Unavailable};
use fred::types::Value;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream};
use std::{sync::Arc, time::Duration};
use switchyard_protocol::Position;
use tokio::time::{Instant, sleep};

/// Entries of an estate at a time.
const PIECE: u64 = 200;
/// Sessions whose time is over that a node is given at a time.
const DUE: u64 = 500;
/// Sessions that are seen to at a time.
const AT_ONCE: usize = 64;
/// After a step that failed.
const PAUSE: Duration = Duration::from_millis(500);
/// For how long a task is tried again: well below what it takes until another node is given it.
const TRIES: Duration = Duration::from_secs(8);

/// Nodes or sessions with their scores on the list that they are on.
pub(super) fn listed(parts: &[Arc<str>]) -> Vec<(Arc<str>, u64)> {
    parts.chunks_exact(2).filter_map(|pair| Some((pair[0].clone(), pair[1].parse().ok()?))).collect()
}

/// Sees to these nodes and sessions, beside everything else. Where it was given all sessions that it asked for, more may be due: it goes on
/// until there are no more.
pub(super) fn start(shared: &Arc<Shared>, dead: Vec<(Arc<str>, u64)>, due: Vec<(Arc<str>, u64)>) {
    for (node, score) in dead {
        tokio::spawn(see_to_node(shared.clone(), node, score));
    }
    if let (false, Ok(turn)) = (due.is_empty(), shared.ending.clone().try_lock_owned()) {
        let shared = shared.clone();
        tokio::spawn(async move {
            see_to_all_ends(&shared, due).await;
            drop(turn);
        });
    }
}

/// How many sessions this node is to be given: none while it is at work on others.
pub(super) fn wanted(shared: &Shared) -> u64 {
    match shared.ending.try_lock() {
        Ok(_) => DUE,
        Err(_) => 0,
    }
}

/// Until another node is given the same task, it is tried again.
async fn see_to_node(shared: Arc<Shared>, node: Arc<str>, score: u64) {
    let until = Instant::now() + TRIES;
    loop {
        match reap(&shared, &node, score).await {
            // A former name of a node that lives, whose estate Redis has forgotten.
            Ok(0) => return,
            Ok(left) => {
                tracing::warn!(%node, left, "a node died or took another name; the sessions that it left wait to be resumed");
                shared.metrics.reaped.inc();
                return;
            }
            Err(error) if Instant::now() > until => {
                return tracing::warn!(%node, %error, "what a dead node left is cleared away later");
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}

async fn see_to_all_ends(shared: &Shared, mut due: Vec<(Arc<str>, u64)>) {
    loop {
        let is_all = (due.len() as u64) < DUE;
        if !see_to_ends(shared, due).await || is_all {
            return;
        }
        due = match shared.due(shared.names.ends(), lease::CLAIM, DUE).await {
            Ok((more, claimed)) => more.into_iter().map(|entry| (entry, claimed)).collect(),
            // What is due is given out with the lease.
            Err(error) => return tracing::debug!(%error, "sessions whose time is over are removed later"),
        };
    }
}

/// `false`: some were not removed in time.
async fn see_to_ends(shared: &Shared, mut due: Vec<(Arc<str>, u64)>) -> bool {
    let until = Instant::now() + TRIES;
    loop {
        let ending = due.iter().map(|(entry, score)| end(shared, entry, *score).boxed()).collect();
        let ended = all(ending).await;
        let mut ended = ended.iter();
        due.retain(|_| ended.next().is_some_and(Result::is_err));
        if due.is_empty() || Instant::now() > until {
            return due.is_empty();
        }
        sleep(PAUSE).await;
    }
}

/// An entry of an estate.
enum Left<'a> {
    Counted(&'a str),
    Session { principal: Arc<str>, id: SessionId, connection: &'a str },
}

impl<'a> Left<'a> {
    fn read(entry: &'a str) -> Option<Self> {
        let mut parts = entry.split(' ');
        match (parts.next()?, parts.next(), parts.next()) {
            (principal, None, None) => Some(Self::Counted(principal)),
            (principal, Some(id), Some(connection)) => {
                ConnectionId::parse(connection)?;
                Some(Self::Session { principal: principal.into(), id: SessionId::parse(id)?, connection })
            }
            _ => None,
        }
    }
}

/// Clears away what a dead node left: how much that was. What cannot be reached keeps nothing else from being cleared away.
async fn reap(shared: &Shared, node: &str, score: u64) -> Result<usize, Unavailable> {
    let Shared { link, names, .. } = shared;
    let estate: Value = names.estate(node).into();
    let (mut left, mut failed, mut cursor) = (0, None, "0".to_owned());
    loop {
        let piece = vec![estate.clone(), cursor.as_str().into(), "COUNT".into(), answer::integer(PIECE)];
        let mut parts = answer::list(link.command("SSCAN", piece).await?)?.into_iter();
        let mut next = || parts.next().unwrap_or(Value::Null);
        cursor = answer::text(next())?.to_string();
        let entries = answer::texts(next())?;
        left += entries.len();
        let outcomes = all(entries.iter().map(|entry| clear(shared, node, entry).boxed()).collect()).await;
        let done = entries.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_ok());
        let done: Vec<Value> = done.map(|(entry, _)| Value::from(&**entry)).collect();
        if !done.is_empty() {
            link.command("SREM", [vec![estate.clone()], done].concat()).await?;
        }
        failed = outcomes.into_iter().find_map(Result::err).or(failed);
        if cursor == "0" {
            break;
        }
    }
    if let Some(error) = failed {
        return Err(error);
    }
    link.command("DEL", vec![names.takeovers(node).into()]).await?;
    // It may have come back meanwhile, and what it had begun under this name is to be seen to once more.
    link.run(&scripts::STRIKE, vec![names.dead()], vec![node.into(), answer::integer(score)]).await?;
    Ok(left)
}

/// Sees to one entry of a dead node's estate: lets the session go, and its members be as its record says.
async fn clear(shared: &Shared, node: &str, text: &str) -> Result<(), Unavailable> {
    let Shared { link, names, retention, .. } = shared;
    let (principal, id, connection) = match Left::read(text) {
        Some(Left::Session { principal, id, connection }) => (principal, id, connection),
        Some(Left::Counted(principal)) => {
            link.command("HDEL", vec![names.connections(principal).into(), node.into()]).await?;
            return Ok(());
        }
        None => return Ok(()),
    };
    let arguments = vec![
        connection.into(),
        node.into(),
        answer::integer(shared.cluster_time().await?),
        answer::millis(retention.session),
        answer::millis(KEEP),
        answer::integer(1),
    ];
    let parts =
        answer::texts(link.run(&scripts::LETGO, vec![names.session(&principal, id)], arguments).await?)?;
    if &*parts[0] == "ok" {
        let [_, _, _, _, _, fields @ ..] = &parts[..] else { return Err(answer::too_short()) };
        let (time, generation, number) =
            (answer::nth(&parts, 1)?, answer::nth(&parts, 2)?, answer::nth(&parts, 3)?);
        shared.estate.ends(entry(&principal, id), answer::nth(&parts, 4)?).await?;
        let rooms = Rooms::read(fields)?;
        let written = Confirmed { principal: &principal, id, time, generation, number };
        written.enrol(shared, &rooms, true).await?;
    }
    Ok(())
}

/// A session as its record was at a moment.
struct Confirmed<'a> {
    principal: &'a Arc<str>,
    id: SessionId,
    time: u64,
    generation: u64,
    number: u64,
}

impl Confirmed<'_> {
    /// Writes its members as the record says, or removes them all. Where something newer was written, that holds.
    async fn enrol(&self, shared: &Shared, rooms: &Rooms, lives: bool) -> Result<(), Unavailable> {
        let come = rooms.places.iter().map(|(room, place)| (room, Some(place.joined.epoch.clone())));
        let go = rooms.left.iter().map(|room| (room, None));
        let mut writes: Vec<Step> = vec![];
        for (room, epoch) in come.chain(go) {
            let enrolment = Enrolment {
                room: room.clone(),
                generation: self.generation,
                number: self.number,
                confirmed: self.time,
                comes: epoch.filter(|_| lives).map(|epoch| Position { epoch, offset: 0 }),
            };
            let write = async move {
                match shared.members.enrol(self.principal, self.id, enrolment).await? {
                    (Enrolled::Late, _) => Err(Unavailable("a member was written too late".to_owned())),
                    _ => Ok(()),
                }
            };
            writes.push(write.boxed());
        }
        all(writes).await.into_iter().collect()
    }
}

type Step<'a> = BoxFuture<'a, Result<(), Unavailable>>;

/// Some at a time; one that fails keeps no other from being done.
async fn all(steps: Vec<Step<'_>>) -> Vec<Result<(), Unavailable>> {
    stream::iter(steps).buffered(AT_ONCE).collect().await
}

/// Ends a session whose time is over, unless it was resumed.
async fn end(shared: &Shared, listed: &Arc<str>, score: u64) -> Result<(), Unavailable> {
    let Shared { link, names, estate, .. } = shared;
    let Some((principal, id)) =
        listed.split_once(' ').and_then(|(p, id)| Some((p.into(), SessionId::parse(id)?)))
    else {
        return estate.strike(listed.to_string(), score).await;
    };
    let principal: Arc<str> = principal;
    let key = names.session(&principal, id);
    let parts = answer::texts(
        link.run(&scripts::ENDING, vec![key.clone()], vec![answer::integer(shared.cluster.now())]).await?,
    )?;
    match &*parts[0] {
        // It was let go once more since, or was put on the list too early.
        "later" => return estate.ends(listed.to_string(), answer::nth(&parts, 1)?).await,
        "ended" => {
            let [_, _, generation, number, fields @ ..] = &parts[..] else { return Err(answer::too_short()) };
            let ended = Confirmed {
                principal: &principal,
                id,
                time: answer::nth(&parts, 1)?,
                generation: answer::nth(&parts, 2)?,
                number: answer::nth(&parts, 3)?,
            };
            ended.enrol(shared, &Rooms::read(fields)?, false).await?;
            let arguments = vec![Value::from(&**generation), Value::from(&**number)];
            link.run(&scripts::BURY, vec![key], arguments).await?;
        }
        _ => {}
    }
    estate.strike(listed.to_string(), score).await
}
