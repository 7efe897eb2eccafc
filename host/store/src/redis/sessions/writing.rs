//! How a session is written while a connection holds it: one write at a time, answered when it is confirmed, and until then undone.

use super::{HeldSession, MAX_RETRY_DELAY, RETRY_DELAY, RedisSessions, late};
use crate::{
    ConnectionId, RESPONSE_TIMEOUT, SessionToken, Unavailable,
    redis::{
        context::{Context, redis_clock::WRITE_VALIDITY},
        membership_change::MembershipOutcome,
        scripts::sessions::{SessionHolder, WholeWrite, replace, update},
        session_id::SessionId,
        sessions::record::{RecordWrite, RoomChanges, WriteOutcome},
    },
};
use futures_util::{FutureExt, future::join_all};
use std::sync::{Arc, atomic::Ordering};
use tokio::time::{Instant, sleep, timeout_at};

/// Sees, when it is dropped, to what of a session is not written.
struct Unfinished<'a>(&'a Arc<RedisSessions>, &'a Arc<HeldSession>);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        let Self(sessions, session) = self;
        if !session.record().is_synced() {
            sessions.start_sync(session);
        }
    }
}

impl RedisSessions {
    /// Records what becomes of a session's rooms. After an error the old state rules, and is written until it is confirmed.
    pub(crate) async fn change(
        self: &Arc<Self>,
        token: SessionToken,
        connection: ConnectionId,
        change: RoomChanges,
    ) -> Result<(), Unavailable> {
        let until = Instant::now() + RESPONSE_TIMEOUT;
        let session = self.by_connection(connection).filter(|session| session.id == SessionId::of(&token));
        let session = session.ok_or_else(|| Unavailable("the session is another connection's".to_owned()))?;
        let _unfinished = Unfinished(self, &session);
        timeout_at(until, self.confirm(&session, change)).await.unwrap_or_else(|_| Err(late()))?;
        // It is recorded. Members follow, with whoever waits or without.
        timeout_at(until, self.write_members(&session)).await.ok();
        Ok(())
    }

    async fn confirm(
        self: &Arc<Self>,
        session: &Arc<HeldSession>,
        change: RoomChanges,
    ) -> Result<(), Unavailable> {
        let _writing = session.writing.lock().await;
        if session.has_ended() {
            // Should it not have heard of that.
            self.report_takeover(session);
        }
        if session.has_ended() || self.context.lease_expiry.has_expired() || session.record().is_uncertain() {
            return Err(Unavailable("this node may not write of the session now".to_owned()));
        }
        match self.write(session, change).await? {
            Written::Confirmed => Ok(()),
            Written::Not => Err(Unavailable("the session is not as it was left".to_owned())),
        }
    }

    /// Puts a session that is taken back among what this node would leave behind by its present name.
    async fn list_under_current_name(&self, session: &HeldSession) -> Result<(), Unavailable> {
        let node = self.context.node.get();
        // Also where it is not known whether the entry is there, it is taken away from there in the end.
        *session.node.lock().expect("no code panics while it holds a name") = node.clone();
        self.context.owned.add(&node, session.held_entry()).await
    }

    /// One write of a session, whose lock the caller holds.
    async fn write(
        self: &Arc<Self>,
        session: &Arc<HeldSession>,
        change: RoomChanges,
    ) -> Result<Written, Unavailable> {
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
        let outcome = session.record().apply_reply(&write, change, reply);
        match outcome {
            WriteOutcome::Confirmed => return Ok(Written::Confirmed),
            WriteOutcome::TakenOver => self.report_takeover(session),
            WriteOutcome::Lost => self.probe(session),
            WriteOutcome::Retry => {}
        }
        Ok(Written::Not)
    }

    /// Writes the members that are not known to be as the record says. An error: not all of them are now.
    pub(super) async fn write_members(&self, session: &Arc<HeldSession>) -> Result<(), Unavailable> {
        let changes = session.record().membership_changes();
        let writes: Vec<_> = changes
            .iter()
            .map(|change| self.context.members.write(&session.principal, session.id, change.clone()).boxed())
            .collect();
        let mut failed = None;
        for (change, enrolled) in changes.iter().zip(join_all(writes).await) {
            let mut record = session.record();
            match enrolled {
                Ok((enrolled, epoch)) => {
                    record.membership_written(change, enrolled, &epoch);
                    // What was acknowledged meanwhile may have been told before there was a member.
                    if let (MembershipOutcome::Applied(had), Some(_)) = (enrolled, &change.joins)
                        && let Some(position) = record.acknowledged_beyond(&change.room, had)
                    {
                        self.context.acknowledgements.add(session.id, &change.room, position);
                    }
                    if !matches!(enrolled, MembershipOutcome::Applied(_)) {
                        failed = Some(late());
                    }
                }
                Err(error) => {
                    // It may still be carried out: the next goes on the word of a later record.
                    record.membership_written(change, MembershipOutcome::Late, "");
                    failed = Some(error);
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Sees to what of a session is not written, until it is.
    pub(crate) fn start_sync(self: &Arc<Self>, session: &Arc<HeldSession>) {
        if !session.is_syncing.swap(true, Ordering::AcqRel) {
            tokio::spawn(start_sync(self.clone(), session.clone()));
        }
    }
}

enum Written {
    Confirmed,
    Not,
}

async fn start_sync(sessions: Arc<RedisSessions>, session: Arc<HeldSession>) {
    let (mut pause, mut turns) = (RETRY_DELAY, &sessions.background_writes);
    loop {
        let settled = {
            let _turn = turns.acquire().await.expect("it is never closed");
            sync_once(&sessions, &session).await
        };
        match settled {
            Ok(()) => {
                session.is_syncing.store(false, Ordering::Release);
                // What changed between the last look and this.
                let rest = {
                    let record = session.record();
                    !session.has_ended() && !record.is_synced() && !record.is_uncertain()
                };
                if !rest || session.is_syncing.swap(true, Ordering::AcqRel) {
                    return;
                }
            }

            Err(error) => {
                tracing::debug!(connection = %session.connection, %error, "a session is written later");
                turns = &sessions.retries;
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(MAX_RETRY_DELAY);
    }
}

/// `Ok`: nothing is left to be done, or it is not this task's any more.
async fn sync_once(sessions: &Arc<RedisSessions>, session: &Arc<HeldSession>) -> Result<(), Unavailable> {
    let _writing = session.writing.lock().await;
    let (is_doubted, is_synced, wants_write) = {
        let record = session.record();
        (record.is_uncertain(), record.is_synced(), record.wants_write())
    };
    if session.has_ended() || is_doubted || is_synced {
        return Ok(());
    }
    if sessions.context.lease_expiry.has_expired() {
        return Err(late());
    }
    if wants_write {
        match sessions.write(session, RoomChanges::default()).await? {
            Written::Confirmed => {}
            Written::Not if session.has_ended() || session.record().is_uncertain() => return Ok(()),
            Written::Not => return Err(late()),
        }
    }
    sessions.write_members(session).await
}
