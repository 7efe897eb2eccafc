//! How a session is let go: its record first, then the list of those that end, then what of its members is not written.

use super::{
    HeldSession, MAX_RETRY_DELAY, RECENT_RELEASE_TTL, RETRY_DELAY, RedisSessions, ReleaseMode, late,
};
use crate::{
    ConnectionId, Unavailable,
    redis::{
        context::owned_entries::session_entry,
        membership_change::{MembershipChange, MembershipOutcome},
        scripts::{
            session_end::{self, ReleaseReply, ReleaseRequest},
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
    pub(crate) fn release(self: &Arc<Self>, connection: ConnectionId, mode: ReleaseMode) -> Option<()> {
        let session = self.held().remove(&connection)?;
        session.ended.store(true, Ordering::Relaxed);
        self.context.acknowledgements.hurry(session.id, session.record().rooms.keys());
        self.tasks.spawn(release(self.clone(), session, mode));
        Some(())
    }

    /// A member of a session that is let go.
    async fn write_member(&self, session: &HeldSession, change: MembershipChange) -> Result<(), Unavailable> {
        match self.context.members.write(&session.principal, session.id, change.clone()).await? {
            (MembershipOutcome::Late, _) => Err(late()),
            (enrolled, epoch) => {
                session.record().membership_written(&change, enrolled, &epoch);
                Ok(())
            }
        }
    }

    /// A member of a session of which there is no record.
    async fn remove_member(
        &self,
        session: &HeldSession,
        departure: MembershipChange,
    ) -> Result<(), Unavailable> {
        match self.context.members.write(&session.principal, session.id, departure).await? {
            (MembershipOutcome::Late, _) => Err(late()),
            _ => Ok(()),
        }
    }

    pub(super) async fn request_release(
        &self,
        session: SessionKey<'_>,
        connection: ConnectionId,
        mode: ReleaseMode,
        final_write: Option<(u64, u64, Vec<RoomField>)>,
    ) -> Result<ReleaseReply, Unavailable> {
        let ttl = match mode {
            ReleaseMode::Detach => self.context.retention.session_ttl,
            ReleaseMode::End => Duration::ZERO,
        };
        let connection = connection.to_string();
        let request = ReleaseRequest { connection: &connection, dead_node: None, ttl, final_write };
        let context = &self.context;
        session_end::release(&context.link, &context.names, session, context.cluster_time().await?, request)
            .await
    }
}

/// Lets a session go, until Redis says that it is so.
pub(super) async fn release(sessions: Arc<RedisSessions>, session: Arc<HeldSession>, mode: ReleaseMode) {
    let (mut pause, mut left) = (RETRY_DELAY, release_once(&sessions, &session, mode).await);
    while let Err(error) = left {
        tracing::debug!(connection = %session.connection, %error, "a session is let go later");
        sleep(pause).await;
        pause = (pause * 2).min(MAX_RETRY_DELAY);
        let _turn = sessions.retries.acquire().await.expect("it is never closed");
        left = release_once(&sessions, &session, mode).await;
    }
    let mut recent = sessions.recently_released.lock().expect("no code panics while it holds them");
    while recent.front().is_some_and(|(at, ..)| at.elapsed() >= RECENT_RELEASE_TTL) {
        recent.pop_front();
    }
    recent.push_back((Instant::now(), session, mode));
}

async fn release_once(
    sessions: &Arc<RedisSessions>,
    session: &Arc<HeldSession>,
    mode: ReleaseMode,
) -> Result<(), Unavailable> {
    let _writing = session.writing.lock().await;
    let last = {
        let mut record = session.record();
        let generation = record.generation;
        record.final_write().map(|(number, fields)| (generation, number, fields))
    };
    let outcome = sessions.request_release(session.key(), session.connection, mode, last).await?;
    if let ReleaseReply::NotFound { time } = outcome {
        // Redis may have forgotten it after it was confirmed and before its members were written.
        let departures = session.record().removals(time);
        let writes: Vec<BoxFuture<Result<(), Unavailable>>> = departures
            .into_iter()
            .map(|departure| sessions.remove_member(session, departure).boxed())
            .collect();
        join_all(writes).await.into_iter().collect::<Result<(), _>>()?;
    }
    if let ReleaseReply::Released { time, number, end, .. } = outcome {
        sessions.context.owned.schedule_end(session_entry(&session.principal, session.id), end).await?;
        session.record().released(time, number);
        // Something newer than this is as good.
        let changes = session.record().membership_changes();
        let writes: Vec<BoxFuture<Result<(), Unavailable>>> =
            changes.into_iter().map(|change| sessions.write_member(session, change).boxed()).collect();
        join_all(writes).await.into_iter().collect::<Result<(), _>>()?;
    }
    sessions.context.owned.remove(&session.node(), session.held_entry()).await
}
