//! How a session is let go: its record first, then the list of those that end, then what of its members is not written.

use super::{
    super::{
        KEEP, SessionId, Shared, answer,
        record::{Enrolled, Enrolment, Field, entry},
        scripts,
    },
    LONG_PAUSE, Leaving, PAUSE, RECENT, Session, late,
};
use crate::{ConnectionId, Unavailable};
use fred::types::Value;
use futures_util::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::{Instant, sleep};

impl Shared {
    /// The connection has ended: its session can be resumed, or is over.
    pub(crate) fn let_go(self: &Arc<Self>, connection: ConnectionId, how: Leaving) -> Option<()> {
        let session = self.sessions.held().remove(&connection)?;
        session.over.store(true, Ordering::Relaxed);
        self.members.hurry(session.id, session.record().rooms.keys());
        self.sessions.tasks.spawn(leave(self.clone(), session, how));
        Some(())
    }

    /// A member of a session that is let go.
    async fn enrol_left(&self, session: &Session, enrolment: Enrolment) -> Result<(), Unavailable> {
        match self.members.enrol(&session.principal, session.id, enrolment.clone()).await? {
            (Enrolled::Late, _) => Err(late()),
            (enrolled, epoch) => {
                session.record().enrolled(&enrolment, enrolled, &epoch);
                Ok(())
            }
        }
    }

    /// A member of a session of which there is no record.
    async fn depart(&self, session: &Session, departure: Enrolment) -> Result<(), Unavailable> {
        match self.members.enrol(&session.principal, session.id, departure).await? {
            (Enrolled::Late, _) => Err(late()),
            _ => Ok(()),
        }
    }

    pub(super) async fn ask_to_let_go(
        &self,
        principal: &str,
        id: SessionId,
        connection: ConnectionId,
        how: Leaving,
        last: Option<(u64, u64, Vec<Field>)>,
    ) -> Result<LetGo, Unavailable> {
        let ttl = match how {
            Leaving::Detached => self.retention.session,
            Leaving::Over => Duration::ZERO,
        };
        let mut arguments: Vec<Value> = vec![
            connection.to_string().into(),
            "".into(),
            answer::integer(self.cluster_time().await?),
            answer::millis(ttl),
            answer::millis(KEEP),
            answer::integer(0),
        ];
        if let Some((generation, number, fields)) = last {
            arguments.extend([answer::integer(generation), answer::integer(number)]);
            arguments.extend(
                fields.into_iter().flat_map(|(room, place)| [Value::from(room.as_str()), place.into()]),
            );
        }
        let keys = vec![self.names.session(principal, id)];
        let parts = answer::texts(self.link.run(&scripts::LETGO, keys, arguments).await?)?;
        let time = answer::nth(&parts, 1)?;
        match &*parts[0] {
            "ok" => {
                let (number, end) = (answer::nth(&parts, 3)?, answer::nth(&parts, 4)?);
                Ok(LetGo { time, number, end: Some(end), is_gone: false })
            }
            other => Ok(LetGo { time, number: 0, end: None, is_gone: other == "gone" }),
        }
    }
}

pub(super) struct LetGo {
    pub time: u64,
    number: u64,
    /// When it ends; `None`: somebody else holds it, or it is not there.
    pub end: Option<u64>,
    /// It is not there.
    is_gone: bool,
}

/// Lets a session go, until Redis says that it is so.
pub(super) async fn leave(shared: Arc<Shared>, session: Arc<Session>, how: Leaving) {
    let (mut pause, mut left) = (PAUSE, leave_once(&shared, &session, how).await);
    while let Err(error) = left {
        tracing::debug!(connection = %session.connection, %error, "a session is let go later");
        sleep(pause).await;
        pause = (pause * 2).min(LONG_PAUSE);
        let _turn = shared.sessions.again.acquire().await.expect("it is never closed");
        left = leave_once(&shared, &session, how).await;
    }
    let mut recent = shared.sessions.recent.lock().expect("no code panics while it holds them");
    while recent.front().is_some_and(|(at, ..)| at.elapsed() >= RECENT) {
        recent.pop_front();
    }
    recent.push_back((Instant::now(), session, how));
}

async fn leave_once(shared: &Arc<Shared>, session: &Arc<Session>, how: Leaving) -> Result<(), Unavailable> {
    let _writing = session.writing.lock().await;
    let last = {
        let mut record = session.record();
        let generation = record.generation;
        record.last_write().map(|(number, fields)| (generation, number, fields))
    };
    let let_go = shared.ask_to_let_go(&session.principal, session.id, session.connection, how, last).await?;
    if let LetGo { time, is_gone: true, .. } = let_go {
        // Redis may have forgotten it after it was confirmed and before its members were written.
        let departures = session.record().departures(time);
        let writes: Vec<BoxFuture<Result<(), Unavailable>>> =
            departures.into_iter().map(|departure| shared.depart(session, departure).boxed()).collect();
        join_all(writes).await.into_iter().collect::<Result<(), _>>()?;
    }
    if let LetGo { time, number, end: Some(end), .. } = let_go {
        shared.estate.ends(entry(&session.principal, session.id), end).await?;
        session.record().let_go(time, number);
        // Something newer than this is as good.
        let enrolments = session.record().enrolments();
        let writes: Vec<BoxFuture<Result<(), Unavailable>>> =
            enrolments.into_iter().map(|enrolment| shared.enrol_left(session, enrolment).boxed()).collect();
        join_all(writes).await.into_iter().collect::<Result<(), _>>()?;
    }
    shared.estate.remove(&session.node(), session.held_entry()).await
}
