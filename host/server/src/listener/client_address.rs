//! Finds the address of a client behind a trusted proxy: before the TLS handshake, or in the head of a request.
//! Does not decide which peers are believed, and applies no limits.

use super::{
    forwarded,
    proxy_protocol::{self, InvalidHeader},
};
use crate::limits::{PendingConnection, ProxyHeader};
use axum::http::HeaderMap;
use std::{io, net::SocketAddr, sync::Mutex, time::Duration};
use switchyard_process::lock::LockExt;
use tokio::{net::TcpStream, time::Instant};

/// Minimum time between two log lines about proxies that do not name their client.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Logs why trusted proxies are not understood.
#[derive(Default)]
pub(super) struct ProxyErrorLog {
    last: Mutex<Option<Instant>>,
}

impl ProxyErrorLog {
    fn log(&self, peer: SocketAddr, error: &InvalidHeader) {
        let mut last = self.last.locked();
        if last.is_none_or(|last| last.elapsed() >= LOG_INTERVAL) {
            *last = Some(Instant::now());
            tracing::warn!(%peer, %error, "a trusted proxy did not name its client, so the connection was closed");
        }
    }
}

/// Reads the header of the PROXY protocol, if the peer is a trusted proxy that has to send one. Nothing else is
/// read. `Err`: close the connection.
pub(super) async fn read_proxy_header(
    tcp: &mut TcpStream,
    connection: &PendingConnection,
    errors: &ProxyErrorLog,
) -> io::Result<()> {
    if connection.header() != Some(ProxyHeader::Proxy) {
        return Ok(());
    }
    match proxy_protocol::read(tcp).await {
        Ok(client) => {
            connection.identify(client.unwrap_or(connection.peer()));
            Ok(())
        }
        Err(error) => {
            if !matches!(error, InvalidHeader::Closed | InvalidHeader::Io(_)) {
                errors.log(connection.peer(), &error);
            }
            Err(io::Error::other(error))
        }
    }
}

/// Reads the headers of a request, if the peer is a trusted proxy that names its client in them. Each request of
/// a connection may come from another client.
pub(super) fn read_headers(headers: &HeaderMap, connection: &PendingConnection) {
    if let Some(header @ (ProxyHeader::XForwardedFor | ProxyHeader::Forwarded)) = connection.header() {
        let is_trusted = |address| connection.is_trusted(address);
        connection.identify(forwarded::client(header, headers, connection.peer(), is_trusted));
    }
}
