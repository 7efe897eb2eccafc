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
    change: MembershipChange,
}

pub(crate) struct MemberWriter {
    changes: Batcher<RoomName, PendingMember, (MembershipOutcome, Arc<str>)>,
}

impl MemberWriter {
    pub(crate) fn new(link: &Arc<Link>, names: &Names, retention: &Retention) -> Self {
        let keep = KEEP + retention.history.age;
        let (to, called) = (link.clone(), names.clone());
        let changes =
            Batcher::new(move |room, entries| write_batch(to.clone(), called.clone(), keep, room, entries));
        Self { changes }
    }

    /// Writes a member, or removes it: also the epoch that its room has.
    pub(crate) async fn write(
        &self,
        principal: &Arc<str>,
        id: SessionId,
        change: MembershipChange,
    ) -> Result<(MembershipOutcome, Arc<str>), Unavailable> {
        let entry = PendingMember { principal: principal.clone(), id, change };
        self.changes.submit(entry.change.room.clone(), entry).await
    }
}

async fn write_batch(
    link: Arc<Link>,
    names: Names,
    keep: Duration,
    room: RoomName,
    entries: Vec<PendingMember>,
) -> Result<Vec<(MembershipOutcome, Arc<str>)>, Unavailable> {
    let members = entries.iter().map(|PendingMember { principal, id, change }| memberships::MemberWrite {
        principal,
        id: *id,
        change,
    });
    let (epoch, outcome) = memberships::write(&link, &names, keep, &room, members).await?;
    Ok(outcome.into_iter().map(|outcome| (outcome, epoch.clone())).collect())
}
