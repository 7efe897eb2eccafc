//! What the HTTP and WebSocket libraries take for the connection's stream. Once the connection has an outbox, what they write
//! of their own accord, which is pongs, goes through that, so that no frame gets into the middle of another.

use super::wire::Wire;
use crate::{hub::Connection, outbox::Pipe};
use bytes::{Buf, Bytes};
use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub struct Stream {
    wire: Arc<Wire>,
    /// Who gets what is written.
    diverted: Option<Arc<Connection>>,
    /// What has to be written before anything else.
    begun: Bytes,
}

impl Stream {
    pub fn new(wire: Arc<Wire>) -> Self {
        Self { wire, diverted: None, begun: Bytes::new() }
    }

    pub fn wire(&self) -> &Arc<Wire> {
        &self.wire
    }

    pub fn divert(&mut self, to: Arc<Connection>) {
        self.diverted = Some(to);
    }

    /// Ends that: what is written goes to the peer again, behind the rest of what was begun.
    pub fn direct(&mut self, begun: Bytes) {
        (self.diverted, self.begun) = (None, begun);
    }

    fn poll_begun(&mut self, cx: &mut Context) -> Poll<io::Result<()>> {
        while !self.begun.is_empty() {
            match ready!(self.wire.poll_write(cx, &[IoSlice::new(&self.begun)]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.begun.advance(written),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context, buf: &mut ReadBuf) -> Poll<io::Result<()>> {
        self.wire.poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Some(connection) = &this.diverted {
            connection.outbox.pong(Bytes::copy_from_slice(bytes));
            return Poll::Ready(Ok(bytes.len()));
        }
        ready!(this.poll_begun(cx))?;
        this.wire.poll_write(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context,
        bytes: &[IoSlice],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        debug_assert!(this.diverted.is_none(), "frames are written whole");
        ready!(this.poll_begun(cx))?;
        this.wire.poll_write(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.diverted.is_some() {
            return Poll::Ready(Ok(()));
        }
        ready!(this.poll_begun(cx))?;
        this.wire.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        self.wire.poll_shutdown(cx)
    }
}
