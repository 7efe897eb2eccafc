//! Checks periodically that Redis agrees with the sessions that this node holds. A takeover notice may get
//! lost, and a server of a Cluster may come back empty.

use crate::{
    ConnectionId, Unavailable,
    redis::{
        scripts::sessions::{HolderRecord, holders},
        sessions::{HeldSession, RedisSessions},
    },
};
use futures_util::{FutureExt, StreamExt, future::try_join_all, stream};
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicBool, atomic::Ordering},
    time::Duration,
};

/// How long it takes to check each session once.
const ROUND_DURATION: Duration = Duration::from_secs(60);
/// How many sessions one command checks, all of one principal.
const MAX_KEYS_PER_COMMAND: usize = 100;
/// How many commands are in flight at a time.
const MAX_CONCURRENT_COMMANDS: usize = 16;

/// The position in the current round.
#[derive(Default)]
pub(crate) struct SessionAudit {
    /// The connection that was checked last.
    last: Option<ConnectionId>,
    is_running: Arc<AtomicBool>,
}

/// Ends with the task that checks sessions, even if that panics.
struct Running(Arc<AtomicBool>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl SessionAudit {
    /// Checks the next sessions, unless the previous ones are still being checked. Call it once per `tick`.
    pub(crate) fn check_next(&mut self, sessions: &Arc<RedisSessions>, tick: Duration) {
        if self.is_running.load(Ordering::Acquire) {
            return;
        }
        let ticks = (ROUND_DURATION.as_millis() / tick.as_millis()) as usize;
        let count = sessions.count().div_ceil(ticks);
        let mut page = sessions.page(self.last, count);
        if page.is_empty() {
            page = sessions.page(None, count);
        }
        let Some(last) = page.last() else { return };
        self.last = Some(last.connection);
        self.is_running.store(true, Ordering::Release);
        let (sessions, running) = (sessions.clone(), Running(self.is_running.clone()));
        tokio::spawn(async move {
            let _running = running;
            check(&sessions, page).await;
        });
    }
}

async fn check(sessions: &Arc<RedisSessions>, page: Vec<Arc<HeldSession>>) {
    let mut principals: BTreeMap<Arc<str>, Vec<Arc<HeldSession>>> = BTreeMap::new();
    for session in page {
        if session.has_ended() {
            // The connection may not have been told that its session was taken over.
            sessions.report_takeover(&session);
            continue;
        }
        principals.entry(session.principal.clone()).or_default().push(session);
    }
    let chunks = principals.values().flat_map(|sessions| sessions.chunks(MAX_KEYS_PER_COMMAND));
    let checks: Vec<_> = chunks.map(|chunk| check_principal(sessions, chunk).boxed()).collect();
    // A server that does not answer must not hold up the others.
    for error in stream::iter(checks)
        .buffer_unordered(MAX_CONCURRENT_COMMANDS)
        .filter_map(async |checked| checked.err())
        .collect::<Vec<_>>()
        .await
    {
        tracing::debug!(%error, "could not check some sessions; trying again in the next round");
    }
}

/// Checks sessions of one principal.
async fn check_principal(
    sessions: &Arc<RedisSessions>,
    held: &[Arc<HeldSession>],
) -> Result<(), Unavailable> {
    let node = sessions.context.node.get();
    // Add the entries again, in case Redis has lost them. A session that is released meanwhile must remove
    // its entry after that, or the entry would stay. So the last step of a release waits; nothing else does.
    // A session whose ownership is uncertain is not listed under this name yet.
    let own = held.iter().filter(|session| session.node() == node && !session.record().is_uncertain());
    let own: Vec<_> =
        own.filter_map(|session| Some((session.owned_entry(), session.try_lock_listing()?))).collect();
    try_join_all(own.iter().map(|(entry, _)| sessions.context.owned.add(&node, *entry).boxed())).await?;
    drop(own);
    let known = |session: &Arc<HeldSession>| {
        let record = session.record();
        (record.generation, record.confirmed_number(), session.node())
    };
    let before: Vec<_> = held.iter().map(known).collect();
    let keys = held.iter().map(|session| session.key());
    let holders = holders(&sessions.context.link, &sessions.context.names, keys).await?;
    for ((session, before), holder) in held.iter().zip(before).zip(holders) {
        if session.record().generation == before.0 && !session.record().is_uncertain() {
            compare(sessions, session, before, holder);
        }
    }
    Ok(())
}

/// Compares what Redis says about a session with what this node knew when it asked.
fn compare(
    sessions: &RedisSessions,
    session: &Arc<HeldSession>,
    known: (u64, u64, Arc<String>),
    holder: Option<HolderRecord>,
) {
    let (generation, number, node) = known;
    if holder.as_ref().is_some_and(|holder| holder.generation > generation) {
        return sessions.report_takeover(session);
    }
    // Otherwise Redis has lost the session, has an older state, or another node released it on this node's
    // behalf.
    let is_ours = holder.is_some_and(|holder| {
        holder.generation == generation
            && holder.number >= number
            && *holder.connection == *session.connection.to_string()
            && *holder.node == **node
    });
    if !is_ours {
        sessions.mark_uncertain(session);
        sessions.context.connections.schedule_write(&session.principal);
    }
}
