//! Authentication of a new WebSocket: awaits `connect`, and opens the session of the client or rejects it.
//! Does not know which keys are valid.

use super::{
    AuthenticatedSocket, ServerSocket,
    closing::{self, CLOSE_TIMEOUT, close_for_error},
    count_read,
};
use crate::{
    hub::{Connection, Permit, close_for_drain},
    key::Key,
    limits::PendingConnection,
    outbox::Outbox,
    session::{Client, ClientSession, Rejected, Services, UnauthenticatedSession},
};
use bytes::Bytes;
use futures_util::StreamExt;
use std::{future::poll_fn, sync::Arc, time::Duration};
use switchyard_protocol::{Close, Frame};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::{self, Message, Utf8Bytes};
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
        Some(rejected) => Err(Unopened::Rejected(rejected)),
        None => tokio::select! {
            biased;
            // Nobody closes the outbox yet, so this ends only if the connection breaks.
            _ = poll_fn(|cx| outbox.poll_send(cx)) => Err(Unopened::Lost),
            first = await_first_frame(&mut socket, &outbox, services.config.authenticate) => first,
            () = draining.cancelled() => Err(Unopened::draining()),
        },
    };
    let (unopened, unsent) = match first {
        Ok(text) => {
            let opening = Opening { services, client, presented, unauthenticated: &unauthenticated };
            match opening.run(&text, &mut socket, outbox, &draining).await {
                Ok(session) => {
                    let counted = unauthenticated.take_counted();
                    return Some(AuthenticatedSocket { socket, session, heartbeat, hub, counted });
                }
                Err(failed) => failed,
            }
        }
        Err(unopened) => {
            // The principal gets the connection slot back before the peer has closed, as in `serve`.
            drop(presented);
            (unopened, outbox.take_rest())
        }
    };
    drop(socket);
    let mut rest = vec![unsent];
    let deadline = match unopened {
        Unopened::Lost => return None,
        Unopened::Closed(code) => {
            rest.push(Frame::close(code, "").into_bytes());
            Instant::now() + CLOSE_TIMEOUT
        }
        Unopened::Rejected(Rejected { code, frame, close }) => {
            if let Some(code) = code {
                hub.metrics.count_error(code);
            }
            if let Some(code) = code.filter(|code| code.is_invalid_credential()) {
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

/// Why a client gets no session.
enum Unopened {
    /// Its first frame is not a valid `connect` or was not received in time, or its connection is refused or
    /// closed.
    Rejected(Rejected),
    /// The peer closed, with this code.
    Closed(Option<u16>),
    /// The connection broke.
    Lost,
}

impl Unopened {
    fn silent(close: Close) -> Self {
        Self::Rejected(Rejected::silent(close))
    }

    fn draining() -> Self {
        Self::silent(close_for_drain())
    }

    /// What an item of the socket that is no message with data means, if it ends the connection. Answers pings.
    fn of(received: Option<tungstenite::Result<Message>>, outbox: &Outbox) -> Option<Self> {
        match received {
            Some(Ok(Message::Ping(payload))) => {
                outbox.pong(Frame::pong(&payload));
                None
            }
            Some(Ok(Message::Close(frame))) => Some(Self::Closed(frame.map(|frame| frame.code.into()))),
            Some(Ok(_)) => None,
            Some(Err(error)) => Some(close_for_error(error).map_or(Self::Lost, Self::silent)),
            None => Some(Self::Lost),
        }
    }
}

/// Awaits the first frame, and answers pings in the meantime.
async fn await_first_frame(
    socket: &mut ServerSocket,
    outbox: &Outbox,
    limit: Duration,
) -> Result<Utf8Bytes, Unopened> {
    let first = async {
        loop {
            let received = socket.next().await;
            count_read(socket, &received);
            match received {
                Some(Ok(Message::Text(text))) => return Ok(text),
                Some(Ok(Message::Binary(_))) => {
                    return Err(Unopened::Rejected(UnauthenticatedSession::binary()));
                }
                other => {
                    if let Some(unopened) = Unopened::of(other, outbox) {
                        return Err(unopened);
                    }
                }
            }
        }
    };
    tokio::pin!(first);
    let mut received = timeout(limit, &mut first).await;
    if received.is_err() {
        // If this process was stopped, the frame may have been received in time and still be unread.
        received = timeout(READ_DELAY, first).await;
    }
    let timed_out = || Unopened::Rejected(UnauthenticatedSession::timeout(limit.as_millis()));
    received.unwrap_or_else(|_| Err(timed_out()))
}

/// Waits for the end of a client whose `connect` is being answered. A message that it sends before that is kept
/// in the stream: the client did not wait for the answer, so its end is not awaited any more.
async fn await_end(socket: &mut ServerSocket, outbox: &Outbox) -> Unopened {
    loop {
        let received = socket.next().await;
        match received {
            Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                socket.get_mut().keep_early(message);
                return std::future::pending().await;
            }
            received => {
                count_read(socket, &received);
                if let Some(end) = Unopened::of(received, outbox) {
                    return end;
                }
            }
        }
    }
}

/// What is needed to open a session.
struct Opening<'a> {
    services: Services,
    client: Client,
    presented: Option<(Arc<Key>, Permit)>,
    unauthenticated: &'a PendingConnection,
}

impl Opening<'_> {
    /// Authenticates the client with its first frame, and opens its session, unless the connection ends or is
    /// closed meanwhile. The error contains what is left unsent in the outbox.
    async fn run(
        self,
        text: &str,
        socket: &mut ServerSocket,
        outbox: Outbox,
        draining: &CancellationToken,
    ) -> Result<Box<ClientSession>, (Unopened, Bytes)> {
        let Self { services, client, presented, unauthenticated } = self;
        // Others at its address may have failed since the upgrade.
        if presented.is_none()
            && let Some(refusal) = unauthenticated.key_refusal()
        {
            let rejected = Rejected::new(None, &refusal, Close::Overloaded);
            return Err((Unopened::Rejected(rejected), outbox.take_rest()));
        }
        let (key, permit) = presented.unzip();
        let authenticated = {
            // A token may have to wait until the keys of its issuer are fetched.
            let authenticating =
                Box::pin(UnauthenticatedSession::new(key).frame(text, services.authenticator()));
            tokio::select! {
                biased;
                authenticated = authenticating => authenticated.map_err(Unopened::Rejected),
                close = poll_fn(|cx| outbox.poll_send(cx)) => Err(close.map_or(Unopened::Lost, Unopened::silent)),
                () = draining.cancelled() => Err(Unopened::draining()),
            }
        };
        let authenticated = match authenticated {
            Ok(authenticated) => authenticated,
            Err(unopened) => return Err((unopened, outbox.take_rest())),
        };
        unauthenticated.release_slot();
        let (memory, budget) = (&services.hub.memory, services.budgets.of(&authenticated.key.principal));
        let connection = Connection::new(&authenticated.key, client.remote, outbox, memory, budget);
        socket.get_mut().charge_to(&connection.share);
        let outbox = &connection.outbox;
        // Plugins may take seconds. Without them, the client's end waits its turn behind the answer to `connect`,
        // like everything else that it sends.
        let asks_plugins = services.hub.has_connect_hook();
        // Whatever the session has taken is given back when its future is dropped.
        let opened = tokio::select! {
            biased;
            // Boxed: connections that have not authenticated do not reserve space for it.
            opened = Box::pin(ClientSession::open(services, authenticated, client, permit, connection.clone())) => {
                opened.map_err(Unopened::Rejected)
            }
            close = poll_fn(|cx| outbox.poll_send(cx)) => Err(close.map_or(Unopened::Lost, Unopened::silent)),
            end = await_end(socket, outbox), if asks_plugins => Err(end),
            () = draining.cancelled() => Err(Unopened::draining()),
        };
        match opened {
            Ok(session) => Ok(Box::new(session)),
            Err(unopened) => Err((unopened, connection.outbox.take_rest())),
        }
    }
}
