//! Closing a connection so that its peer learns why: the last frames are written, then the end of the stream,
//! and then what the peer still sends is discarded for a while. If a socket is closed while it has unread
//! bytes, the system resets the connection, and the peer may lose what it has not read yet.

use super::transport::Transport;
use crate::outbox::Pipe;
use bytes::{Buf, Bytes};
use futures_util::future::try_join;
use std::{
    future::poll_fn,
    io::{self, IoSlice},
    time::Duration,
};
use switchyard_protocol::Close;
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::tungstenite::{self, error::ProtocolError};

/// How long a peer may take to read the last frames and close, before the connection is dropped.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// The same for a peer that was too slow: it has much to read before the close frame.
const SLOW_CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// How many bytes a peer may still send before the connection is dropped. It may send a long message before
/// it reads.
const MAX_DISCARDED_BYTES: usize = 16 << 20;

/// The close code for an error of the WebSocket library; `None` if the connection broke.
pub(super) fn close_for_error(error: tungstenite::Error) -> Option<Close> {
    match error {
        tungstenite::Error::Capacity(_) => Some(Close::FrameTooLarge),
        tungstenite::Error::Io(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            Some(Close::FrameTooLarge)
        }
        tungstenite::Error::Io(error) if error.kind() == io::ErrorKind::OutOfMemory => {
            Some(Close::Overloaded)
        }
        tungstenite::Error::Utf8(_) => Some(Close::NotUtf8),
        tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        tungstenite::Error::Protocol(_) => Some(Close::ProtocolError),
        _ => None,
    }
}

/// When a connection that is closed now, with this code, is dropped at the latest.
pub(super) fn deadline(close: Close) -> Instant {
    Instant::now() + if close == Close::Slow { SLOW_CLOSE_TIMEOUT } else { CLOSE_TIMEOUT }
}

/// Writes the last bytes, ends the stream, and waits until the peer ends its own, or until the deadline.
pub(super) async fn close(transport: &Transport, rest: impl IntoIterator<Item = Bytes>, deadline: Instant) {
    let written = async {
        for mut bytes in rest {
            while !bytes.is_empty() {
                let written = poll_fn(|cx| transport.poll_write(cx, &[IoSlice::new(&bytes)])).await?;
                if written == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                bytes.advance(written);
            }
        }
        poll_fn(|cx| transport.poll_flush(cx)).await?;
        poll_fn(|cx| transport.poll_shutdown(cx)).await
    };
    // Both at once: some peers do not read before everything they send was taken.
    let ended = try_join(written, discard(transport));
    timeout_at(deadline, ended).await.ok();
}

/// Discards what is received until the peer ends its stream. Fails if the connection breaks, or if the peer
/// sends too much.
pub(super) async fn discard(transport: &Transport) -> io::Result<()> {
    let mut left = MAX_DISCARDED_BYTES;
    loop {
        match poll_fn(|cx| transport.poll_discard(cx)).await {
            Ok(0) => return Ok(()),
            // The end of a TLS stream whose peer did not announce it.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => left = left.checked_sub(read?).ok_or(io::ErrorKind::FileTooLarge)?,
        }
    }
}
