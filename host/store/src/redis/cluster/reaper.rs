//! Clears away what is nobody's any more: what a dead node left behind, and sessions whose time is over. A task is given to
//! one node at a time; each step can be done twice, so that another node goes on where one was cut off.

use crate::{
    ConnectionId, Unavailable,
    redis::{
        answer,
        context::{Context, lease_expiry::CLAIM_DURATION, owned_entries::session_entry},
        membership_change::{MembershipChange, MembershipOutcome},
        scripts::{
            leases::Scored,
            schedules,
            session_end::{self, EndReply, ReleaseReply, ReleaseRequest},
            sessions::SessionKey,
        },
        session_id::SessionId,
        stored_rooms::StoredRooms,
    },
};
use fred::types::Value;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream};
use std::{sync::Arc, time::Duration};
use switchyard_protocol::Position;
use tokio::time::{Instant, sleep};

/// Entries of an estate at a time.
const SCAN_COUNT: u64 = 200;
/// Sessions whose time is over that a node is given at a time.
const MAX_DUE_SESSIONS: u64 = 500;
/// Sessions that are seen to at a time.
const MAX_CONCURRENT_TASKS: usize = 64;
/// After a step that failed.
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// For how long a task is tried again: well below what it takes until another node is given it.
const RETRY_WINDOW: Duration = Duration::from_secs(8);

pub(crate) struct Reaper {
    context: Arc<Context>,
    /// Held while sessions whose time is over are being removed.
    ending: Arc<tokio::sync::Mutex<()>>,
}

impl Reaper {
    pub(crate) fn new(context: &Arc<Context>) -> Self {
        Self { context: context.clone(), ending: Arc::default() }
    }

    /// Sees to these nodes and sessions, beside everything else. Where it was given all sessions that it asked for, more may be due: it
    /// goes on until there are no more.
    pub(crate) fn start(&self, dead: Scored, due: Scored) {
        for (node, score) in dead {
            tokio::spawn(see_to_node(self.context.clone(), node, score));
        }
        if let (false, Ok(turn)) = (due.is_empty(), self.ending.clone().try_lock_owned()) {
            let context = self.context.clone();
            tokio::spawn(async move {
                see_to_all_ends(&context, due).await;
                drop(turn);
            });
        }
    }

    /// How many sessions this node is to be given: none while it is at work on others.
    pub(crate) fn wanted_sessions(&self) -> u64 {
        match self.ending.try_lock() {
            Ok(_) => MAX_DUE_SESSIONS,
            Err(_) => 0,
        }
    }
}

/// Until another node is given the same task, it is tried again.
async fn see_to_node(context: Arc<Context>, node: Arc<str>, score: u64) {
    let until = Instant::now() + RETRY_WINDOW;
    loop {
        match reap(&context, &node, score).await {
            // A former name of a node that lives, whose estate Redis has forgotten.
            Ok(0) => return,
            Ok(left) => {
                tracing::warn!(%node, left, "a node died or took another name; the sessions that it left wait to be resumed");
                context.metrics.reaped.inc();
                return;
            }
            Err(error) if Instant::now() > until => {
                return tracing::warn!(%node, %error, "what a dead node left is cleared away later");
            }
            Err(_) => sleep(RETRY_DELAY).await,
        }
    }
}

async fn see_to_all_ends(context: &Context, mut due: Scored) {
    loop {
        let is_all = (due.len() as u64) < MAX_DUE_SESSIONS;
        if !see_to_ends(context, due).await || is_all {
            return;
        }
        due = match context.claim_due(context.names.ends(), CLAIM_DURATION, MAX_DUE_SESSIONS).await {
            Ok((more, claimed)) => more.into_iter().map(|entry| (entry, claimed)).collect(),
            // What is due is given out with the lease.
            Err(error) => return tracing::debug!(%error, "sessions whose time is over are removed later"),
        };
    }
}

/// `false`: some were not removed in time.
async fn see_to_ends(context: &Context, mut due: Scored) -> bool {
    let until = Instant::now() + RETRY_WINDOW;
    loop {
        let ending = due.iter().map(|(entry, score)| end(context, entry, *score).boxed()).collect();
        let ended = all(ending).await;
        let mut ended = ended.iter();
        due.retain(|_| ended.next().is_some_and(Result::is_err));
        if due.is_empty() || Instant::now() > until {
            return due.is_empty();
        }
        sleep(RETRY_DELAY).await;
    }
}

/// An entry of an estate.
enum OwnedEntry<'a> {
    Counted(&'a str),
    HeldSession { principal: Arc<str>, id: SessionId, connection: &'a str },
}

impl<'a> OwnedEntry<'a> {
    fn read(entry: &'a str) -> Option<Self> {
        let mut parts = entry.split(' ');
        match (parts.next()?, parts.next(), parts.next()) {
            (principal, None, None) => Some(Self::Counted(principal)),
            (principal, Some(id), Some(connection)) => {
                ConnectionId::parse(connection)?;
                Some(Self::HeldSession { principal: principal.into(), id: SessionId::parse(id)?, connection })
            }
            _ => None,
        }
    }
}

/// Clears away what a dead node left: how much that was. What cannot be reached keeps nothing else from being cleared away.
async fn reap(context: &Context, node: &str, score: u64) -> Result<usize, Unavailable> {
    let Context { link, names, .. } = context;
    let owned_key: Value = names.estate(node).into();
    let (mut left, mut failed, mut cursor) = (0, None, "0".to_owned());
    loop {
        let piece =
            vec![owned_key.clone(), cursor.as_str().into(), "COUNT".into(), answer::integer(SCAN_COUNT)];
        let mut parts = answer::list(link.command("SSCAN", piece).await?)?.into_iter();
        let mut next = || parts.next().unwrap_or(Value::Null);
        cursor = answer::text(next())?.to_string();
        let entries = answer::texts(next())?;
        left += entries.len();
        let outcomes = all(entries.iter().map(|entry| clear(context, node, entry).boxed()).collect()).await;
        let done = entries.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_ok());
        let done: Vec<Value> = done.map(|(entry, _)| Value::from(&**entry)).collect();
        if !done.is_empty() {
            link.command("SREM", [vec![owned_key.clone()], done].concat()).await?;
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
    schedules::remove(link, names.dead(), &[(node, score)]).await?;
    Ok(left)
}

/// Sees to one entry of a dead node's estate: lets the session go, and its members be as its record says.
async fn clear(context: &Context, node: &str, text: &str) -> Result<(), Unavailable> {
    let Context { link, names, retention, .. } = context;
    let (principal, id, connection) = match OwnedEntry::read(text) {
        Some(OwnedEntry::HeldSession { principal, id, connection }) => (principal, id, connection),
        Some(OwnedEntry::Counted(principal)) => {
            link.command("HDEL", vec![names.connections(principal).into(), node.into()]).await?;
            return Ok(());
        }
        None => return Ok(()),
    };
    let asked =
        ReleaseRequest { connection, dead_node: Some(node), ttl: retention.session_ttl, final_write: None };
    let key = SessionKey { principal: &principal, id };
    let let_go = session_end::release(link, names, key, context.cluster_time().await?, asked).await?;
    if let ReleaseReply::Released { time, generation, number, end, rooms } = let_go {
        context.owned.schedule_end(session_entry(&principal, id), end).await?;
        let written = RecordSnapshot { principal: &principal, id, time, generation, number };
        written.write_members(context, &rooms?, true).await?;
    }
    Ok(())
}

/// A session as its record was at a moment.
struct RecordSnapshot<'a> {
    principal: &'a Arc<str>,
    id: SessionId,
    time: u64,
    generation: u64,
    number: u64,
}

impl RecordSnapshot<'_> {
    /// Writes its members as the record says, or removes them all. Where something newer was written, that holds.
    async fn write_members(&self, context: &Context, rooms: &StoredRooms, lives: bool) -> Result<(), Unavailable> {
        let come = rooms.memberships.iter().map(|(room, place)| (room, Some(place.joined.epoch.clone())));
        let go = rooms.left.iter().map(|room| (room, None));
        let mut writes: Vec<CleanupTask> = vec![];
        for (room, epoch) in come.chain(go) {
            let change = MembershipChange {
                room: room.clone(),
                generation: self.generation,
                number: self.number,
                confirmed_at: self.time,
                joins: epoch.filter(|_| lives).map(|epoch| Position { epoch, offset: 0 }),
            };
            let write = async move {
                match context.members.write(self.principal, self.id, change).await? {
                    (MembershipOutcome::Late, _) => {
                        Err(Unavailable("a member was written too late".to_owned()))
                    }
                    _ => Ok(()),
                }
            };
            writes.push(write.boxed());
        }
        all(writes).await.into_iter().collect()
    }
}

type CleanupTask<'a> = BoxFuture<'a, Result<(), Unavailable>>;

/// Some at a time; one that fails keeps no other from being done.
async fn all(steps: Vec<CleanupTask<'_>>) -> Vec<Result<(), Unavailable>> {
    stream::iter(steps).buffered(MAX_CONCURRENT_TASKS).collect().await
}

/// Ends a session whose time is over, unless it was resumed.
async fn end(context: &Context, listed: &Arc<str>, score: u64) -> Result<(), Unavailable> {
    let Context { link, names, owned, .. } = context;
    let Some((principal, id)) =
        listed.split_once(' ').and_then(|(p, id)| Some((p.into(), SessionId::parse(id)?)))
    else {
        return owned.unschedule_end(listed.to_string(), score).await;
    };
    let principal: Arc<str> = principal;
    let key = SessionKey { principal: &principal, id };
    match session_end::end(link, names, key, context.cluster_clock.now()).await? {
        // It was let go once more since, or was put on the list too early.
        EndReply::Later { end } => return owned.schedule_end(listed.to_string(), end).await,
        EndReply::Ended { time, generation, number, rooms } => {
            let ended = RecordSnapshot { principal: &principal, id, time, generation, number };
            ended.write_members(context, &rooms, false).await?;
            session_end::delete(link, names, key, (generation, number)).await?;
        }
        EndReply::Live => {}
    }
    owned.unschedule_end(listed.to_string(), score).await
}
