//! One WebSocket: frames in and out, heartbeat, limits, and how it ends. Knows no rooms: text goes to the
//! session, and what the outbox holds goes to the peer.

mod ending;
mod greet;
mod stream;
mod wire;

pub(crate) use greet::{Peer, greet};
pub(crate) use stream::Stream;
pub(crate) use wire::Wire;

use crate::{
    hub::Hub,
    outbox::Outbox,
    session::{ClientFrame, ClientSession, Heartbeat},
};
use ending::{LINGER, violation};
use futures_util::{FutureExt, StreamExt};
use std::{future::poll_fn, panic::AssertUnwindSafe, sync::Arc, time::Duration};
use switchyard_protocol::{Close, Frame};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, Message},
};

pub(crate) type Socket = WebSocketStream<Stream>;

/// A connection whose client was let in. Boxed are the parts that are large, since a task keeps the room of whatever it hands
/// on by value.
pub(crate) struct Welcome {
    socket: Box<Socket>,
    session: Box<ClientSession>,
    heartbeat: Heartbeat,
    hub: Arc<Hub>,
}

/// A task that is woken so much too late was not the only one: the process was stopped, or the machine slept.
const LATE: Duration = Duration::from_secs(1);

/// Ends a connection on which all is said, without costing the peer what it has not read yet.
pub(crate) async fn hang_up(wire: &Wire) {
    ending::end(wire, [], Instant::now() + LINGER).await;
}

/// How a connection ends.
enum End {
    /// The peer is gone, or the connection broke.
    Gone,
    /// The peer closed, with this code.
    Closed(Option<u16>),
    /// What came is not the protocol.
    Violation(Close),
    Close(Close),
}

impl Welcome {
    /// Serves the connection until it ends.
    pub(crate) async fn serve(self) {
        let Self { mut socket, mut session, heartbeat, hub } = self;
        let connection = session.connection().clone();
        let outbox = &connection.outbox;
        let wire = socket.get_ref().wire().clone();
        let end = {
            let served = async {
                tokio::select! {
                    biased;
                    close = poll_fn(|cx| outbox.poll_send(cx)) => close.map_or(End::Gone, End::Close),
                    end = read(&mut socket, &wire, &mut session) => end,
                    end = beat(&wire, outbox, heartbeat) => end,
                    end = overdue(outbox) => end,
                }
            };
            // A panic is an error of ours; it costs this connection and its client is told.
            AssertUnwindSafe(served).catch_unwind().await.unwrap_or(End::Close(Close::Internal))
        };
        // Nothing more of what comes is read.
        drop(socket);
        let end = Box::pin(finish(&wire, outbox, end)).await;
        let rest = outbox.rest();
        // Its session can be resumed from here on.
        drop(session);
        let (frame, until) = match end {
            End::Gone => {
                tracing::debug!(connection = %connection.id, "the peer is gone");
                (None, Instant::now() + LINGER)
            }
            End::Closed(code) => {
                tracing::debug!(connection = %connection.id, code, "the peer closed");
                (Some(Frame::close(code, "")), Instant::now() + LINGER)
            }
            End::Violation(close) | End::Close(close) => {
                tracing::debug!(connection = %connection.id, code = close.code(), "closing");
                hub.metrics.close(close);
                (Some(Frame::close(Some(close.code()), &close.reason())), ending::cut_at(close))
            }
        };
        drop(connection);
        let left = [rest].into_iter().chain(frame.map(Frame::into_bytes));
        Box::pin(ending::end(&wire, left, until)).await;
    }
}

/// What the peer asked for before it closed, broke the protocol or ended its stream is answered first.
async fn finish(wire: &Wire, outbox: &Outbox, end: End) -> End {
    if let End::Close(_) = end {
        return end;
    }
    outbox.finish();
    let sent = poll_fn(|cx| outbox.poll_send(cx));
    let discarded = async {
        match ending::discard(wire).await {
            Ok(()) => std::future::pending().await,
            Err(_) => End::Gone,
        }
    };
    let finished = async {
        tokio::select! {
            biased;
            close = sent => close.map(End::Close),
            gone = discarded => Some(gone),
        }
    };
    timeout(LINGER, finished).await.ok().flatten().unwrap_or(end)
}

/// What came over a socket.
type Came = Option<tungstenite::Result<Message>>;

/// Counts what came no more among what is on its way.
fn note(socket: &mut Socket, came: &Came) {
    match came {
        Some(Ok(Message::Ping(payload) | Message::Pong(payload))) => socket.get_mut().control(payload.len()),
        Some(Ok(_)) => socket.get_mut().whole(),
        Some(Err(_)) | None => {}
    }
}

async fn read(socket: &mut Socket, wire: &Wire, session: &mut ClientSession) -> End {
    let end = loop {
        let came = tokio::select! {
            biased;
            came = socket.next() => came,
            told = session.next_answer() => {
                deafly(wire, Box::pin(session.answer(told))).await;
                continue;
            }
        };
        note(socket, &came);
        match came {
            Some(Ok(Message::Text(text))) => {
                session.note_frame(|| wire.last_emptied());
                deafly(wire, Box::pin(session.handle(ClientFrame::Text(&text)))).await;
            }
            Some(Ok(Message::Binary(_))) => {
                deafly(wire, Box::pin(session.handle(ClientFrame::Binary))).await;
            }
            Some(Ok(Message::Ping(payload))) => session.connection().outbox.pong(Frame::pong(&payload)),
            Some(Ok(Message::Pong(payload))) => session.pong(&payload),
            Some(Ok(Message::Close(frame))) => break End::Closed(frame.map(|frame| frame.code.into())),
            Some(Ok(Message::Frame(_))) => {}
            // Also where it said nothing more, and still reads.
            Some(Err(error)) => break violation(error).map_or(End::Gone, End::Violation),
            None => break End::Gone,
        }
    };
    // What it asked for before is answered, unless that takes too long.
    Box::pin(timeout(LINGER, session.answer_in_flight())).await.ok();
    end
}

/// Carries out what came, while nothing more is read. It is boxed like the greeting.
async fn deafly(wire: &Wire, work: impl Future<Output = ()> + Unpin) {
    wire.set_deaf(true);
    work.await;
    wire.set_deaf(false);
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
            wire.excuse();
        }
        if now >= wire.last_heard() + silence {
            return End::Close(Close::HeartbeatTimeout);
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
