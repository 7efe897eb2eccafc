//! Takes connections in: TLS, the HTTP upgrade within its time, the key that comes with it, and the way out when
//! the node drains.

mod handshake;
mod opening;
mod origin;
mod refusal;
mod tls;
mod upgrade;

pub use tls::Tls;
pub(crate) use tls::{Certificate, TlsConfig};

use crate::{
    limits::{Limits, Unauthenticated},
    metrics::Limited,
    session::Services,
    socket::{self, Stream, Wire},
};
use opening::Opening;
use origin::Origin;
use serde::{Deserialize, Deserializer, de::Error};
use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};
use switchyard_process::unit;
use tokio::{
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A whole upgrade, TLS included.
const UPGRADE: Duration = Duration::from_secs(10);

/// `[server]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    #[serde(deserialize_with = "unit::address")]
    pub listen: SocketAddr,
    /// Where the WebSocket is.
    #[serde(deserialize_with = "path")]
    pub path: String,
    /// Bytes of a frame, and of a message of several frames.
    #[serde(deserialize_with = "unit::size")]
    pub frame: usize,
    pub tls: Option<TlsConfig>,
    /// How long a node that is told to stop serves on, while it says that it is not ready.
    #[serde(deserialize_with = "unit::duration")]
    pub drain_delay: Duration,
    /// Pages that browsers may connect from; absent: any.
    pub origins: Option<Vec<Origin>>,
}

/// A path that requests can have and that stands for itself alone.
fn path<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let path = String::deserialize(from)?;
    let is_letter = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()+,;=:@".contains(c);
    let is_part = |part: &str| {
        !part.is_empty()
            && ![".", ".."].contains(&part)
            && !part.starts_with(':')
            && part.chars().all(is_letter)
    };
    let parts = path.strip_prefix('/').map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    match parts.is_some_and(|parts| path == "/" || parts.split('/').all(is_part)) {
        true => Ok(path),
        false => Err(D::Error::custom(format!(
            "server.path '{path}' is no path such as /v2/realtime: a /, then parts of letters, digits and -._~ with a / between"
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

/// Everything that a connection needs from its server.
#[derive(Clone)]
struct Door {
    services: Services,
    config: Arc<ServerConfig>,
    draining: CancellationToken,
    /// The tasks of the connections.
    tasks: TaskTracker,
    opening: Arc<Opening>,
}

/// Serves WebSockets until `draining`, then returns when the last connection has ended.
pub(crate) async fn run(
    config: ServerConfig,
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    services: Services,
    limits: Arc<Limits>,
    draining: CancellationToken,
) {
    let tasks = limits.clients.clone();
    let opening = Arc::new(Opening::start(&services.hub.vitals));
    let door = Door {
        services,
        config: Arc::new(config),
        draining: draining.clone(),
        tasks: tasks.clone(),
        opening: opening.clone(),
    };
    let router = upgrade::router(door);
    accept(listener, draining, &limits, &opening, |tcp, remote, peer| {
        let (router, tls) = (router.clone(), tls.clone());
        async move {
            let wire = Arc::new(match &tls {
                None => Wire::plain(tcp),
                Some(tls) => Wire::tls(tls.accept(tcp).await?),
            });
            let served = upgrade::serve(Stream::new(wire.clone()), router, remote, peer).await;
            // Nobody else has it, so it was answered and not upgraded.
            if Arc::strong_count(&wire) == 1 {
                socket::hang_up(&wire).await;
            }
            served
        }
    })
    .await;
    tasks.close();
    tasks.wait().await;
}

/// Between two attempts when the system gives no more connections, and between two lines of the log that say so.
const PAUSE: Duration = Duration::from_millis(100);
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Accepts until `draining`; each connection's first exchange has [`UPGRADE`] to end, and no client who has not authenticated keeps
/// others out.
async fn accept<F, Served>(
    listener: TcpListener,
    draining: CancellationToken,
    limits: &Arc<Limits>,
    opening: &Opening,
    serve: F,
) where
    F: Fn(TcpStream, SocketAddr, Arc<Unauthenticated>) -> Served,
    Served: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let mut logged: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = draining.cancelled() => return,
        };
        match accepted {
            Ok((tcp, remote)) => {
                // On `[::]` who comes by IPv4 has an address that begins with `::ffff:`.
                let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
                let admitted = tokio::select! {
                    admitted = limits.admit(remote.ip()) => admitted,
                    () = draining.cancelled() => return,
                };
                // Closed at once: an answer would take longer, and more of what there is too little of.
                let Some(peer) = admitted else { continue };
                let peer = Arc::new(peer);
                tcp.set_nodelay(true).ok();
                let served = serve(tcp, remote, peer.clone());
                opening.run(limits.clients.track_future(async move {
                    match peer.run(tokio::time::timeout(UPGRADE, served)).await {
                        Some(Ok(Ok(()))) => {}
                        Some(Ok(Err(error))) => tracing::debug!(%remote, %error, "no upgrade"),
                        Some(Err(_)) => tracing::debug!(%remote, "an upgrade took longer than 10 s"),
                        None => tracing::debug!(%remote, "one that said nothing made room for another"),
                    }
                }));
            }
            Err(error) => {
                // Out of files, most likely: those that wait are taken when others have ended.
                limits.limited(Limited::Files);
                if logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL) {
                    logged = Some(Instant::now());
                    tracing::error!(%error, "cannot accept connections");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
