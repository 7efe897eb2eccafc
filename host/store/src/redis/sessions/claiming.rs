//! How a session comes to a connection of this node: it is claimed, or taken. One that nobody waits for any more is let go, and one that
//! came to nothing is asked about until it cannot come about any more.

use super::{LONG_PAUSE, Leaving, PAUSE, Session, Sessions, late};
use crate::{
    ConnectionId, Join, PATIENCE, Resume, Resumed, SessionToken, Unavailable,
    redis::{
        answer,
        context::{
            clock::{DEADLINE, is_late, shift},
            connections::Asked,
            estate::{entry, held_entry},
        },
        lifetimes::KEEP,
        scripts,
        server_time::server_time,
        session_id::SessionId,
        sessions::{
            letting_go::LetGo,
            record::{Change, Record},
        },
        stored_rooms::Rooms,
    },
};
use fred::types::Value;
use std::{
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::Duration,
};
use switchyard_protocol::Position;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};

/// How long a notice of a takeover is kept.
const NOTICES: Duration = Duration::from_secs(60);

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
    /// Redis said that this was late, or asked for too early, when it showed this time. Where that was said in time, the clock was set,
    /// and it can be tried again.
    fn is_mended(&mut self, time: u64) -> bool {
        let left = DEADLINE.saturating_sub(self.began.elapsed());
        self.deadline = time + left.as_millis() as u64;
        self.began.elapsed() < PATIENCE
    }
}

impl Sessions {
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
    ) -> Result<Resume, Unavailable> {
        let (sessions, principal) = (self.clone(), principal.clone());
        self.kept(connection, async move {
            let mut given_up = sessions.giving_up(&principal, SessionId::of(&token), connection);
            let slot = most.map(|most| sessions.context.connections.ask(&principal, most));
            let taken = sessions.take(&mut given_up, asked, slot).await;
            let is_held = matches!(taken, Ok(Resume::Held(_)));
            match taken {
                Ok(resume) if !is_held => {
                    let GivenUp { principal, id, connection, node, .. } = given_up;
                    sessions.context.estate.forget(&node, held_entry(&principal, id, connection));
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
        if self.context.renewed.is_past() {
            return Err(late());
        }
        self.tasks.spawn(async move {
            if answer.send(work.await).is_err() {
                sessions.let_go(connection, Leaving::Detached);
            }
        });
        let mut answered = answered;
        if let Ok(answer) = tokio::time::timeout(PATIENCE, &mut answered).await {
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
        if result.is_err() && self.let_go(given_up.connection, Leaving::Detached).is_none() {
            self.give_up(given_up);
        }
        result
    }

    fn giving_up(&self, principal: &Arc<str>, id: SessionId, connection: ConnectionId) -> GivenUp {
        let (began, deadline) = (Instant::now(), self.context.time.now() + DEADLINE.as_millis() as u64);
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
        self.context.estate.add(&new.node, held_entry(&new.principal, new.id, new.connection)).await?;
        let mut record = Record::new(0, 0, Rooms::default());
        let fields = record.first_write(Change { join: joins, leave: vec![] });
        let fields: Vec<Value> =
            fields.into_iter().flat_map(|(room, place)| [room.as_str().into(), place.into()]).collect();
        let key = self.context.names.session(&new.principal, new.id);
        new.sent = true;
        let mut is_again = false;
        let time = loop {
            let mut arguments = vec![
                new.connection.to_string().into(),
                new.node.as_str().into(),
                answer::integer(new.deadline),
                answer::millis(KEEP),
            ];
            arguments.extend(fields.iter().cloned());
            let parts =
                answer::texts(self.context.link.run(&scripts::CLAIM, vec![key.clone()], arguments).await?)?;
            let time = answer::nth(&parts, 1)?;
            match &*parts[0] {
                "ok" => break time,
                _ if !is_again && new.is_mended(time) => is_again = true,
                _ => return Err(late()),
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
        slot: Option<Asked>,
    ) -> Result<Resume, Unavailable> {
        let held = held_entry(&given_up.principal, given_up.id, given_up.connection);
        let noted = async {
            match &slot {
                Some(_) => self.context.connections.note(&given_up.node, &given_up.principal).await,
                None => Ok(()),
            }
        };
        tokio::try_join!(self.context.estate.add(&given_up.node, held), noted)?;
        let mut keys = vec![self.context.names.session(&given_up.principal, given_up.id)];
        let (mut when, mut lease) =
            (self.context.time.at(asked), self.context.time.at(self.context.renewed.end()));
        if self.context.link.is_clustered() {
            // Its server's own clock, by which it says when the session was taken last.
            let time = server_time(&self.context.link, keys[0].clone()).await?;
            let heard = Instant::now();
            (when, lease) = (shift(time, heard, asked), shift(time, heard, self.context.renewed.end()));
            given_up.deadline = time / 1000 + DEADLINE.as_millis() as u64;
        }
        keys.extend(slot.iter().map(|_| self.context.names.connections(&given_up.principal)));
        given_up.sent = true;
        let mut is_again = false;
        let parts = loop {
            // A slot counts under the node's name, which others clear away only once.
            let deadline =
                if slot.is_some() { given_up.deadline.min(lease / 1000) } else { given_up.deadline };
            let mut arguments = vec![
                given_up.connection.to_string().into(),
                given_up.node.as_str().into(),
                answer::integer(when),
                answer::integer(deadline),
                answer::millis(KEEP),
                answer::integer(self.context.cluster.now()),
            ];
            arguments.extend(slot.iter().flat_map(Asked::arguments));
            let parts = answer::texts(self.context.link.run(&scripts::TAKE, keys.clone(), arguments).await?)?;
            let (time, heard) = (answer::nth(&parts, 1)?, Instant::now());
            if !self.context.link.is_clustered() {
                self.context.time.heard(time);
            }
            match &*parts[0] {
                "ok" => break parts,
                "none" => return Ok(Resume::Gone(slot.map(Asked::granted))),
                "full" => {
                    let count = answer::nth(&parts, 2)? as u32;
                    slot.into_iter().for_each(Asked::refused);
                    return Ok(Resume::Full(count));
                }
                // Maybe only as far as this node knew what time it is: now it knows better.
                "again" | "late" if !is_again && given_up.is_mended(time / 1000) => {
                    let at_least = shift(time, heard, asked);
                    lease = shift(time, heard, self.context.renewed.end());
                    // What it knew was worth nothing where the clock was set back.
                    (is_again, when) = (true, if when > time { at_least } else { when.max(at_least) })
                }
                "again" => return Ok(Resume::Again),
                _ => return Err(late()),
            }
        };
        let permit = slot.map(Asked::granted);
        let (time, generation) = (answer::nth(&parts, 1)? / 1000, answer::nth(&parts, 2)?);
        let [_, _, _, previous, on, fields @ ..] = &parts[..] else { return Err(answer::too_short()) };
        let record = Record::new(generation, time, Rooms::read(fields)?);
        let session = self.hold(given_up, record);
        let previous = ConnectionId::parse(previous);
        let before = previous.and_then(|previous| self.of(previous));
        match (&before, previous) {
            (Some(before), _) => self.taken_over(before),
            (None, Some(previous)) => self.notice(on, previous),
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
            if let Some(offset) = self.context.members.pending(session.id, &room, &epoch) {
                record.recall(&room, &Position { epoch, offset });
            }
        }
        let rooms = record.rooms.iter().map(|(room, place)| (room.clone(), place.membership())).collect();
        let is_settled = record.is_settled();
        drop(record);
        if !is_settled {
            self.settle(&session);
        }
        Ok(Resume::Held(Resumed { previous, rooms, permit }))
    }

    /// From here on the session is this node's to see to.
    fn hold(self: &Arc<Self>, given_up: &GivenUp, record: Record) -> Arc<Session> {
        let session = Arc::new(Session {
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
    fn notice(self: &Arc<Self>, node: &str, connection: ConnectionId) {
        let (sessions, key) = (self.clone(), self.context.names.takeovers(node));
        tokio::spawn(async move {
            let arguments = vec![connection.to_string().into(), answer::millis(NOTICES)];
            if let Err(error) = sessions.context.link.run(&scripts::NOTICE, vec![key], arguments).await {
                tracing::debug!(%error, "a node was not told of a takeover");
            }
        });
    }

    /// What may still be carried out is waited for, and let go.
    fn give_up(self: &Arc<Self>, given_up: GivenUp) {
        let GivenUp { principal, id, connection, node, began, deadline, sent } = given_up;
        if !sent {
            return self.context.estate.forget(&node, held_entry(&principal, id, connection));
        }
        let sessions = self.clone();
        self.tasks.spawn(async move {
            let mut pause = PAUSE;
            loop {
                let let_go = {
                    let _turn = sessions.again.acquire().await.expect("it is never closed");
                    sessions.ask_to_let_go(&principal, id, connection, Leaving::Detached, None).await
                };
                let is_let_go = match let_go {
                    Ok(LetGo::Done { end, .. }) => {
                        sessions.context.estate.ends(entry(&principal, id), end).await.is_ok()
                    }
                    Ok(LetGo::Gone { time } | LetGo::Others { time }) => {
                        began.elapsed() > DEADLINE && is_late(deadline, time)
                    }
                    Err(_) => false,
                };
                if is_let_go {
                    return sessions.context.estate.forget(&node, held_entry(&principal, id, connection));
                }
                sleep(pause).await;
                pause = (pause * 2).min(LONG_PAUSE);
            }
        });
    }
}
