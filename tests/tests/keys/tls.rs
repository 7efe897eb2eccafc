//! `wss://` with the operator's own certificate.

use serde_json::json;
use std::{path::Path, sync::Arc, time::Duration};
use switchyard_tests::{Client, EVENT_TIMEOUT, KEY, Server, eventually};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio_tungstenite::{Connector, connect_async_tls_with_config};

/// A certificate for `localhost` and its key, as PEM.
pub fn certificate() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    (made.cert.pem(), made.signing_key.serialize_pem())
}

pub fn write(folder: &Path, (certificate, key): &(String, String)) {
    std::fs::write(folder.join("cert.pem"), certificate).expect("a file");
    std::fs::write(folder.join("key.pem"), key).expect("a file");
}

fn trusting(certificate: &str) -> Connector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM")).expect("a certificate");
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Connector::Rustls(Arc::new(config))
}

/// A client that trusts only this certificate.
async fn connect(server: &Server, certificate: &str) -> Option<Client> {
    connect_to(&server.url, certificate, KEY).await
}

pub async fn connect_to(url: &str, certificate: &str, key: &str) -> Option<Client> {
    let url = url.replace("127.0.0.1", "localhost");
    let upgrade = connect_async_tls_with_config(url, None, false, Some(trusting(certificate)));
    let (socket, _) = tokio::time::timeout(EVENT_TIMEOUT, upgrade).await.expect("an answer in time").ok()?;
    let client = Client { socket, connected: json!(null) };
    Some(client.greet(json!({"auth": {"apiKey": key}})).await)
}

#[tokio::test]
async fn wss_reloads_its_certificate_and_drops_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let (first, second) = (certificate(), certificate());
    write(folder.path(), &first);
    let configuration =
        format!("{}\n[server]\ntls = {{ certificate = \"cert.pem\", key = \"key.pem\" }}", Server::keys());
    let server = Server::start_in(folder, &configuration).await;
    assert!(server.url.starts_with("wss://"), "{}", server.url);
    let mut client = connect(&server, &first.0).await.expect("a trusted server");
    client.subscribe(json!(["prices"])).await;
    client.publish("elsewhere", json!("x".repeat(60_000))).await;
    assert!(connect(&server, &second.0).await.is_none(), "the tests see which certificate is shown");

    write(server.folder(), &second);
    eventually("the second certificate", async || connect(&server, &second.0).await).await.settled().await;
    client.settled().await;

    // A key that does not match the certificate, or a file without a certificate, changes nothing.
    std::fs::write(server.folder().join("key.pem"), &first.1).expect("a file");
    tokio::time::sleep(Duration::from_millis(700)).await;
    connect(&server, &second.0).await.expect("the second still").settled().await;
    std::fs::write(server.folder().join("cert.pem"), "nonsense").expect("a file");
    tokio::time::sleep(Duration::from_millis(700)).await;
    connect(&server, &second.0).await.expect("the second still").settled().await;
    write(server.folder(), &first);
    eventually("the first certificate", async || connect(&server, &first.0).await).await.settled().await;
    client.settled().await;
}

/// A different path, and then different content at that path.
#[tokio::test]
async fn the_path_of_a_certificate_may_change() {
    let folder = tempfile::tempdir().expect("a folder");
    let (first, second, third) = (certificate(), certificate(), certificate());
    write(folder.path(), &first);
    let configuration =
        format!("{}\n[server]\ntls = {{ certificate = \"cert.pem\", key = \"key.pem\" }}", Server::keys());
    let server = Server::start_in(folder, &configuration).await;
    connect(&server, &first.0).await.expect("a trusted server").settled().await;
    let elsewhere = server.folder().join("elsewhere");
    std::fs::create_dir(&elsewhere).expect("a folder");
    write(&elsewhere, &second);
    let moved =
        configuration.replace("cert.pem", "elsewhere/cert.pem").replace("key.pem", "elsewhere/key.pem");
    server.reconfigure(&moved);
    eventually("the second certificate", async || connect(&server, &second.0).await).await.settled().await;
    write(&elsewhere, &third);
    eventually("the third certificate", async || connect(&server, &third.0).await).await.settled().await;
}

/// A client that does not speak TLS, or stops during the handshake, is cut off and delays nobody.
#[tokio::test]
async fn a_tls_port_accepts_only_tls() {
    let folder = tempfile::tempdir().expect("a folder");
    let pair = certificate();
    write(folder.path(), &pair);
    let configuration =
        format!("{}\n[server]\ntls = {{ certificate = \"cert.pem\", key = \"key.pem\" }}", Server::keys());
    let server = Server::start_in(folder, &configuration).await;
    let mut stuck = TcpStream::connect(server.address()).await.expect("a listener");
    stuck.write_all(&[0x16, 3, 1]).await.expect("a connection");
    let mut plain = TcpStream::connect(server.address()).await.expect("a listener");
    plain.write_all(b"GET /v2/realtime HTTP/1.1\r\nHost: here\r\n\r\n").await.expect("a connection");
    let mut answer = vec![];
    let read = plain.read_to_end(&mut answer);
    tokio::time::timeout(Duration::from_secs(2), read).await.expect("cut off at once").ok();
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    connect(&server, &pair.0).await.expect("a trusted server").settled().await;
    let end = stuck.read_u8();
    tokio::time::timeout(Duration::from_millis(11_500), end).await.expect("cut off in time").ok();
}
