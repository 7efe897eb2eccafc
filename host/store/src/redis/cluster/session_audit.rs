//! Looks now and then whether the sessions that this node holds are its own in Redis, in case nobody said that they are not: a notice
//! of a takeover may get lost, and a server of a Cluster may come back empty.

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

/// In which each session is looked at once.
const ROUND_DURATION: Duration = Duration::from_secs(60);
/// Sessions of one principal in one command.
const MAX_KEYS_PER_COMMAND: usize = 100;
/// Commands on their way at a time.
const MAX_CONCURRENT_COMMANDS: usize = 16;

/// How far this round has come.
#[derive(Default)]
pub(crate) struct SessionAudit {
    /// The connection that was looked at last.
    last: Option<ConnectionId>,
    under_way: Arc<AtomicBool>,
}

impl SessionAudit {
    /// Looks at some, if it is done with those before. To be called every `tick`.
    pub(crate) fn check_next(&mut self, sessions: &Arc<RedisSessions>, tick: Duration) {
        if self.under_way.load(Ordering::Acquire) {
            return;
        }
        let ticks = (ROUND_DURATION.as_millis() / tick.as_millis()) as usize;
        let pace = sessions.count().div_ceil(ticks);
        let mut some = sessions.page(self.last, pace);
        if some.is_empty() {
            some = sessions.page(None, pace);
        }
        let Some(last) = some.last() else { return };
        self.last = Some(last.connection);
        self.under_way.store(true, Ordering::Release);
        let (sessions, under_way) = (sessions.clone(), self.under_way.clone());
        tokio::spawn(async move {
            check(&sessions, some).await;
            under_way.store(false, Ordering::Release);
        });
    }
}

async fn check(sessions: &Arc<RedisSessions>, some: Vec<Arc<HeldSession>>) {
    let mut principals: BTreeMap<Arc<str>, Vec<Arc<HeldSession>>> = BTreeMap::new();
    for session in some {
        if session.has_ended() {
            // Should its connection not have heard of that.
            sessions.report_takeover(&session);
            continue;
        }
        principals.entry(session.principal.clone()).or_default().push(session);
    }
    let pieces = principals.values().flat_map(|sessions| sessions.chunks(MAX_KEYS_PER_COMMAND));
    let looks: Vec<_> = pieces.map(|some| check_principal(sessions, some).boxed()).collect();
    // A server that does not answer keeps nobody else from being looked at.
    for error in stream::iter(looks)
        .buffer_unordered(MAX_CONCURRENT_COMMANDS)
        .filter_map(async |seen| seen.err())
        .collect::<Vec<_>>()
        .await
    {
        tracing::debug!(%error, "some sessions are looked at in the next round");
    }
}

/// Looks at sessions of one principal.
async fn check_principal(
    sessions: &Arc<RedisSessions>,
    some: &[Arc<HeldSession>],
) -> Result<(), Unavailable> {
    let node = sessions.context.node.get();
    // One that is let go meanwhile is taken out of the estate after this; one that is doubted is not this name's yet.
    let own = some.iter().filter(|session| session.node() == node && !session.record().is_uncertain());
    let own: Vec<_> =
        own.filter_map(|session| Some((session.held_entry(), session.try_lock_writes()?))).collect();
    try_join_all(own.iter().map(|(entry, _)| sessions.context.owned.add(&node, entry.clone()).boxed()))
        .await?;
    drop(own);
    let known = |session: &Arc<HeldSession>| {
        let record = session.record();
        (record.generation, record.confirmed_number(), session.node())
    };
    let before: Vec<_> = some.iter().map(known).collect();
    let keys = some.iter().map(|session| session.key());
    let holders = holders(&sessions.context.link, &sessions.context.names, keys).await?;
    for ((session, before), holder) in some.iter().zip(before).zip(holders) {
        if session.record().generation == before.0 && !session.record().is_uncertain() {
            compare(sessions, session, before, holder);
        }
    }
    Ok(())
}

/// What Redis says of who holds a session, and what this node knew of it when it asked.
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
    // Otherwise it is not there, or older, or was let go for this node.
    let is_ours = holder.is_some_and(|holder| {
        holder.generation == generation
            && holder.number >= number
            && *holder.connection == *session.connection.to_string()
            && *holder.node == **node
    });
    if !is_ours {
        sessions.mark_uncertain(session);
        sessions.context.connections.recount(&session.principal);
    }
}
