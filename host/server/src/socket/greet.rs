//! From a WebSocket to a session: who it is, and whether it is let in.

use super::{
    Socket, Welcome,
    ending::{self, LINGER, violation},
    note,
};
use crate::{
    hub::{Connection, Permit},
    key::Key,
    limits::Unauthenticated,
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

/// A peer whose upgrade was good.
pub(crate) struct Peer {
    pub client: Client,
    /// The key that came with the upgrade.
    pub presented: Option<(Arc<Key>, Permit)>,
    /// Why it is to be turned away with a close code that a browser can see.
    pub rejected: Option<Rejected>,
    pub unauthenticated: Arc<Unauthenticated>,
}

/// Awaits the first frame; `None`: the peer was turned away. `draining` ends that; later, connections are closed through their
/// outbox.
pub(crate) async fn greet(
    mut socket: Box<Socket>,
    peer: Peer,
    services: Services,
    draining: CancellationToken,
) -> Option<Welcome> {
    let Peer { client, presented, rejected, unauthenticated } = peer;
    let (hub, heartbeat) = (services.hub.clone(), services.config.heartbeat);
    let wire = socket.get_ref().wire().clone();
    let outbox = Outbox::new(services.config.outbox, wire.clone(), hub.memory.unauthenticated());
    let first = match rejected {
        Some(rejected) => First::Rejected(rejected),
        None => tokio::select! {
            biased;
            // Nobody closes it yet, so the pipe is broken.
            _ = poll_fn(|cx| outbox.poll_send(cx)) => First::Gone,
            first = first(&mut socket, &outbox, services.config.authenticate) => first,
            () = draining.cancelled() => First::Rejected(Rejected::silent(Close::Draining(0))),
        },
    };
    let mut left = vec![];
    let close = match first {
        First::Frame(text) => {
            match enter(services, &text, client, presented, &unauthenticated, outbox, &draining).await {
                Ok(session) => {
                    socket.get_mut().move_to(&session.connection().share);
                    return Some(Welcome { socket, session, heartbeat, hub });
                }
                Err((rejected, rest)) => {
                    left.push(rest);
                    Err(rejected)
                }
            }
        }
        First::Rejected(rejected) => {
            left.push(outbox.rest());
            Err(rejected)
        }
        First::Closed(code) => {
            left.push(outbox.rest());
            Ok(code)
        }
        First::Gone => return None,
    };
    drop(socket);
    let until = match close {
        Ok(code) => {
            left.push(Frame::close(code, "").into_bytes());
            Instant::now() + LINGER
        }
        Err(Rejected { code, frame, close }) => {
            if let Some(code) = code {
                hub.metrics.error(code);
            }
            if let Some(code @ (ErrorCode::InvalidKey | ErrorCode::ExpiredKey)) = code {
                unauthenticated.refused(code).await;
            }
            if !frame.is_empty() {
                left.push(Frame::from(frame).into_bytes());
            }
            hub.metrics.close(close);
            left.push(Frame::close(Some(close.code()), &close.reason()).into_bytes());
            ending::cut_at(close)
        }
    };
    ending::end(&wire, left, until).await;
    None
}

/// In which what has come is read.
const UNREAD: Duration = Duration::from_millis(100);

/// What came first.
enum First {
    Frame(Utf8Bytes),
    Rejected(Rejected),
    /// The peer closed, with this code.
    Closed(Option<u16>),
    Gone,
}

/// Awaits the first frame for as long as `patience`, and answers pings meanwhile.
async fn first(socket: &mut Socket, outbox: &Outbox, patience: Duration) -> First {
    let first = async {
        loop {
            let came = socket.next().await;
            note(socket, &came);
            match came {
                Some(Ok(Message::Text(text))) => return First::Frame(text),
                Some(Ok(Message::Binary(_))) => return First::Rejected(UnauthenticatedSession::binary()),
                Some(Ok(Message::Ping(payload))) => outbox.pong(Frame::pong(&payload)),
                Some(Ok(Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(frame))) => {
                    return First::Closed(frame.map(|frame| frame.code.into()));
                }
                Some(Err(error)) => {
                    let silent = |close| First::Rejected(Rejected::silent(close));
                    return violation(error).map_or(First::Gone, silent);
                }
                None => return First::Gone,
            }
        }
    };
    tokio::pin!(first);
    let mut came = timeout(patience, &mut first).await;
    if came.is_err() {
        // It may have come in time and wait to be read: the process may have been stopped.
        came = timeout(UNREAD, first).await;
    }
    came.unwrap_or_else(|_| First::Rejected(UnauthenticatedSession::timeout(patience.as_millis())))
}

/// What the first frame comes to. Where the client is turned away, with what the outbox leaves to write.
async fn enter(
    services: Services,
    text: &str,
    client: Client,
    presented: Option<(Arc<Key>, Permit)>,
    unauthenticated: &Unauthenticated,
    outbox: Outbox,
    draining: &CancellationToken,
) -> Result<Box<ClientSession>, (Rejected, Bytes)> {
    let (key, permit) = presented.unzip();
    let keys = services.keys.load_full();
    let authenticated = match UnauthenticatedSession::new(key).frame(text, &keys) {
        Ok(authenticated) => authenticated,
        Err(rejected) => return Err((rejected, outbox.rest())),
    };
    unauthenticated.authenticated();
    let connection = Connection::new(&authenticated.key, client.remote, outbox, &services.hub.memory);
    let opened = tokio::select! {
        // Boxed, so that nobody who says nothing yet has room for it.
        opened = Box::pin(ClientSession::open(services, authenticated, client, permit, connection.clone())) => opened,
        () = draining.cancelled() => Err(Rejected::silent(Close::Draining(0))),
    };
    opened.map(Box::new).map_err(|rejected| (rejected, connection.outbox.rest()))
}
