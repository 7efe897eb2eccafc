//! How a session comes to a connection of this node: it is claimed, or taken. One that nobody waits for any more is let go, and one that
//! came to nothing is asked about until it cannot come about any more.

use super::{HeldSession, LONG_PAUSE, PAUSE, RedisSessions, ReleaseMode, late};
use crate::{
    ConnectionId, Join, RESPONSE_TIMEOUT, ResumeResult, ResumedSession, SessionToken, Unavailable,
    redis::{
        context::{
            Context,
            connections::SlotAttempt,
            owned_entries::{held_entry, session_entry},
            redis_clock::{WRITE_VALIDITY, is_late, shift},
        },
        scripts::{
            clock::server_time,
            leases::notify_takeover,
            session_end::LetGo,
            sessions::{
                CreateReply, ResumeOutcome, ResumeReply, ResumeRequest, SessionHolder, SessionKey, create,
                resume,
            },
        },
        session_id::SessionId,
        sessions::record::{Record, RoomChanges},
        stored_rooms::StoredRooms,
    },
};
use std::sync::{Arc, Mutex, atomic::AtomicBool};
use switchyard_protocol::Position;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};

/// A claim or a take that came to nothing, but may still be carried out.
struct GivenUp {
    principal: Arc<str>,
    id: SessionId,
    connection: ConnectionId,
    node: Arc<String>,
    began: Instant,
    /// By Redis' clock.
    deadline: u64,
    /// Redis was told of it.
    sent: bool,
}

impl GivenUp {
    fn key(&self) -> SessionKey<'_> {
        SessionKey { principal: &self.principal, id: self.id }
    }

    fn holder(&self) -> SessionHolder<'_> {
        SessionHolder { connection: self.connection, node: &self.node }
    }

    /// Redis said that this was late, or asked for too early, when it showed this time. Where that was said in time, the clock was set,
    /// and it can be tried again.
    fn is_mended(&mut self, time: u64) -> bool {
        let left = WRITE_VALIDITY.saturating_sub(self.began.elapsed());
        self.deadline = time + left.as_millis() as u64;
        self.began.elapsed() < RESPONSE_TIMEOUT
    }
}

impl RedisSessions {
    /// Makes a session. One that nobody waits for any more is let go.
    pub(crate) async fn create(
        self: &Arc<Self>,
        principal: &Arc<str>,
        connection: ConnectionId,
        joins: Vec<Join>,
    ) -> Result<SessionToken, Unavailable> {
        let (sessions, principal, token) = (self.clone(), principal.clone(), SessionToken::random());
        self.kept(connection, async move {
            let mut given_up = sessions.giving_up(&principal, SessionId::of(&token), connection);
            let claimed = sessions.claim(&mut given_up, joins).await;
            sessions.finished(claimed.map(|()| Some(token)), given_up)
        })
        .await?
        .ok_or_else(late)
    }

    /// Hands a session to a connection that asked for it at an instant, and takes a connection slot for it where there may be so many.
    pub(crate) async fn resume(
        self: &Arc<Self>,
        token: SessionToken,
        principal: &Arc<str>,
        connection: ConnectionId,
        asked: Instant,
        most: Option<u32>,
    ) -> Result<ResumeResult, Unavailable> {
        let (sessions, principal) = (self.clone(), principal.clone());
        self.kept(connection, async move {
            let mut given_up = sessions.giving_up(&principal, SessionId::of(&token), connection);
            let slot = most.map(|most| sessions.context.connections.ask(&principal, most));
            let taken = sessions.take(&mut given_up, asked, slot).await;
            let is_held = matches!(taken, Ok(ResumeResult::Resumed(_)));
            match taken {
                Ok(resume) if !is_held => {
                    let GivenUp { principal, id, connection, node, .. } = given_up;
                    sessions.context.owned.remove_later(&node, held_entry(&principal, id, connection));
                    Ok(resume)
                }
                taken => sessions.finished(taken, given_up),
            }
        })
        .await
    }

    /// Carries out to the end what may come late, also where nobody waits for it any more: then the connection's session is let
    /// go.
    async fn kept<T: Send + 'static>(
        self: &Arc<Self>,
        connection: ConnectionId,
        work: impl Future<Output = Result<T, Unavailable>> + Send + 'static,
    ) -> Result<T, Unavailable> {
        let (answer, answered) = oneshot::channel();
        let sessions = self.clone();
        // Under a name that others may be clearing away nothing begins.
        if self.context.lease_expiry.has_expired() {
            return Err(late());
        }
        self.tasks.spawn(async move {
            if answer.send(work.await).is_err() {
                sessions.release(connection, ReleaseMode::Detach);
            }
        });
        let mut answered = answered;
        if let Ok(answer) = tokio::time::timeout(RESPONSE_TIMEOUT, &mut answered).await {
            return answer.unwrap_or_else(|_| Err(late()));
        }
        // Either it has come at the last moment, or whoever sends it finds that nobody waits.
        answered.close();
        answered.try_recv().unwrap_or_else(|_| Err(late()))
    }

    fn finished<T>(
        self: &Arc<Self>,
        result: Result<T, Unavailable>,
        given_up: GivenUp,
    ) -> Result<T, Unavailable> {
        if result.is_err() && self.release(given_up.connection, ReleaseMode::Detach).is_none() {
            self.give_up(given_up);
        }
        result
    }

    fn giving_up(&self, principal: &Arc<str>, id: SessionId, connection: ConnectionId) -> GivenUp {
        let (began, deadline) =
            (Instant::now(), self.context.redis_clock.now() + WRITE_VALIDITY.as_millis() as u64);
        GivenUp {
            principal: principal.clone(),
            id,
            connection,
            node: self.context.node.get(),
            began,
            deadline,
            sent: false,
        }
    }

    async fn claim(self: &Arc<Self>, new: &mut GivenUp, joins: Vec<Join>) -> Result<(), Unavailable> {
        self.context.owned.add(&new.node, held_entry(&new.principal, new.id, new.connection)).await?;
        let mut record = Record::new(0, 0, StoredRooms::default());
        let fields = record.first_write(RoomChanges { join: joins, leave: vec![] });
        let Context { link, names, .. } = &*self.context;
        new.sent = true;
        let mut is_again = false;
        let time = loop {
            match create(link, names, new.key(), new.holder(), new.deadline, &fields).await? {
                CreateReply::Created { time } => break time,
                CreateReply::Late { time } if !is_again && new.is_mended(time) => is_again = true,
                CreateReply::Late { .. } => return Err(late()),
            }
        };
        record.begin(time, time);
        let session = self.hold(new, record);
        self.enrol(&session).await
    }

    async fn take(
        self: &Arc<Self>,
        given_up: &mut GivenUp,
        asked: Instant,
        slot: Option<SlotAttempt>,
    ) -> Result<ResumeResult, Unavailable> {
        let held = held_entry(&given_up.principal, given_up.id, given_up.connection);
        let noted = async {
            match &slot {
                Some(_) => self.context.connections.note(&given_up.node, &given_up.principal).await,
                None => Ok(()),
            }
        };
        tokio::try_join!(self.context.owned.add(&given_up.node, held), noted)?;
        let Context { link, names, .. } = &*self.context;
        let (mut when, mut lease) = (
            self.context.redis_clock.at(asked),
            self.context.redis_clock.at(self.context.lease_expiry.end()),
        );
        if link.is_clustered() {
            // Its server's own clock, by which it says when the session was taken last.
            let time = server_time(link, names.session(&given_up.principal, given_up.id)).await?;
            let heard = Instant::now();
            (when, lease) = (shift(time, heard, asked), shift(time, heard, self.context.lease_expiry.end()));
            given_up.deadline = time / 1000 + WRITE_VALIDITY.as_millis() as u64;
        }
        given_up.sent = true;
        let mut is_again = false;
        let (time, generation, previous, previous_node, rooms) = loop {
            // A slot counts under the node's name, which others clear away only once.
            let deadline =
                if slot.is_some() { given_up.deadline.min(lease / 1000) } else { given_up.deadline };
            let request = ResumeRequest {
                asked: when,
                deadline,
                cluster_time: self.context.cluster_clock.now(),
                slot: slot.as_ref().map(SlotAttempt::request),
            };
            let ResumeReply { time, outcome } =
                resume(link, names, given_up.key(), given_up.holder(), request).await?;
            let heard = Instant::now();
            if !link.is_clustered() {
                self.context.redis_clock.heard(time);
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
                // Maybe only as far as this node knew what time it is: now it knows better.
                ResumeOutcome::TakenSince | ResumeOutcome::Late
                    if !is_again && given_up.is_mended(time / 1000) =>
                {
                    let at_least = shift(time, heard, asked);
                    lease = shift(time, heard, self.context.lease_expiry.end());
                    // What it knew was worth nothing where the clock was set back.
                    (is_again, when) = (true, if when > time { at_least } else { when.max(at_least) })
                }
                ResumeOutcome::TakenSince => return Ok(ResumeResult::Retry),
                ResumeOutcome::Late => return Err(late()),
            }
        };
        let permit = slot.map(SlotAttempt::granted);
        let session = self.hold(given_up, Record::new(generation, time, rooms));
        let before = previous.and_then(|previous| self.by_connection(previous));
        match (&before, previous) {
            (Some(before), _) => self.taken_over(before),
            (None, Some(previous)) => self.notice(previous_node, previous),
            (None, None) => {}
        }
        self.enrol(&session).await?;
        let mut record = session.record();
        if let Some(before) = &before {
            record.inherit(&before.record());
        }
        let rooms: Vec<_> =
            record.rooms.iter().map(|(room, place)| (room.clone(), place.joined.epoch.clone())).collect();
        for (room, epoch) in rooms {
            if let Some(offset) = self.context.acknowledgements.unwritten(session.id, &room, &epoch) {
                record.recall(&room, &Position { epoch, offset });
            }
        }
        let rooms = record.rooms.iter().map(|(room, place)| (room.clone(), place.membership())).collect();
        let is_synced = record.is_synced();
        drop(record);
        if !is_synced {
            self.settle(&session);
        }
        Ok(ResumeResult::Resumed(ResumedSession { previous, rooms, permit }))
    }

    /// From here on the session is this node's to see to.
    fn hold(self: &Arc<Self>, given_up: &GivenUp, record: Record) -> Arc<HeldSession> {
        let session = Arc::new(HeldSession {
            principal: given_up.principal.clone(),
            id: given_up.id,
            connection: given_up.connection,
            record: Mutex::new(record),
            node: Mutex::new(given_up.node.clone()),
            writing: tokio::sync::Mutex::default(),
            settling: AtomicBool::new(false),
            over: AtomicBool::new(false),
        });
        self.held().insert(given_up.connection, session.clone());
        // Meanwhile this node may have been taken for dead, and have come back under another name.
        if *self.context.node.get() != *given_up.node {
            self.doubt(&session);
        }
        session
    }

    /// Tells another node that one of its connections is not needed any more. Should that get lost, its patrol finds out.
    fn notice(&self, node: Arc<str>, connection: ConnectionId) {
        let context = self.context.clone();
        tokio::spawn(async move {
            if let Err(error) = notify_takeover(&context.link, &context.names, &node, connection).await {
                tracing::debug!(%error, "a node was not told of a takeover");
            }
        });
    }

    /// What may still be carried out is waited for, and let go.
    fn give_up(self: &Arc<Self>, given_up: GivenUp) {
        let GivenUp { principal, id, connection, node, began, deadline, sent } = given_up;
        if !sent {
            return self.context.owned.remove_later(&node, held_entry(&principal, id, connection));
        }
        let sessions = self.clone();
        self.tasks.spawn(async move {
            let mut pause = PAUSE;
            loop {
                let let_go = {
                    let _turn = sessions.again.acquire().await.expect("it is never closed");
                    sessions
                        .ask_to_let_go(
                            SessionKey { principal: &principal, id },
                            connection,
                            ReleaseMode::Detach,
                            None,
                        )
                        .await
                };
                let is_let_go = match let_go {
                    Ok(LetGo::Done { end, .. }) => {
                        sessions.context.owned.schedule_end(session_entry(&principal, id), end).await.is_ok()
                    }
                    Ok(LetGo::Gone { time } | LetGo::Others { time }) => {
                        began.elapsed() > WRITE_VALIDITY && is_late(deadline, time)
                    }
                    Err(_) => false,
                };
                if is_let_go {
                    return sessions
                        .context
                        .owned
                        .remove_later(&node, held_entry(&principal, id, connection));
                }
                sleep(pause).await;
                pause = (pause * 2).min(LONG_PAUSE);
            }
        });
    }
}
