//! The stream of an operator's connection. An answer must be read in time, and closing the stream does not
//! lose the answer to a call whose body was not read. Knows no HTTP.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};

/// How long a peer may take to read an answer, in addition to one second for each [`MIN_BYTES_PER_SECOND`].
const BASE_TIMEOUT: Duration = Duration::from_secs(10);
const MIN_BYTES_PER_SECOND: f64 = 64.0 * 1024.0;
/// How long, and how many bytes, are read and discarded before the connection is closed. If unread bytes were
/// left, the peer could lose its answer.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);
const MAX_DISCARDED_BYTES: usize = 64 << 20;

/// How many bytes are discarded at once.
const DISCARD_BUFFER_BYTES: usize = 4096;

pub(super) struct TimedStream {
    tcp: TcpStream,
    /// Since when a write has been pending, and how many bytes were written since then.
    blocked: Option<(Instant, usize)>,
    timer: Option<Pin<Box<Sleep>>>,
    /// Since when the stream has been shut down, and how many bytes may still be discarded.
    discarding: Option<(Instant, usize)>,
}

impl TimedStream {
    pub(super) fn new(tcp: TcpStream) -> Self {
        Self { tcp, blocked: None, timer: None, discarding: None }
    }

    /// Returns `Pending` until the deadline.
    fn wait(&mut self, deadline: Instant, cx: &mut Context) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx)
    }

    /// The result of a write, or an error if writing has taken too long.
    fn check_timeout(
        &mut self,
        written: Poll<io::Result<usize>>,
        cx: &mut Context,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(count)) => {
                self.blocked = self.blocked.map(|(since, bytes)| (since, bytes + count));
                Poll::Ready(Ok(count))
            }
            Poll::Ready(error) => Poll::Ready(error),
            Poll::Pending => {
                let (since, bytes) = *self.blocked.get_or_insert_with(|| (Instant::now(), 0));
                let deadline =
                    since + BASE_TIMEOUT + Duration::from_secs_f64(bytes as f64 / MIN_BYTES_PER_SECOND);
                ready!(self.wait(deadline, cx));
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not read the answer")))
            }
        }
    }
}

impl AsyncRead for TimedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context, buf: &mut ReadBuf) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for TimedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write(cx, bytes);
        self.check_timeout(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context,
        bytes: &[io::IoSlice],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write_vectored(cx, bytes);
        self.check_timeout(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    /// The HTTP library flushes after each answer.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        self.blocked = None;
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        if self.discarding.is_none() {
            ready!(Pin::new(&mut self.tcp).poll_shutdown(cx))?;
        }
        let (since, mut left) = *self.discarding.get_or_insert_with(|| (Instant::now(), MAX_DISCARDED_BYTES));
        let mut buffer = [0; DISCARD_BUFFER_BYTES];
        loop {
            let mut buffer = ReadBuf::new(&mut buffer);
            let read = Pin::new(&mut self.tcp).poll_read(cx, &mut buffer);
            if read.is_pending() {
                ready!(self.wait(since + DISCARD_TIMEOUT, cx));
                return Poll::Ready(Ok(()));
            }
            ready!(read)?;
            left = left.saturating_sub(buffer.filled().len());
            self.discarding = Some((since, left));
            if buffer.filled().is_empty() || left == 0 || since.elapsed() > DISCARD_TIMEOUT {
                return Poll::Ready(Ok(()));
            }
        }
    }
}
