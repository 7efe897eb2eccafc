//! What the HTTP and WebSocket libraries take for the connection's stream. After the upgrade the library only reads: what it would
//! write of its own accord is thrown away, and everything that is sent comes from one place, so that no frame gets into
//! the middle of another.

use super::wire::Wire;
use crate::outbox::Pipe;
use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub struct Stream {
    wire: Arc<Wire>,
    only_reads: bool,
}

impl Stream {
    pub fn new(wire: Arc<Wire>) -> Self {
        Self { wire, only_reads: false }
    }

    pub fn wire(&self) -> &Arc<Wire> {
        &self.wire
    }

    /// From now on what is written is thrown away.
    pub fn only_read(self) -> Self {
        Self { only_reads: true, ..self }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context, buf: &mut ReadBuf) -> Poll<io::Result<()>> {
        self.wire.poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.only_reads {
            true => Poll::Ready(Ok(bytes.len())),
            false => self.wire.poll_write(cx, &[IoSlice::new(bytes)]),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context,
        bytes: &[IoSlice],
    ) -> Poll<io::Result<usize>> {
        match self.only_reads {
            true => Poll::Ready(Ok(bytes.iter().map(|bytes| bytes.len()).sum())),
            false => self.wire.poll_write(cx, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        match self.only_reads {
            true => Poll::Ready(Ok(())),
            false => self.wire.poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        self.wire.poll_shutdown(cx)
    }
}
