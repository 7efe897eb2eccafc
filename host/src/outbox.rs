//! What waits to be sent to one connection: frames in order, bounded by bytes, and how the connection is to end.
//! Knows no socket: its one consumer takes all that is waiting and says when it was written.

use crate::{close::Close, protocol::Frame};
use futures_util::task::AtomicWaker;
use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard},
    task::{Context, Poll},
};
use tokio::sync::Notify;

pub struct Outbox {
    state: Mutex<State>,
    /// Bytes that may wait; one more frame beyond closes the connection.
    limit: usize,
    consumer: AtomicWaker,
    /// Rung when half of the limit is free again, or when the outbox closes.
    room: Notify,
    /// Rung when the outbox closes. Not the same, since something always waits for this, and each write would wake it.
    closing: Notify,
}

#[derive(Default)]
struct State {
    /// `None` is the place of a reply that is still being made: nothing behind it may overtake it.
    queue: VecDeque<Option<Frame>>,
    /// How many entries left the queue, so that a place is found again.
    left: u64,
    /// Bytes waiting in the queue and those taken but not written yet.
    bytes: usize,
    close: Option<Close>,
    /// Somebody waits for room.
    paced: bool,
    /// A ping is due; it goes ahead of what waits.
    ping: bool,
    /// The consumer is gone.
    ended: bool,
}

/// A place in the order of an outbox, to be filled once.
#[must_use]
pub struct Place(u64);

/// How a frame was enqueued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It was not taken.
    Refused,
    /// Nothing waited before it, so the consumer has to be told.
    First,
    /// Behind others, of which the consumer was told or will be.
    Behind,
}

/// The part of the limit from which on nothing waits to be gathered.
const MUCH: usize = 16;

/// What a consumer got.
#[derive(Debug, PartialEq)]
pub enum Taken {
    /// Frames were added to the consumer's list.
    Frames,
    Ping,
    /// Everything that should be sent before the end was taken.
    Close(Close),
}

impl Outbox {
    pub fn new(limit: usize) -> Self {
        Self {
            state: Mutex::default(),
            limit,
            consumer: AtomicWaker::new(),
            room: Notify::new(),
            closing: Notify::new(),
        }
    }

    /// Enqueues a frame, or, where the limit would be passed, closes as too slow. `false`: it was not taken.
    pub fn push(&self, frame: Frame) -> bool {
        let put = self.put(frame);
        if put == Put::First {
            self.wake();
        }
        put != Put::Refused
    }

    /// The same without telling the consumer, which whoever calls does later.
    pub fn put(&self, frame: Frame) -> Put {
        let mut state = self.lock();
        if state.is_closed() {
            return Put::Refused;
        }
        if state.bytes + frame.len() > self.limit {
            drop(state);
            self.close(Close::Slow);
            return Put::Refused;
        }
        let (was_empty, before) = (state.queue.is_empty(), state.bytes);
        state.bytes += frame.len();
        let much = self.limit / MUCH;
        let is_much = before < much && state.bytes >= much;
        state.queue.push_back(Some(frame));
        drop(state);
        match was_empty {
            true => return Put::First,
            // What waits for others is not to bring anybody near the limit.
            false if is_much => self.wake(),
            false => {}
        }
        Put::Behind
    }

    /// Tells the consumer that something waits.
    pub fn wake(&self) {
        self.consumer.wake();
    }

    /// Enqueues a frame as soon as half of the limit is free: for replays, which are never too fast for a peer.
    /// `false`: the outbox closed.
    pub async fn push_paced(&self, frame: Frame) -> bool {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            {
                let mut state = self.lock();
                if state.is_closed() {
                    return false;
                }
                if state.bytes == 0 || state.bytes + frame.len() <= self.limit / 2 {
                    state.bytes += frame.len();
                    state.queue.push_back(Some(frame));
                    break;
                }
                state.paced = true;
            }
            room.await;
        }
        self.consumer.wake();
        true
    }

    /// Holds a place for a reply.
    pub fn reserve(&self) -> Place {
        let mut state = self.lock();
        state.queue.push_back(None);
        Place(state.left + state.queue.len() as u64 - 1)
    }

    /// Fills a place; what waited behind it may go. An answer may be larger than the limit, but not wait beside
    /// others then.
    pub fn fill(&self, place: Place, frame: Frame) {
        let mut state = self.lock();
        if state.is_closed() {
            return;
        }
        if state.bytes > 0 && state.bytes + frame.len() > self.limit {
            drop(state);
            return self.close(Close::Slow);
        }
        state.bytes += frame.len();
        let index = (place.0 - state.left) as usize;
        state.queue[index] = Some(frame);
        drop(state);
        self.consumer.wake();
    }

    /// Asks for a ping to be sent.
    pub fn ping(&self) {
        self.lock().ping = true;
        self.consumer.wake();
    }

    /// Ends the connection once what waits is sent, or at once where the reason says so. The first reason stays.
    pub fn close(&self, close: Close) {
        let mut state = self.lock();
        if state.close.is_some() {
            return;
        }
        state.close = Some(close);
        if close.drops_waiting() {
            state.queue = VecDeque::new();
        }
        drop(state);
        self.consumer.wake();
        self.room.notify_waiters();
        self.closing.notify_waiters();
    }

    /// Waits for the connection to be asked to end.
    pub async fn closed(&self) -> Close {
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

    /// The consumer is gone: nothing is kept any more.
    pub fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        state.queue = VecDeque::new();
        drop(state);
        self.room.notify_waiters();
    }

    pub fn is_closed(&self) -> bool {
        self.lock().is_closed()
    }

    /// Moves all that may be sent to `batch`. Its bytes count until `wrote` is called.
    pub fn poll_take(&self, cx: &mut Context, batch: &mut Vec<Frame>) -> Poll<Taken> {
        let taken = self.take(batch);
        if taken.is_ready() {
            return taken;
        }
        self.consumer.register(cx.waker());
        self.take(batch)
    }

    /// Ready when the connection is to end at once, whatever is being written.
    pub fn poll_dropped(&self, cx: &mut Context) -> Poll<Close> {
        self.consumer.register(cx.waker());
        match self.lock().close {
            Some(close) if close.drops_waiting() => Poll::Ready(close),
            _ => Poll::Pending,
        }
    }

    fn take(&self, batch: &mut Vec<Frame>) -> Poll<Taken> {
        let mut state = self.lock();
        if std::mem::take(&mut state.ping) {
            return Poll::Ready(Taken::Ping);
        }
        let before = batch.len();
        while let Some(Some(_)) = state.queue.front() {
            batch.extend(state.queue.pop_front().flatten());
            state.left += 1;
        }
        if batch.len() > before {
            if state.queue.is_empty() {
                state.queue.shrink_to(16);
            }
            return Poll::Ready(Taken::Frames);
        }
        // Behind a reply that is still being made a close does not wait.
        state.close.map_or(Poll::Pending, |close| Poll::Ready(Taken::Close(close)))
    }

    /// Bytes taken before that now are the socket's.
    pub fn wrote(&self, bytes: usize) {
        let mut state = self.lock();
        state.bytes = state.bytes.saturating_sub(bytes);
        // Who finds that there is not room enough for it waits again.
        let rings = state.bytes <= self.limit / 2 && std::mem::take(&mut state.paced);
        drop(state);
        if rings {
            self.room.notify_waiters();
        }
    }

    /// Bytes that may wait.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes that wait.
    pub fn waiting(&self) -> usize {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds an outbox")
    }
}

impl State {
    fn is_closed(&self) -> bool {
        self.close.is_some() || self.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{future::poll_fn, sync::Arc};

    fn take_now(outbox: &Outbox) -> (Vec<String>, Option<Taken>) {
        let mut batch = vec![];
        let taken = match outbox.take(&mut batch) {
            Poll::Ready(taken) => Some(taken),
            Poll::Pending => None,
        };
        (batch.iter().map(|frame| frame.to_string()).collect(), taken)
    }

    #[test]
    fn a_reply_keeps_its_place() {
        let outbox = Outbox::new(100);
        outbox.push("before".into());
        let place = outbox.reserve();
        outbox.push("after".into());
        assert_eq!(take_now(&outbox).0, ["before"]);
        assert_eq!(take_now(&outbox), (vec![], None));
        outbox.fill(place, "reply".into());
        assert_eq!(take_now(&outbox).0, ["reply", "after"]);
    }

    #[test]
    fn the_limit_holds_before_enqueueing_and_until_written() {
        let outbox = Outbox::new(10);
        assert!(outbox.push("12345".into()));
        assert_eq!(take_now(&outbox).0, ["12345"]);
        assert!(outbox.push("12345".into()));
        assert!(!outbox.push("6".into()), "ten bytes are taken or waiting");
        assert_eq!(
            take_now(&outbox),
            (vec![], Some(Taken::Close(Close::Slow))),
            "a slow peer's queue is dropped"
        );
    }

    #[test]
    fn what_waits_is_sent_before_a_polite_close() {
        let outbox = Outbox::new(100);
        outbox.push("last".into());
        outbox.close(Close::Draining(5));
        assert!(!outbox.push("more".into()));
        assert_eq!(take_now(&outbox), (vec!["last".into()], Some(Taken::Frames)));
        assert_eq!(take_now(&outbox).1, Some(Taken::Close(Close::Draining(5))));
    }

    #[tokio::test]
    async fn a_replay_waits_for_the_peer_and_is_never_too_slow() {
        let outbox = Arc::new(Outbox::new(100));
        let pushing = tokio::spawn({
            let outbox = outbox.clone();
            async move {
                for _ in 0..50 {
                    assert!(outbox.push_paced("0123456789".into()).await);
                }
            }
        });
        let (mut seen, mut batch) = (0, vec![]);
        while seen < 50 {
            assert_eq!(poll_fn(|cx| outbox.poll_take(cx, &mut batch)).await, Taken::Frames);
            assert!(outbox.waiting() <= 50, "{} bytes wait", outbox.waiting());
            seen += batch.len();
            outbox.wrote(10 * batch.len());
            batch.clear();
        }
        pushing.await.unwrap();
    }
}
