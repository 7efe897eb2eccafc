//! Who waits until there is room: replays, which are never too fast for a peer, and answers.

use super::{Outbox, State};
use std::{sync::MutexGuard, task::Poll, time::Duration};
use switchyard_protocol::{Close, Frame};
use tokio::time::timeout;

/// What became of a frame that waited for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paced {
    Taken,
    /// By then it was not wanted any more.
    Unwanted,
    Closed,
}

impl Outbox {
    /// Enqueues a frame as soon as half of the limit is free, for replays, which are never too fast for a peer; if it is still wanted
    /// at that moment: what `is_wanted` does and the frame are one step to all others. One that takes nothing at all for as long as
    /// `patience` is too slow.
    pub(crate) async fn push_paced(
        &self,
        frame: Frame,
        patience: Duration,
        is_wanted: impl Fn() -> bool,
    ) -> Paced {
        {
            let room = self.room_within(frame.len(), self.limit / 2, patience).await;
            let Some(mut state) = room else { return Paced::Closed };
            if !is_wanted() {
                return Paced::Unwanted;
            }
            if state.append(frame) {
                drop(state);
                self.close(Close::Slow);
                return Paced::Closed;
            }
        }
        self.wake();
        Paced::Taken
    }

    /// Enqueues the answer to a request as soon as there is room for it. `false`: the outbox closed, or closes, because the
    /// peer took nothing at all for as long as `patience`.
    pub(crate) async fn answer(&self, frame: Frame, patience: Duration) -> bool {
        {
            let room = self.room_within(frame.len(), self.limit, patience).await;
            let Some(mut state) = room else { return false };
            if state.append_own(frame) {
                drop(state);
                self.close(Close::Slow);
                return false;
            }
        }
        self.wake();
        true
    }

    /// Waits until half of the limit is free, before something is asked for whose answer may be long. `false`: see [`Self::answer`].
    pub(crate) async fn half_free(&self, patience: Duration) -> bool {
        self.room_within(0, self.limit / 2, patience).await.is_some()
    }

    /// Waits until `size` bytes fit beside what waits, in `most` together or alone. `None`: the outbox closed.
    async fn room(&self, size: usize, most: usize) -> Option<MutexGuard<'_, State>> {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            if let Poll::Ready(state) = self.try_room(size, most) {
                return state;
            }
            room.await;
        }
    }

    /// The same; closes as too slow when the peer takes nothing at all for as long as `patience`.
    async fn room_within(
        &self,
        size: usize,
        most: usize,
        patience: Duration,
    ) -> Option<MutexGuard<'_, State>> {
        if let Poll::Ready(state) = self.try_room(size, most) {
            return state;
        }
        loop {
            let before = self.lock().progress();
            if let Ok(state) = timeout(patience, self.room(size, most)).await {
                return state;
            }
            if self.lock().progress() == before {
                self.close(Close::Slow);
                return None;
            }
        }
    }

    /// Pending: the room is rung when it is there.
    fn try_room(&self, size: usize, most: usize) -> Poll<Option<MutexGuard<'_, State>>> {
        let mut state = self.lock();
        if state.is_closed() {
            return Poll::Ready(None);
        }
        if state.bytes == 0 || state.bytes + size <= most {
            return Poll::Ready(Some(state));
        }
        state.paced = state.paced.max(Some(most.saturating_sub(size)));
        Poll::Pending
    }

    /// Who finds that there is not room enough for it waits again.
    pub(super) fn make_room(&self, state: &mut State) {
        state.count();
        if state.paced.is_some_and(|most| state.bytes <= most) {
            state.paced = None;
            self.room.notify_waiters();
        }
    }
}
