//! Waiting for space in an outbox. Replays and answers wait instead of closing a slow connection, as long as
//! its peer reads anything at all.

use super::{Outbox, PacedOutcome, State};
use std::{sync::MutexGuard, task::Poll};
use switchyard_protocol::{Close, Frame};
use tokio::time::timeout;

impl Outbox {
    /// For replays: enqueues a shared frame once half of the limit is free, so that live messages have the
    /// other half. At that moment `is_wanted` is called, and the frame is dropped if it returns `false`.
    /// Other tasks see its effects and the frame as one step.
    pub(crate) async fn push_paced(&self, frame: Frame, is_wanted: impl Fn() -> bool) -> PacedOutcome {
        {
            let space = self.wait_for_space(frame.len(), self.limit / 2).await;
            let Some(mut state) = space else { return PacedOutcome::Closed };
            if !is_wanted() {
                return PacedOutcome::Unwanted;
            }
            if state.append(frame) {
                drop(state);
                self.close(Close::Slow);
                return PacedOutcome::Closed;
            }
        }
        self.wake_writer();
        PacedOutcome::Sent
    }

    /// Enqueues the answer to a request once there is space for it. It is dropped if the outbox closes before
    /// that, for example because the peer stalls.
    pub(crate) async fn answer(&self, frame: Frame) {
        let Some(mut state) = self.wait_for_space(frame.len(), self.limit).await else { return };
        let is_over_budget = state.append_own(frame);
        drop(state);
        match is_over_budget {
            true => self.close(Close::Slow),
            false => self.wake_writer(),
        }
    }

    /// Waits until half of the limit is free. Call this before a request whose answer may be long. Returns
    /// `false` if the outbox closes before that.
    pub(crate) async fn wait_until_half_free(&self) -> bool {
        self.wait_for_space(0, self.limit / 2).await.is_some()
    }

    /// Waits until nothing else waits, or until `size` more bytes make no more than `max` in total. `None`:
    /// the outbox closed, or was closed because the peer stalled.
    async fn wait_for_space(&self, size: usize, max: usize) -> Option<MutexGuard<'_, State>> {
        if let Poll::Ready(state) = self.try_space(size, max) {
            return state;
        }
        loop {
            let before = self.lock().progress();
            if let Ok(state) = timeout(self.stall_timeout, self.space(size, max)).await {
                return state;
            }
            if self.lock().progress() == before {
                self.close(Close::Slow);
                return None;
            }
        }
    }

    /// The same without a timeout.
    async fn space(&self, size: usize, max: usize) -> Option<MutexGuard<'_, State>> {
        loop {
            let space = self.space.notified();
            tokio::pin!(space);
            space.as_mut().enable();
            if let Poll::Ready(state) = self.try_space(size, max) {
                return state;
            }
            space.await;
        }
    }

    /// `Pending` if there is no space. Then `space` is notified when there may be.
    fn try_space(&self, size: usize, max: usize) -> Poll<Option<MutexGuard<'_, State>>> {
        let mut state = self.lock();
        if state.is_closed() {
            return Poll::Ready(None);
        }
        if state.bytes == 0 || state.bytes + size <= max {
            return Poll::Ready(Some(state));
        }
        state.notify_below = state.notify_below.max(Some(max.saturating_sub(size)));
        Poll::Pending
    }

    /// Call this after bytes were written. Notifies tasks that wait for space. A task that needs more space
    /// waits again.
    pub(super) fn bytes_written(&self, state: &mut State) {
        state.update_charges();
        if state.notify_below.is_some_and(|max| state.bytes <= max) {
            state.notify_below = None;
            self.space.notify_waiters();
        }
    }
}
