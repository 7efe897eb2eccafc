//! What waits to be sent to one connection: frames in order, bounded by bytes, and how the connection is to end.
//! Knows no socket but a pipe. Whoever has something for a connection may write it; the connection's own task is there for
//! pipes that are full.

mod ending;
mod outcome;
mod room;

pub(crate) use outcome::Put;
pub(crate) use room::Paced;

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, ready},
};
use switchyard_process::memory::{MemoryKind, MemoryShare, SteppedCharge};
use switchyard_protocol::{Close, Frame};
use tokio::sync::Notify;

/// Where the bytes go.
pub(crate) trait Pipe: Send + Sync {
    /// Writes what fits at once; `WouldBlock` where only the connection's task can.
    fn try_write(&self, bytes: &[IoSlice]) -> io::Result<usize>;

    /// The same for the connection's task, which is woken when there is room.
    fn poll_write(&self, cx: &mut Context, bytes: &[IoSlice]) -> Poll<io::Result<usize>>;

    /// Ready when nothing written is kept in the process.
    fn poll_flush(&self, cx: &mut Context) -> Poll<io::Result<()>>;
}

pub(crate) struct Outbox {
    state: Mutex<State>,
    /// Bytes that may wait; one more frame beyond closes the connection.
    limit: usize,
    /// The connection's task.
    task: AtomicWaker,
    /// Rung when there is as much room as somebody waits for, or when the outbox closes.
    room: Notify,
    /// Rung when the outbox closes.
    closing: Notify,
}

struct State {
    /// `None` when the connection is over.
    pipe: Option<Arc<dyn Pipe>>,
    /// The rest of a frame of which some was written.
    begun: Bytes,
    /// The answer to the peer's last ping; it goes ahead of what waits, and so does the next.
    pong: Option<Bytes>,
    ping: bool,
    /// `None` is the place of a reply that is still being made: nothing behind it may overtake it.
    queue: VecDeque<Option<Frame>>,
    /// How many entries left the queue, so that a place is found again.
    left: u64,
    /// Bytes waiting.
    bytes: usize,
    /// The most of them that may be answers: those are this connection's alone, while a message counts where it is made.
    own: usize,
    counted: SteppedCharge,
    /// The other ones, which the principal of the connection answers for: it is for it that they are kept.
    claimed: SteppedCharge,
    close: Option<Close>,
    /// Nothing new is taken; what waits is sent, and places are still filled.
    finishing: bool,
    /// Somebody waits until no more bytes than these wait.
    paced: Option<usize>,
}

/// A place in the order of an outbox, to be filled once.
#[must_use]
pub(crate) struct Place(u64);

/// The part of the limit from which on nothing waits to be gathered.
const MUCH: usize = 16;

/// Frames given to one write.
const SLICES: usize = 64;

/// Places that a queue keeps when it is empty.
const KEPT: usize = 16;

/// A ping without a payload.
const PING: &[u8] = &[0x89, 0];

impl Outbox {
    pub(crate) fn new(limit: usize, pipe: Arc<dyn Pipe>, share: &Arc<MemoryShare>) -> Self {
        let state = State {
            pipe: Some(pipe),
            begun: Bytes::new(),
            pong: None,
            ping: false,
            queue: VecDeque::new(),
            left: 0,
            bytes: 0,
            own: 0,
            counted: SteppedCharge::new(share.charge(MemoryKind::Outboxes, 0)),
            claimed: SteppedCharge::new(share.claim(0)),
            close: None,
            finishing: false,
            paced: None,
        };
        Self {
            state: Mutex::new(state),
            limit,
            task: AtomicWaker::new(),
            room: Notify::new(),
            closing: Notify::new(),
        }
    }

    /// Another principal answers for what waits from now on.
    pub(crate) fn move_to(&self, share: &Arc<MemoryShare>) {
        let mut state = self.lock();
        state.counted.move_to(share);
        state.claimed.move_to(share);
    }

    /// Enqueues a frame, or, where the limit would be passed, closes as too slow. `false`: it was not taken.
    pub(crate) fn push(&self, frame: Frame) -> bool {
        let taken = self.enqueue(frame, true) != Put::Refused;
        if taken {
            // Also behind what waits for a flush: it is not to wait for that.
            self.wake();
        }
        taken
    }

    /// The same without a word to the task: whoever calls flushes later.
    pub(crate) fn put(&self, frame: Frame) -> Put {
        self.enqueue(frame, false)
    }

    fn enqueue(&self, frame: Frame, is_own: bool) -> Put {
        let mut state = self.lock();
        if state.is_closed() {
            return Put::Refused;
        }
        if state.bytes + frame.len() > self.limit {
            drop(state);
            self.close(Close::Slow);
            return Put::Refused;
        }
        let (was_empty, before) = (state.is_empty(), state.bytes);
        let is_too_much = match is_own {
            true => state.append_own(frame),
            false => state.append(frame),
        };
        if is_too_much {
            drop(state);
            self.close(Close::Slow);
            return Put::Refused;
        }
        let much = self.limit / MUCH;
        let is_much = before < much && state.bytes >= much;
        drop(state);
        match was_empty {
            true => return Put::First,
            // What waits for others is not to bring anybody near the limit.
            false if is_much => self.wake(),
            false => {}
        }
        Put::Behind
    }

    /// Tells the connection's task that something waits.
    fn wake(&self) {
        self.task.wake();
    }

    /// Holds a place for a reply.
    pub(crate) fn reserve(&self) -> Place {
        let mut state = self.lock();
        state.queue.push_back(None);
        Place(state.left + state.queue.len() as u64 - 1)
    }

    /// Fills a place; what waited behind it may go. An answer may be larger than the limit, but not wait beside
    /// others then.
    pub(crate) fn fill(&self, place: Place, frame: Frame) {
        let mut state = self.lock();
        if state.close.is_some() || state.pipe.is_none() {
            return;
        }
        if state.bytes > state.begun.len() && state.bytes + frame.len() > self.limit {
            drop(state);
            return self.close(Close::Slow);
        }
        state.bytes += frame.len();
        state.own += frame.len();
        let is_too_much = state.count();
        let index = (place.0 - state.left) as usize;
        state.queue[index] = Some(frame);
        drop(state);
        match is_too_much {
            true => self.close(Close::Slow),
            false => self.wake(),
        }
    }

    /// Asks for a ping to be sent.
    pub(crate) fn ping(&self) {
        self.lock().ping = true;
        self.wake();
    }

    /// Answers the peer's last ping. An earlier answer that still waits is not needed any more.
    pub(crate) fn pong(&self, frame: Frame) {
        self.lock().pong = Some(frame.into_bytes());
        self.wake();
    }

    /// Writes what waits, as far as the pipe takes it at once; the task does the rest.
    pub(crate) fn flush(&self) {
        let mut state = self.lock();
        while state.is_ready() {
            match state.write(|pipe, bytes| pipe.try_write(bytes)) {
                Ok(()) => self.make_room(&mut state),
                Err(_) => {
                    drop(state);
                    return self.wake();
                }
            }
        }
    }

    /// For the task: writes what waits, whenever there is something. Ready with the reason to end the connection for, or
    /// with `None` when there is nothing more to send, or no pipe that takes it.
    pub(crate) fn poll_send(&self, cx: &mut Context) -> Poll<Option<Close>> {
        self.task.register(cx.waker());
        let mut state = self.lock();
        loop {
            match state.close {
                Some(close) if close.discards_queued() => return Poll::Ready(Some(close)),
                _ => {}
            }
            let written = match state.is_ready() {
                true => state.write(|pipe, bytes| match pipe.poll_write(cx, bytes) {
                    Poll::Ready(written) => written,
                    Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
                }),
                false => {
                    let Some(pipe) = &state.pipe else { return Poll::Ready(None) };
                    if ready!(pipe.poll_flush(cx)).is_err() {
                        return Poll::Ready(None);
                    }
                    // Behind a reply that is still being made a close does not wait.
                    return match state.close {
                        None if state.finishing && state.queue.is_empty() => Poll::Ready(None),
                        None => Poll::Pending,
                        close => Poll::Ready(close),
                    };
                }
            };
            match written {
                Ok(()) => self.make_room(&mut state),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(_) => return Poll::Ready(None),
            }
        }
    }

    /// Bytes that may wait.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds an outbox")
    }
}

impl State {
    /// Brings what is counted to what waits. `true`: more than may be kept for its principal, of whom much is kept already.
    fn count(&mut self) -> bool {
        self.own = self.own.min(self.bytes);
        let (own, others) = (self.counted.set(self.own), self.claimed.set(self.bytes - self.own));
        (own || others) && !self.counted.may_grow()
    }

    fn is_closed(&self) -> bool {
        self.close.is_some() || self.finishing || self.pipe.is_none()
    }

    /// `true`: that is too much, see [`Self::count`].
    fn append(&mut self, frame: Frame) -> bool {
        self.bytes += frame.len();
        self.queue.push_back(Some(frame));
        self.count()
    }

    /// The same for what is this connection's alone.
    fn append_own(&mut self, frame: Frame) -> bool {
        self.own += frame.len();
        self.append(frame)
    }

    /// Another one than before once the peer took something of what waits.
    fn progress(&self) -> (u64, usize) {
        (self.left, self.begun.len())
    }

    /// Nothing waits that could be sent.
    fn is_empty(&self) -> bool {
        self.begun.is_empty() && self.queue.is_empty()
    }

    fn is_ready(&self) -> bool {
        !self.begun.is_empty()
            || self.pong.is_some()
            || self.ping
            || matches!(self.queue.front(), Some(Some(_)))
    }

    /// Gives what may be sent to the pipe, in order, and forgets what it took.
    fn write(&mut self, to: impl FnOnce(&dyn Pipe, &[IoSlice]) -> io::Result<usize>) -> io::Result<()> {
        let Some(pipe) = &self.pipe else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let ping = if self.ping { PING } else { &[] };
        let ahead = [&self.begun[..], self.pong.as_deref().unwrap_or_default(), ping];
        let ahead = ahead.into_iter().filter(|bytes| !bytes.is_empty());
        let waiting = self.queue.iter().map_while(|frame| Some(&frame.as_ref()?.bytes()[..]));
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        for (slice, bytes) in slices.iter_mut().zip(ahead.chain(waiting)) {
            *slice = IoSlice::new(bytes);
            count += 1;
        }
        let mut written = match to(&**pipe, &slices[..count])? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => written,
        };
        while written > 0 {
            if self.begun.is_empty() {
                self.begun = self.next();
            }
            let part = written.min(self.begun.len());
            self.begun.advance(part);
            self.bytes -= part;
            written -= part;
        }
        if self.queue.is_empty() {
            self.queue.shrink_to(KEPT);
        }
        Ok(())
    }

    /// What is written next, out of what is ready.
    fn next(&mut self) -> Bytes {
        let ahead =
            self.pong.take().or_else(|| std::mem::take(&mut self.ping).then(|| Bytes::from_static(PING)));
        if let Some(ahead) = ahead {
            self.bytes += ahead.len();
            return ahead;
        }
        self.left += 1;
        self.queue.pop_front().flatten().expect("no more is written than was there").into_bytes()
    }
}

#[cfg(test)]
pub(crate) mod tests;
