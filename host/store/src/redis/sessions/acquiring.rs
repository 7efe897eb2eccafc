//! How a connection of this node gets its session: by creating or resuming one. If nobody waits for the
//! session any more, it is released. An attempt whose outcome is unknown is followed up until Redis can no
//! longer execute it.

use super::{HeldSession, MAX_RETRY_DELAY, RETRY_DELAY, RedisSessions, ReleaseMode, lease_expired};
use crate::{
    ConnectionId, Join, RESPONSE_TIMEOUT, ResumeResult, ResumedSession, SessionToken, Unavailable,
    redis::{
        context::{
            Context,
            connections::SlotAttempt,
            redis_clock::{WRITE_VALIDITY, extrapolate, is_late},
        },
        owned_entry::OwnedEntry,
        scripts::{
            clock::server_time,
            leases::notify_takeover,
            session_end::ReleaseReply,
            sessions::{
                CreateReply, ResumeOutcome, ResumeReply, ResumeRequest, SessionHolder, create, resume,
            },
        },
        session_id::SessionId,
        session_key::SessionKey,
        sessions::record::{Record, RoomChanges},
        stored_rooms::StoredRooms,
        timeouts::too_late,
    },
};
use std::sync::{Arc, Mutex, atomic::AtomicBool};
use switchyard_protocol::Position;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};

/// An attempt to create or resume a session, which Redis may execute even after this node has given up on it.
struct AcquireAttempt {
    principal: Arc<str>,
    id: SessionId,
    connection: ConnectionId,
    /// The name of this node when the attempt began.
    node: Arc<String>,
    began: Instant,
    /// When Redis refuses the attempt, in milliseconds by Redis' clock.
    deadline: u64,
    /// The attempt was sent to Redis, so it may be executed.
    was_sent: bool,
}

impl AcquireAttempt {
    fn key(&self) -> SessionKey<'_> {
        SessionKey { principal: &self.principal, id: self.id }
    }

    fn owned_entry(&self) -> OwnedEntry<'_> {
        OwnedEntry::Session { key: self.key(), connection: self.connection }
    }

    fn holder(&self) -> SessionHolder<'_> {
        SessionHolder { connection: self.connection, node: &self.node }
    }

    /// Redis has refused the attempt as too late, or as from the future, and its clock shows `time`. Extends
    /// the deadline by that clock. Returns whether to try again: a refusal that arrives quickly means that
    /// the clock was set, not that Redis was slow.
    fn refresh_deadline(&mut self, time: u64) -> bool {
        let left = WRITE_VALIDITY.saturating_sub(self.began.elapsed());
        self.deadline = time + left.as_millis() as u64;
        self.began.elapsed() < RESPONSE_TIMEOUT
    }
}

impl RedisSessions {
    /// Creates a session. If the caller stops waiting, the session is released.
    pub(crate) async fn create(
        self: &Arc<Self>,
        principal: &Arc<str>,
        connection: ConnectionId,
        joins: Vec<Join>,
    ) -> Result<SessionToken, Unavailable> {
        let (sessions, principal, token) = (self.clone(), principal.clone(), SessionToken::random());
        self.run_to_completion(connection, async move {
            let mut attempt = sessions.begin_attempt(&principal, SessionId::of(&token), connection);
            let created = sessions.try_create(&mut attempt, joins).await;
            sessions.finish(created.map(|()| Some(token)), attempt)
        })
        .await?
        .ok_or_else(too_late)
    }

    /// Resumes a session for a connection that asked for it at `requested_at`. With `max_connections`,
    /// acquires a connection slot of the principal in the same step.
    pub(crate) async fn resume(
        self: &Arc<Self>,
        token: SessionToken,
        principal: &Arc<str>,
        connection: ConnectionId,
        requested_at: Instant,
        max_connections: Option<u32>,
    ) -> Result<ResumeResult, Unavailable> {
        let (sessions, principal) = (self.clone(), principal.clone());
        self.run_to_completion(connection, async move {
            let mut attempt = sessions.begin_attempt(&principal, SessionId::of(&token), connection);
            let slot = max_connections
                .map(|max_connections| sessions.context.connections.attempt(&principal, max_connections));
            let resumed = sessions.try_resume(&mut attempt, requested_at, slot).await;
            let is_held = matches!(resumed, Ok(ResumeResult::Resumed(_)));
            match resumed {
                Ok(resume) if !is_held => {
                    sessions.context.owned.remove_later(&attempt.node, attempt.owned_entry());
                    Ok(resume)
                }
                result => sessions.finish(result, attempt),
            }
        })
        .await
    }

    /// Runs `work` to its end even if the caller stops waiting, and then releases the connection's session.
    async fn run_to_completion<T: Send + 'static>(
        self: &Arc<Self>,
        connection: ConnectionId,
        work: impl Future<Output = Result<T, Unavailable>> + Send + 'static,
    ) -> Result<T, Unavailable> {
        let (sender, mut receiver) = oneshot::channel();
        let sessions = self.clone();
        // Once the lease has expired, other nodes may be removing what this name owns. Start nothing new under
        // it.
        if self.context.lease_expiry.has_expired() {
            return Err(lease_expired());
        }
        self.tasks.spawn(async move {
            if sender.send(work.await).is_err() {
                sessions.release(connection, ReleaseMode::Detach);
            }
        });
        if let Ok(result) = tokio::time::timeout(RESPONSE_TIMEOUT, &mut receiver).await {
            return result.unwrap_or_else(|_| Err(too_late()));
        }
        // Either the result has arrived at the last moment, or the task finds that nobody receives it.
        receiver.close();
        receiver.try_recv().unwrap_or_else(|_| Err(too_late()))
    }

    /// Returns the result. After an error, releases the session, or whatever the attempt may still lead to.
    fn finish<T>(
        self: &Arc<Self>,
        result: Result<T, Unavailable>,
        attempt: AcquireAttempt,
    ) -> Result<T, Unavailable> {
        if result.is_err() && self.release(attempt.connection, ReleaseMode::Detach).is_none() {
            self.abandon(attempt);
        }
        result
    }

    fn begin_attempt(&self, principal: &Arc<str>, id: SessionId, connection: ConnectionId) -> AcquireAttempt {
        let (began, deadline) =
            (Instant::now(), self.context.redis_clock.now_ms() + WRITE_VALIDITY.as_millis() as u64);
        AcquireAttempt {
            principal: principal.clone(),
            id,
            connection,
            node: self.context.node.get(),
            began,
            deadline,
            was_sent: false,
        }
    }

    async fn try_create(
        self: &Arc<Self>,
        attempt: &mut AcquireAttempt,
        joins: Vec<Join>,
    ) -> Result<(), Unavailable> {
        self.context.owned.add(&attempt.node, attempt.owned_entry()).await?;
        let mut record = Record::new(0, 0, StoredRooms::default());
        let fields = record.first_write(RoomChanges { join: joins, leave: vec![] });
        let Context { link, names, .. } = &*self.context;
        attempt.was_sent = true;
        let mut is_retry = false;
        let time = loop {
            match create(link, names, attempt.key(), attempt.holder(), attempt.deadline, &fields).await? {
                CreateReply::Created { time } => break time,
                CreateReply::Late { time } if !is_retry && attempt.refresh_deadline(time) => is_retry = true,
                CreateReply::Late { .. } => return Err(too_late()),
            }
        };
        record.created(time, time);
        let AcquireAttempt { principal, id, connection, .. } = &*attempt;
        self.context.usage.created(principal, *id, *connection, record.size());
        let session = self.insert(attempt, record);
        self.write_members(&session).await
    }

    async fn try_resume(
        self: &Arc<Self>,
        attempt: &mut AcquireAttempt,
        requested_at: Instant,
        slot: Option<SlotAttempt>,
    ) -> Result<ResumeResult, Unavailable> {
        let listed = async {
            match &slot {
                Some(_) => self.context.connections.list(&attempt.node, &attempt.principal).await,
                None => Ok(()),
            }
        };
        tokio::try_join!(self.context.owned.add(&attempt.node, attempt.owned_entry()), listed)?;
        let Context { link, names, .. } = &*self.context;
        let (mut request_time, mut lease_end) = (
            self.context.redis_clock.micros_at(requested_at),
            self.context.redis_clock.micros_at(self.context.lease_expiry.end()),
        );
        if link.is_clustered() {
            // The server of the session has a clock of its own, which says when the session was last taken.
            let time = server_time(link, names.session(&attempt.principal, attempt.id)).await?;
            let heard_at = Instant::now();
            (request_time, lease_end) = (
                extrapolate(time, heard_at, requested_at),
                extrapolate(time, heard_at, self.context.lease_expiry.end()),
            );
            attempt.deadline = time / 1000 + WRITE_VALIDITY.as_millis() as u64;
        }
        attempt.was_sent = true;
        let mut is_retry = false;
        let (time, generation, previous, previous_node, rooms) = loop {
            // A slot is counted under this node's name. Once others may have removed that name's counts, nobody
            // would remove this one.
            let deadline =
                if slot.is_some() { attempt.deadline.min(lease_end / 1000) } else { attempt.deadline };
            let request = ResumeRequest {
                requested_at: request_time,
                deadline,
                cluster_time: self.context.cluster_clock.now(),
                slot: slot.as_ref().map(SlotAttempt::request),
            };
            let ResumeReply { time, outcome } =
                resume(link, names, attempt.key(), attempt.holder(), request).await?;
            let heard_at = Instant::now();
            if !link.is_clustered() {
                self.context.redis_clock.observe(time);
            }
            match outcome {
                ResumeOutcome::Resumed { generation, previous, previous_node, rooms } => {
                    break (time / 1000, generation, previous, previous_node, rooms);
                }
                ResumeOutcome::Gone => return Ok(ResumeResult::NotFound(slot.map(SlotAttempt::granted))),
                ResumeOutcome::Full(count) => {
                    slot.into_iter().for_each(SlotAttempt::refused);
                    return Ok(ResumeResult::LimitReached(count));
                }
                // The refusal may only be due to what this node knew about the time. The reply has just
                // corrected that.
                ResumeOutcome::TakenSince | ResumeOutcome::Late
                    if !is_retry && attempt.refresh_deadline(time / 1000) =>
                {
                    let at_least = extrapolate(time, heard_at, requested_at);
                    lease_end = extrapolate(time, heard_at, self.context.lease_expiry.end());
                    // If the clock was set back, the earlier estimate is worthless.
                    (is_retry, request_time) =
                        (true, if request_time > time { at_least } else { request_time.max(at_least) })
                }
                ResumeOutcome::TakenSince => return Ok(ResumeResult::Retry),
                ResumeOutcome::Late => return Err(too_late()),
            }
        };
        let permit = slot.map(SlotAttempt::granted);
        let record = Record::new(generation, time, rooms);
        let AcquireAttempt { principal, id, connection, .. } = &*attempt;
        self.context.usage.resumed(principal, *id, *connection, record.size());
        let session = self.insert(attempt, record);
        let previous_session = previous.and_then(|previous| self.by_connection(previous));
        match (&previous_session, previous) {
            (Some(session), _) => self.report_takeover(session),
            (None, Some(previous)) => self.notify_previous(previous_node, previous),
            (None, None) => {}
        }
        self.write_members(&session).await?;
        let mut record = session.record();
        if let Some(previous) = &previous_session {
            record.inherit_from(&previous.record());
        }
        let rooms: Vec<_> =
            record.rooms.iter().map(|(room, stored)| (room.clone(), stored.joined.epoch.clone())).collect();
        for (room, epoch) in rooms {
            if let Some(offset) = self.context.acknowledgements.unwritten(session.id, &room, &epoch) {
                record.restore_acknowledged(&room, &Position { epoch, offset });
            }
        }
        let rooms =
            record.rooms.iter().map(|(room, stored)| (room.clone(), stored.to_membership())).collect();
        let is_synced = record.is_synced();
        drop(record);
        if !is_synced {
            self.start_sync(&session);
        }
        Ok(ResumeResult::Resumed(ResumedSession { previous, rooms, permit }))
    }

    /// From now on, this node is responsible for the session.
    fn insert(self: &Arc<Self>, attempt: &AcquireAttempt, record: Record) -> Arc<HeldSession> {
        let session = Arc::new(HeldSession {
            principal: attempt.principal.clone(),
            id: attempt.id,
            connection: attempt.connection,
            record: Mutex::new(record),
            node: Mutex::new(attempt.node.clone()),
            writing: tokio::sync::Mutex::default(),
            listing: tokio::sync::Mutex::default(),
            is_syncing: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        });
        self.held().insert(attempt.connection, session.clone());
        // This node may have lost its lease meanwhile, and continued under another name.
        if *self.context.node.get() != *attempt.node {
            self.mark_uncertain(&session);
        }
        session
    }

    /// Tells another node that one of its connections has lost its session. If the notice is lost, that node's
    /// audit of sessions finds out.
    fn notify_previous(&self, node: Arc<str>, connection: ConnectionId) {
        let context = self.context.clone();
        tokio::spawn(async move {
            if let Err(error) = notify_takeover(&context.link, &context.names, &node, connection).await {
                tracing::debug!(%error, "could not notify a node of a takeover");
            }
        });
    }

    /// Releases whatever the attempt leads to, and stops when Redis can no longer execute it.
    fn abandon(self: &Arc<Self>, attempt: AcquireAttempt) {
        if !attempt.was_sent {
            return self.context.owned.remove_later(&attempt.node, attempt.owned_entry());
        }
        let sessions = self.clone();
        self.tasks.spawn(async move {
            let (owned, mut delay) = (&sessions.context.owned, RETRY_DELAY);
            loop {
                let reply = {
                    let _permit = sessions.retries.acquire().await.expect("the semaphore is never closed");
                    let (key, connection) = (attempt.key(), attempt.connection);
                    sessions.request_release(key, connection, ReleaseMode::Detach, None).await
                };
                let is_done = match reply {
                    Ok(ReleaseReply::Released { end, .. }) => {
                        owned.schedule_end(attempt.key(), end).await.is_ok()
                    }
                    Ok(ReleaseReply::NotFound { time } | ReleaseReply::HeldByOther { time }) => {
                        attempt.began.elapsed() > WRITE_VALIDITY && is_late(attempt.deadline, time)
                    }
                    Err(_) => false,
                };
                if is_done {
                    return owned.remove_later(&attempt.node, attempt.owned_entry());
                }
                sleep(delay).await;
                delay = (delay * 2).min(MAX_RETRY_DELAY);
            }
        });
    }
}
