//! The listener for clients: accepts connections, performs TLS and the WebSocket handshake within a time
//! limit, and stops when the node drains. Does not know what happens on an open WebSocket: `socket` does.

mod client_address;
mod drain;
mod forwarded;
mod handshake;
mod handshake_pool;
mod origin;
mod proxy_protocol;
mod tls;
mod upgrade;

pub use tls::Tls;
pub(crate) use tls::{Certificate, TlsConfig};

use crate::{
    http::{SchemeHint, is_not_http},
    limits::{ClientLimits, PendingConnection},
    metrics::LimitKind,
    session::Services,
    socket::{self, Stream, Transport},
};
use client_address::ProxyErrorLog;
use drain::{RequestState, unless_draining};
use handshake_pool::HandshakePool;
use origin::AllowedOrigin;
use serde::{Deserialize, Deserializer, de::Error};
use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};
use switchyard_process::unit;
use tokio::{
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long TLS and the upgrade may take together.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait after the system could not accept a connection.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);
/// How often such an error is logged, at most.
const ACCEPT_ERROR_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Logged when a client uses `ws://` and the listener has TLS.
const PLAIN_CLIENT: &str =
    "a client did not use TLS: server.tls is set, so clients must use wss://, not ws://";
/// Logged when a client uses `wss://` and the listener has no TLS.
const TLS_CLIENT: &str = "a client sent something other than HTTP, probably TLS: server.tls is not set, so clients \
                          must use ws://, not wss://";

/// `[server]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// The address to listen on.
    #[serde(deserialize_with = "unit::address")]
    pub listen: SocketAddr,
    /// The path of the WebSocket endpoint.
    #[serde(deserialize_with = "deserialize_path")]
    pub path: String,
    /// Maximum size of a frame, and of a message of several frames, in bytes.
    #[serde(deserialize_with = "unit::size")]
    pub frame: usize,
    /// The certificate; without one, the listener uses plain TCP.
    pub tls: Option<TlsConfig>,
    /// How long a node that was told to stop keeps serving while it reports that it is not ready.
    #[serde(deserialize_with = "unit::duration")]
    pub drain_delay: Duration,
    /// The origins of pages that may connect; `None` allows any.
    pub origins: Option<Vec<AllowedOrigin>>,
}

/// A path without wildcards, parameters or escapes, which requests match exactly.
fn deserialize_path<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let path = String::deserialize(from)?;
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()+,;=:@".contains(c);
    let is_segment = |segment: &str| {
        !segment.is_empty()
            && ![".", ".."].contains(&segment)
            && !segment.starts_with(':')
            && segment.chars().all(is_allowed)
    };
    let segments = path.strip_prefix('/').map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    match segments.is_some_and(|segments| path == "/" || segments.split('/').all(is_segment)) {
        true => Ok(path),
        false => Err(D::Error::custom(format!(
            "server.path: invalid path '{path}'; expected something like \"/v2/realtime\": a '/', then segments separated by '/'. A \
             segment consists of letters, digits and -._~!$&'()+,;=:@, does not start with ':', and is not '.' or '..'"
        ))),
    }
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: ([127, 0, 0, 1], 8080).into(),
            path: "/v2/realtime".into(),
            frame: 128 << 10,
            tls: None,
            drain_delay: Duration::ZERO,
            origins: None,
        }
    }
}

/// What a handshake needs from the listener.
#[derive(Clone)]
struct ServerContext {
    services: Services,
    config: Arc<ServerConfig>,
    draining: CancellationToken,
    /// The tasks of all connections.
    tasks: TaskTracker,
    handshakes: Arc<HandshakePool>,
}

/// Serves clients until `draining`, and returns when the last connection has ended.
pub(crate) async fn run(
    config: ServerConfig,
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    services: Services,
    limits: Arc<ClientLimits>,
    draining: CancellationToken,
) {
    let tasks = limits.clients.clone();
    let handshakes = Arc::new(HandshakePool::start(&services.hub.vitals));
    let context = ServerContext {
        services,
        config: Arc::new(config),
        draining: draining.clone(),
        tasks: tasks.clone(),
        handshakes: handshakes.clone(),
    };
    let router = upgrade::router(context);
    let scheme_hint = Arc::new(SchemeHint::new(if tls.is_some() { PLAIN_CLIENT } else { TLS_CLIENT }));
    let proxy_errors = Arc::new(ProxyErrorLog::default());
    let can_answer = tls.is_none();
    accept(listener, draining.clone(), &limits, can_answer, &handshakes, |mut tcp, unauthenticated| {
        let (router, tls, draining) = (router.clone(), tls.clone(), draining.clone());
        let (scheme_hint, proxy_errors) = (scheme_hint.clone(), proxy_errors.clone());
        async move {
            let request = Arc::new(RequestState::default());
            let named = client_address::read_proxy_header(&mut tcp, &unauthenticated, &proxy_errors);
            unless_draining(&draining, &request, named).await??;
            // Answering would take a TLS handshake, which costs this node more than the client.
            if let Some(refusal) = unauthenticated.refusal().filter(|_| tls.is_some()) {
                return Err(io::Error::other(refusal.message));
            }
            let transport = Arc::new(match &tls {
                None => Transport::plain(tcp),
                Some(tls) => {
                    let accepted = unless_draining(&draining, &request, tls.accept(tcp)).await?;
                    if accepted.as_ref().is_err_and(tls::is_not_tls) {
                        scheme_hint.log(unauthenticated.address());
                    }
                    Transport::tls(accepted?)
                }
            });
            let stream = Stream::new(transport.clone());
            let served = upgrade::serve(stream, router, unauthenticated.clone(), request.clone());
            let served = unless_draining(&draining, &request, served).await;
            // An upgraded connection would hold another reference: this one got a plain answer. A client that has
            // sent no request does not delay a node that drains.
            if Arc::strong_count(&transport) == 1 && (served.is_ok() || request.has_answered()) {
                socket::close_gracefully(&transport).await;
            }
            let served = served?;
            if tls.is_none() && served.as_ref().is_err_and(is_not_http) {
                scheme_hint.log(unauthenticated.address());
            }
            served.map_err(io::Error::other)
        }
    })
    .await;
    tasks.close();
    tasks.wait().await;
}

/// Accepts connections until `draining`. The handshake of each has [`HANDSHAKE_TIMEOUT`] to end, and clients
/// that have not authenticated cannot keep others out. `can_answer` is that of [`ClientLimits::admit`].
async fn accept<F, Served>(
    listener: TcpListener,
    draining: CancellationToken,
    limits: &Arc<ClientLimits>,
    can_answer: bool,
    handshakes: &HandshakePool,
    serve: F,
) where
    F: Fn(TcpStream, Arc<PendingConnection>) -> Served,
    Served: Future<Output = io::Result<()>> + Send + 'static,
{
    let mut last_logged: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = draining.cancelled() => return,
        };
        match accepted {
            Ok((tcp, peer)) => {
                // A listener on `[::]` sees IPv4 clients under addresses that begin with `::ffff:`.
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                let admitted = tokio::select! {
                    admitted = limits.admit(peer, can_answer) => admitted,
                    () = draining.cancelled() => return,
                };
                // Closed at once: an answer would occupy the scarce file for longer.
                let Some(unauthenticated) = admitted else { continue };
                let unauthenticated = Arc::new(unauthenticated);
                tcp.set_nodelay(true).ok();
                let served = serve(tcp, unauthenticated.clone());
                handshakes.run(limits.clients.track_future(async move {
                    let ended = unauthenticated.run(tokio::time::timeout(HANDSHAKE_TIMEOUT, served)).await;
                    let remote = unauthenticated.address();
                    match ended {
                        Some(Ok(Ok(()))) => {}
                        Some(Ok(Err(error))) => tracing::debug!(%remote, %error, "handshake failed"),
                        Some(Err(_)) => {
                            tracing::debug!(%remote, "handshake took longer than {HANDSHAKE_TIMEOUT:?}");
                        }
                        None => {
                            tracing::debug!(%remote, "closed during the handshake, to make room for another")
                        }
                    }
                }));
            }
            Err(error) => {
                // Most likely no more files can be opened. Clients wait in the backlog until other
                // connections end.
                limits.count_limited(LimitKind::Files);
                if last_logged.is_none_or(|logged| logged.elapsed() >= ACCEPT_ERROR_LOG_INTERVAL) {
                    last_logged = Some(Instant::now());
                    tracing::error!(%error, "cannot accept connections");
                }
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_matched_exactly_or_invalid() {
        let parse = |path: &str| {
            toml::from_str::<ServerConfig>(&format!("path = \"{path}\"")).map(|config| config.path)
        };
        for path in ["/", "/v2/realtime", "/v2/realtime/", "/a-b._~", "/!$&'()+,;=:@", "/a:b"] {
            assert_eq!(parse(path).unwrap(), path);
        }
        for path in
            ["", "v2", "//", "/a//b", "/.", "/a/..", "/:a", "/{a}", "/*", "/a b", "/%20", "/a?b", "/a#b"]
        {
            let error = parse(path).unwrap_err().message().to_owned();
            assert!(
                error.starts_with(&format!("server.path: invalid path '{path}'; expected something like")),
                "{error}"
            );
        }
    }
}
