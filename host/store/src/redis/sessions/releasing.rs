//! How a session is released: first its record is changed, then its end is scheduled, then its members are
//! written.

use super::{HeldSession, MAX_RETRY_DELAY, RECENT_RELEASE_TTL, RETRY_DELAY, RedisSessions, ReleaseMode};
use crate::{
    ConnectionId, Unavailable,
    redis::{
        membership_change::{MembershipChange, MembershipOutcome},
        scripts::session_end::{self, ReleaseReply, ReleaseRequest},
        session_key::SessionKey,
        stored_rooms::RoomField,
        timeouts::too_late,
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
use switchyard_process::lock::LockExt;
use tokio::time::{Instant, sleep};

impl RedisSessions {
    /// Releases the session of a connection that has ended. `None` if it has no session.
    pub(crate) fn release(self: &Arc<Self>, connection: ConnectionId, mode: ReleaseMode) -> Option<()> {
        let session = self.held().remove(&connection)?;
        session.ended.store(true, Ordering::Relaxed);
        self.context.usage.detached(session.id, connection, self.remaining_ttl(mode));
        self.context.acknowledgements.hurry(session.id, session.record().rooms.keys());
        self.tasks.spawn(release(self.clone(), session, mode));
        Some(())
    }

    /// How long a session can be resumed after its release.
    fn remaining_ttl(&self, mode: ReleaseMode) -> Duration {
        match mode {
            ReleaseMode::Detach => self.context.retention.session_ttl,
            ReleaseMode::End => Duration::ZERO,
        }
    }

    /// Writes a member of a session that was released.
    async fn write_member(&self, session: &HeldSession, change: MembershipChange) -> Result<(), Unavailable> {
        match self.context.members.write(&session.principal, session.id, change.clone()).await? {
            (MembershipOutcome::Late, _) => Err(too_late()),
            (outcome, epoch) => {
                session.record().membership_written(&change, outcome, &epoch);
                Ok(())
            }
        }
    }

    /// Removes a member of a session that has no record.
    async fn remove_member(
        &self,
        session: &HeldSession,
        removal: MembershipChange,
    ) -> Result<(), Unavailable> {
        match self.context.members.write(&session.principal, session.id, removal).await? {
            (MembershipOutcome::Late, _) => Err(too_late()),
            _ => Ok(()),
        }
    }

    /// Asks Redis to release a session, if `connection` still holds it.
    pub(super) async fn request_release(
        &self,
        session: SessionKey<'_>,
        connection: ConnectionId,
        mode: ReleaseMode,
        final_write: Option<(u64, u64, Vec<RoomField>)>,
    ) -> Result<ReleaseReply, Unavailable> {
        let ttl = self.remaining_ttl(mode);
        let request = ReleaseRequest { connection, dead_node: None, ttl, final_write };
        let context = &self.context;
        session_end::release(&context.link, &context.names, session, context.cluster_time().await?, request)
            .await
    }
}

/// Releases a session, and retries until Redis confirms it.
pub(super) async fn release(sessions: Arc<RedisSessions>, session: Arc<HeldSession>, mode: ReleaseMode) {
    let (mut delay, mut result) = (RETRY_DELAY, release_once(&sessions, &session, mode).await);
    while let Err(error) = result {
        tracing::debug!(connection = %session.connection, %error, "could not release a session; trying again");
        sleep(delay).await;
        delay = (delay * 2).min(MAX_RETRY_DELAY);
        let _permit = sessions.retries.acquire().await.expect("the semaphore is never closed");
        result = release_once(&sessions, &session, mode).await;
    }
    let mut recent = sessions.recently_released.locked();
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
    let final_write = {
        let mut record = session.record();
        let generation = record.generation;
        record.final_write().map(|(number, fields)| (generation, number, fields))
    };
    let reply = sessions.request_release(session.key(), session.connection, mode, final_write).await?;
    if let ReleaseReply::NotFound { time } = reply {
        // Redis may have lost the record after confirming it and before the members were written.
        let removals = session.record().removals(time);
        let writes: Vec<BoxFuture<Result<(), Unavailable>>> =
            removals.into_iter().map(|removal| sessions.remove_member(session, removal).boxed()).collect();
        join_all(writes).await.into_iter().collect::<Result<(), _>>()?;
    }
    if let ReleaseReply::Released { time, number, end, .. } = reply {
        sessions.context.owned.schedule_end(session.key(), end).await?;
        session.record().released(time, number);
        // A newer write of the member is just as good.
        let changes = session.record().membership_changes();
        let writes: Vec<BoxFuture<Result<(), Unavailable>>> =
            changes.into_iter().map(|change| sessions.write_member(session, change).boxed()).collect();
        join_all(writes).await.into_iter().collect::<Result<(), _>>()?;
    }
    let _listing = session.listing.lock().await;
    sessions.context.owned.remove(&session.node(), session.owned_entry()).await
}
