//! A member that is catching up: how far it has got, and the live messages that are buffered for it
//! meanwhile, within limits. Does not read history.

use super::{Connection, command::CatchUpOutcome};
use std::sync::{Arc, Mutex, MutexGuard, atomic::Ordering};
use switchyard_plugin::FilterId;
use switchyard_process::lock::LockExt;
use switchyard_protocol::{Position, Publication};
use tokio::sync::oneshot;

/// Maximum number of messages that are buffered for one member of a room. In addition, the buffered messages
/// of all rooms of a connection take at most a quarter of its outbox limit, so that they fit into it together
/// with the half that a replay fills. Beyond either limit, the replay reads them from history.
pub(super) const MAX_BUFFERED_MESSAGES: usize = 256;

/// The part of a connection's outbox limit that its buffered messages may take.
const BUFFER_FRACTION: usize = 4;

/// How far a member has got. Its replay advances it. Its room reads it, and pauses the replay when the room
/// changes its epoch.
#[derive(Clone, Debug)]
pub(crate) struct Progress(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// The member has seen, or was told that it missed, everything up to here.
    position: Position,
    replay: ReplayState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReplayState {
    Running,
    /// The room's epoch or its governor changed since the log was read. Nothing more is sent before it is read
    /// again.
    EpochChanged,
    /// The seat is gone, or was replaced by another one.
    Stopped,
}

impl Progress {
    pub(crate) fn new(position: Position) -> Self {
        Self(Arc::new(Mutex::new(State { position, replay: ReplayState::Running })))
    }

    pub(crate) fn position(&self) -> Position {
        self.lock().position.clone()
    }

    pub(crate) fn set_position(&self, position: Position) {
        self.lock().position = position;
    }

    /// Advances to an offset of the same epoch, and returns `true`. Returns `false` and does nothing if the
    /// replay must not send anything now.
    pub(crate) fn advance_to(&self, offset: u64) -> bool {
        let mut state = self.lock();
        let is_running = state.replay == ReplayState::Running;
        if is_running {
            state.position.offset = offset;
        }
        is_running
    }

    /// Returns whether the room's epoch changed, so that the caller has to read the log. The replay may go on
    /// after that.
    pub(crate) fn take_epoch_change(&self) -> bool {
        let mut state = self.lock();
        let has_changed = state.replay == ReplayState::EpochChanged;
        if has_changed {
            state.replay = ReplayState::Running;
        }
        has_changed
    }

    /// The room changed its epoch. If that is not the member's, only the log knows which of the two is the
    /// current one.
    fn epoch_changed(&self, epoch: &str) {
        let mut state = self.lock();
        state.replay = match state.replay {
            ReplayState::Stopped => ReplayState::Stopped,
            _ if *state.position.epoch == *epoch => ReplayState::Running,
            _ => ReplayState::EpochChanged,
        };
    }

    /// The log has to be read again before anything more is sent.
    fn read_again(&self) {
        let mut state = self.lock();
        if state.replay == ReplayState::Running {
            state.replay = ReplayState::EpochChanged;
        }
    }

    /// From here on the replay sends nothing more.
    pub(crate) fn stop(&self) {
        self.lock().replay = ReplayState::Stopped;
    }

    fn covers(&self, message: &Publication) -> bool {
        let State { position, .. } = &*self.lock();
        position.epoch == message.epoch && message.offset <= position.offset
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.locked()
    }
}

/// A member that is catching up.
pub(super) struct CatchUp {
    pub connection: Arc<Connection>,
    pub filter: Option<FilterId>,
    pub progress: Progress,
    /// The replay that waits for the room to get as far as the member is.
    pub waiting: Option<oneshot::Sender<CatchUpOutcome>>,
    /// Messages of the room's current epoch after this offset are buffered.
    buffered_after: u64,
    buffered: Vec<Arc<Publication>>,
    buffered_bytes: usize,
    /// A message could not be buffered, so the buffer is incomplete and useless.
    has_overflowed: bool,
}

impl CatchUp {
    pub(super) fn new(
        connection: Arc<Connection>,
        filter: Option<FilterId>,
        buffered_after: u64,
        progress: Progress,
    ) -> Self {
        Self {
            connection,
            filter,
            progress,
            waiting: None,
            buffered_after,
            buffered: vec![],
            buffered_bytes: 0,
            has_overflowed: false,
        }
    }

    /// Buffers a message, if it passes the filter and the member has not seen it. If the filter failed, the
    /// replay reads the message from history, and the filter is evaluated again.
    pub(super) fn buffer(&mut self, message: &Arc<Publication>, passed: Option<bool>) {
        match passed {
            Some(false) => {}
            _ if self.has_overflowed || self.progress.covers(message) => {}
            Some(true) if self.reserve_space(message) => self.buffered.push(message.clone()),
            _ => {
                self.restart(self.buffered_after);
                self.has_overflowed = true;
            }
        }
    }

    /// The room continues after this position, possibly in a new epoch.
    pub(super) fn skip_to(&mut self, position: &Position) {
        self.restart(position.offset);
        self.progress.epoch_changed(&position.epoch);
    }

    /// Continues with another filter. What was buffered passed another one, so the replay reads it from
    /// history again, and what the replay is about to send as well.
    pub(super) fn restart_with(&mut self, filter: Option<FilterId>) {
        self.filter = filter;
        self.restart(self.buffered_after);
        self.has_overflowed = true;
        self.progress.read_again();
    }

    /// Starts to buffer messages after an offset.
    fn restart(&mut self, after: u64) {
        self.clear();
        (self.buffered_after, self.has_overflowed) = (after, false);
    }

    fn clear(&mut self) {
        let bytes = std::mem::take(&mut self.buffered_bytes);
        self.connection.buffered_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.buffered = vec![];
    }

    /// What a replay does next that has sent everything up to its progress. `room` is the position of the
    /// room. `None`: it waits for the room.
    pub(super) fn outcome(&mut self, room: &Position) -> Option<CatchUpOutcome> {
        let member = self.progress.position();
        if member.epoch != room.epoch {
            return self.progress.take_epoch_change().then_some(CatchUpOutcome::EpochChanged);
        }
        if member.offset > room.offset {
            return None;
        }
        if self.has_all_after(member.offset, room) {
            return Some(CatchUpOutcome::Live);
        }
        self.restart(room.offset);
        Some(CatchUpOutcome::Behind { upto: room.clone() })
    }

    /// Whether every message of the room after an offset is in the buffer.
    fn has_all_after(&self, offset: u64, room: &Position) -> bool {
        offset == room.offset || (!self.has_overflowed && offset >= self.buffered_after)
    }

    /// Sends the buffered messages that the replay has not sent.
    pub(super) fn send_buffered(&self) {
        for message in self.buffered.iter().filter(|message| !self.progress.covers(message)) {
            self.connection.outbox.push(message.frame().clone());
        }
    }

    /// For a member that joins again. Sends the buffered messages, if all messages before them were sent.
    /// Otherwise returns the position after which a replay has to start.
    pub(super) fn send_or_resume(self, room: &Position) -> Option<Position> {
        let member = self.progress.position();
        let is_within_room = member.epoch == room.epoch && member.offset <= room.offset;
        if is_within_room && self.has_all_after(member.offset, room) {
            self.send_buffered();
            return None;
        }
        Some(member)
    }

    /// Returns `false` if there is no space for a message.
    fn reserve_space(&mut self, message: &Publication) -> bool {
        let (total, bytes) = (&self.connection.buffered_bytes, message.frame().len());
        let limit = self.connection.outbox.limit() / BUFFER_FRACTION;
        let has_space = self.buffered.len() < MAX_BUFFERED_MESSAGES
            && total
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                    Some(now + bytes).filter(|sum| *sum <= limit)
                })
                .is_ok();
        self.buffered_bytes += if has_space { bytes } else { 0 };
        has_space
    }
}

impl Drop for CatchUp {
    fn drop(&mut self) {
        self.clear();
    }
}
