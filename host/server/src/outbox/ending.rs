//! How an outbox ends: asked to close, taking nothing more, or over.

use super::Outbox;
use bytes::Bytes;
use std::collections::VecDeque;
use switchyard_protocol::Close;

impl Outbox {
    /// Ends the connection once what waits is sent, or at once where the reason says so. The first reason stays.
    pub(crate) fn close(&self, close: Close) {
        let mut state = self.lock();
        if state.close.is_some() {
            return;
        }
        state.close = Some(close);
        if close.discards_queued() {
            state.queue = VecDeque::new();
            state.bytes = state.begun.len();
            state.count();
        }
        drop(state);
        self.wake();
        self.room.notify_waiters();
        self.closing.notify_waiters();
    }

    /// Waits for the connection to be asked to end.
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

    /// Takes nothing new any more. What waits is sent, also what takes a place that is held, and then there is nothing more to
    /// send ([`Self::poll_send`]).
    pub(crate) fn finish(&self) {
        self.lock().finishing = true;
        self.wake();
        self.room.notify_waiters();
    }

    /// The connection is over: nothing is sent any more.
    pub(crate) fn end(&self) {
        let mut state = self.lock();
        state.pipe = None;
        (state.queue, state.bytes) = (VecDeque::new(), 0);
        state.count();
        self.room.notify_waiters();
    }

    /// Ends it and gives what comes before anything else that is written to the pipe: the rest of a frame of which some was
    /// written, and the answer to a ping.
    pub(crate) fn rest(&self) -> Bytes {
        self.end();
        let mut state = self.lock();
        match (std::mem::take(&mut state.begun), state.pong.take()) {
            (begun, None) => begun,
            (begun, Some(pong)) if begun.is_empty() => pong,
            (begun, Some(pong)) => Bytes::from([begun, pong].concat()),
        }
    }
}
