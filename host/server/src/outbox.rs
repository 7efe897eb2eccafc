//! The frames that wait to be sent to one connection, in order and bounded by bytes, and how the connection
//! ends. Knows no socket, only a pipe. Any task may write to a connection. When the pipe is full, the
//! connection's own task, the writer, writes the rest.

mod ending;
mod outcome;
mod pacing;

pub(crate) use outcome::{PacedOutcome, PutOutcome};

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, ready},
    time::Duration,
};
use switchyard_process::{
    lock::LockExt,
    memory::{MemoryKind, MemoryShare, SteppedCharge},
};
use switchyard_protocol::{Close, Frame};
use tokio::sync::Notify;

/// Where an outbox writes.
pub(crate) trait Pipe: Send + Sync {
    /// Writes as much as fits at once. `WouldBlock`: nothing fits, or only the writer task may write.
    fn try_write(&self, bytes: &[IoSlice]) -> io::Result<usize>;

    /// The same for the writer task, which is woken once there is space.
    fn poll_write(&self, cx: &mut Context, bytes: &[IoSlice]) -> Poll<io::Result<usize>>;

    /// Ready once nothing that was written is buffered in the process.
    fn poll_flush(&self, cx: &mut Context) -> Poll<io::Result<()>>;
}

/// The outgoing frames of a connection.
pub(crate) struct Outbox {
    state: Mutex<State>,
    /// Maximum number of bytes that wait. A frame that would exceed it closes the connection.
    limit: usize,
    /// A peer that reads nothing at all for this long, while somebody waits for space, is closed as too slow.
    stall_timeout: Duration,
    /// Wakes the writer task.
    writer: AtomicWaker,
    /// Notified when there is as much space as a task waits for, and when the outbox closes.
    space: Notify,
    /// Notified when the outbox closes.
    closing: Notify,
}

struct State {
    /// `None` once the connection is over.
    pipe: Option<Arc<dyn Pipe>>,
    /// The rest of a frame that was partly written.
    partial: Bytes,
    /// The answer to the peer's last ping. It is sent before the queue, and so is the next ping.
    pong: Option<Bytes>,
    ping: bool,
    /// `None` is reserved for a reply that is not ready. Frames behind it do not overtake it.
    queue: VecDeque<Option<Frame>>,
    /// How many entries have left the queue. It tells where in the queue a reservation is.
    dequeued: u64,
    /// How many bytes wait in `queue` and `partial`.
    bytes: usize,
    /// At most this many of them belong to this connection alone: its answers, and not messages, whose bytes
    /// are shared.
    own_bytes: usize,
    /// The memory of `own_bytes`.
    charge: SteppedCharge,
    /// The other bytes. Their memory is charged where a message is made. Here they count only against the
    /// connection's principal, because they are kept for it.
    claim: SteppedCharge,
    close: Option<Close>,
    /// No new frames are accepted. The queue is sent, and reservations may still be filled.
    finishing: bool,
    /// `space` is notified when no more than this many bytes wait.
    notify_below: Option<usize>,
}

/// A position in the order of an outbox that is reserved for one reply.
#[must_use]
pub(crate) struct Reservation(u64);

/// If the outbox fills to `1/EARLY_WRITE_FRACTION` of its limit, the writer is woken at once instead of
/// waiting for a flush.
const EARLY_WRITE_FRACTION: usize = 16;

/// Maximum number of frames in one vectored write.
const MAX_SLICES: usize = 64;

/// Maximum capacity of an empty queue, in frames.
const IDLE_QUEUE_CAPACITY: usize = 16;

/// A WebSocket ping without a payload.
const PING: &[u8] = &[0x89, 0];

impl Outbox {
    pub(crate) fn new(
        limit: usize,
        stall_timeout: Duration,
        pipe: Arc<dyn Pipe>,
        share: &Arc<MemoryShare>,
    ) -> Self {
        let state = State {
            pipe: Some(pipe),
            partial: Bytes::new(),
            pong: None,
            ping: false,
            queue: VecDeque::new(),
            dequeued: 0,
            bytes: 0,
            own_bytes: 0,
            charge: SteppedCharge::new(share.charge(MemoryKind::Outboxes, 0)),
            claim: SteppedCharge::new(share.claim(0)),
            close: None,
            finishing: false,
            notify_below: None,
        };
        Self {
            state: Mutex::new(state),
            limit,
            stall_timeout,
            writer: AtomicWaker::new(),
            space: Notify::new(),
            closing: Notify::new(),
        }
    }

    /// From now on, charges another principal for the memory of the outbox.
    pub(crate) fn move_to(&self, share: &Arc<MemoryShare>) {
        let mut state = self.lock();
        state.charge.move_to(share);
        state.claim.move_to(share);
    }

    /// Enqueues a frame of this connection alone, and wakes the writer. If the limit would be exceeded,
    /// closes the connection as too slow. Returns whether the frame was accepted.
    pub(crate) fn push(&self, frame: Frame) -> bool {
        let is_accepted = self.enqueue(frame, true) != PutOutcome::Rejected;
        if is_accepted {
            // Even if other frames wait for a flush, this one must not wait for it.
            self.wake_writer();
        }
        is_accepted
    }

    /// Enqueues a shared frame without waking the writer. The caller has to flush later.
    pub(crate) fn put(&self, frame: Frame) -> PutOutcome {
        self.enqueue(frame, false)
    }

    fn enqueue(&self, frame: Frame, is_own: bool) -> PutOutcome {
        let mut state = self.lock();
        if state.is_closed() {
            return PutOutcome::Rejected;
        }
        if state.bytes + frame.len() > self.limit {
            drop(state);
            self.close(Close::Slow);
            return PutOutcome::Rejected;
        }
        let (was_empty, bytes_before) = (state.is_empty(), state.bytes);
        let is_over_budget = match is_own {
            true => state.append_own(frame),
            false => state.append(frame),
        };
        if is_over_budget {
            drop(state);
            self.close(Close::Slow);
            return PutOutcome::Rejected;
        }
        let threshold = self.limit / EARLY_WRITE_FRACTION;
        let reaches_threshold = bytes_before < threshold && state.bytes >= threshold;
        drop(state);
        match was_empty {
            true => return PutOutcome::First,
            // An outbox that waits for a flush must not come near its limit.
            false if reaches_threshold => self.wake_writer(),
            false => {}
        }
        PutOutcome::Queued
    }

    fn wake_writer(&self) {
        self.writer.wake();
    }

    /// Reserves the next position for a reply. Frames that are enqueued later are sent after it.
    pub(crate) fn reserve(&self) -> Reservation {
        let mut state = self.lock();
        state.queue.push_back(None);
        Reservation(state.dequeued + state.queue.len() as u64 - 1)
    }

    /// Puts a reply into its reserved position, so that it and the frames behind it can be sent. A reply may
    /// be larger than the limit if nothing else waits; otherwise, one that exceeds the limit closes the
    /// connection as too slow.
    pub(crate) fn fill(&self, reservation: Reservation, frame: Frame) {
        let mut state = self.lock();
        if state.close.is_some() || state.pipe.is_none() {
            return;
        }
        if state.bytes > state.partial.len() && state.bytes + frame.len() > self.limit {
            drop(state);
            return self.close(Close::Slow);
        }
        state.bytes += frame.len();
        state.own_bytes += frame.len();
        let is_over_budget = state.update_charges();
        let index = (reservation.0 - state.dequeued) as usize;
        state.queue[index] = Some(frame);
        drop(state);
        match is_over_budget {
            true => self.close(Close::Slow),
            false => self.wake_writer(),
        }
    }

    /// Sends a ping as soon as possible.
    pub(crate) fn ping(&self) {
        self.lock().ping = true;
        self.wake_writer();
    }

    /// Answers the peer's last ping. Replaces an earlier pong that still waits, because the peer needs only
    /// the newest.
    pub(crate) fn pong(&self, frame: Frame) {
        self.lock().pong = Some(frame.into_bytes());
        self.wake_writer();
    }

    /// Writes as much as the pipe accepts at once. The writer task does the rest.
    pub(crate) fn flush(&self) {
        let mut state = self.lock();
        while state.is_ready() {
            match state.write(|pipe, bytes| pipe.try_write(bytes)) {
                Ok(()) => self.bytes_written(&mut state),
                Err(_) => {
                    drop(state);
                    return self.wake_writer();
                }
            }
        }
    }

    /// For the writer task: writes whatever waits. Ready with the reason for closing the connection, or with
    /// `None` if there is nothing more to send or the pipe is broken.
    pub(crate) fn poll_send(&self, cx: &mut Context) -> Poll<Option<Close>> {
        self.writer.register(cx.waker());
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
                    // A close does not wait for a reply that is still being made.
                    return match state.close {
                        None if state.finishing && state.queue.is_empty() => Poll::Ready(None),
                        None => Poll::Pending,
                        close => Poll::Ready(close),
                    };
                }
            };
            match written {
                Ok(()) => self.bytes_written(&mut state),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(_) => return Poll::Ready(None),
            }
        }
    }

    /// The maximum number of bytes that wait.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// How many bytes wait.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.locked()
    }
}

impl State {
    /// Adjusts the memory charges to the frames that wait. Returns whether this is over budget: memory is
    /// short, and the principal uses too much of it.
    fn update_charges(&mut self) -> bool {
        self.own_bytes = self.own_bytes.min(self.bytes);
        let (own, shared) = (self.charge.set(self.own_bytes), self.claim.set(self.bytes - self.own_bytes));
        (own || shared) && !self.charge.may_grow()
    }

    fn is_closed(&self) -> bool {
        self.close.is_some() || self.finishing || self.pipe.is_none()
    }

    /// Returns whether it is over budget, like [`Self::update_charges`].
    fn append(&mut self, frame: Frame) -> bool {
        self.bytes += frame.len();
        self.queue.push_back(Some(frame));
        self.update_charges()
    }

    /// The same for a frame that belongs to this connection alone.
    fn append_own(&mut self, frame: Frame) -> bool {
        self.own_bytes += frame.len();
        self.append(frame)
    }

    /// Changes whenever the peer accepts some bytes.
    fn progress(&self) -> (u64, usize) {
        (self.dequeued, self.partial.len())
    }

    /// Whether neither a frame nor a reservation waits.
    fn is_empty(&self) -> bool {
        self.partial.is_empty() && self.queue.is_empty()
    }

    /// Whether something can be written now.
    fn is_ready(&self) -> bool {
        !self.partial.is_empty()
            || self.pong.is_some()
            || self.ping
            || matches!(self.queue.front(), Some(Some(_)))
    }

    /// Passes what can be written to the pipe, in order, and removes what the pipe accepted.
    fn write(&mut self, to: impl FnOnce(&dyn Pipe, &[IoSlice]) -> io::Result<usize>) -> io::Result<()> {
        let Some(pipe) = &self.pipe else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let ping = if self.ping { PING } else { &[] };
        let first = [&self.partial[..], self.pong.as_deref().unwrap_or_default(), ping];
        let first = first.into_iter().filter(|bytes| !bytes.is_empty());
        let queued = self.queue.iter().map_while(|frame| Some(&frame.as_ref()?.bytes()[..]));
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let mut count = 0;
        for (slice, bytes) in slices.iter_mut().zip(first.chain(queued)) {
            *slice = IoSlice::new(bytes);
            count += 1;
        }
        let mut written = match to(&**pipe, &slices[..count])? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => written,
        };
        while written > 0 {
            if self.partial.is_empty() {
                self.partial = self.take_next();
            }
            let taken = written.min(self.partial.len());
            self.partial.advance(taken);
            self.bytes -= taken;
            written -= taken;
        }
        if self.queue.is_empty() {
            self.queue.shrink_to(IDLE_QUEUE_CAPACITY);
        }
        Ok(())
    }

    /// Takes what is written next. Something must be ready.
    fn take_next(&mut self) -> Bytes {
        let first =
            self.pong.take().or_else(|| std::mem::take(&mut self.ping).then(|| Bytes::from_static(PING)));
        if let Some(first) = first {
            self.bytes += first.len();
            return first;
        }
        self.dequeued += 1;
        self.queue.pop_front().flatten().expect("no more is written than was ready").into_bytes()
    }
}

#[cfg(test)]
pub(crate) mod tests;
