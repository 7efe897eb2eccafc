//! From an HTTP request to a WebSocket, or to an answer that says what would be right.

use super::{Door, stream::Counted};
use crate::{
    close::Close,
    protocol::{Code, Refusal, http},
    session::{Client, Rejected},
    socket::{self, Peer, Wire},
};
use axum::{
    Extension, Router,
    body::Body,
    extract::{
        State,
        ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    http::{HeaderMap, Request, StatusCode, header},
    response::{IntoResponse, Response},
    routing::any,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{io, net::SocketAddr, sync::Arc};
use tower_service::Service;

/// Bytes read from a socket at once. Most frames of clients are small, and each connection keeps such a buffer.
const READ_BUFFER: usize = 2048;
/// Bytes that gather before a write when many messages wait; a connection that was busy keeps as many.
const WRITE_BUFFER: usize = 16 << 10;
/// Bytes of the head of an upgrade; also what one costs while it lasts.
const HEAD: usize = 8192;

#[derive(Clone)]
struct Remote {
    address: SocketAddr,
    wire: Arc<Wire>,
}

pub fn router(door: Door) -> Router {
    let path = door.config.path.clone();
    Router::new().route(&path, any(upgrade)).fallback(elsewhere).with_state(door)
}

/// One request on a fresh connection; ends with the upgrade or with the answer.
pub async fn serve(stream: Counted, router: Router, address: SocketAddr, wire: Arc<Wire>) -> io::Result<()> {
    let remote = Remote { address, wire };
    let service = hyper::service::service_fn(move |mut request: Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(remote.clone());
        router.clone().call(request.map(Body::new))
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
    http::refuse(&Refusal::new(Code::NotFound, message))
}

async fn upgrade(
    State(door): State<Door>,
    Extension(remote): Extension<Remote>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(rejection) => {
            let status = rejection.status();
            let code = match status {
                StatusCode::METHOD_NOT_ALLOWED => Code::MethodNotAllowed,
                _ => Code::InvalidRequest,
            };
            let message = format!("this is a WebSocket, upgrade with GET: {}", rejection.body_text());
            return (status, http::refuse(&Refusal::new(code, message))).into_response();
        }
    };
    let hub = &door.services.hub;
    let presented = match http::presented(&headers) {
        Ok(None) => None,
        Ok(Some(key)) => {
            let admitted = async {
                let key = door.services.keys.load().check(key)?;
                let permit = hub.permit(&key, false).await?;
                Ok((key, permit))
            };
            match admitted.await {
                Ok(presented) => Some(presented),
                Err(refusal) => return http::refuse(&refusal),
            }
        }
        Err(refusal) => return http::refuse(&refusal),
    };
    let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok()).map(str::to_owned);
    let rejected = forbidden_origin(&door, origin.as_deref());
    let client = Client { remote: remote.address, origin };
    let peer = Peer { client, wire: remote.wire, presented, rejected };
    let frame = door.config.frame;
    upgrade
        .protocols(["switchyard.v1"])
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_frame_size(frame)
        .max_message_size(frame)
        .on_failed_upgrade(|error| tracing::debug!(%error, "an upgrade was not finished"))
        .on_upgrade(move |socket| {
            let Door { services, draining, tasks, .. } = door;
            // Counted, so that draining waits for it.
            tasks.track_future(socket::serve(socket, peer, services, draining))
        })
}

/// Browsers do not show a page the answer to an upgrade, but they do show a close code.
fn forbidden_origin(door: &Door, origin: Option<&str>) -> Option<Rejected> {
    let (origin, allowed) = (origin?, door.config.origins.as_ref()?);
    if allowed.iter().any(|allowed| allowed == origin) {
        return None;
    }
    let message = format!("pages from {} may not connect here", origin.escape_debug());
    Some(Rejected::new(None, &Refusal::new(Code::Forbidden, message), Close::Forbidden))
}
