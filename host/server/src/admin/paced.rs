//! An operator's connection that does not wait for ever: what is written to it has to be taken, and its end does not lose the answer
//! of a call whose body was not read.

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

/// How long an answer may take to be taken, and how much longer for each so many of its bytes.
const ALLOWANCE: Duration = Duration::from_secs(10);
const PER_SECOND: f64 = 64.0 * 1024.0;
/// How long, and how many bytes, what still comes is read at the end: closing before that could cost the peer its answer.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 64 << 20;

pub(super) struct Paced {
    tcp: TcpStream,
    /// Since something could not be written that still is not, and bytes that were since.
    blocked: Option<(Instant, usize)>,
    timer: Option<Pin<Box<Sleep>>>,
    /// Since the end was written, and bytes that may still be thrown away.
    lingers: Option<(Instant, usize)>,
}

impl Paced {
    pub(super) fn new(tcp: TcpStream) -> Self {
        Self { tcp, blocked: None, timer: None, lingers: None }
    }

    /// Pending until the deadline.
    fn wait(&mut self, deadline: Instant, cx: &mut Context) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx)
    }

    /// The result of a write, or that it took too long.
    fn timed(&mut self, written: Poll<io::Result<usize>>, cx: &mut Context) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(count)) => {
                self.blocked = self.blocked.map(|(since, bytes)| (since, bytes + count));
                Poll::Ready(Ok(count))
            }
            Poll::Ready(error) => Poll::Ready(error),
            Poll::Pending => {
                let (since, bytes) = *self.blocked.get_or_insert_with(|| (Instant::now(), 0));
                let deadline = since + ALLOWANCE + Duration::from_secs_f64(bytes as f64 / PER_SECOND);
                ready!(self.wait(deadline, cx));
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the answer is not read")))
            }
        }
    }
}

impl AsyncRead for Paced {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context, buf: &mut ReadBuf) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Paced {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write(cx, bytes);
        self.timed(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context,
        bytes: &[io::IoSlice],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write_vectored(cx, bytes);
        self.timed(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    /// Comes behind the last write of an answer.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        self.blocked = None;
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        if self.lingers.is_none() {
            ready!(Pin::new(&mut self.tcp).poll_shutdown(cx))?;
        }
        let (since, mut left) = *self.lingers.get_or_insert_with(|| (Instant::now(), LINGER_BYTES));
        let mut bin = [0; 4096];
        loop {
            let mut bin = ReadBuf::new(&mut bin);
            let read = Pin::new(&mut self.tcp).poll_read(cx, &mut bin);
            if read.is_pending() {
                ready!(self.wait(since + LINGER, cx));
                return Poll::Ready(Ok(()));
            }
            ready!(read)?;
            left = left.saturating_sub(bin.filled().len());
            self.lingers = Some((since, left));
            if bin.filled().is_empty() || left == 0 || since.elapsed() > LINGER {
                return Poll::Ready(Ok(()));
            }
        }
    }
}
