//! One WebSocket: frames in and out, heartbeat, limits, and how it ends. Knows no rooms: text goes to the
//! conversation, and what the outbox holds goes to the peer.

mod stream;
mod wire;

pub use stream::Stream;
pub use wire::Wire;

use crate::{
    close::Close,
    hub::Permit,
    key::Key,
    outbox::Outbox,
    session::{Client, Conversation, Greeting, Heartbeat, Rejected, Services},
};
use futures_util::{FutureExt, SinkExt, StreamExt};
use std::{future::poll_fn, panic::AssertUnwindSafe, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, Message, protocol::CloseFrame},
};
use tokio_util::sync::CancellationToken;

pub type Socket = WebSocketStream<Stream>;

/// How long a peer may take what is left for it and answer a close, before the connection is cut.
const LINGER: Duration = Duration::from_secs(3);
/// The same for a peer that was too slow and has much to read before the close.
const LINGER_SLOW: Duration = Duration::from_secs(10);

/// A peer whose upgrade was good.
pub struct Peer {
    pub client: Client,
    /// The key that came with the upgrade.
    pub presented: Option<(Arc<Key>, Permit)>,
    /// Why it is to be turned away with a close code that a browser can see.
    pub rejected: Option<Rejected>,
}

/// How a connection ends.
enum End {
    /// The peer closed or is gone.
    Peer,
    Close(Close),
}

/// Serves a connection until it ends. `draining` closes one that has not greeted yet; later ones are closed
/// through their outbox.
pub async fn serve(mut socket: Socket, peer: Peer, services: Services, draining: CancellationToken) {
    let Peer { client, presented, rejected } = peer;
    let wire = socket.get_ref().wire().clone();
    let metrics = services.hub.metrics.clone();
    let heartbeat = services.config.heartbeat;
    let greeted = match rejected {
        Some(rejected) => Err(Some(rejected)),
        None => tokio::select! {
            // Boxed, since it is large and soon over, and a connection keeps the room of what it ever awaited.
            greeted = Box::pin(greet(&mut socket, services, client, presented)) => greeted,
            () = draining.cancelled() => {
                let close = Close::Draining(0);
                metrics.close(close);
                return linger(socket, close).await;
            }
        },
    };
    let mut conversation = match greeted {
        Ok(conversation) => conversation,
        Err(None) => return farewell(socket).await,
        Err(Some(Rejected { code, frame, close })) => {
            if let Some(code) = code {
                metrics.error(code);
            }
            if !frame.is_empty() {
                timeout(LINGER, socket.send(Message::text(frame))).await.ok();
            }
            metrics.close(close);
            return linger(socket, close).await;
        }
    };
    let connection = conversation.connection().clone();
    let outbox = &connection.outbox;
    socket.get_mut().divert(connection.clone());
    let end = {
        let served = async {
            tokio::select! {
                biased;
                close = poll_fn(|cx| outbox.poll_send(cx)) => close.map_or(End::Peer, End::Close),
                end = read(&mut socket, &mut conversation) => end,
                end = beat(&wire, outbox, heartbeat) => end,
                end = overdue(outbox) => end,
            }
        };
        // A panic is an error of ours; it costs this connection and its client is told.
        AssertUnwindSafe(served).catch_unwind().await.unwrap_or(End::Close(Close::Internal))
    };
    let begun = outbox.end();
    // Its session can be resumed from here on.
    drop(conversation);
    socket.get_mut().direct(begun);
    match end {
        End::Peer => {
            tracing::debug!(connection = %connection.id, "the peer is gone");
            farewell(socket).await;
        }
        End::Close(close) => {
            tracing::debug!(connection = %connection.id, code = close.code(), "closing");
            metrics.close(close);
            linger(socket, close).await;
        }
    }
}

/// The first frame. `Err(None)`: the peer is gone.
async fn greet(
    socket: &mut Socket,
    services: Services,
    client: Client,
    presented: Option<(Arc<Key>, Permit)>,
) -> Result<Conversation, Option<Rejected>> {
    let patience = services.config.authenticate;
    let first = async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Text(text))) => return Ok(text),
                Some(Ok(Message::Binary(_))) => return Err(Some(Greeting::binary())),
                Some(Ok(Message::Close(_))) | None => return Err(None),
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    let broken = |close| Rejected { code: None, frame: String::new(), close };
                    return Err(violation(error).map(broken));
                }
            }
        }
    };
    let Ok(first) = timeout(patience, first).await else {
        return Err(Some(Greeting::timeout(patience.as_millis())));
    };
    let text = first?;
    let pipe = socket.get_ref().wire().clone();
    let (key, permit) = presented.unzip();
    let keys = services.keys.load_full();
    let greeted = Greeting::new(key).frame(&text, &keys)?;
    Ok(Conversation::open(services, greeted, client, permit, pipe).await?)
}

async fn read(socket: &mut Socket, conversation: &mut Conversation) -> End {
    loop {
        match socket.next().await {
            // Boxed like the greeting.
            Some(Ok(Message::Text(text))) => Box::pin(conversation.text(&text)).await,
            Some(Ok(Message::Binary(_))) => Box::pin(conversation.binary()).await,
            Some(Ok(Message::Close(_))) | None => return End::Peer,
            Some(Ok(_)) => {}
            Some(Err(error)) => return violation(error).map_or(End::Peer, End::Close),
        }
    }
}

/// Pings, and notices a peer from which nothing at all came for too long.
async fn beat(wire: &Wire, outbox: &Outbox, heartbeat: Heartbeat) -> End {
    let mut ping_at = Instant::now() + heartbeat.interval;
    loop {
        let silence = heartbeat.interval + heartbeat.timeout;
        sleep_until(ping_at.min(wire.last_heard() + silence)).await;
        let now = Instant::now();
        if now >= wire.last_heard() + silence {
            return End::Close(Close::Silent);
        }
        if now >= ping_at {
            outbox.ping();
            ping_at = now + heartbeat.interval;
        }
    }
}

/// A connection that is to end does so, even if its peer takes nothing of what is left for it.
async fn overdue(outbox: &Outbox) -> End {
    let close = outbox.closed().await;
    tokio::time::sleep(LINGER).await;
    End::Close(close)
}

/// The close code of an error of the protocol; `None` when the connection broke.
fn violation(error: tungstenite::Error) -> Option<Close> {
    match error {
        tungstenite::Error::Capacity(_) => Some(Close::FrameTooLarge),
        tungstenite::Error::Utf8(_) => Some(Close::NotUtf8),
        tungstenite::Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake) => None,
        tungstenite::Error::Protocol(_) => Some(Close::Protocol),
        _ => None,
    }
}

/// Answers the peer's close, if there was one.
async fn farewell(mut socket: Socket) {
    timeout(LINGER, async { while let Some(Ok(_)) = socket.next().await {} }).await.ok();
}

/// Says why, and gives the peer time to read it and to answer. After a violation what still comes cannot be
/// understood: it is thrown away, because closing a socket with unread bytes resets the connection and may cost
/// the peer the close frame.
async fn linger(mut socket: Socket, close: Close) {
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

#[cfg(test)]
mod tests {
    fn size<A, B, C, D, F: Future>(_: impl Fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// What a connection's task ever awaits in place has its room there for as long as the connection lives: 10 KiB it was
    /// before the greeting and the requests were boxed.
    #[test]
    fn a_connection_waits_in_little_memory() {
        let bytes = size(super::serve);
        assert!(bytes <= 4 << 10, "{bytes} bytes");
    }
}
