//! One WebSocket: frames in and out, heartbeat, limits, and how it ends. Knows no rooms: text goes to the
//! conversation, and what the outbox holds goes to the peer.

mod ending;
mod greet;
mod stream;
mod wire;

pub use greet::{Peer, greet};
pub use stream::Stream;
pub use wire::Wire;

use crate::{
    close::Close,
    hub::Hub,
    outbox::Outbox,
    session::{Conversation, Heartbeat},
};
use ending::{LINGER, farewell, linger, violation};
use futures_util::{FutureExt, StreamExt};
use std::{future::poll_fn, panic::AssertUnwindSafe, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

pub type Socket = WebSocketStream<Stream>;

/// A connection whose client was let in. Boxed are the parts that are large, since a task keeps the room of whatever it hands
/// on by value.
pub struct Welcome {
    socket: Box<Socket>,
    conversation: Box<Conversation>,
    heartbeat: Heartbeat,
    hub: Arc<Hub>,
}

/// A task that is woken so much too late was not the only one: the process was stopped, or the machine slept.
const LATE: Duration = Duration::from_secs(1);

/// How a connection ends.
enum End {
    /// The peer closed or is gone.
    Peer,
    Close(Close),
}

impl Welcome {
    /// Serves the connection until it ends.
    pub async fn serve(self) {
        let Self { mut socket, mut conversation, heartbeat, hub } = self;
        let connection = conversation.connection().clone();
        let outbox = &connection.outbox;
        socket.get_mut().divert(connection.clone());
        let wire = socket.get_ref().wire().clone();
        let end = {
            let served = async {
                tokio::select! {
                    biased;
                    close = poll_fn(|cx| outbox.poll_send(cx)) => close.map_or(End::Peer, End::Close),
                    end = read(&mut socket, &wire, &mut conversation) => end,
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
                Box::pin(farewell(socket)).await;
            }
            End::Close(close) => {
                tracing::debug!(connection = %connection.id, code = close.code(), "closing");
                hub.metrics.close(close);
                Box::pin(linger(socket, close)).await;
            }
        }
    }
}

async fn read(socket: &mut Socket, wire: &Wire, conversation: &mut Conversation) -> End {
    loop {
        match socket.next().await {
            // Boxed like the greeting.
            Some(Ok(Message::Text(text))) => {
                conversation.heard(|| wire.last_emptied());
                wire.set_deaf(true);
                Box::pin(conversation.text(&text)).await;
                wire.set_deaf(false);
            }
            Some(Ok(Message::Binary(_))) => Box::pin(conversation.binary()).await,
            Some(Ok(Message::Pong(payload))) => conversation.pong(&payload),
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
        let silence = heartbeat.silence();
        let due = ping_at.min(wire.last_heard() + silence);
        sleep_until(due).await;
        let now = Instant::now();
        if now >= due + LATE {
            // It was this node that was away: what came meanwhile is not read yet.
            wire.set_deaf(false);
        }
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

#[cfg(test)]
mod tests {
    fn size<A, F: Future>(_: impl Fn(A) -> F) -> usize {
        size_of::<F>()
    }

    /// What a connection's task ever awaits in place has its room there for as long as the connection lives: 10 KiB it was
    /// before greeting, requests and end were boxed.
    #[test]
    fn a_connection_waits_in_little_memory() {
        let bytes = size(super::Welcome::serve);
        assert!(bytes <= 1 << 10, "{bytes} bytes");
    }
}
