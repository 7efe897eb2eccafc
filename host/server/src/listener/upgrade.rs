//! Turns an HTTP request into a WebSocket, or answers what is wrong with it. Does not read the WebSocket.

use super::{
    ServerContext, client_address,
    drain::RequestState,
    handshake::{self, HandshakeError},
};
use crate::{
    http,
    limits::PendingConnection,
    session::{Client, Rejected},
    socket::{self, Peer, ServerSocket, Stream},
};
use axum::{
    Extension, Router,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, Request, StatusCode, header},
    response::Response,
    routing::any,
};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{io, sync::Arc};
use switchyard_process::memory::MemoryShare;
use switchyard_protocol::{Close, ErrorCode, Refusal};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tower_service::Service;

/// Size of the read buffer that each connection keeps, in bytes. Most frames of clients are small.
const READ_BUFFER_BYTES: usize = 2048;
/// How much the WebSocket library may buffer of what it writes, in bytes: one control frame.
const WRITE_BUFFER_BYTES: usize = 127;
/// Maximum size of the head of an upgrade request, in bytes. A handshake needs as much memory.
const MAX_HEAD_BYTES: usize = 8192;

/// The connection that a request came on.
#[derive(Clone)]
struct Accepted {
    unauthenticated: Arc<PendingConnection>,
}

pub(super) fn router(context: ServerContext) -> Router {
    let path = context.config.path.clone();
    Router::new().route(&path, any(upgrade)).fallback(not_found).with_state(context)
}

/// Serves one request on a new connection. Returns after the upgrade or the answer.
pub(super) async fn serve(
    stream: Stream,
    router: Router,
    unauthenticated: Arc<PendingConnection>,
    state: Arc<RequestState>,
) -> hyper::Result<()> {
    let service = hyper::service::service_fn(move |mut request: Request<hyper::body::Incoming>| {
        let (mut router, unauthenticated) = (router.clone(), unauthenticated.clone());
        let state = state.clone();
        state.begin_answer();
        client_address::read_headers(request.headers(), &unauthenticated);
        request.extensions_mut().insert(Accepted { unauthenticated: unauthenticated.clone() });
        async move {
            let response = match unauthenticated.refusal() {
                Some(refusal) => http::refuse(&refusal),
                None => router.call(request.map(Body::new)).await?,
            };
            let response = delay_refusal(&unauthenticated, response).await;
            // It is written in the same step of the task.
            state.end_answer();
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await
}

/// Delays the answer if the key was rejected, depending on how many were before, and has the connection
/// closed, so that each key costs a connection.
async fn delay_refusal(unauthenticated: &PendingConnection, mut response: Response) -> Response {
    let code = response.extensions().get::<ErrorCode>().copied();
    if let Some(code) = code.filter(|code| code.is_invalid_credential()) {
        unauthenticated.key_refused(code).await;
    }
    if matches!(
        response.status(),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS
    ) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn not_found(State(context): State<ServerContext>) -> Response {
    let message = format!("there is nothing at this path; the WebSocket is at {}", context.config.path);
    http::refuse(&Refusal::new(ErrorCode::NotFound, message))
}

async fn upgrade(
    State(context): State<ServerContext>,
    Extension(Accepted { unauthenticated }): Extension<Accepted>,
    mut request: Request<Body>,
) -> Response {
    let response = match handshake::accept(&request) {
        Ok(response) => response,
        Err(error) => return refuse_handshake(&error),
    };
    let Some(upgraded) = request.extensions_mut().remove::<OnUpgrade>() else {
        return refuse_handshake(&HandshakeError::Header("this connection cannot be upgraded"));
    };
    let headers = request.headers();
    if let Some(refusal) = unauthenticated.key_refusal() {
        return http::refuse(&refusal);
    }
    if let Err(refusal) = context.services.hub.denials.check_address(unauthenticated.address().ip()) {
        return http::refuse(&refusal);
    }
    let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok()).map(str::to_owned);
    let rejected = check_origin(&context, origin.as_deref());
    let hub = &context.services.hub;
    let presented = match http::presented_key(headers) {
        Ok(None) => None,
        Ok(Some(presented)) => {
            let admitted = async {
                let key =
                    context.services.authenticator().authenticate(&http::credentials(presented)).await?;
                unauthenticated.release_slot();
                hub.denials.check_principal(&key.principal)?;
                // A page that is rejected takes no connection slot from the store.
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
    let headers = listed_headers(headers, &hub.connect_headers());
    let remote = unauthenticated.address();
    let client = Client { remote, origin, headers, since: tokio::time::Instant::now() };
    let peer = Peer { client, presented, rejected, unauthenticated: unauthenticated.clone() };
    let ServerContext { services, draining, tasks, config, handshakes } = context;
    let serving = tasks.clone();
    // Tracked, so that draining waits for it.
    handshakes.run(tasks.track_future(async move {
        let authenticated = async {
            let socket = open_socket(
                upgraded.await.map_err(io::Error::other)?,
                config.frame,
                services.hub.memory.unauthenticated(),
            )
            .await?;
            Ok::<_, io::Error>(socket::authenticate(Box::new(socket), peer, services, draining).await)
        };
        match unauthenticated.run(authenticated).await {
            Some(Ok(None)) => {}
            Some(Ok(Some(socket))) => drop(serving.spawn(socket.serve())),
            Some(Err(error)) => tracing::debug!(%remote, %error, "upgrade failed"),
            None => tracing::debug!(%remote, "closed before it authenticated, to make room for another"),
        }
    }));
    response
}

/// The WebSocket on the stream that was accepted, whose transport others write to directly.
async fn open_socket(
    upgraded: Upgraded,
    max_frame: usize,
    unauthenticated: &Arc<MemoryShare>,
) -> io::Result<ServerSocket> {
    let parts = upgraded
        .downcast::<TokioIo<Stream>>()
        .map_err(|_| io::Error::other("the upgraded stream has another type than the accepted one"))?;
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        // What the library writes is discarded, so it need not be buffered.
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BUFFER_BYTES)
        .max_frame_size(Some(max_frame))
        .max_message_size(Some(max_frame));
    let (stream, read) = (parts.io.into_inner().into_read_only(unauthenticated), parts.read_buf.to_vec());
    Ok(ServerSocket::from_partially_read(stream, read, Role::Server, Some(config)).await)
}

fn refuse_handshake(error: &HandshakeError) -> Response {
    let code = match error {
        HandshakeError::Method(_) => ErrorCode::MethodNotAllowed,
        _ => ErrorCode::InvalidRequest,
    };
    let message = format!("this is a WebSocket endpoint: {error}");
    let mut response = http::refuse(&Refusal::new(code, message));
    let headers = response.headers_mut();
    match error {
        HandshakeError::Method(_) => {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET"));
        }
        HandshakeError::WebSocketVersion => {
            headers.insert(header::SEC_WEBSOCKET_VERSION, handshake::VERSION);
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
        }
        HandshakeError::HttpVersion(_) | HandshakeError::Header(_) => {}
    }
    response
}

/// The headers with these names, as far as they are text.
fn listed_headers(headers: &HeaderMap, names: &[String]) -> Vec<(String, String)> {
    let value = |name: &String| {
        let text = headers.get(name)?.to_str().ok()?;
        Some((name.clone(), text.to_owned()))
    };
    names.iter().filter_map(value).collect()
}

/// Why pages of this origin are rejected, after the upgrade: browsers show pages a close code, but not the
/// answer to an upgrade.
fn check_origin(context: &ServerContext, origin: Option<&str>) -> Option<Rejected> {
    let (origin, allowed) = (origin?, context.config.origins.as_ref()?);
    if allowed.iter().any(|allowed| allowed.matches(origin)) {
        return None;
    }
    let message = format!("pages from {} may not connect here", origin.escape_debug());
    Some(Rejected::new(None, &Refusal::new(ErrorCode::Forbidden, message), Close::Forbidden))
}
