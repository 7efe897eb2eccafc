//! How a session is let go: its record first, then the list of those that end, then what of its members is not written.

use super::{HeldSession, LONG_PAUSE, PAUSE, RECENT, RedisSessions, ReleaseMode, late};
use crate::{
    ConnectionId, Unavailable,
    redis::{
        context::owned_entries::session_entry,
        membership_change::{MembershipChange, MembershipOutcome},
        scripts::{
            session_end::{LetGo, LettingGo, let_go},
            sessions::SessionKey,
        },
        stored_rooms::RoomField,
    },
};
use futures_util::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::{Instant, sleep};

impl RedisSessions {
    /// The connection has ended: its session can be resumed, or is over.
    pub(crate) fn release(self: &Arc<Self>, connection: ConnectionId, how: ReleaseMode) -> Option<()> {
        let session = self.held().remove(&connection)?;
        session.over.store(true, Ordering::Relaxed);
        self.context.acknowledgements.hurry(session.id, session.record().rooms.keys());
        self.tasks.spawn(leave(self.clone(), session, how));
        Some(())
    }

    /// A member of a session that is let go.
    async fn enrol_left(&self, session: &HeldSession, change: MembershipChange) -> Result<(), Unavailable> {
        match self.context.members.enrol(&session.principal, session.id, change.clone()).await? {
            (MembershipOutcome::Late, _) => Err(late()),
            (enrolled, epoch) => {
                session.record().enrolled(&change, enrolled, &epoch);
                Ok(())
            }
        }
    }

    /// A member of a session of which there is no record.
    async fn depart(&self, session: &HeldSession, departure: MembershipChange) -> Result<(), Unavailable> {
        match self.context.members.enrol(&session.principal, session.id, departure).await? {
            (MembershipOutcome::Late, _) => Err(late()),
            _ => Ok(()),
        }
    }

    pub(super) async fn ask_to_let_go(
        &self,
        session: SessionKey<'_>,
        connection: ConnectionId,
        how: ReleaseMode,
        last: Option<(u64, u64, Vec<RoomField>)>,
    ) -> Result<LetGo, Unavailable> {
        let ttl = match how {
            ReleaseMode::Detach => self.context.retention.session_ttl,
            ReleaseMode::End => Duration::ZERO,
        };
        let connection = connection.to_string();
        let asked = LettingGo { connection: &connection, dead: None, ttl, last };
        let context = &self.context;
        let_go(&context.link, &context.names, session, context.cluster_time().await?, asked).await
    }
}

/// Lets a session go, until Redis says that it is so.
pub(super) async fn leave(sessions: Arc<RedisSessions>, session: Arc<HeldSession>, how: ReleaseMode) {
    let (mut pause, mut left) = (PAUSE, leave_once(&sessions, &session, how).await);
    while let Err(error) = left {
        tracing::debug!(connection = %session.connection, %error, "a session is let go later");
        sleep(pause).await;
        pause = (pause * 2).min(LONG_PAUSE);
        let _turn = sessions.again.acquire().await.expect("it is never closed");
        left = leave_once(&sessions, &session, how).await;
    }
    let mut recent = sessions.recent.lock().expect("no code panics while it holds them");
    while recent.front().is_some_and(|(at, ..)| at.elapsed() >= RECENT) {
        recent.pop_front();
    }
    recent.push_back((Instant::now(), session, how));
}

async fn leave_once(
    sessions: &Arc<RedisSessions>,
    session: &Arc<HeldSession>,
    how: ReleaseMode,
) -> Result<(), Unavailable> {
    let _writing = session.writing.lock().await;
    let last = {
        let mut record = session.record();
        let generation = record.generation;
        record.last_write().map(|(number, fields)| (generation, number, fields))
    };
    let outcome = sessions.ask_to_let_go(session.key(), session.connection, how, last).await?;
    if let LetGo::Gone { time } = outcome {
        // Redis may have forgotten it after it was confirmed and before its members were written.
        let departures = session.record().departures(time);
        let writes: Vec<BoxFuture<Result<(), Unavailable>>> =
            departures.into_iter().map(|departure| sessions.depart(session, departure).boxed()).collect();
        join_all(writes).await.into_iter().collect::<Result<(), _>>()?;
    }
    if let LetGo::Done { time, number, end, .. } = outcome {
        sessions.context.owned.schedule_end(session_entry(&session.principal, session.id), end).await?;
        session.record().let_go(time, number);
        // Something newer than this is as good.
        let changes = session.record().membership_changes();
        let writes: Vec<BoxFuture<Result<(), Unavailable>>> =
            changes.into_iter().map(|change| sessions.enrol_left(session, change).boxed()).collect();
        join_all(writes).await.into_iter().collect::<Result<(), _>>()?;
    }
    sessions.context.owned.remove(&session.node(), session.held_entry()).await
}
