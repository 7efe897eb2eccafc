//! The stream that the HTTP and WebSocket libraries read and write. After the upgrade it is read-only: what
//! the library writes on its own is discarded, and everything that is sent comes from the outbox, so that no
//! frame gets into the middle of another one. It also counts the bytes of messages that are still incomplete,
//! and keeps a message that was read before somebody could handle it.

use super::transport::Transport;
use crate::outbox::Pipe;
use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use switchyard_process::memory::{MemoryKind, MemoryShare, SteppedCharge};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::Message;

pub(crate) struct Stream {
    transport: Arc<Transport>,
    /// Only after the upgrade.
    incomplete: Option<IncompleteMessage>,
    /// A message that the client sent before its `connect` was answered.
    early: Option<Message>,
}

/// The bytes of a message whose end has not been received yet.
struct IncompleteMessage {
    bytes: usize,
    /// More bytes are an error. For an authenticated client, the WebSocket library enforces the limit
    /// instead.
    max_bytes: usize,
    charge: SteppedCharge,
    share: Arc<MemoryShare>,
}

/// Maximum size of the first message, with which a client authenticates, in bytes.
const MAX_FIRST_MESSAGE_BYTES: usize = 16 << 10;
/// Size of the header of a client's frame with a short payload, in bytes: two bytes and the mask.
const FRAME_HEADER_BYTES: usize = 6;

impl Stream {
    pub(crate) fn new(transport: Arc<Transport>) -> Self {
        Self { transport, incomplete: None, early: None }
    }

    pub(crate) fn transport(&self) -> &Arc<Transport> {
        &self.transport
    }

    /// From now on, what is written is discarded, and what is read counts as an incomplete message.
    pub(crate) fn into_read_only(self, unauthenticated: &Arc<MemoryShare>) -> Self {
        let charge = SteppedCharge::new(unauthenticated.charge(MemoryKind::Frames, 0));
        let share = unauthenticated.clone();
        let incomplete = IncompleteMessage { bytes: 0, max_bytes: MAX_FIRST_MESSAGE_BYTES, charge, share };
        Self { incomplete: Some(incomplete), ..self }
    }

    /// The client has authenticated: its incomplete messages are charged to this share from now on.
    pub(crate) fn charge_to(&mut self, share: &Arc<MemoryShare>) {
        if let Some(incomplete) = &mut self.incomplete {
            incomplete.charge.move_to(share);
            (incomplete.share, incomplete.max_bytes) = (share.clone(), usize::MAX);
        }
    }

    /// Keeps a message until the session handles it. Its bytes stay counted until then.
    pub(super) fn keep_early(&mut self, message: Message) {
        self.early = Some(message);
    }

    /// The message that was kept.
    pub(super) fn take_early(&mut self) -> Option<Message> {
        self.early.take()
    }

    /// A message was received completely.
    pub(crate) fn received_message(&mut self) {
        self.subtract(usize::MAX);
    }

    /// A control frame was received, possibly in the middle of a message. `payload` is the size of its
    /// payload in bytes.
    pub(crate) fn received_control_frame(&mut self, payload: usize) {
        self.subtract(payload + FRAME_HEADER_BYTES);
    }

    fn subtract(&mut self, bytes: usize) {
        if let Some(incomplete) = &mut self.incomplete {
            incomplete.bytes = incomplete.bytes.saturating_sub(bytes);
            incomplete.charge.set(incomplete.bytes);
        }
    }
}

impl IncompleteMessage {
    fn add(&mut self, bytes: usize) -> io::Result<()> {
        self.bytes += bytes;
        if self.bytes > self.max_bytes {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        match self.charge.set(self.bytes) && !self.share.may_grow() {
            true => Err(io::ErrorKind::OutOfMemory.into()),
            false => Ok(()),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context, buf: &mut ReadBuf) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(self.transport.poll_read(cx, buf))?;
        let received = buf.filled().len() - before;
        Poll::Ready(self.incomplete.as_mut().map_or(Ok(()), |incomplete| incomplete.add(received)))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.incomplete {
            Some(_) => Poll::Ready(Ok(bytes.len())),
            None => self.transport.poll_write(cx, &[IoSlice::new(bytes)]),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context,
        bytes: &[IoSlice],
    ) -> Poll<io::Result<usize>> {
        match self.incomplete {
            Some(_) => Poll::Ready(Ok(bytes.iter().map(|bytes| bytes.len()).sum())),
            None => self.transport.poll_write(cx, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        match self.incomplete {
            Some(_) => Poll::Ready(Ok(())),
            None => self.transport.poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        self.transport.poll_shutdown(cx)
    }
}
