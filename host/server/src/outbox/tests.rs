//! What one connection is sent, over a pipe that takes as much as it is told to.

use super::*;
use std::{
    future::poll_fn,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Wake, Waker},
    time::Duration,
};
use switchyard_process::memory::MemoryAccount;

/// Takes so many bytes and no more.
pub(crate) struct Held(Mutex<(Vec<u8>, usize)>);

impl Held {
    pub(crate) fn new(room: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new((vec![], room))))
    }

    pub(crate) fn widen(&self, room: usize) {
        self.0.lock().unwrap().1 += room;
    }

    /// What it took since it was asked last.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap().0)
    }

    /// The same as texts of frames shorter than 126 bytes.
    pub(crate) fn texts(&self) -> Vec<String> {
        let (bytes, mut texts) = (self.bytes(), vec![]);
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
    pub(crate) fn drain(&self) -> Vec<String> {
        let frames = self.lock().queue.drain(..).flatten().collect::<Vec<_>>();
        let texts = frames.iter().filter(|frame| frame.bytes()[0] == 0x81);
        texts.map(|frame| frame.text().to_owned()).collect()
    }
}

impl Pipe for Held {
    fn try_write(&self, bytes: &[IoSlice]) -> io::Result<usize> {
        let (held, room) = &mut *self.0.lock().unwrap();
        let before = held.len();
        for bytes in bytes {
            held.extend_from_slice(&bytes[..bytes.len().min(*room)]);
            *room -= bytes.len().min(*room);
        }
        match held.len() - before {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            taken => Ok(taken),
        }
    }

    /// Whoever widens it polls again.
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

fn outbox(limit: usize, room: usize) -> (Outbox, Arc<Held>) {
    let pipe = Held::new(room);
    (Outbox::new(limit, pipe.clone(), MemoryAccount::unlimited().unauthenticated()), pipe)
}

async fn poll(outbox: &Outbox) -> Poll<Option<Close>> {
    poll_fn(|cx| Poll::Ready(outbox.poll_send(cx))).await
}

#[test]
fn a_reply_keeps_its_place() {
    let (outbox, pipe) = outbox(100, 1000);
    outbox.push("before".into());
    let place = outbox.reserve();
    outbox.push("after".into());
    outbox.flush();
    assert_eq!(pipe.texts(), ["before"]);
    outbox.fill(place, "reply".into());
    outbox.flush();
    assert_eq!(pipe.texts(), ["reply", "after"]);
}

#[tokio::test]
async fn the_limit_holds_until_it_is_written_and_a_slow_peer_gets_no_half_frame() {
    let (outbox, pipe) = outbox(14, 3);
    assert!(outbox.push("12345".into()));
    assert!(outbox.push("12345".into()));
    outbox.flush();
    assert_eq!(outbox.waiting(), 11, "three bytes went");
    assert!(!outbox.push("67".into()));
    assert_eq!(poll(&outbox).await, Poll::Ready(Some(Close::Slow)));
    let mut frame = pipe.bytes();
    frame.extend_from_slice(&outbox.rest());
    assert_eq!(frame, *Frame::from("12345").bytes(), "and of what waited nothing else");
}

#[tokio::test]
async fn what_waits_is_sent_before_a_polite_close() {
    let (outbox, pipe) = outbox(100, 3);
    outbox.push("last".into());
    outbox.close(Close::Draining(5));
    assert!(!outbox.push("more".into()));
    assert_eq!(poll(&outbox).await, Poll::Pending);
    pipe.widen(100);
    assert_eq!(poll(&outbox).await, Poll::Ready(Some(Close::Draining(5))));
    assert_eq!(pipe.texts(), ["last"]);
}

#[test]
fn pings_and_pongs_go_ahead_of_what_waits_but_not_into_a_frame() {
    let (outbox, pipe) = outbox(100, 3);
    outbox.push("one".into());
    outbox.push("two".into());
    outbox.flush();
    outbox.ping();
    outbox.pong(Frame::pong(b"1"));
    outbox.pong(Frame::pong(b"2"));
    pipe.widen(100);
    outbox.flush();
    let mut expected = Frame::from("one").bytes().to_vec();
    expected.extend([0x8a, 1, b'2', 0x89, 0]);
    expected.extend(Frame::from("two").bytes());
    assert_eq!(pipe.bytes(), expected);
    assert_eq!(outbox.waiting(), 0);
}

#[tokio::test]
async fn what_a_flush_leaves_is_for_the_task() {
    let (outbox, pipe) = outbox(1000, 7);
    let mut put = vec![];
    for text in ["one", "two", "six"] {
        put.push(outbox.put(text.into()));
        outbox.flush();
    }
    assert_eq!(put, [Put::First, Put::First, Put::Behind], "the second is cut");
    pipe.widen(100);
    assert_eq!(poll(&outbox).await, Poll::Pending);
    assert_eq!(pipe.texts(), ["one", "two", "six"]);
}

#[tokio::test]
async fn a_replay_waits_for_the_peer_and_is_never_too_slow() {
    let (outbox, pipe) = outbox(100, 0);
    let outbox = Arc::new(outbox);
    let mut pushing = tokio::spawn({
        let outbox = outbox.clone();
        async move {
            for _ in 0..50 {
                let paced = outbox.push_paced("0123456789".into(), Duration::from_secs(1), || true);
                assert_eq!(paced.await, Paced::Taken);
            }
        }
    });
    let mut seen = 0;
    while seen < 50 {
        // Until it waits for room, or is done.
        tokio::task::yield_now().await;
        assert!((1..=50).contains(&outbox.waiting()), "{} bytes wait", outbox.waiting());
        pipe.widen(1000);
        assert_eq!(poll(&outbox).await, Poll::Pending);
        seen += pipe.texts().len();
    }
    (&mut pushing).await.unwrap();
}

#[tokio::test]
async fn what_was_asked_for_is_answered_before_the_end() {
    let (outbox, pipe) = outbox(100, 3);
    outbox.push("one".into());
    let place = outbox.reserve();
    outbox.finish();
    assert!(!outbox.push("delivery".into()), "nothing new is taken");
    assert_eq!(poll(&outbox).await, Poll::Pending);
    pipe.widen(100);
    assert_eq!(poll(&outbox).await, Poll::Pending, "an answer is still being made");
    outbox.fill(place, "answer".into());
    assert_eq!(poll(&outbox).await, Poll::Ready(None));
    assert_eq!(pipe.texts(), ["one", "answer"]);
}

#[test]
fn what_is_left_begins_with_the_rest_of_a_frame() {
    let (outbox, pipe) = outbox(100, 3);
    outbox.push("one".into());
    outbox.push("two".into());
    outbox.flush();
    outbox.pong(Frame::pong(b"1"));
    let rest = outbox.rest();
    let sent = [pipe.bytes(), rest.to_vec()].concat();
    let (one, pong) = (Frame::from("one").into_bytes(), Frame::pong(b"1").into_bytes());
    assert_eq!(sent, [one, pong].concat());
    assert_eq!((outbox.rest(), outbox.push("more".into())), (Bytes::new(), false));
}

/// How long a peer of these tests may take nothing.
const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test(start_paused = true)]
async fn answers_wait_for_a_peer_that_reads_however_slowly() {
    let (outbox, pipe) = outbox(100, 0);
    let outbox = Arc::new(outbox);
    let answering = tokio::spawn({
        let outbox = outbox.clone();
        async move {
            for _ in 0..20 {
                assert!(
                    outbox.half_free(PATIENCE).await && outbox.answer("0123456789".into(), PATIENCE).await
                );
            }
        }
    });
    let mut seen = vec![];
    while seen.len() < 20 * Frame::from("0123456789").len() {
        tokio::time::sleep(PATIENCE / 2).await;
        assert!(outbox.waiting() <= 100, "{} bytes wait", outbox.waiting());
        // Less than a frame each time.
        pipe.widen(7);
        assert_eq!(poll(&outbox).await, Poll::Pending);
        seen.extend(pipe.bytes());
    }
    answering.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn answers_do_not_wait_for_a_peer_that_takes_nothing() {
    let (outbox, _pipe) = outbox(20, 3);
    assert!(outbox.answer("0123456789".into(), PATIENCE).await);
    assert_eq!(poll(&outbox).await, Poll::Pending);
    let asked = tokio::time::Instant::now();
    assert!(!outbox.answer("0123456789".into(), PATIENCE).await);
    assert_eq!(asked.elapsed(), PATIENCE);
    assert_eq!(poll(&outbox).await, Poll::Ready(Some(Close::Slow)));
}

/// One is never too long for a peer for which nothing waits.
#[tokio::test(start_paused = true)]
async fn an_answer_may_be_longer_than_the_limit_but_waits_alone() {
    let (outbox, pipe) = outbox(20, 1000);
    outbox.push("before".into());
    let long = "0123456789".repeat(5);
    let answering = outbox.answer(long.as_str().into(), PATIENCE);
    let (taken, _) = tokio::join!(answering, async { outbox.flush() });
    assert!(taken);
    outbox.flush();
    assert_eq!(pipe.texts(), ["before", &long]);
}

struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn an_answer_does_not_wait_for_what_gathers() {
    let (outbox, pipe) = outbox(1000, 1000);
    let bell = Arc::new(Bell(AtomicUsize::new(0)));
    let waker = Waker::from(bell.clone());
    let mut task = Context::from_waker(&waker);
    assert_eq!(outbox.poll_send(&mut task), Poll::Pending);
    assert_eq!(outbox.put("gathers".into()), Put::First);
    assert_eq!(bell.0.load(Ordering::Relaxed), 0);
    outbox.push("answer".into());
    assert_eq!(bell.0.load(Ordering::Relaxed), 1);
    assert_eq!(outbox.poll_send(&mut task), Poll::Pending);
    assert_eq!(pipe.texts(), ["gathers", "answer"]);
}
