//! How a connection ends, so that its peer hears why: what is still to be said, the end of the stream, and then the patience to
//! throw away what the peer sent meanwhile. A socket that is closed with unread bytes resets its connection, which may cost the
//! peer everything it has not read yet.

use super::wire::Wire;
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

/// How long a peer may take what is left for it and close, before the connection is cut.
pub(super) const LINGER: Duration = Duration::from_secs(3);
/// The same for a peer that was too slow and has much to read before the close.
const LINGER_SLOW: Duration = Duration::from_secs(10);
/// Bytes that a peer may go on to send, before the connection is cut. Who writes a long message before it reads has sent it then.
const MOST_DISCARDED: usize = 16 << 20;

/// The close code of an error of the protocol; `None` when the connection broke.
pub(super) fn violation(error: tungstenite::Error) -> Option<Close> {
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

/// When a connection that closes now is cut.
pub(super) fn cut_at(close: Close) -> Instant {
    Instant::now() + if close == Close::Slow { LINGER_SLOW } else { LINGER }
}

/// Writes what is left, ends the stream, and waits for the peer to end its own, until then at most.
pub(super) async fn end(wire: &Wire, left: impl IntoIterator<Item = Bytes>, until: Instant) {
    let written = async {
        for mut bytes in left {
            while !bytes.is_empty() {
                let written = poll_fn(|cx| wire.poll_write(cx, &[IoSlice::new(&bytes)])).await?;
                if written == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                bytes.advance(written);
            }
        }
        poll_fn(|cx| wire.poll_flush(cx)).await?;
        poll_fn(|cx| wire.poll_shutdown(cx)).await
    };
    // A peer may take nothing before what it sends is taken.
    let ended = try_join(written, discard(wire));
    timeout_at(until, ended).await.ok();
}

/// Throws away what comes, until the peer ends its stream. An error: it broke, or went on for too long.
pub(super) async fn discard(wire: &Wire) -> io::Result<()> {
    let mut left = MOST_DISCARDED;
    loop {
        match poll_fn(|cx| wire.poll_discard(cx)).await {
            Ok(0) => return Ok(()),
            // The same over TLS, of a peer that does not say so.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => left = left.checked_sub(read?).ok_or(io::ErrorKind::FileTooLarge)?,
        }
    }
}
