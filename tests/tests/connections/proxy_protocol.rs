//! Proxies that name their clients with PROXY protocol v2, before TLS and HTTP.

use super::{
    proxies::remotes,
    unauthenticated::{from, is_ended, limited},
};
use crate::keys::tls::trusting;
use serde_json::json;
use std::time::Duration;
use switchyard_tests::{Certificate, Client, EVENT_TIMEOUT, KEY, Process, Raw, Server};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::client_async_tls_with_config;

const LIMITS: &str = "[limits]\ntrusted = [\"127.0.0.9\"]\nheader = \"proxy\"\n";

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const PROXY: u8 = 0x21;
const LOCAL: u8 = 0x20;
const UNSPEC: u8 = 0;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// A header with these addresses and TLVs.
fn header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    [SIGNATURE, &[command, family], &(body.len() as u16).to_be_bytes(), body].concat()
}

/// A header that names 203.0.113.`n`, port 4711, with a TLV.
fn named(n: u8) -> Vec<u8> {
    let addresses = [203, 0, 113, n, 192, 0, 2, 1, 0x12, 0x67, 0, 80];
    header(PROXY, TCP4, &[&addresses[..], &[0x02, 0, 3, b'a', b'.', b'b']].concat())
}

/// A header that names an IPv6 client, port 4711.
fn named_ipv6(address: &str) -> Vec<u8> {
    let source: std::net::Ipv6Addr = address.parse().expect("an address");
    header(PROXY, TCP6, &[&source.octets()[..], &[0; 16], &[0x12, 0x67, 0, 80]].concat())
}

/// A connection from the proxy that begins with these bytes, sent one by one.
async fn proxied(server: &Server, header: &[u8]) -> TcpStream {
    let mut tcp = from(9, server.address()).await;
    tcp.set_nodelay(true).expect("a socket");
    for byte in header {
        tcp.write_all(&[*byte]).await.expect("an open connection");
        tokio::task::yield_now().await;
    }
    tcp
}

async fn upgrade(tcp: TcpStream) -> (String, Raw) {
    Raw { tcp }.upgrade_to("v2/realtime", "").await
}

#[tokio::test]
async fn the_header_names_the_client_over_plain_tcp() {
    let server = Server::start(LIMITS).await;
    let (head, raw) = upgrade(proxied(&server, &named(9)).await).await;
    assert!(head.starts_with("http/1.1 101"), "{head}");
    let _ipv4 = raw.greeted().await;
    let (head, raw) = upgrade(proxied(&server, &named_ipv6("2001:db8::1")).await).await;
    assert!(head.starts_with("http/1.1 101"), "{head}");
    let _ipv6 = raw.greeted().await;
    assert_eq!(remotes(&server).await, ["203.0.113.9:4711", "[2001:db8::1]:4711"]);
}

#[tokio::test]
async fn the_header_comes_before_tls_and_a_client_beyond_its_limit_gets_no_handshake() {
    let folder = tempfile::tempdir().expect("a folder");
    let certificate = Certificate::generate();
    certificate.write_to(folder.path());
    let text = format!(
        "{}\n[server]\n{}\n{LIMITS}[limits.address]\nconnections = 1\n",
        Server::keys(),
        Certificate::CONFIG
    );
    let server = Server::start_in(folder, &text).await;
    let tcp = proxied(&server, &named(9)).await;
    let url = server.url.replace("127.0.0.1", "localhost");
    let connector = Some(trusting(&certificate.certificate));
    let upgraded = client_async_tls_with_config(url, tcp, None, connector);
    let (socket, _) = timeout(EVENT_TIMEOUT, upgraded).await.expect("in time").expect("an upgrade");
    let mut client = Client::over(socket).authenticate(json!({"auth": {"apiKey": KEY}})).await;
    assert_eq!(remotes(&server).await, ["203.0.113.9:4711"]);
    let mut refused = proxied(&server, &named(9)).await;
    assert!(is_ended(&mut refused).await, "before it says anything");
    assert_eq!(limited(&server.admin, "address_connections").await, 1);
    client.round_trip().await;
}

#[tokio::test]
async fn a_health_check_and_an_unknown_client_are_served_as_the_proxy() {
    let server = Server::start(&format!("{LIMITS}[limits.address]\nconnections = 1\n")).await;
    let mut held = vec![];
    for header in [
        header(LOCAL, UNSPEC, &[]),
        header(LOCAL, TCP4, &[0; 12]),
        header(PROXY, UNSPEC, &[]),
        header(PROXY, 0x31, &[0; 216]),
    ] {
        let (head, raw) = upgrade(proxied(&server, &header).await).await;
        assert!(head.starts_with("http/1.1 101"), "{header:?}: {head}");
        held.push(raw.greeted().await);
    }
    let remotes = remotes(&server).await;
    assert!(
        remotes.len() == 4 && remotes.iter().all(|remote| remote.starts_with("127.0.0.9:")),
        "{remotes:?}"
    );
}

#[tokio::test]
async fn a_trusted_proxy_without_a_valid_header_is_closed_and_an_operator_sees_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let ports = "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n";
    let text = format!("{ports}{}{LIMITS}", Server::keys());
    std::fs::write(folder.path().join("s.toml"), text).expect("a file");
    let process = Process::serve(folder.path(), &["--config", "s.toml"], &[("RUST_LOG", "info")]).await;
    let mut first = from(9, process.address()).await;
    first.write_all(b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 80\r\nGET / HTTP/1.1\r\n").await.expect("bytes");
    assert!(is_ended(&mut first).await, "version 1 is text");
    for bytes in [
        &b"GET /v2/realtime HTTP/1.1\r\nHost: here\r\n\r\n"[..],
        &header(PROXY, TCP4, &[0; 600]),
        &header(PROXY, TCP4, &[0; 11]),
        &header(0x11, TCP4, &[0; 12]),
    ] {
        let mut tcp = from(9, process.address()).await;
        tcp.write_all(bytes).await.expect("an open connection");
        assert!(is_ended(&mut tcp).await, "{bytes:?}");
    }
    let mut truncated = from(9, process.address()).await;
    truncated.write_all(&named(9)[..20]).await.expect("an open connection");
    truncated.shutdown().await.expect("an open connection");
    assert!(is_ended(&mut truncated).await);
    // A load balancer that checks whether the port is open is not an error.
    drop(from(9, process.address()).await);
    let log = std::fs::read_to_string(folder.path().join("stderr")).expect("a log");
    let warnings: Vec<_> = log.lines().filter(|line| line.contains("did not name its client")).collect();
    assert_eq!(warnings.len(), 1, "{log}");
    assert!(warnings[0].contains("v1") && warnings[0].contains("127.0.0.9"), "{log}");
}

#[tokio::test]
async fn a_peer_that_is_not_trusted_is_read_as_a_client() {
    let server = Server::start(LIMITS).await;
    let mut forged = from(2, server.address()).await;
    forged.write_all(&named(9)).await.expect("an open connection");
    let mut answer = vec![];
    timeout(EVENT_TIMEOUT, forged.read_to_end(&mut answer)).await.expect("an end in time").ok();
    assert!(!answer.starts_with(b"HTTP/1.1 101"), "{answer:?}");
    // It needs no header.
    let (head, raw) = upgrade(from(2, server.address()).await).await;
    assert!(head.starts_with("http/1.1 101"), "{head}");
    let _direct = raw.greeted().await;
    let remotes = remotes(&server).await;
    assert!(remotes.len() == 1 && remotes[0].starts_with("127.0.0.2:"), "{remotes:?}");
}

#[tokio::test]
async fn a_proxy_that_never_finishes_its_header_is_closed_in_time() {
    let server = Server::start(LIMITS).await;
    let mut tcp = from(9, server.address()).await;
    tcp.write_all(&named(9)[..14]).await.expect("an open connection");
    let ended = timeout(Duration::from_secs(20), tcp.read(&mut [0; 1])).await.expect("an end in time");
    assert!(!matches!(ended, Ok(1..)));
}
