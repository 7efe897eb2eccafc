//! One WebSocket: frames in and out, heartbeat, limits, and how it ends. Knows no rooms: text goes to the
//! conversation, and what the outbox holds goes to the peer.

mod apart;

use crate::{
    close::Close,
    hub::Permit,
    key::Key,
    outbox::{Outbox, Taken},
    protocol::Frame,
    session::{Client, Conversation, Greeting, Heartbeat, Rejected, Services},
};
use apart::apart;
use axum::extract::ws::{CloseFrame, Message, WebSocket};
use futures_util::{
    FutureExt, Sink, StreamExt,
    stream::{SplitSink, SplitStream},
};
use std::{
    future::poll_fn,
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite;
use tokio_util::sync::CancellationToken;

/// How long a peer may take what is left for it and answer a close, before the connection is cut.
const LINGER: Duration = Duration::from_secs(3);
/// The same for a peer that was too slow and has much to read before the close.
const LINGER_SLOW: Duration = Duration::from_secs(10);

/// What the socket and the stream under it tell each other.
#[derive(Default)]
pub struct Wire {
    /// When something last came, in milliseconds since the process began to count.
    heard: AtomicU64,
    /// The connection is ending: nothing more is written and what comes is thrown away.
    discards: AtomicBool,
}

static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Wire {
    pub fn heard(&self) {
        self.heard.store(BEGAN.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn last_heard(&self) -> Instant {
        *BEGAN + Duration::from_millis(self.heard.load(Ordering::Relaxed))
    }

    pub fn discards(&self) -> bool {
        self.discards.load(Ordering::Relaxed)
    }
}

/// A peer whose upgrade was good.
pub struct Peer {
    pub client: Client,
    pub wire: Arc<Wire>,
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
pub async fn serve(mut socket: WebSocket, peer: Peer, services: Services, draining: CancellationToken) {
    let Peer { client, wire, presented, rejected } = peer;
    wire.heard();
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
                return linger(socket, &wire, close).await;
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
                timeout(LINGER, socket.send(Message::Text(frame.into()))).await.ok();
            }
            metrics.close(close);
            return linger(socket, &wire, close).await;
        }
    };
    let connection = conversation.connection().clone();
    let (mut sink, mut stream) = socket.split();
    let outbox = &connection.outbox;
    let end = {
        let others = async {
            tokio::select! {
                biased;
                end = read(&mut stream, &mut conversation) => end,
                end = beat(&wire, outbox, heartbeat) => end,
                end = overdue(outbox) => end,
            }
        };
        let (writes, others) = (pin!(write(&mut sink, outbox)), pin!(others));
        let served = AssertUnwindSafe(apart(writes, others)).catch_unwind();
        // A panic is an error of ours; it costs this connection and its client is told.
        served.await.unwrap_or(End::Close(Close::Internal))
    };
    // Its session can be resumed from here on.
    drop(conversation);
    let socket = sink.reunite(stream).expect("halves of one socket");
    match end {
        End::Peer => {
            tracing::debug!(connection = %connection.id, "the peer is gone");
            farewell(socket).await;
        }
        End::Close(close) => {
            tracing::debug!(connection = %connection.id, code = close.code(), "closing");
            metrics.close(close);
            linger(socket, &wire, close).await;
        }
    }
}

/// The first frame. `Err(None)`: the peer is gone.
async fn greet(
    socket: &mut WebSocket,
    services: Services,
    client: Client,
    presented: Option<(Arc<Key>, Permit)>,
) -> Result<Conversation, Option<Rejected>> {
    let patience = services.config.authenticate;
    let first = async {
        loop {
            match socket.recv().await {
                Some(Ok(Message::Text(text))) => return Ok(text),
                Some(Ok(Message::Binary(_))) => return Err(Some(Greeting::binary())),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Err(error)) => {
                    let broken = |close| Rejected { code: None, frame: String::new(), close };
                    return Err(violation(error).map(broken));
                }
                Some(Ok(Message::Close(_))) | None => return Err(None),
            }
        }
    };
    let Ok(first) = timeout(patience, first).await else {
        return Err(Some(Greeting::timeout(patience.as_millis())));
    };
    let text = first?;
    let (key, permit) = presented.unzip();
    let keys = services.keys.load_full();
    let greeted = Greeting::new(key).frame(&text, &keys)?;
    Ok(Conversation::open(services, greeted, client, permit).await?)
}

async fn read(stream: &mut SplitStream<WebSocket>, conversation: &mut Conversation) -> End {
    loop {
        match stream.next().await {
            // Boxed like the greeting.
            Some(Ok(Message::Text(text))) => Box::pin(conversation.text(&text)).await,
            Some(Ok(Message::Binary(_))) => Box::pin(conversation.binary()).await,
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Close(_))) | None => return End::Peer,
            Some(Err(error)) => return violation(error).map_or(End::Peer, End::Close),
        }
    }
}

/// Writes all that waits, then flushes once.
async fn write(sink: &mut SplitSink<WebSocket, Message>, outbox: &Outbox) -> End {
    let mut batch = vec![];
    loop {
        match poll_fn(|cx| outbox.poll_take(cx, &mut batch)).await {
            Taken::Close(close) => return End::Close(close),
            Taken::Ping => {
                let ping = std::iter::once(Message::Ping(Default::default()));
                if let Err(end) = send(sink, outbox, ping).await {
                    return end;
                }
            }
            Taken::Frames => {
                let bytes = batch.iter().map(|frame: &Frame| frame.len()).sum();
                let frames = batch.drain(..).map(Message::Text);
                if let Err(end) = send(sink, outbox, frames).await {
                    return end;
                }
                outbox.wrote(bytes);
                batch.shrink_to(16);
            }
        }
    }
}

/// Sends and flushes, unless the outbox wants the connection to end at once.
async fn send(
    sink: &mut SplitSink<WebSocket, Message>,
    outbox: &Outbox,
    messages: impl Iterator<Item = Message>,
) -> Result<(), End> {
    let mut sink = Pin::new(sink);
    for message in messages {
        poll_fn(|cx| or_dropped(sink.as_mut().poll_ready(cx), outbox, cx)).await?;
        sink.as_mut().start_send(message).map_err(|_| End::Peer)?;
    }
    poll_fn(|cx| or_dropped(sink.as_mut().poll_flush(cx), outbox, cx)).await
}

fn or_dropped(
    written: Poll<Result<(), axum::Error>>,
    outbox: &Outbox,
    cx: &mut Context,
) -> Poll<Result<(), End>> {
    match written {
        Poll::Ready(done) => Poll::Ready(done.map_err(|_| End::Peer)),
        Poll::Pending => outbox.poll_dropped(cx).map(|close| Err(End::Close(close))),
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
fn violation(error: axum::Error) -> Option<Close> {
    match error.into_inner().downcast_ref::<tungstenite::Error>() {
        Some(tungstenite::Error::Capacity(_)) => Some(Close::FrameTooLarge),
        Some(tungstenite::Error::Utf8(_)) => Some(Close::NotUtf8),
        Some(tungstenite::Error::Protocol(
            tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
        )) => None,
        Some(tungstenite::Error::Protocol(_)) => Some(Close::Protocol),
        _ => None,
    }
}

/// Answers the peer's close, if there was one.
async fn farewell(mut socket: WebSocket) {
    timeout(LINGER, async { while let Some(Ok(_)) = socket.recv().await {} }).await.ok();
}

/// Says why, and gives the peer time to read it and to answer. After a violation what still comes cannot be
/// understood: it is thrown away, because closing a socket with unread bytes resets the connection and may cost
/// the peer the close frame.
async fn linger(mut socket: WebSocket, wire: &Wire, close: Close) {
    let ending = async {
        let frame = CloseFrame { code: close.code(), reason: close.reason().into() };
        if socket.send(Message::Close(Some(frame))).await.is_err() {
            return;
        }
        if matches!(close, Close::Protocol | Close::NotUtf8 | Close::FrameTooLarge) {
            wire.discards.store(true, Ordering::Relaxed);
        }
        while let Some(Ok(message)) = socket.recv().await {
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
