//! How an outbox ends: it closes, sends the rest of its queue, or is discarded. Sends no close frame.

use super::Outbox;
use bytes::Bytes;
use std::collections::VecDeque;
use switchyard_protocol::Close;

impl Outbox {
    /// Closes the connection once the queue is sent, or at once if the reason demands it. Only the first call
    /// has an effect.
    pub(crate) fn close(&self, close: Close) {
        let mut state = self.lock();
        if state.close.is_some() {
            return;
        }
        state.close = Some(close);
        if close.discards_queued() {
            state.queue = VecDeque::new();
            state.bytes = state.partial.len();
            state.update_charges();
        }
        drop(state);
        self.wake_writer();
        self.space.notify_waiters();
        self.closing.notify_waiters();
    }

    /// Whether [`Self::close`] was called.
    pub(crate) fn is_closing(&self) -> bool {
        self.lock().close.is_some()
    }

    /// Whether nothing more can be sent, because the connection is closed, closing or gone.
    pub(crate) fn has_ended(&self) -> bool {
        let state = self.lock();
        state.close.is_some() || state.finishing || state.pipe.is_none()
    }

    /// Waits until [`Self::close`] is called, and returns the reason.
    pub(crate) async fn closed(&self) -> Close {
        loop {
            let closing = self.closing.notified();
            tokio::pin!(closing);
            closing.as_mut().enable();
            if let Some(close) = self.lock().close {
                return close;
            }
            closing.await;
        }
    }

    /// Accepts no new frames. Those that wait are sent, and so are replies whose position is reserved. After
    /// that, [`Self::poll_send`] is ready with `None`.
    pub(crate) fn finish(&self) {
        self.lock().finishing = true;
        self.wake_writer();
        self.space.notify_waiters();
    }

    /// Discards the queue, because the connection is over.
    pub(crate) fn end(&self) {
        let mut state = self.lock();
        state.pipe = None;
        (state.queue, state.bytes) = (VecDeque::new(), 0);
        state.update_charges();
        self.space.notify_waiters();
    }

    /// Like [`Self::end`], but returns what must be written before any other frame: the rest of a frame that
    /// was partly written, and the answer to a ping.
    pub(crate) fn take_rest(&self) -> Bytes {
        self.end();
        let mut state = self.lock();
        match (std::mem::take(&mut state.partial), state.pong.take()) {
            (partial, None) => partial,
            (partial, Some(pong)) if partial.is_empty() => pong,
            (partial, Some(pong)) => Bytes::from([partial, pong].concat()),
        }
    }
}
