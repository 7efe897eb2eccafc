//! The members of rooms as Redis has them: they follow the records of sessions. What they have acknowledged is in
//! `acknowledgements`.

use crate::{
    Retention, Unavailable,
    redis::{
        context::batcher::Batcher,
        lifetimes::KEEP,
        link::Link,
        membership_change::{MembershipChange, MembershipOutcome},
        names::Names,
        scripts::memberships,
        session_id::SessionId,
    },
};
use std::{sync::Arc, time::Duration};
use switchyard_protocol::room::RoomName;

/// A member that is written, with whose it is.
struct PendingMember {
    principal: Arc<str>,
    id: SessionId,
    enrolment: MembershipChange,
}

pub(crate) struct MemberWriter {
    enrolments: Batcher<RoomName, PendingMember, (MembershipOutcome, Arc<str>)>,
}

impl MemberWriter {
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
        enrolment: MembershipChange,
    ) -> Result<(MembershipOutcome, Arc<str>), Unavailable> {
        let entry = PendingMember { principal: principal.clone(), id, enrolment };
        self.enrolments.submit(entry.enrolment.room.clone(), entry).await
    }
}

async fn enrol(
    link: Arc<Link>,
    names: Names,
    keep: Duration,
    room: RoomName,
    entries: Vec<PendingMember>,
) -> Result<Vec<(MembershipOutcome, Arc<str>)>, Unavailable> {
    let members = entries.iter().map(|PendingMember { principal, id, enrolment }| memberships::MemberWrite {
        principal,
        id: *id,
        enrolment,
    });
    let (epoch, enrolled) = memberships::write(&link, &names, keep, &room, members).await?;
    Ok(enrolled.into_iter().map(|enrolled| (enrolled, epoch.clone())).collect())
}
