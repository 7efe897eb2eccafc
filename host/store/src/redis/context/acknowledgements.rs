//! What members of rooms have acknowledged: collected briefly, then written to Redis. The members themselves
//! are written by `member_writer`.

use crate::{
    Unavailable,
    redis::{link::Link, names::Names, scripts::memberships, session_id::SessionId},
};
use std::{
    collections::{BTreeMap, HashMap},
    mem,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use switchyard_process::lock::LockExt;
use switchyard_protocol::{Position, room::RoomName};
use tokio::sync::Notify;

/// How long acknowledgements of a room are collected before one command writes them.
const GATHER_DELAY: Duration = Duration::from_millis(100);
/// The delay before acknowledgements that could not be written are tried again.
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// How many acknowledgements one command may have.
const MAX_PER_COMMAND: usize = 500;

/// The newest position that each session has acknowledged in a room.
type Positions = HashMap<SessionId, Position>;

/// The acknowledgements of a room that are not written yet.
#[derive(Default)]
struct Unwritten {
    gathered: Positions,
    /// What is being written. Kept apart from `gathered`, so that it can be read without the lock.
    writing: Option<Arc<Positions>>,
    /// Makes the room's task write at once.
    hurry: Arc<Notify>,
}

impl Unwritten {
    fn parts(&self) -> impl Iterator<Item = &Positions> {
        [Some(&self.gathered), self.writing.as_deref()].into_iter().flatten()
    }
}

/// Cheap to clone; all clones share one state.
#[derive(Clone)]
pub(crate) struct Acknowledgements(Arc<AckState>);

struct AckState {
    link: Arc<Link>,
    names: Names,
    /// Each of these rooms has a task that writes its acknowledgements, and removes the room when none are
    /// left.
    rooms: Mutex<HashMap<RoomName, Unwritten>>,
    /// Notified when no room has any left.
    written: Notify,
}

impl Acknowledgements {
    pub(crate) fn new(link: &Arc<Link>, names: &Names) -> Self {
        let (link, names) = (link.clone(), names.clone());
        Self(Arc::new(AckState { link, names, rooms: Mutex::default(), written: Notify::new() }))
    }

    /// Queues an acknowledgement to be written.
    pub(crate) fn add(&self, id: SessionId, room: &RoomName, position: Position) {
        let mut rooms = self.rooms();
        let is_first = !rooms.contains_key(room);
        let gathered = &mut rooms.entry(room.clone()).or_default().gathered;
        match gathered.get_mut(&id) {
            Some(newest) if newest.epoch == position.epoch => {
                newest.offset = newest.offset.max(position.offset)
            }
            _ => drop(gathered.insert(id, position)),
        }
        drop(rooms);
        if is_first {
            tokio::spawn(self.clone().write_room(room.clone()));
        }
    }

    /// What a session has acknowledged in a room and epoch, if that is not written yet.
    pub(crate) fn unwritten(&self, id: SessionId, room: &RoomName, epoch: &str) -> Option<u64> {
        let rooms = self.rooms();
        let positions = rooms.get(room)?.parts().filter_map(|positions| positions.get(&id));
        positions.filter(|position| *position.epoch == *epoch).map(|position| position.offset).max()
    }

    /// Writes at once what a session has acknowledged in these rooms, because it may be resumed on another
    /// node.
    pub(crate) fn hurry<'a>(&self, id: SessionId, rooms: impl Iterator<Item = &'a RoomName>) {
        let unwritten = self.rooms();
        for room in rooms.filter_map(|room| unwritten.get(room)) {
            if room.parts().any(|positions| positions.contains_key(&id)) {
                room.hurry.notify_one();
            }
        }
    }

    /// Waits until all acknowledgements are written.
    pub(crate) async fn written(&self) {
        loop {
            let written = self.0.written.notified();
            tokio::pin!(written);
            written.as_mut().enable();
            if self.rooms().is_empty() {
                return;
            }
            written.await;
        }
    }

    /// Writes the acknowledgements of a room until none are left.
    async fn write_room(self, room: RoomName) {
        const PRESENT: &str = "only this task removes the room";
        loop {
            let hurry = self.rooms().get(&room).expect(PRESENT).hurry.clone();
            tokio::time::timeout(GATHER_DELAY, hurry.notified()).await.ok();
            let writing = {
                let mut rooms = self.rooms();
                let unwritten = rooms.get_mut(&room).expect(PRESENT);
                // What could not be written comes first.
                if unwritten.writing.is_none() && !unwritten.gathered.is_empty() {
                    unwritten.writing = Some(Arc::new(mem::take(&mut unwritten.gathered)));
                }
                let Some(writing) = unwritten.writing.clone() else {
                    rooms.remove(&room);
                    if rooms.is_empty() {
                        self.0.written.notify_waiters();
                    }
                    return;
                };
                writing
            };
            match self.write(&room, &writing).await {
                Ok(()) => drop(self.rooms().get_mut(&room).expect(PRESENT).writing.take()),
                Err(error) => {
                    tracing::debug!(room = &*room, %error, "could not write acknowledgements; trying again");
                    tokio::time::sleep(RETRY_DELAY).await;
                }
            }
        }
    }

    async fn write(&self, room: &RoomName, positions: &Positions) -> Result<(), Unavailable> {
        let mut epochs: BTreeMap<&str, Vec<(SessionId, u64)>> = BTreeMap::new();
        for (id, position) in positions {
            epochs.entry(&position.epoch).or_default().push((*id, position.offset));
        }
        let AckState { link, names, .. } = &*self.0;
        for (epoch, offsets) in epochs {
            for chunk in offsets.chunks(MAX_PER_COMMAND) {
                memberships::acknowledge(link, names, room, epoch, chunk).await?;
            }
        }
        Ok(())
    }

    fn rooms(&self) -> MutexGuard<'_, HashMap<RoomName, Unwritten>> {
        self.0.rooms.locked()
    }
}
