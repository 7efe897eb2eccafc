//! Writes the members of rooms, which follow the records of sessions. What members have acknowledged is written
//! by `acknowledgements`.

use crate::{
    Retention, Unavailable,
    redis::{
        context::batcher::Batcher,
        lifetimes::IN_USE_TTL,
        link::Link,
        membership_change::{MembershipChange, MembershipOutcome},
        names::Names,
        scripts::memberships,
        session_id::SessionId,
    },
};
use std::{sync::Arc, time::Duration};
use switchyard_protocol::room::RoomName;

/// A member that waits to be written.
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
        let (link, names, history) = (link.clone(), names.clone(), retention.history.clone());
        let changes = Batcher::new(move |room: RoomName, entries| {
            let keep = IN_USE_TTL + history.of(&room).age;
            write_batch(link.clone(), names.clone(), keep, room, entries)
        });
        Self { changes }
    }

    /// Writes or removes a member. Returns the outcome, and the epoch of the room.
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
