//! From an HTTP request to a WebSocket, or to an answer that says what would be right.

use super::{
    Door,
    handshake::{self, Unfit},
    refusal::seen_off,
};
use crate::{
    http,
    limits::Unauthenticated,
    session::{Client, Rejected},
    socket::{self, Peer, Socket, Stream},
};
use axum::{
    Extension, Router,
    body::Body,
    extract::State,
    http::{HeaderValue, Request, StatusCode, header},
    response::Response,
    routing::any,
};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{io, net::SocketAddr, sync::Arc};
use switchyard_process::memory::MemoryShare;
use switchyard_protocol::{Close, ErrorCode, Refusal};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tower_service::Service;

/// Bytes read from a socket at once. Most frames of clients are small, and each connection keeps such a buffer.
const READ_BUFFER: usize = 2048;
/// Bytes that the library may keep of what it writes: a control frame.
const WRITE_BUFFER: usize = 127;
/// Bytes of the head of an upgrade; also what one costs while it lasts.
const HEAD: usize = 8192;

#[derive(Clone)]
struct Remote(SocketAddr, Arc<Unauthenticated>);

pub(super) fn router(door: Door) -> Router {
    let path = door.config.path.clone();
    Router::new().route(&path, any(upgrade)).fallback(elsewhere).with_state(door)
}

/// One request on a fresh connection; ends with the upgrade or with the answer.
pub(super) async fn serve(
    stream: Stream,
    router: Router,
    remote: SocketAddr,
    peer: Arc<Unauthenticated>,
) -> io::Result<()> {
    let service = hyper::service::service_fn(move |mut request: Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(Remote(remote, peer.clone()));
        let (mut router, peer) = (router.clone(), peer.clone());
        async move {
            let answered = router.call(request.map(Body::new)).await;
            match answered {
                Ok(response) => Ok(seen_off(&peer, response).await),
                Err(never) => Err::<Response, std::convert::Infallible>(never),
            }
        }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .max_buf_size(HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await
        .map_err(io::Error::other)
}

async fn elsewhere(State(door): State<Door>) -> Response {
    let message = format!("nothing is here; the WebSocket is at {}", door.config.path);
    http::refuse(&Refusal::new(ErrorCode::NotFound, message))
}

async fn upgrade(
    State(door): State<Door>,
    Extension(Remote(remote, unauthenticated)): Extension<Remote>,
    mut request: Request<Body>,
) -> Response {
    let response = match handshake::accept(&request) {
        Ok(response) => response,
        Err(why) => return unfit(&why),
    };
    let Some(upgraded) = request.extensions_mut().remove::<OnUpgrade>() else {
        return unfit(&Unfit::Headers("this connection cannot be upgraded"));
    };
    let headers = request.headers();
    if let Some(refusal) = unauthenticated.refusal() {
        return http::refuse(&refusal);
    }
    let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok()).map(str::to_owned);
    let rejected = forbidden_origin(&door, origin.as_deref());
    let hub = &door.services.hub;
    let presented = match http::presented(headers) {
        Ok(None) => None,
        Ok(Some(key)) => {
            let admitted = async {
                let key = door.services.keys.load().check(key)?;
                unauthenticated.authenticated();
                // Nothing is asked of the store for a page that is turned away.
                if rejected.is_some() {
                    return Ok(None);
                }
                let permit = hub.acquire_connection_slot(&key).await?;
                Ok(Some((key, permit)))
            };
            match admitted.await {
                Ok(presented) => presented,
                Err(refusal) => return http::refuse(&refusal),
            }
        }
        Err(refusal) => return http::refuse(&refusal),
    };
    let client = Client { remote, origin, since: tokio::time::Instant::now() };
    let peer = Peer { client, presented, rejected, unauthenticated: unauthenticated.clone() };
    let Door { services, draining, tasks, config, opening } = door;
    let serving = tasks.clone();
    // Counted, so that draining waits for it.
    opening.run(tasks.track_future(async move {
        let greeted = async {
            let socket = open(
                upgraded.await.map_err(io::Error::other)?,
                config.frame,
                services.hub.memory.unauthenticated(),
            )
            .await?;
            Ok::<_, io::Error>(socket::greet(Box::new(socket), peer, services, draining).await)
        };
        match unauthenticated.run(greeted).await {
            Some(Ok(None)) => {}
            Some(Ok(Some(welcome))) => drop(serving.spawn(welcome.serve())),
            Some(Err(error)) => tracing::debug!(%remote, %error, "an upgrade was not finished"),
            None => tracing::debug!(%remote, "one that did not connect made room for another"),
        }
    }));
    response
}

/// The WebSocket on the very stream that was accepted, so that others can write to it.
async fn open(upgraded: Upgraded, frame: usize, strangers: &Arc<MemoryShare>) -> io::Result<Socket> {
    let parts = upgraded
        .downcast::<TokioIo<Stream>>()
        .map_err(|_| io::Error::other("it is of another connection"))?;
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        // What it writes by itself is thrown away, frame by frame.
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BUFFER)
        .max_frame_size(Some(frame))
        .max_message_size(Some(frame));
    let (stream, read) = (parts.io.into_inner().only_read(strangers), parts.read_buf.to_vec());
    Ok(Socket::from_partially_read(stream, read, Role::Server, Some(config)).await)
}

/// An answer to a request that cannot become a WebSocket, which says what would.
fn unfit(why: &Unfit) -> Response {
    let code = match why {
        Unfit::Method(_) => ErrorCode::MethodNotAllowed,
        _ => ErrorCode::InvalidRequest,
    };
    let message = format!("this is a WebSocket, upgrade with GET: {why}");
    let mut response = http::refuse(&Refusal::new(code, message));
    let headers = response.headers_mut();
    match why {
        Unfit::Method(_) => {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET"));
        }
        Unfit::Version => {
            headers.insert(header::SEC_WEBSOCKET_VERSION, handshake::VERSION);
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
        }
        Unfit::Http | Unfit::Headers(_) => {}
    }
    response
}

/// Browsers do not show a page the answer to an upgrade, but they do show a close code.
fn forbidden_origin(door: &Door, origin: Option<&str>) -> Option<Rejected> {
    let (origin, allowed) = (origin?, door.config.origins.as_ref()?);
    if allowed.iter().any(|allowed| allowed.is(origin)) {
        return None;
    }
    let message = format!("pages from {} may not connect here", origin.escape_debug());
    Some(Rejected::new(None, &Refusal::new(ErrorCode::Forbidden, message), Close::Forbidden))
}
