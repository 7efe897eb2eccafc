//! Cleans up what nobody owns any more: what dead nodes have left behind, and sessions whose time to live is
//! over. Each task is given to one node at a time. All steps can be repeated, so another node can continue
//! where one stopped.

use crate::{
    Unavailable,
    redis::{
        arguments,
        context::{Context, lease_expiry::CLAIM_DURATION},
        membership_change::{MembershipChange, MembershipOutcome},
        owned_entry::OwnedEntry,
        replies,
        scripts::{
            leases::Scored,
            schedules,
            session_end::{self, EndReply, ReleaseReply, ReleaseRequest},
        },
        session_key::SessionKey,
        stored_rooms::StoredRooms,
        timeouts::too_late,
    },
};
use fred::types::Value;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream};
use std::{sync::Arc, time::Duration};
use switchyard_protocol::Position;
use tokio::time::{Instant, sleep};

/// How many entries of a dead node are read at a time.
const SCAN_COUNT: u64 = 200;
/// How many sessions with an expired time to live a node is given at a time.
const MAX_DUE_SESSIONS: u64 = 500;
/// How many entries are cleaned up at a time.
const MAX_CONCURRENT_TASKS: usize = 64;
/// The delay after a failed step.
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// How long a task is retried. Well below the time after which another node is given it.
const RETRY_WINDOW: Duration = Duration::from_secs(8);

pub(crate) struct Reaper {
    context: Arc<Context>,
    /// Held while expired sessions are being removed.
    ending: Arc<tokio::sync::Mutex<()>>,
}

impl Reaper {
    pub(crate) fn new(context: &Arc<Context>) -> Self {
        Self { context: context.clone(), ending: Arc::default() }
    }

    /// Starts cleaning up these nodes and sessions. If the node was given as many sessions as it asked for, it
    /// goes on to claim more until none are due.
    pub(crate) fn start(&self, dead: Scored, due: Scored) {
        for (node, score) in dead {
            tokio::spawn(reap_with_retries(self.context.clone(), node, score));
        }
        if let (false, Ok(guard)) = (due.is_empty(), self.ending.clone().try_lock_owned()) {
            let context = self.context.clone();
            tokio::spawn(async move {
                end_all_expired(&context, due).await;
                drop(guard);
            });
        }
    }

    /// How many sessions this node can be given. None while it is still removing others.
    pub(crate) fn wanted_sessions(&self) -> u64 {
        match self.ending.try_lock() {
            Ok(_) => MAX_DUE_SESSIONS,
            Err(_) => 0,
        }
    }
}

/// Retries until another node may be given the same task.
async fn reap_with_retries(context: Arc<Context>, node: Arc<str>, score: u64) {
    let until = Instant::now() + RETRY_WINDOW;
    loop {
        match reap(&context, &node, score).await {
            // Redis has lost the entries, or this is a former name of a node that is alive.
            Ok(0) => return,
            Ok(left) => {
                tracing::warn!(%node, left, "a node died or took another name; its sessions can be resumed on other nodes");
                context.metrics.reaped.inc();
                return;
            }
            Err(error) if Instant::now() > until => {
                return tracing::warn!(%node, %error, "could not clean up after a dead node; a node will try again");
            }
            Err(_) => sleep(RETRY_DELAY).await,
        }
    }
}

async fn end_all_expired(context: &Context, mut due: Scored) {
    loop {
        let is_last = (due.len() as u64) < MAX_DUE_SESSIONS;
        if !end_expired(context, due).await || is_last {
            return;
        }
        due = match context.claim_due(context.names.ends(), CLAIM_DURATION, MAX_DUE_SESSIONS).await {
            Ok((more, claimed)) => more.into_iter().map(|entry| (entry, claimed)).collect(),
            // What is due is given out again with the next renewal of a lease.
            Err(error) => {
                return tracing::debug!(%error, "could not claim expired sessions; trying again later");
            }
        };
    }
}

/// Returns `false` if some could not be removed in time.
async fn end_expired(context: &Context, mut due: Scored) -> bool {
    let until = Instant::now() + RETRY_WINDOW;
    loop {
        let ending = due.iter().map(|(entry, score)| end_session(context, entry, *score).boxed()).collect();
        let ended = run_all(ending).await;
        let mut ended = ended.iter();
        due.retain(|_| ended.next().is_some_and(Result::is_err));
        if due.is_empty() || Instant::now() > until {
            return due.is_empty();
        }
        sleep(RETRY_DELAY).await;
    }
}

/// Cleans up what a dead node has left. Returns the number of entries. An entry that cannot be cleaned up does
/// not hold up the others.
async fn reap(context: &Context, node: &str, score: u64) -> Result<usize, Unavailable> {
    let Context { link, names, .. } = context;
    let owned_key: Value = names.owned(node).into();
    let (mut left, mut failed, mut cursor) = (0, None, "0".to_owned());
    loop {
        let scan =
            vec![owned_key.clone(), cursor.as_str().into(), "COUNT".into(), arguments::integer(SCAN_COUNT)];
        let mut parts = replies::list(link.command("SSCAN", scan).await?)?.into_iter();
        let mut next = || parts.next().unwrap_or(Value::Null);
        cursor = replies::text(next())?.to_string();
        let entries = replies::texts(next())?;
        left += entries.len();
        let outcomes =
            run_all(entries.iter().map(|entry| reap_entry(context, node, entry).boxed()).collect()).await;
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
    // The name stays on the list if it was put there again meanwhile: the node came back, and what it had
    // started under this name must be cleaned up, too.
    schedules::remove(link, names.dead(), &[(node, score)]).await?;
    Ok(left)
}

/// Cleans up one entry of a dead node: removes a count, or releases a session and writes its members as its
/// record has them.
async fn reap_entry(context: &Context, node: &str, text: &str) -> Result<(), Unavailable> {
    let Context { link, names, retention, .. } = context;
    let (key, connection) = match OwnedEntry::parse(text) {
        Some(OwnedEntry::Session { key, connection }) => (key, connection),
        Some(OwnedEntry::ConnectionCount { principal }) => {
            link.command("HDEL", vec![names.connections(principal).into(), node.into()]).await?;
            return Ok(());
        }
        None => return Ok(()),
    };
    let request =
        ReleaseRequest { connection, dead_node: Some(node), ttl: retention.session_ttl, final_write: None };
    let reply = session_end::release(link, names, key, context.cluster_time().await?, request).await?;
    if let ReleaseReply::Released { time, generation, number, end, rooms } = reply {
        context.owned.schedule_end(key, end).await?;
        let written = RecordSnapshot { key, time, generation, number };
        written.write_members(context, &rooms?, true).await?;
    }
    Ok(())
}

/// What a session's record contained at a moment.
struct RecordSnapshot<'a> {
    key: SessionKey<'a>,
    time: u64,
    generation: u64,
    number: u64,
}

impl RecordSnapshot<'_> {
    /// Writes the members of the session as its record has them, or removes them all unless it `lives`. Newer
    /// writes take precedence.
    async fn write_members(
        &self,
        context: &Context,
        rooms: &StoredRooms,
        lives: bool,
    ) -> Result<(), Unavailable> {
        let members =
            rooms.memberships.iter().map(|(room, stored)| (room, Some(stored.joined.epoch.clone())));
        let left = rooms.left.iter().map(|room| (room, None));
        let principal: Arc<str> = self.key.principal.into();
        let mut writes: Vec<CleanupTask> = vec![];
        for (room, epoch) in members.chain(left) {
            let change = MembershipChange {
                room: room.clone(),
                generation: self.generation,
                number: self.number,
                confirmed_at: self.time,
                joins: epoch.filter(|_| lives).map(|epoch| Position { epoch, offset: 0 }),
            };
            let principal = &principal;
            let write = async move {
                match context.members.write(principal, self.key.id, change).await? {
                    (MembershipOutcome::Late, _) => Err(too_late()),
                    _ => Ok(()),
                }
            };
            writes.push(write.boxed());
        }
        run_all(writes).await.into_iter().collect()
    }
}

type CleanupTask<'a> = BoxFuture<'a, Result<(), Unavailable>>;

/// Runs some tasks at a time. One that fails does not hold up the others.
async fn run_all(steps: Vec<CleanupTask<'_>>) -> Vec<Result<(), Unavailable>> {
    stream::iter(steps).buffered(MAX_CONCURRENT_TASKS).collect().await
}

/// Ends a session whose time to live is over, unless it has been resumed.
async fn end_session(context: &Context, listed: &Arc<str>, score: u64) -> Result<(), Unavailable> {
    let Context { link, names, owned, .. } = context;
    let Some(key) = SessionKey::parse(listed) else {
        return owned.unschedule_end(listed.to_string(), score).await;
    };
    match session_end::end(link, names, key, context.cluster_clock.now()).await? {
        // The session was released again since, or was scheduled too early.
        EndReply::Later { end } => return owned.schedule_end(key, end).await,
        EndReply::Ended { time, generation, number, rooms } => {
            let ended = RecordSnapshot { key, time, generation, number };
            ended.write_members(context, &rooms, false).await?;
            session_end::delete(link, names, key, (generation, number)).await?;
        }
        EndReply::Live => {}
    }
    owned.unschedule_end(listed.to_string(), score).await
}
