//! The members of rooms as Redis has them: they follow the records of sessions. What they have acknowledged is in
//! `acknowledgements`.

use crate::{
    Retention, Unavailable,
    redis::{
        context::batcher::Batcher,
        enrolment::{Enrolled, Enrolment},
        lifetimes::KEEP,
        link::Link,
        names::Names,
        scripts::memberships,
        session_id::SessionId,
    },
};
use std::{sync::Arc, time::Duration};
use switchyard_protocol::room::RoomName;

/// A member that is written, with whose it is.
struct Entry {
    principal: Arc<str>,
    id: SessionId,
    enrolment: Enrolment,
}

pub(crate) struct Members {
    enrolments: Batcher<RoomName, Entry, (Enrolled, Arc<str>)>,
}

impl Members {
    pub(crate) fn new(link: &Arc<Link>, names: &Names, retention: &Retention) -> Self {
        let keep = KEEP + retention.history.age;
        let (to, called) = (link.clone(), names.clone());
        let enrolments =
            Batcher::new(move |room, entries| enrol(to.clone(), called.clone(), keep, room, entries));
        Self { enrolments }
    }

    /// Writes a member, or removes it: also the epoch that its room has.
    pub(crate) async fn enrol(
        &self,
        principal: &Arc<str>,
        id: SessionId,
        enrolment: Enrolment,
    ) -> Result<(Enrolled, Arc<str>), Unavailable> {
        let entry = Entry { principal: principal.clone(), id, enrolment };
        self.enrolments.submit(entry.enrolment.room.clone(), entry).await
    }
}

async fn enrol(
    link: Arc<Link>,
    names: Names,
    keep: Duration,
    room: RoomName,
    entries: Vec<Entry>,
) -> Result<Vec<(Enrolled, Arc<str>)>, Unavailable> {
    let members = entries.iter().map(|Entry { principal, id, enrolment }| memberships::MemberWrite {
        principal,
        id: *id,
        enrolment,
    });
    let (epoch, enrolled) = memberships::write(&link, &names, keep, &room, members).await?;
    Ok(enrolled.into_iter().map(|enrolled| (enrolled, epoch.clone())).collect())
}
