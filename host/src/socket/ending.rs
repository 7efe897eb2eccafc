//! How a connection ends, so that its peer hears why.

use super::Socket;
use crate::close::Close;
use futures_util::{SinkExt, StreamExt};
use std::time::Duration;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{self, Message, protocol::CloseFrame};

/// How long a peer may take what is left for it and answer a close, before the connection is cut.
pub const LINGER: Duration = Duration::from_secs(3);
/// The same for a peer that was too slow and has much to read before the close.
const LINGER_SLOW: Duration = Duration::from_secs(10);

/// The close code of an error of the protocol; `None` when the connection broke.
pub fn violation(error: tungstenite::Error) -> Option<Close> {
    match error {
        tungstenite::Error::Capacity(_) => Some(Close::FrameTooLarge),
        tungstenite::Error::Utf8(_) => Some(Close::NotUtf8),
        tungstenite::Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake) => None,
        tungstenite::Error::Protocol(_) => Some(Close::Protocol),
        _ => None,
    }
}

/// Answers the peer's close, if there was one.
pub async fn farewell(mut socket: Box<Socket>) {
    timeout(LINGER, async { while let Some(Ok(_)) = socket.next().await {} }).await.ok();
}

/// Says why, and gives the peer time to read it and to answer. After a violation what still comes cannot be
/// understood: it is thrown away, because closing a socket with unread bytes resets the connection and may cost
/// the peer the close frame.
pub async fn linger(mut socket: Box<Socket>, close: Close) {
    let ending = async {
        let frame = CloseFrame { code: close.code().into(), reason: close.reason().into() };
        if socket.send(Message::Close(Some(frame))).await.is_err() {
            return;
        }
        if matches!(close, Close::Protocol | Close::NotUtf8 | Close::FrameTooLarge) {
            socket.get_ref().wire().discard();
        }
        while let Some(Ok(message)) = socket.next().await {
            if matches!(message, Message::Close(_)) {
                return;
            }
        }
    };
    timeout(if close == Close::Slow { LINGER_SLOW } else { LINGER }, ending).await.ok();
}
