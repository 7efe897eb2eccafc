//! How a session is written while a connection holds it: one write at a time, answered when it is confirmed, and until then undone.

use super::{LONG_PAUSE, PAUSE, Session, Sessions, late};
use crate::{
    ConnectionId, PATIENCE, SessionToken, Unavailable,
    redis::{
        context::{Context, clock::DEADLINE},
        enrolment::Enrolled,
        scripts::sessions::{SessionHolder, WholeWrite, amend, put},
        session_id::SessionId,
        sessions::record::{Change, Outcome, Write},
    },
};
use futures_util::{FutureExt, future::join_all};
use std::sync::{Arc, atomic::Ordering};
use tokio::time::{Instant, sleep, timeout_at};

/// Sees, when it is dropped, to what of a session is not written.
struct Unfinished<'a>(&'a Arc<Sessions>, &'a Arc<Session>);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        let Self(sessions, session) = self;
        if !session.record().is_settled() {
            sessions.settle(session);
        }
    }
}

impl Sessions {
    /// Records what becomes of a session's rooms. After an error the old state rules, and is written until it is confirmed.
    pub(crate) async fn change(
        self: &Arc<Self>,
        token: SessionToken,
        connection: ConnectionId,
        change: Change,
    ) -> Result<(), Unavailable> {
        let until = Instant::now() + PATIENCE;
        let session = self.of(connection).filter(|session| session.id == SessionId::of(&token));
        let session = session.ok_or_else(|| Unavailable("the session is another connection's".to_owned()))?;
        let _unfinished = Unfinished(self, &session);
        timeout_at(until, self.confirm(&session, change)).await.unwrap_or_else(|_| Err(late()))?;
        // It is recorded. Members follow, with whoever waits or without.
        timeout_at(until, self.enrol(&session)).await.ok();
        Ok(())
    }

    async fn confirm(self: &Arc<Self>, session: &Arc<Session>, change: Change) -> Result<(), Unavailable> {
        let _writing = session.writing.lock().await;
        if session.is_over() {
            // Should it not have heard of that.
            self.taken_over(session);
        }
        if session.is_over() || self.context.renewed.is_past() || session.record().is_doubted() {
            return Err(Unavailable("this node may not write of the session now".to_owned()));
        }
        match self.write(session, change).await? {
            Written::Confirmed => Ok(()),
            Written::Not => Err(Unavailable("the session is not as it was left".to_owned())),
        }
    }

    /// Puts a session that is taken back among what this node would leave behind by its present name.
    async fn move_in(&self, session: &Session) -> Result<(), Unavailable> {
        let node = self.context.node.get();
        // Also where it is not known whether the entry is there, it is taken away from there in the end.
        *session.node.lock().expect("no code panics while it holds a name") = node.clone();
        self.context.estate.add(&node, session.held_entry()).await
    }

    /// One write of a session, whose lock the caller holds.
    async fn write(self: &Arc<Self>, session: &Arc<Session>, change: Change) -> Result<Written, Unavailable> {
        if session.record().is_vouched() {
            self.move_in(session).await?;
        }
        let (write, generation) = {
            let mut record = session.record();
            (record.write(&change), record.generation)
        };
        let Context { link, names, .. } = &*self.context;
        let reply = match &write {
            Write::Amend { number, fields } => {
                let number = (generation, *number);
                amend(link, names, session.key(), session.connection, number, fields).await?
            }
            Write::Put { number, fields, anew } => {
                let node = session.node();
                let holder = SessionHolder { connection: session.connection, node: &node };
                let write = WholeWrite {
                    generation,
                    number: *number,
                    deadline: self.context.time.now() + DEADLINE.as_millis() as u64,
                    may_create: *anew,
                    rooms: fields,
                };
                put(link, names, session.key(), holder, write).await?
            }
        };
        let outcome = session.record().answered(&write, change, reply);
        match outcome {
            Outcome::Confirmed => return Ok(Written::Confirmed),
            Outcome::TakenOver => self.taken_over(session),
            Outcome::Lost => self.probe(session),
            Outcome::Late => {}
        }
        Ok(Written::Not)
    }

    /// Writes the members that are not known to be as the record says. An error: not all of them are now.
    pub(super) async fn enrol(&self, session: &Arc<Session>) -> Result<(), Unavailable> {
        let enrolments = session.record().enrolments();
        let asked: Vec<_> = enrolments
            .iter()
            .map(|enrolment| {
                self.context.members.enrol(&session.principal, session.id, enrolment.clone()).boxed()
            })
            .collect();
        let mut failed = None;
        for (enrolment, enrolled) in enrolments.iter().zip(join_all(asked).await) {
            let mut record = session.record();
            match enrolled {
                Ok((enrolled, epoch)) => {
                    record.enrolled(enrolment, enrolled, &epoch);
                    // What was acknowledged meanwhile may have been told before there was a member.
                    if let (Enrolled::Ok(had), Some(_)) = (enrolled, &enrolment.comes)
                        && let Some(position) = record.acknowledged_beyond(&enrolment.room, had)
                    {
                        self.context.acknowledgements.add(session.id, &enrolment.room, position);
                    }
                    if !matches!(enrolled, Enrolled::Ok(_)) {
                        failed = Some(late());
                    }
                }
                Err(error) => {
                    // It may still be carried out: the next goes on the word of a later record.
                    record.enrolled(enrolment, Enrolled::Late, "");
                    failed = Some(error);
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Sees to what of a session is not written, until it is.
    pub(crate) fn settle(self: &Arc<Self>, session: &Arc<Session>) {
        if !session.settling.swap(true, Ordering::AcqRel) {
            tokio::spawn(settle(self.clone(), session.clone()));
        }
    }
}

enum Written {
    Confirmed,
    Not,
}

async fn settle(sessions: Arc<Sessions>, session: Arc<Session>) {
    let (mut pause, mut turns) = (PAUSE, &sessions.at_once);
    loop {
        let settled = {
            let _turn = turns.acquire().await.expect("it is never closed");
            settle_once(&sessions, &session).await
        };
        match settled {
            Ok(()) => {
                session.settling.store(false, Ordering::Release);
                // What changed between the last look and this.
                let rest = {
                    let record = session.record();
                    !session.is_over() && !record.is_settled() && !record.is_doubted()
                };
                if !rest || session.settling.swap(true, Ordering::AcqRel) {
                    return;
                }
            }

            Err(error) => {
                tracing::debug!(connection = %session.connection, %error, "a session is written later");
                turns = &sessions.again;
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONG_PAUSE);
    }
}

/// `Ok`: nothing is left to be done, or it is not this task's any more.
async fn settle_once(sessions: &Arc<Sessions>, session: &Arc<Session>) -> Result<(), Unavailable> {
    let _writing = session.writing.lock().await;
    let (is_doubted, is_settled, wants_write) = {
        let record = session.record();
        (record.is_doubted(), record.is_settled(), record.wants_write())
    };
    if session.is_over() || is_doubted || is_settled {
        return Ok(());
    }
    if sessions.context.renewed.is_past() {
        return Err(late());
    }
    if wants_write {
        match sessions.write(session, Change::default()).await? {
            Written::Confirmed => {}
            Written::Not if session.is_over() || session.record().is_doubted() => return Ok(()),
            Written::Not => return Err(late()),
        }
    }
    sessions.enrol(session).await
}
