//! One WebSocket: its frames, its heartbeat, and how it ends. Knows no rooms: text frames go to the
//! session, and what is in the outbox goes to the peer.

mod authenticate;
mod closing;
mod stream;
mod transport;

pub(crate) use authenticate::{Peer, authenticate};
pub(crate) use stream::Stream;
pub(crate) use transport::Transport;

use crate::{
    hub::Hub,
    limits::CountedConnection,
    outbox::Outbox,
    session::{ClientFrame, ClientSession, Heartbeat},
};
use closing::{CLOSE_TIMEOUT, close_for_error};
use futures_util::{FutureExt, StreamExt};
use std::{future::poll_fn, panic::AssertUnwindSafe, sync::Arc, time::Duration};
use switchyard_protocol::{Close, Frame};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, Message},
};

pub(crate) type ServerSocket = WebSocketStream<Stream>;

/// A socket whose client has authenticated. The large parts are boxed, because a task reserves space for
/// every value that it passes on.
pub(crate) struct AuthenticatedSocket {
    socket: Box<ServerSocket>,
    session: Box<ClientSession>,
    heartbeat: Heartbeat,
    hub: Arc<Hub>,
    /// Counts the connection for the address of its client until it ends.
    counted: Option<CountedConnection>,
}

/// If a task is woken so late, all tasks were: the process was stopped, or the machine was asleep.
const STALL_THRESHOLD: Duration = Duration::from_secs(1);

/// Closes a connection after its last answer, without costing the peer what it has not read yet.
pub(crate) async fn close_gracefully(transport: &Transport) {
    closing::close(transport, [], Instant::now() + CLOSE_TIMEOUT).await;
}

/// Why a connection ends.
enum End {
    /// The peer is gone, or the connection broke.
    Lost,
    /// The peer closed, with this code.
    ClosedByPeer(Option<u16>),
    /// The peer violated the protocol.
    Violation(Close),
    /// The server closes.
    Close(Close),
}

impl AuthenticatedSocket {
    /// Serves the connection until it ends.
    pub(crate) async fn serve(self) {
        let Self { mut socket, mut session, heartbeat, hub, counted: _counted } = self;
        let connection = session.connection().clone();
        let outbox = &connection.outbox;
        let transport = socket.get_ref().transport().clone();
        let end = {
            let served = async {
                tokio::select! {
                    biased;
                    close = poll_fn(|cx| outbox.poll_send(cx)) => close.map_or(End::Lost, End::Close),
                    end = read(&mut socket, &transport, &mut session) => end,
                    end = run_heartbeat(&transport, outbox, heartbeat) => end,
                    end = enforce_close_deadline(outbox) => end,
                }
            };
            // A panic is a bug of the server. It costs this connection only, and its client is told.
            AssertUnwindSafe(served).catch_unwind().await.unwrap_or(End::Close(Close::Internal))
        };
        // Nothing is read from here on.
        drop(socket);
        let end = Box::pin(finish_answers(&transport, outbox, end)).await;
        let rest = outbox.take_rest();
        // The session can be resumed from here on.
        drop(session);
        let (frame, deadline) = match end {
            End::Lost => {
                tracing::debug!(connection = %connection.id, "the peer is gone");
                (None, Instant::now() + CLOSE_TIMEOUT)
            }
            End::ClosedByPeer(code) => {
                tracing::debug!(connection = %connection.id, code, "the peer closed the connection");
                (Some(Frame::close(code, "")), Instant::now() + CLOSE_TIMEOUT)
            }
            End::Violation(close) | End::Close(close) => {
                tracing::debug!(connection = %connection.id, code = close.code(), "closing the connection");
                hub.metrics.count_close(close);
                (Some(Frame::close(Some(close.code()), &close.reason())), closing::deadline(close))
            }
        };
        drop(connection);
        let rest = [rest].into_iter().chain(frame.map(Frame::into_bytes));
        Box::pin(closing::close(&transport, rest, deadline)).await;
    }
}

/// Sends the answers to requests that the peer made before it closed, violated the protocol or ended its
/// stream.
async fn finish_answers(transport: &Transport, outbox: &Outbox, end: End) -> End {
    if let End::Close(_) = end {
        return end;
    }
    outbox.finish();
    let sent = poll_fn(|cx| outbox.poll_send(cx));
    let discarded = async {
        match closing::discard(transport).await {
            Ok(()) => std::future::pending().await,
            Err(_) => End::Lost,
        }
    };
    let finished = async {
        tokio::select! {
            biased;
            close = sent => close.map(End::Close),
            lost = discarded => Some(lost),
        }
    };
    timeout(CLOSE_TIMEOUT, finished).await.ok().flatten().unwrap_or(end)
}

/// What a socket yields: a message, an error, or `None` at the end of the stream.
type ReadResult = Option<tungstenite::Result<Message>>;

/// Subtracts a message that was received completely from the bytes of incomplete messages.
fn count_read(socket: &mut ServerSocket, received: &ReadResult) {
    match received {
        Some(Ok(Message::Ping(payload) | Message::Pong(payload))) => {
            socket.get_mut().received_control_frame(payload.len());
        }
        Some(Ok(_)) => socket.get_mut().received_message(),
        Some(Err(_)) | None => {}
    }
}

async fn read(socket: &mut ServerSocket, transport: &Transport, session: &mut ClientSession) -> End {
    let end = loop {
        if let Some(until) = session.take_pause() {
            Box::pin(pause(transport, session, until)).await;
        }
        let received = match socket.get_mut().take_early() {
            Some(message) => Some(Ok(message)),
            None => tokio::select! {
                biased;
                received = socket.next() => received,
                event = session.next_event() => {
                    without_reading(transport, Box::pin(session.handle_event(event))).await;
                    continue;
                }
            },
        };
        count_read(socket, &received);
        match received {
            Some(Ok(Message::Text(text))) => {
                session.note_frame(|| transport.last_drained());
                without_reading(transport, Box::pin(session.handle(ClientFrame::Text(&text)))).await;
            }
            Some(Ok(Message::Binary(_))) => {
                without_reading(transport, Box::pin(session.handle(ClientFrame::Binary))).await
            }
            Some(Ok(Message::Ping(payload))) => session.connection().outbox.pong(Frame::pong(&payload)),
            Some(Ok(Message::Pong(payload))) => session.pong(&payload),
            Some(Ok(Message::Close(frame))) => break End::ClosedByPeer(frame.map(|frame| frame.code.into())),
            Some(Ok(Message::Frame(_))) => {}
            Some(Err(error)) => break close_for_error(error).map_or(End::Lost, End::Violation),
            // The peer may have ended only its own direction, and still read.
            None => break End::Lost,
        }
    };
    // Requests that were made before are answered, unless that takes too long.
    Box::pin(timeout(CLOSE_TIMEOUT, session.answer_in_flight())).await.ok();
    end
}

/// Reads nothing for a while, because the client makes more requests than its tier allows. Whoever waits does not count
/// as silent, and is still told what happens.
async fn pause(transport: &Transport, session: &mut ClientSession, until: Instant) {
    transport.set_reading(false);
    loop {
        let event = tokio::select! {
            biased;
            () = sleep_until(until) => break,
            event = session.next_event() => event,
        };
        session.handle_event(event).await;
    }
    transport.set_reading(true);
}

/// Carries out a request while nothing is read from the socket.
async fn without_reading(transport: &Transport, work: impl Future<Output = ()> + Unpin) {
    transport.set_reading(false);
    work.await;
    transport.set_reading(true);
}

/// Sends pings, and returns when nothing was received from the peer for too long.
async fn run_heartbeat(transport: &Transport, outbox: &Outbox, heartbeat: Heartbeat) -> End {
    let mut ping_at = Instant::now() + heartbeat.interval;
    loop {
        let silence = heartbeat.silence();
        let due = ping_at.min(transport.last_received() + silence);
        sleep_until(due).await;
        let now = Instant::now();
        if now >= due + STALL_THRESHOLD {
            // It was this node that did not run. What was received in the meantime has not been read yet.
            transport.reset_silence();
        }
        if now >= transport.last_received() + silence {
            return End::Close(Close::HeartbeatTimeout);
        }
        if now >= ping_at {
            outbox.ping();
            ping_at = now + heartbeat.interval;
        }
    }
}

/// Returns when the outbox was closed and its peer does not take what is left in it in time.
async fn enforce_close_deadline(outbox: &Outbox) -> End {
    let close = outbox.closed().await;
    tokio::time::sleep(CLOSE_TIMEOUT).await;
    End::Close(close)
}

#[cfg(test)]
mod tests {
    fn size<A, F: Future>(_: impl Fn(A) -> F) -> usize {
        size_of::<F>()
    }

    /// A task reserves space for every future that it awaits in place, for as long as the connection lives.
    /// That was 10 KiB before authentication, requests and closing were boxed.
    #[test]
    fn the_future_of_a_connection_is_small() {
        let bytes = size(super::AuthenticatedSocket::serve);
        assert!(bytes <= 1 << 10, "{bytes} bytes");
    }
}
