//! A member that is being brought up to date: how far it is, and what is kept back for it until then, within bounds.

use super::{Connection, command::Settled};
use std::sync::{Arc, Mutex, MutexGuard, atomic::Ordering};
use switchyard_plugin::FilterId;
use switchyard_protocol::{Position, Publication};
use tokio::sync::oneshot;

/// Messages kept back for one member that catches up. Beyond this, or beyond a quarter of its outbox for all rooms of a connection
/// (so that it takes them all at once next to half an outbox of replay), the replay goes on from history instead.
pub(super) const KEPT_BACK: usize = 256;

/// How far a member has been brought. Its replay moves it on; its room looks at it, and stops the replay where the room
/// itself has moved.
#[derive(Clone, Debug)]
pub(crate) struct Progress(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// Up to here the member has seen or lost everything.
    at: Position,
    replay: ReplayState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReplayState {
    Running,
    /// The room's epoch changed since the log was read: nothing more is sent until it was read again.
    Doubtful,
    /// The seat is gone, or another one took its place.
    Over,
}

impl Progress {
    pub(crate) fn new(at: Position) -> Self {
        Self(Arc::new(Mutex::new(State { at, replay: ReplayState::Running })))
    }

    pub(crate) fn at(&self) -> Position {
        self.lock().at.clone()
    }

    pub(crate) fn set(&self, at: Position) {
        self.lock().at = at;
    }

    /// Notes that the member has everything up to an offset of its epoch. `false`: it is not to be sent now.
    pub(crate) fn reach(&self, offset: u64) -> bool {
        let mut state = self.lock();
        let running = state.replay == ReplayState::Running;
        if running {
            state.at.offset = offset;
        }
        running
    }

    /// Whether the replay has to read the log before it goes on; then it is taken to do so.
    pub(crate) fn resolve_doubt(&self) -> bool {
        let mut state = self.lock();
        let doubtful = state.replay == ReplayState::Doubtful;
        if doubtful {
            state.replay = ReplayState::Running;
        }
        doubtful
    }

    /// The room has moved to an epoch: whether that is the member's, only the log knows.
    fn moved(&self, epoch: &str) {
        let mut state = self.lock();
        state.replay = match state.replay {
            ReplayState::Over => ReplayState::Over,
            _ if *state.at.epoch == *epoch => ReplayState::Running,
            _ => ReplayState::Doubtful,
        };
    }

    /// From here on the replay sends nothing more.
    pub(crate) fn end(&self) {
        self.lock().replay = ReplayState::Over;
    }

    fn covers(&self, message: &Publication) -> bool {
        let state = self.lock();
        state.at.epoch == message.epoch && message.offset <= state.at.offset
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no code panics while it holds a progress")
    }
}

pub(super) struct CatchUp {
    pub connection: Arc<Connection>,
    pub filter: Option<FilterId>,
    pub progress: Progress,
    /// Where the replay waits for the room to get as far as the member is.
    pub waits: Option<oneshot::Sender<Settled>>,
    /// What came to the room after this offset, in its present epoch, is kept back.
    from: u64,
    kept_back: Vec<Arc<Publication>>,
    bytes: usize,
    /// More came than is kept back; what is kept is useless.
    overflowed: bool,
}

impl CatchUp {
    pub(super) fn new(
        connection: Arc<Connection>,
        filter: Option<FilterId>,
        from: u64,
        progress: Progress,
    ) -> Self {
        let (waits, kept_back) = (None, vec![]);
        Self { connection, filter, progress, waits, from, kept_back, bytes: 0, overflowed: false }
    }

    /// Keeps a message back, if it passes and the member has not seen it. One whose filter failed goes back to history,
    /// where the filter is asked again.
    pub(super) fn take(&mut self, message: &Arc<Publication>, passed: Option<bool>) {
        match passed {
            Some(false) => {}
            _ if self.overflowed || self.progress.covers(message) => {}
            Some(true) if self.make_room_for(message) => self.kept_back.push(message.clone()),
            _ => {
                self.restart(self.from);
                self.overflowed = true;
            }
        }
    }

    /// The room lost messages up to an offset, of a new epoch maybe.
    pub(super) fn lose(&mut self, position: &Position) {
        self.restart(position.offset);
        self.progress.moved(&position.epoch);
    }

    /// From here on what comes after `from` is kept back.
    fn restart(&mut self, from: u64) {
        self.forget();
        (self.from, self.overflowed) = (from, false);
    }

    /// Keeps nothing back any more.
    fn forget(&mut self) {
        self.connection.kept_back.fetch_sub(std::mem::take(&mut self.bytes), Ordering::Relaxed);
        self.kept_back = vec![];
    }

    /// What a replay that has sent everything is to do, where the room is at `room`; `None`: wait for the room.
    pub(super) fn settle(&mut self, room: &Position) -> Option<Settled> {
        let at = self.progress.at();
        if at.epoch != room.epoch {
            return self.progress.resolve_doubt().then_some(Settled::Doubtful);
        }
        if at.offset > room.offset {
            return None;
        }
        if self.has_all_after(at.offset, room) {
            return Some(Settled::Live);
        }
        self.restart(room.offset);
        Some(Settled::Behind { upto: room.clone() })
    }

    /// All that came to the room after an offset is kept back.
    fn has_all_after(&self, offset: u64, room: &Position) -> bool {
        offset == room.offset || (!self.overflowed && offset >= self.from)
    }

    /// Sends what is kept back and was not sent.
    pub(super) fn hand_over(&self) {
        for message in self.kept_back.iter().filter(|message| !self.progress.covers(message)) {
            self.connection.outbox.push(message.frame().clone());
        }
    }

    /// For a member that joins anew: hands over what is kept back, if all before it was sent; otherwise gives the
    /// position after which it has to be replayed.
    pub(super) fn hand_over_or_resume(self, room: &Position) -> Option<Position> {
        let at = self.progress.at();
        let is_here = at.epoch == room.epoch && at.offset <= room.offset;
        if is_here && self.has_all_after(at.offset, room) {
            self.hand_over();
            return None;
        }
        Some(at)
    }

    /// `false`: there is none.
    fn make_room_for(&mut self, message: &Publication) -> bool {
        let (all, bytes) = (&self.connection.kept_back, message.frame().len());
        let most = self.connection.outbox.limit() / 4;
        let has_room = self.kept_back.len() < KEPT_BACK
            && all
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                    Some(now + bytes).filter(|sum| *sum <= most)
                })
                .is_ok();
        self.bytes += if has_room { bytes } else { 0 };
        has_room
    }
}

impl Drop for CatchUp {
    fn drop(&mut self) {
        self.forget();
    }
}
