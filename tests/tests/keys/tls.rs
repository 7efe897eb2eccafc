//! `wss://` with the operator's own certificate.

use serde_json::json;
use std::{sync::Arc, time::Duration};
use switchyard_tests::{Certificate, Client, EVENT_TIMEOUT, KEY, Server, eventually};
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

/// Trusts only this certificate.
pub fn trusting(certificate: &str) -> Connector {
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
    let client = Client::over(socket);
    Some(client.authenticate(json!({"auth": {"apiKey": key}})).await)
}

#[tokio::test]
async fn wss_reloads_its_certificate_and_drops_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let (first, second) = (Certificate::generate(), Certificate::generate());
    first.write_to(folder.path());
    let configuration =
        format!("{}\n[server]\ntls = {{ certificate = \"cert.pem\", key = \"key.pem\" }}", Server::keys());
    let server = Server::start_in(folder, &configuration).await;
    assert!(server.url.starts_with("wss://"), "{}", server.url);
    let mut client = connect(&server, &first.certificate).await.expect("a trusted server");
    client.subscribe(json!(["prices"])).await;
    client.publish("elsewhere", json!("x".repeat(60_000))).await;
    assert!(
        connect(&server, &second.certificate).await.is_none(),
        "the tests see which certificate is shown"
    );

    second.write_to(server.folder());
    eventually("the second certificate", async || connect(&server, &second.certificate).await)
        .await
        .round_trip()
        .await;
    client.round_trip().await;

    // A key that does not match the certificate, or a file without a certificate, changes nothing.
    std::fs::write(server.folder().join("key.pem"), &first.key).expect("a file");
    tokio::time::sleep(Duration::from_millis(700)).await;
    connect(&server, &second.certificate).await.expect("the second still").round_trip().await;
    std::fs::write(server.folder().join("cert.pem"), "nonsense").expect("a file");
    tokio::time::sleep(Duration::from_millis(700)).await;
    connect(&server, &second.certificate).await.expect("the second still").round_trip().await;
    first.write_to(server.folder());
    eventually("the first certificate", async || connect(&server, &first.certificate).await)
        .await
        .round_trip()
        .await;
    client.round_trip().await;
}

/// A different path, and then different content at that path.
#[tokio::test]
async fn the_path_of_a_certificate_may_change() {
    let folder = tempfile::tempdir().expect("a folder");
    let (first, second, third) = (Certificate::generate(), Certificate::generate(), Certificate::generate());
    first.write_to(folder.path());
    let configuration =
        format!("{}\n[server]\ntls = {{ certificate = \"cert.pem\", key = \"key.pem\" }}", Server::keys());
    let server = Server::start_in(folder, &configuration).await;
    connect(&server, &first.certificate).await.expect("a trusted server").round_trip().await;
    let elsewhere = server.folder().join("elsewhere");
    std::fs::create_dir(&elsewhere).expect("a folder");
    second.write_to(&elsewhere);
    let moved =
        configuration.replace("cert.pem", "elsewhere/cert.pem").replace("key.pem", "elsewhere/key.pem");
    server.reconfigure(&moved);
    eventually("the second certificate", async || connect(&server, &second.certificate).await)
        .await
        .round_trip()
        .await;
    third.write_to(&elsewhere);
    eventually("the third certificate", async || connect(&server, &third.certificate).await)
        .await
        .round_trip()
        .await;
}

/// A client that does not speak TLS, or stops during the handshake, is cut off and delays nobody.
#[tokio::test]
async fn a_tls_port_accepts_only_tls() {
    let folder = tempfile::tempdir().expect("a folder");
    let pair = Certificate::generate();
    pair.write_to(folder.path());
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
    connect(&server, &pair.certificate).await.expect("a trusted server").round_trip().await;
    let end = stuck.read_u8();
    tokio::time::timeout(Duration::from_millis(11_500), end).await.expect("cut off in time").ok();
}
