//! How a session is written while a connection holds it: one write at a time. A change takes effect when its
//! write is confirmed. If that fails, the old state is written again.

use super::{HeldSession, MAX_RETRY_DELAY, RETRY_DELAY, RedisSessions, lease_expired};
use crate::{
    ConnectionId, RESPONSE_TIMEOUT, SessionToken, Unavailable,
    redis::{
        context::{Context, redis_clock::WRITE_VALIDITY},
        membership_change::MembershipOutcome,
        scripts::sessions::{SessionHolder, WholeWrite, replace, update},
        session_id::SessionId,
        sessions::record::{RecordWrite, RoomChanges, WriteOutcome},
        timeouts::too_late,
    },
};
use futures_util::{FutureExt, future::join_all};
use std::sync::{Arc, atomic::Ordering};
use switchyard_process::lock::LockExt;
use tokio::time::{Instant, sleep, timeout_at};

/// Starts writing what Redis does not have yet when it is dropped, even if the caller stops waiting.
struct SyncOnDrop<'a>(&'a Arc<RedisSessions>, &'a Arc<HeldSession>);

impl Drop for SyncOnDrop<'_> {
    fn drop(&mut self) {
        let Self(sessions, session) = self;
        if !session.record().is_synced() {
            sessions.start_sync(session);
        }
    }
}

/// The right to write a session in the background, which one task has at a time. When this is dropped, even
/// by a panic, another task may have it.
struct SyncPermit(Arc<HeldSession>);

impl SyncPermit {
    /// `None` if another task has the permit.
    fn acquire(session: &Arc<HeldSession>) -> Option<Self> {
        (!session.is_syncing.swap(true, Ordering::AcqRel)).then(|| Self(session.clone()))
    }
}

impl Drop for SyncPermit {
    fn drop(&mut self) {
        self.0.is_syncing.store(false, Ordering::Release);
    }
}

impl RedisSessions {
    /// Records that a session joins or leaves rooms. After an error the old state applies, and is written until
    /// Redis confirms it.
    pub(crate) async fn change(
        self: &Arc<Self>,
        token: SessionToken,
        connection: ConnectionId,
        change: RoomChanges,
    ) -> Result<(), Unavailable> {
        let deadline = Instant::now() + RESPONSE_TIMEOUT;
        let session = self.by_connection(connection).filter(|session| session.id == SessionId::of(&token));
        let session = session.ok_or_else(|| Unavailable("another connection has the session".to_owned()))?;
        let growth = session.record().growth(&change.join);
        let _reserved = self.context.usage.joining(&session.principal, growth)?;
        let _sync = SyncOnDrop(self, &session);
        timeout_at(deadline, self.confirm(&session, change)).await.unwrap_or_else(|_| Err(too_late()))?;
        // The change is recorded. Members are written in the background if this takes too long.
        timeout_at(deadline, self.write_members(&session)).await.ok();
        Ok(())
    }

    async fn confirm(
        self: &Arc<Self>,
        session: &Arc<HeldSession>,
        change: RoomChanges,
    ) -> Result<(), Unavailable> {
        let _writing = session.writing.lock().await;
        if session.has_ended() {
            // The connection may not have been told that its session was taken over.
            self.report_takeover(session);
        }
        if session.has_ended() || self.context.lease_expiry.has_expired() || session.record().is_uncertain() {
            return Err(Unavailable(
                "this node may not write the session until it has confirmed that it still owns it".to_owned(),
            ));
        }
        match self.write(session, change).await? {
            WriteOutcome::Confirmed => Ok(()),
            _ => Err(Unavailable("Redis has another state of the session than this node".to_owned())),
        }
    }

    /// Adds a session that this node reclaims to what its current name owns.
    async fn list_under_current_name(&self, session: &HeldSession) -> Result<(), Unavailable> {
        let node = self.context.node.get();
        // Set the name first: even if adding the entry fails with an unknown outcome, a release will remove it
        // from there.
        *session.node.locked() = node.clone();
        self.context.owned.add(&node, session.owned_entry()).await
    }

    /// Writes a session once. The caller holds its write lock.
    async fn write(
        self: &Arc<Self>,
        session: &Arc<HeldSession>,
        change: RoomChanges,
    ) -> Result<WriteOutcome, Unavailable> {
        if session.record().is_reclaimable() {
            self.list_under_current_name(session).await?;
        }
        let (write, generation) = {
            let mut record = session.record();
            (record.write(&change), record.generation)
        };
        let Context { link, names, .. } = &*self.context;
        let reply = match &write {
            RecordWrite::Update { number, fields } => {
                let number = (generation, *number);
                update(link, names, session.key(), session.connection, number, fields).await?
            }
            RecordWrite::Replace { number, fields, may_create } => {
                let node = session.node();
                let holder = SessionHolder { connection: session.connection, node: &node };
                let write = WholeWrite {
                    generation,
                    number: *number,
                    deadline: self.context.redis_clock.now_ms() + WRITE_VALIDITY.as_millis() as u64,
                    may_create: *may_create,
                    rooms: fields,
                };
                replace(link, names, session.key(), holder, write).await?
            }
        };
        let outcome = {
            let mut record = session.record();
            let outcome = record.apply_reply(&write, change, reply);
            if outcome == WriteOutcome::Confirmed {
                self.context.usage.resized(session.id, session.connection, record.size());
            }
            outcome
        };
        match outcome {
            WriteOutcome::TakenOver => self.report_takeover(session),
            WriteOutcome::Lost => self.probe(session),
            WriteOutcome::Confirmed | WriteOutcome::Retry => {}
        }
        Ok(outcome)
    }

    /// Writes the members that may differ from the record. Returns an error unless all of them now agree with
    /// it.
    pub(super) async fn write_members(&self, session: &Arc<HeldSession>) -> Result<(), Unavailable> {
        let changes = session.record().membership_changes();
        let writes: Vec<_> = changes
            .iter()
            .map(|change| self.context.members.write(&session.principal, session.id, change.clone()).boxed())
            .collect();
        let mut failed = None;
        for (change, result) in changes.iter().zip(join_all(writes).await) {
            let mut record = session.record();
            match result {
                Ok((outcome, epoch)) => {
                    record.membership_written(change, outcome, &epoch);
                    // Redis ignores acknowledgements of sessions that are not members yet, so send them again.
                    if let (MembershipOutcome::Applied(stored), Some(_)) = (outcome, &change.joins)
                        && let Some(position) = record.acknowledged_beyond(&change.room, stored)
                    {
                        self.context.acknowledgements.add(session.id, &change.room, position);
                    }
                    if !matches!(outcome, MembershipOutcome::Applied(_)) {
                        failed = Some(too_late());
                    }
                }
                Err(error) => {
                    // The write may still be executed. The next one comes from a later confirmation of the
                    // record, and so supersedes it.
                    record.membership_written(change, MembershipOutcome::Late, "");
                    failed = Some(error);
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Writes in the background what Redis does not have of a session yet, until it does.
    pub(crate) fn start_sync(self: &Arc<Self>, session: &Arc<HeldSession>) {
        if let Some(permit) = SyncPermit::acquire(session) {
            tokio::spawn(sync(self.clone(), permit));
        }
    }
}

async fn sync(sessions: Arc<RedisSessions>, mut syncing: SyncPermit) {
    let (mut delay, mut permits) = (RETRY_DELAY, &sessions.background_writes);
    let session = syncing.0.clone();
    loop {
        let result = {
            let _permit = permits.acquire().await.expect("the semaphore is never closed");
            sync_once(&sessions, &session).await
        };
        match result {
            Ok(()) => {
                drop(syncing);
                // Something may have changed since this task last looked.
                let is_unfinished = {
                    let record = session.record();
                    !session.has_ended() && !record.is_synced() && !record.is_uncertain()
                };
                match is_unfinished.then(|| SyncPermit::acquire(&session)).flatten() {
                    Some(again) => syncing = again,
                    None => return,
                }
            }
            Err(error) => {
                tracing::debug!(connection = %session.connection, %error, "could not write a session; trying again");
                permits = &sessions.retries;
            }
        }
        sleep(delay).await;
        delay = (delay * 2).min(MAX_RETRY_DELAY);
    }
}

/// Returns `Ok` if everything is written, or if this task must not write it any more.
async fn sync_once(sessions: &Arc<RedisSessions>, session: &Arc<HeldSession>) -> Result<(), Unavailable> {
    let _writing = session.writing.lock().await;
    let (is_uncertain, is_synced, wants_write) = {
        let record = session.record();
        (record.is_uncertain(), record.is_synced(), record.wants_write())
    };
    if session.has_ended() || is_uncertain || is_synced {
        return Ok(());
    }
    if sessions.context.lease_expiry.has_expired() {
        return Err(lease_expired());
    }
    if wants_write {
        match sessions.write(session, RoomChanges::default()).await? {
            WriteOutcome::Confirmed => {}
            _ if session.has_ended() || session.record().is_uncertain() => return Ok(()),
            _ => return Err(too_late()),
        }
    }
    sessions.write_members(session).await
}
