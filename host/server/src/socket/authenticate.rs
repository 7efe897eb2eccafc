//! Authentication of a new WebSocket: awaits `connect`, and opens the session of the client or rejects it.
//! Does not know which keys are valid.

use super::{
    AuthenticatedSocket, ServerSocket,
    closing::{self, CLOSE_TIMEOUT, close_for_error},
    count_read,
};
use crate::{
    hub::{Connection, Permit},
    key::Key,
    limits::PendingConnection,
    outbox::Outbox,
    session::{Client, ClientSession, Rejected, Services, UnauthenticatedSession},
};
use bytes::Bytes;
use futures_util::StreamExt;
use std::{future::poll_fn, sync::Arc, time::Duration};
use switchyard_protocol::{Close, ErrorCode, Frame};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_util::sync::CancellationToken;

/// A client whose upgrade was accepted.
pub(crate) struct Peer {
    pub client: Client,
    /// The key that the upgrade request contained, and the connection slot that was acquired for it.
    pub presented: Option<(Arc<Key>, Permit)>,
    /// Why the client is rejected after the upgrade: browsers show close codes, but not the answer to an
    /// upgrade.
    pub rejected: Option<Rejected>,
    /// The slot that the connection has until it authenticates.
    pub unauthenticated: Arc<PendingConnection>,
}

/// Awaits the first frame and authenticates the client; `None` if it was rejected. `draining` interrupts
/// this. Afterwards the connection can be closed through its outbox.
pub(crate) async fn authenticate(
    mut socket: Box<ServerSocket>,
    peer: Peer,
    services: Services,
    draining: CancellationToken,
) -> Option<AuthenticatedSocket> {
    let Peer { client, presented, rejected, unauthenticated } = peer;
    let (hub, heartbeat) = (services.hub.clone(), services.config.heartbeat);
    let transport = socket.get_ref().transport().clone();
    let outbox = Outbox::new(
        services.config.outbox,
        heartbeat.silence(),
        transport.clone(),
        hub.memory.unauthenticated(),
    );
    let first = match rejected {
        Some(rejected) => FirstFrame::Rejected(rejected),
        None => tokio::select! {
            biased;
            // Nobody closes the outbox yet, so this ends only if the connection breaks.
            _ = poll_fn(|cx| outbox.poll_send(cx)) => FirstFrame::Lost,
            first = await_first_frame(&mut socket, &outbox, services.config.authenticate) => first,
            () = draining.cancelled() => FirstFrame::Rejected(Rejected::silent(Close::Draining(0))),
        },
    };
    let mut rest = vec![];
    let close = match first {
        FirstFrame::Text(text) => {
            match open_session(services, &text, client, presented, &unauthenticated, outbox, &draining).await
            {
                Ok(session) => {
                    socket.get_mut().charge_to(&session.connection().share);
                    return Some(AuthenticatedSocket { socket, session, heartbeat, hub });
                }
                Err((rejected, unsent)) => {
                    rest.push(unsent);
                    Err(rejected)
                }
            }
        }
        // The principal gets the connection slot back before the peer has closed, as in `serve`.
        FirstFrame::Rejected(rejected) => {
            drop(presented);
            rest.push(outbox.take_rest());
            Err(rejected)
        }
        FirstFrame::Closed(code) => {
            drop(presented);
            rest.push(outbox.take_rest());
            Ok(code)
        }
        FirstFrame::Lost => return None,
    };
    drop(socket);
    let deadline = match close {
        Ok(code) => {
            rest.push(Frame::close(code, "").into_bytes());
            Instant::now() + CLOSE_TIMEOUT
        }
        Err(Rejected { code, frame, close }) => {
            if let Some(code) = code {
                hub.metrics.count_error(code);
            }
            if let Some(code @ (ErrorCode::InvalidKey | ErrorCode::ExpiredKey)) = code {
                unauthenticated.key_refused(code).await;
            }
            if !frame.is_empty() {
                rest.push(Frame::from(frame).into_bytes());
            }
            hub.metrics.count_close(close);
            rest.push(Frame::close(Some(close.code()), &close.reason()).into_bytes());
            closing::deadline(close)
        }
    };
    closing::close(&transport, rest, deadline).await;
    None
}

/// How long a frame that was received in time may take to be read after the timeout.
const READ_DELAY: Duration = Duration::from_millis(100);

/// The first frame of a client, or what happened instead.
enum FirstFrame {
    Text(Utf8Bytes),
    /// It is not text, was not received in time, or does not matter because the client is rejected anyway.
    Rejected(Rejected),
    /// The peer closed, with this code.
    Closed(Option<u16>),
    /// The connection broke.
    Lost,
}

/// Awaits the first frame, and answers pings in the meantime.
async fn await_first_frame(socket: &mut ServerSocket, outbox: &Outbox, limit: Duration) -> FirstFrame {
    let first = async {
        loop {
            let received = socket.next().await;
            count_read(socket, &received);
            match received {
                Some(Ok(Message::Text(text))) => return FirstFrame::Text(text),
                Some(Ok(Message::Binary(_))) => return FirstFrame::Rejected(UnauthenticatedSession::binary()),
                Some(Ok(Message::Ping(payload))) => outbox.pong(Frame::pong(&payload)),
                Some(Ok(Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(frame))) => {
                    return FirstFrame::Closed(frame.map(|frame| frame.code.into()));
                }
                Some(Err(error)) => {
                    let silent = |close| FirstFrame::Rejected(Rejected::silent(close));
                    return close_for_error(error).map_or(FirstFrame::Lost, silent);
                }
                None => return FirstFrame::Lost,
            }
        }
    };
    tokio::pin!(first);
    let mut received = timeout(limit, &mut first).await;
    if received.is_err() {
        // If this process was stopped, the frame may have been received in time and still be unread.
        received = timeout(READ_DELAY, first).await;
    }
    received.unwrap_or_else(|_| FirstFrame::Rejected(UnauthenticatedSession::timeout(limit.as_millis())))
}

/// Authenticates the client with its first frame. The error contains what is left unsent in the outbox.
async fn open_session(
    services: Services,
    text: &str,
    client: Client,
    presented: Option<(Arc<Key>, Permit)>,
    unauthenticated: &PendingConnection,
    outbox: Outbox,
    draining: &CancellationToken,
) -> Result<Box<ClientSession>, (Rejected, Bytes)> {
    let (key, permit) = presented.unzip();
    let keys = services.keys.load_full();
    let authenticated = match UnauthenticatedSession::new(key).frame(text, &keys) {
        Ok(authenticated) => authenticated,
        Err(rejected) => return Err((rejected, outbox.take_rest())),
    };
    unauthenticated.release_slot();
    let connection = Connection::new(&authenticated.key, client.remote, outbox, &services.hub.memory);
    let opened = tokio::select! {
        // Boxed: connections that have not authenticated do not reserve space for it.
        opened = Box::pin(ClientSession::open(services, authenticated, client, permit, connection.clone())) => opened,
        () = draining.cancelled() => Err(Rejected::silent(Close::Draining(0))),
    };
    opened.map(Box::new).map_err(|rejected| (rejected, connection.outbox.take_rest()))
}
