//! What a connection is sent, over a pipe that accepts only as many bytes as a test allows.

use super::*;
use std::{
    future::poll_fn,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Wake, Waker},
    time::Duration,
};
use switchyard_process::memory::MemoryAccount;

/// Keeps what is written, and how many more bytes it accepts.
pub(crate) struct TestPipe(Mutex<(Vec<u8>, usize)>);

impl TestPipe {
    pub(crate) fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new((vec![], capacity))))
    }

    /// Accepts this many more bytes. The caller then has to poll again.
    pub(crate) fn allow(&self, bytes: usize) {
        self.0.lock().unwrap().1 += bytes;
    }

    /// Takes what was written since the last call.
    pub(crate) fn take_bytes(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap().0)
    }

    /// The same as the texts of frames, which must be shorter than 126 bytes.
    pub(crate) fn take_texts(&self) -> Vec<String> {
        let (bytes, mut texts) = (self.take_bytes(), vec![]);
        let mut rest = &bytes[..];
        while let [0x81, length, more @ ..] = rest {
            let (text, after) = more.split_at(*length as usize);
            texts.push(String::from_utf8(text.to_vec()).unwrap());
            rest = after;
        }
        assert_eq!(rest, b"", "whole text frames only");
        texts
    }
}

impl Outbox {
    /// Takes the texts that wait.
    pub(crate) fn take_texts(&self) -> Vec<String> {
        let frames = self.lock().queue.drain(..).flatten().collect::<Vec<_>>();
        let texts = frames.iter().filter(|frame| frame.bytes()[0] == 0x81);
        texts.map(|frame| frame.text().to_owned()).collect()
    }
}

impl Pipe for TestPipe {
    fn try_write(&self, bytes: &[IoSlice]) -> io::Result<usize> {
        let (written, capacity) = &mut *self.0.lock().unwrap();
        let before = written.len();
        for bytes in bytes {
            let accepted = bytes.len().min(*capacity);
            written.extend_from_slice(&bytes[..accepted]);
            *capacity -= accepted;
        }
        match written.len() - before {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }

    fn poll_write(&self, _: &mut Context, bytes: &[IoSlice]) -> Poll<io::Result<usize>> {
        match self.try_write(bytes) {
            Err(_) => Poll::Pending,
            written => Poll::Ready(written),
        }
    }

    fn poll_flush(&self, _: &mut Context) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn outbox(limit: usize, capacity: usize) -> (Outbox, Arc<TestPipe>) {
    let pipe = TestPipe::new(capacity);
    (Outbox::new(limit, STALL_TIMEOUT, pipe.clone(), MemoryAccount::unlimited().unauthenticated()), pipe)
}

async fn poll(outbox: &Outbox) -> Poll<Option<Close>> {
    poll_fn(|cx| Poll::Ready(outbox.poll_send(cx))).await
}

#[test]
fn a_reply_keeps_its_reserved_position() {
    let (outbox, pipe) = outbox(100, 1000);
    outbox.push("before".into());
    let reservation = outbox.reserve();
    outbox.push("after".into());
    outbox.flush();
    assert_eq!(pipe.take_texts(), ["before"]);
    outbox.fill(reservation, "reply".into());
    outbox.flush();
    assert_eq!(pipe.take_texts(), ["reply", "after"]);
}

#[tokio::test]
async fn bytes_count_until_they_are_written_and_a_slow_peer_gets_no_partial_frame() {
    let (outbox, pipe) = outbox(14, 3);
    assert!(outbox.push("12345".into()));
    assert!(outbox.push("12345".into()));
    outbox.flush();
    assert_eq!(outbox.queued_bytes(), 11, "three bytes were written");
    assert!(!outbox.push("67".into()));
    assert_eq!(poll(&outbox).await, Poll::Ready(Some(Close::Slow)));
    let mut frame = pipe.take_bytes();
    frame.extend_from_slice(&outbox.take_rest());
    assert_eq!(frame, *Frame::from("12345").bytes(), "and nothing else of what waited");
}

#[tokio::test]
async fn what_waits_is_sent_before_a_close_that_does_not_discard_it() {
    let (outbox, pipe) = outbox(100, 3);
    outbox.push("last".into());
    outbox.close(Close::Draining(5));
    assert!(!outbox.push("more".into()));
    assert_eq!(poll(&outbox).await, Poll::Pending);
    pipe.allow(100);
    assert_eq!(poll(&outbox).await, Poll::Ready(Some(Close::Draining(5))));
    assert_eq!(pipe.take_texts(), ["last"]);
}

#[test]
fn pings_and_pongs_overtake_the_queue_but_not_a_partial_frame() {
    let (outbox, pipe) = outbox(100, 3);
    outbox.push("one".into());
    outbox.push("two".into());
    outbox.flush();
    outbox.ping();
    outbox.pong(Frame::pong(b"1"));
    outbox.pong(Frame::pong(b"2"));
    pipe.allow(100);
    outbox.flush();
    let mut expected = Frame::from("one").bytes().to_vec();
    expected.extend([0x8a, 1, b'2', 0x89, 0]);
    expected.extend(Frame::from("two").bytes());
    assert_eq!(pipe.take_bytes(), expected);
    assert_eq!(outbox.queued_bytes(), 0);
}

#[tokio::test]
async fn the_writer_sends_what_a_flush_could_not_write() {
    let (outbox, pipe) = outbox(1000, 7);
    let mut outcomes = vec![];
    for text in ["one", "two", "six"] {
        outcomes.push(outbox.put(text.into()));
        outbox.flush();
    }
    let expected = [PutOutcome::First, PutOutcome::First, PutOutcome::Queued];
    assert_eq!(outcomes, expected, "the second frame is partly written");
    pipe.allow(100);
    assert_eq!(poll(&outbox).await, Poll::Pending);
    assert_eq!(pipe.take_texts(), ["one", "two", "six"]);
}

#[tokio::test]
async fn a_replay_waits_for_the_peer_and_never_makes_it_too_slow() {
    let (outbox, pipe) = outbox(100, 0);
    let outbox = Arc::new(outbox);
    let mut pushing = tokio::spawn({
        let outbox = outbox.clone();
        async move {
            for _ in 0..50 {
                let paced = outbox.push_paced("0123456789".into(), || true);
                assert_eq!(paced.await, PacedOutcome::Sent);
            }
        }
    });
    let mut seen = 0;
    while seen < 50 {
        // Lets the task run until it waits for space or is done.
        tokio::task::yield_now().await;
        assert!((1..=50).contains(&outbox.queued_bytes()), "{} bytes wait", outbox.queued_bytes());
        pipe.allow(1000);
        assert_eq!(poll(&outbox).await, Poll::Pending);
        seen += pipe.take_texts().len();
    }
    (&mut pushing).await.unwrap();
}

#[tokio::test]
async fn a_finishing_outbox_still_sends_reserved_replies() {
    let (outbox, pipe) = outbox(100, 3);
    outbox.push("one".into());
    let reservation = outbox.reserve();
    outbox.finish();
    assert!(!outbox.push("delivery".into()), "nothing new is accepted");
    assert_eq!(poll(&outbox).await, Poll::Pending);
    pipe.allow(100);
    assert_eq!(poll(&outbox).await, Poll::Pending, "a reply is still being made");
    outbox.fill(reservation, "answer".into());
    assert_eq!(poll(&outbox).await, Poll::Ready(None));
    assert_eq!(pipe.take_texts(), ["one", "answer"]);
}

#[test]
fn the_rest_starts_with_a_partial_frame() {
    let (outbox, pipe) = outbox(100, 3);
    outbox.push("one".into());
    outbox.push("two".into());
    outbox.flush();
    outbox.pong(Frame::pong(b"1"));
    let rest = outbox.take_rest();
    let sent = [pipe.take_bytes(), rest.to_vec()].concat();
    let (one, pong) = (Frame::from("one").into_bytes(), Frame::pong(b"1").into_bytes());
    assert_eq!(sent, [one, pong].concat());
    assert_eq!((outbox.take_rest(), outbox.push("more".into())), (Bytes::new(), false));
}

/// How long a peer of these tests may read nothing.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);

#[tokio::test(start_paused = true)]
async fn answers_wait_for_a_peer_that_reads_slowly() {
    let (outbox, pipe) = outbox(100, 0);
    let outbox = Arc::new(outbox);
    let answering = tokio::spawn({
        let outbox = outbox.clone();
        async move {
            for _ in 0..20 {
                assert!(outbox.wait_until_half_free().await);
                outbox.answer("0123456789".into()).await;
            }
        }
    });
    let mut seen = vec![];
    while seen.len() < 20 * Frame::from("0123456789").len() {
        tokio::time::sleep(STALL_TIMEOUT / 2).await;
        assert!(outbox.queued_bytes() <= 100, "{} bytes wait", outbox.queued_bytes());
        // Less than one frame each time.
        pipe.allow(7);
        assert_eq!(poll(&outbox).await, Poll::Pending);
        seen.extend(pipe.take_bytes());
    }
    answering.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn answers_do_not_wait_for_a_peer_that_reads_nothing() {
    let (outbox, _pipe) = outbox(20, 3);
    outbox.answer("0123456789".into()).await;
    assert_eq!(poll(&outbox).await, Poll::Pending);
    let start = tokio::time::Instant::now();
    outbox.answer("0123456789".into()).await;
    assert_eq!(start.elapsed(), STALL_TIMEOUT);
    assert_eq!(poll(&outbox).await, Poll::Ready(Some(Close::Slow)));
}

#[tokio::test(start_paused = true)]
async fn an_answer_longer_than_the_limit_waits_until_the_outbox_is_empty() {
    let (outbox, pipe) = outbox(20, 1000);
    outbox.push("before".into());
    let long = "0123456789".repeat(5);
    let answering = outbox.answer(long.as_str().into());
    tokio::join!(answering, async { outbox.flush() });
    outbox.flush();
    assert_eq!(pipe.take_texts(), ["before", &long]);
}

struct CountingWaker(AtomicUsize);

impl Wake for CountingWaker {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_pushed_frame_does_not_wait_for_a_flush() {
    let (outbox, pipe) = outbox(1000, 1000);
    let wakes = Arc::new(CountingWaker(AtomicUsize::new(0)));
    let waker = Waker::from(wakes.clone());
    let mut task = Context::from_waker(&waker);
    assert_eq!(outbox.poll_send(&mut task), Poll::Pending);
    assert_eq!(outbox.put("delivery".into()), PutOutcome::First);
    assert_eq!(wakes.0.load(Ordering::Relaxed), 0);
    outbox.push("answer".into());
    assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
    assert_eq!(outbox.poll_send(&mut task), Poll::Pending);
    assert_eq!(pipe.take_texts(), ["delivery", "answer"]);
}
