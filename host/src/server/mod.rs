//! Takes connections in: TLS, the HTTP upgrade within its time, the key that comes with it, and the way out when
//! the node drains.

mod opening;
mod tls;
mod upgrade;

pub use tls::{Certificate, Tls, TlsConfig};

use crate::{
    session::Services,
    socket::{Stream, Wire},
    unit,
};
use opening::Opening;
use serde::Deserialize;
use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};
use tokio::net::{TcpListener, TcpStream};
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
    pub path: String,
    /// Bytes of a frame, and of a message of several frames.
    #[serde(deserialize_with = "unit::size")]
    pub frame: usize,
    pub tls: Option<TlsConfig>,
    /// Pages that browsers may connect from; absent: any.
    pub origins: Option<Vec<String>>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: ([127, 0, 0, 1], 8080).into(),
            path: "/v2/realtime".into(),
            frame: 128 << 10,
            tls: None,
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
pub async fn run(
    config: ServerConfig,
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    services: Services,
    draining: CancellationToken,
) {
    let tasks = TaskTracker::new();
    let opening = Arc::new(Opening::start(&services.hub.vitals));
    let door = Door {
        services,
        config: Arc::new(config),
        draining: draining.clone(),
        tasks: tasks.clone(),
        opening: opening.clone(),
    };
    let router = upgrade::router(door);
    accept(listener, draining, &tasks, &opening, |tcp, remote| {
        let (router, tls) = (router.clone(), tls.clone());
        async move {
            let wire = match &tls {
                None => Wire::plain(tcp),
                Some(tls) => Wire::tls(tls.accept(tcp).await?),
            };
            upgrade::serve(Stream::new(Arc::new(wire)), router, remote).await
        }
    })
    .await;
    tasks.close();
    tasks.wait().await;
}

/// Accepts until `draining`; each connection's first exchange has [`UPGRADE`] to end.
async fn accept<F, Served>(
    listener: TcpListener,
    draining: CancellationToken,
    tasks: &TaskTracker,
    opening: &Opening,
    serve: F,
) where
    F: Fn(TcpStream, SocketAddr) -> Served,
    Served: Future<Output = std::io::Result<()>> + Send + 'static,
{
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = draining.cancelled() => return,
        };
        match accepted {
            Ok((tcp, remote)) => {
                tcp.set_nodelay(true).ok();
                let served = serve(tcp, remote);
                opening.run(tasks.track_future(async move {
                    match tokio::time::timeout(UPGRADE, served).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => tracing::debug!(%remote, %error, "no upgrade"),
                        Err(_) => tracing::debug!(%remote, "an upgrade took longer than 10 s"),
                    }
                }));
            }
            Err(error) => {
                // Out of files, most likely: those that wait are taken when others have ended.
                tracing::error!(%error, "cannot accept connections");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
