//! What the HTTP and WebSocket libraries take for the connection's stream. After the upgrade the library only reads: what it would
//! write of its own accord is thrown away, and everything that is sent comes from one place, so that no frame gets into
//! the middle of another.

use super::wire::Wire;
use crate::outbox::Pipe;
use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use switchyard_process::memory::{MemoryKind, MemoryShare, SteppedCharge};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub(crate) struct Stream {
    wire: Arc<Wire>,
    /// Since the upgrade.
    coming: Option<Coming>,
}

/// A message of which the end has not come yet.
struct Coming {
    bytes: usize,
    /// The library bounds those of a client that was let in.
    most: usize,
    counted: SteppedCharge,
    share: Arc<MemoryShare>,
}

/// Bytes of a message by which a client says who it is.
pub(super) const FIRST: usize = 16 << 10;
/// What a client's frame has beside its payload, where that is short.
const HEADER: usize = 6;

impl Stream {
    pub(crate) fn new(wire: Arc<Wire>) -> Self {
        Self { wire, coming: None }
    }

    pub(crate) fn wire(&self) -> &Arc<Wire> {
        &self.wire
    }

    /// From now on what is written is thrown away, and what comes is counted until it is a whole message.
    pub(crate) fn only_read(self, strangers: &Arc<MemoryShare>) -> Self {
        let counted = SteppedCharge::new(strangers.charge(MemoryKind::Frames, 0));
        let coming = Coming { bytes: 0, most: FIRST, counted, share: strangers.clone() };
        Self { coming: Some(coming), ..self }
    }

    /// It is let in: a principal answers for what comes.
    pub(crate) fn move_to(&mut self, share: &Arc<MemoryShare>) {
        if let Some(coming) = &mut self.coming {
            coming.counted.move_to(share);
            (coming.share, coming.most) = (share.clone(), usize::MAX);
        }
    }

    /// A message came whole.
    pub(crate) fn whole(&mut self) {
        self.took(usize::MAX);
    }

    /// A frame with a payload of so many bytes came that is no part of a message.
    pub(crate) fn control(&mut self, payload: usize) {
        self.took(payload + HEADER);
    }

    fn took(&mut self, bytes: usize) {
        if let Some(coming) = &mut self.coming {
            coming.bytes = coming.bytes.saturating_sub(bytes);
            coming.counted.set(coming.bytes);
        }
    }
}

impl Coming {
    fn grow(&mut self, bytes: usize) -> io::Result<()> {
        self.bytes += bytes;
        if self.bytes > self.most {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        match self.counted.set(self.bytes) && !self.share.may_grow() {
            true => Err(io::ErrorKind::OutOfMemory.into()),
            false => Ok(()),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context, buf: &mut ReadBuf) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(self.wire.poll_read(cx, buf))?;
        let came = buf.filled().len() - before;
        Poll::Ready(self.coming.as_mut().map_or(Ok(()), |coming| coming.grow(came)))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.coming {
            Some(_) => Poll::Ready(Ok(bytes.len())),
            None => self.wire.poll_write(cx, &[IoSlice::new(bytes)]),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context,
        bytes: &[IoSlice],
    ) -> Poll<io::Result<usize>> {
        match self.coming {
            Some(_) => Poll::Ready(Ok(bytes.iter().map(|bytes| bytes.len()).sum())),
            None => self.wire.poll_write(cx, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        match self.coming {
            Some(_) => Poll::Ready(Ok(())),
            None => self.wire.poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        self.wire.poll_shutdown(cx)
    }
}
