//! Members of rooms and what they have acknowledged, as Redis has them: they follow what the records of sessions say.

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
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use switchyard_protocol::{Position, room::RoomName};
use tokio::sync::Notify;

/// How long acknowledgements gather: so many members as acknowledge meanwhile are one command.
const GATHER: Duration = Duration::from_millis(100);
/// After acknowledgements that could not be written.
const PAUSE: Duration = Duration::from_millis(500);
/// Acknowledgements in one command.
const MOST: usize = 500;

/// A member that is written, with whose it is.
struct Entry {
    principal: Arc<str>,
    id: SessionId,
    enrolment: Enrolment,
}

/// What was acknowledged in a room and is not written yet.
type Acks = HashMap<SessionId, Position>;

/// The same, and how its writer is told to write it at once.
#[derive(Default)]
struct Pending {
    acks: Acks,
    hurry: Arc<Notify>,
}

type Rooms = HashMap<RoomName, Pending>;

pub(crate) struct Members {
    enrolments: Batcher<RoomName, Entry, (Enrolled, Arc<str>)>,
    acks: Arc<Mutex<Rooms>>,
    writer: Arc<AckWriter>,
}

struct AckWriter {
    link: Arc<Link>,
    names: Names,
    /// Rung when nothing waits.
    written: Notify,
}

impl Members {
    pub(crate) fn new(link: &Arc<Link>, names: &Names, retention: &Retention) -> Self {
        let keep = KEEP + retention.history.age;
        let (to, called) = (link.clone(), names.clone());
        let enrolments =
            Batcher::new(move |room, entries| enrol(to.clone(), called.clone(), keep, room, entries));
        let writer = AckWriter { link: link.clone(), names: names.clone(), written: Notify::new() };
        Self { enrolments, acks: Arc::default(), writer: Arc::new(writer) }
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

    /// Written within a moment. Whatever gathers for the room is one command.
    pub(crate) fn acknowledge(&self, id: SessionId, room: &RoomName, position: Position) {
        let mut acks = lock(&self.acks);
        let is_first = !acks.contains_key(room);
        let pending = &mut acks.entry(room.clone()).or_default().acks;
        match pending.get_mut(&id) {
            Some(pending) if pending.epoch == position.epoch => {
                pending.offset = pending.offset.max(position.offset);
            }
            _ => drop(pending.insert(id, position)),
        }
        drop(acks);
        if is_first {
            tokio::spawn(write_acks(self.acks.clone(), self.writer.clone(), room.clone()));
        }
    }

    /// What a session has acknowledged in a room and epoch, where that is not written yet.
    pub(crate) fn pending(&self, id: SessionId, room: &RoomName, epoch: &str) -> Option<u64> {
        let acks = lock(&self.acks);
        let position = acks.get(room)?.acks.get(&id)?;
        (*position.epoch == *epoch).then_some(position.offset)
    }

    /// What a session has acknowledged in these rooms is written at once: it may be resumed elsewhere.
    pub(crate) fn hurry<'a>(&self, id: SessionId, rooms: impl Iterator<Item = &'a RoomName>) {
        let acks = lock(&self.acks);
        for pending in
            rooms.filter_map(|room| acks.get(room)).filter(|pending| pending.acks.contains_key(&id))
        {
            pending.hurry.notify_one();
        }
    }

    /// Waits until all acknowledgements are written.
    pub(crate) async fn written(&self) {
        loop {
            let written = self.writer.written.notified();
            tokio::pin!(written);
            written.as_mut().enable();
            if lock(&self.acks).is_empty() {
                return;
            }
            written.await;
        }
    }
}

fn lock(acks: &Mutex<Rooms>) -> MutexGuard<'_, Rooms> {
    acks.lock().expect("no code panics while it holds the acknowledgements")
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

/// Until nothing of the room waits.
async fn write_acks(acks: Arc<Mutex<Rooms>>, writer: Arc<AckWriter>, room: RoomName) {
    loop {
        let hurry = lock(&acks).get(&room).map(|pending| pending.hurry.clone());
        let hurry = hurry.expect("it is there until this task removes it");
        tokio::time::timeout(GATHER, hurry.notified()).await.ok();
        let taken = {
            let mut acks = lock(&acks);
            match acks.get_mut(&room).filter(|pending| !pending.acks.is_empty()) {
                Some(pending) => pending.acks.clone(),
                None => {
                    acks.remove(&room);
                    if acks.is_empty() {
                        writer.written.notify_waiters();
                    }
                    return;
                }
            }
        };
        match writer.write(&room, &taken).await {
            Ok(()) => {
                let mut acks = lock(&acks);
                let pending = acks.get_mut(&room).expect("it is there until this task removes it");
                pending.acks.retain(|id, position| taken.get(id) != Some(position));
            }
            Err(error) => {
                tracing::debug!(room = &*room, %error, "acknowledgements are written later");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

impl AckWriter {
    async fn write(&self, room: &RoomName, acks: &Acks) -> Result<(), Unavailable> {
        let mut epochs: BTreeMap<&str, Vec<(SessionId, u64)>> = BTreeMap::new();
        for (id, position) in acks {
            epochs.entry(&position.epoch).or_default().push((*id, position.offset));
        }
        for (epoch, offsets) in epochs {
            for some in offsets.chunks(MOST) {
                memberships::acknowledge(&self.link, &self.names, room, epoch, some).await?;
            }
        }
        Ok(())
    }
}
