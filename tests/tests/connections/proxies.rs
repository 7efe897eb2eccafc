//! Proxies that name their clients in the head of a request: who is believed, and where the client's address
//! shows.

use super::unauthenticated::from;
use switchyard_tests::{EVENT_TIMEOUT, KEY, Raw, Server, plugin};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const X_FORWARDED_FOR: &str =
    "[limits]\ntrusted = [\"127.0.0.9\", \"10.0.0.0/8\"]\nheader = \"x-forwarded-for\"\n";

/// The addresses of all clients, as operators see them.
pub async fn remotes(server: &Server) -> Vec<String> {
    let shown = server.get("/v1/connections").await;
    let connections = shown["connections"].as_array().expect("a list");
    let mut remotes: Vec<_> = connections
        .iter()
        .map(|connection| connection["remote"].as_str().expect("text").to_owned())
        .collect();
    remotes.sort();
    remotes
}

/// Upgrades a connection from 127.0.0.`host` with these header lines. Returns the head of the answer.
pub async fn upgrade(server: &Server, host: u8, headers: &str) -> (String, Raw) {
    Raw { tcp: from(host, server.address()).await }.upgrade_to("v2/realtime", headers).await
}

/// Opens a session on a connection from 127.0.0.`host` with these header lines.
pub async fn session(server: &Server, host: u8, headers: &str) -> Raw {
    let (head, raw) = upgrade(server, host, headers).await;
    assert!(head.starts_with("http/1.1 101"), "{head}");
    raw.greeted().await
}

#[tokio::test]
async fn only_a_trusted_proxy_is_believed() {
    let server = Server::start(X_FORWARDED_FOR).await;
    let _forged = session(&server, 2, "X-Forwarded-For: 203.0.113.9\r\n").await;
    let remote = remotes(&server).await;
    assert!(remote.len() == 1 && remote[0].starts_with("127.0.0.2:"), "{remote:?}");
    let _proxied = session(&server, 9, "X-Forwarded-For: 203.0.113.9\r\n").await;
    assert_eq!(remotes(&server).await[1], "203.0.113.9:0");
    let _without = session(&server, 9, "X-Real-IP: 198.51.100.7\r\nForwarded: for=198.51.100.7\r\n").await;
    let remote = remotes(&server).await;
    assert!(remote[1].starts_with("127.0.0.9:"), "no other header counts: {remote:?}");
}

#[tokio::test]
async fn the_client_is_the_last_address_before_the_proxies_however_many_there_are() {
    let server = Server::start(X_FORWARDED_FOR).await;
    for lines in [
        "X-Forwarded-For: 198.51.100.1, 203.0.113.9, 10.0.0.2, 10.0.0.3\r\n",
        "X-Forwarded-For: 198.51.100.1\r\nX-Forwarded-For: 203.0.113.9\r\nX-Forwarded-For: 10.0.0.2\r\n",
        "X-Forwarded-For: \"a\\, 203.0.113.9\r\n",
    ] {
        let proxied = session(&server, 9, lines).await;
        assert_eq!(remotes(&server).await, ["203.0.113.9:0"], "{lines}");
        end(&server, proxied).await;
    }
    // A proxy that does not know its client: nothing that is left of it is believed.
    let _unknown = session(&server, 9, "X-Forwarded-For: 198.51.100.1, unknown, 10.0.0.2\r\n").await;
    assert_eq!(remotes(&server).await, ["10.0.0.2:0"]);
}

/// Waits until the node has noticed the end of a connection.
async fn end(server: &Server, raw: Raw) {
    drop(raw);
    switchyard_tests::eventually("no connection", async || remotes(server).await.is_empty().then_some(()))
        .await;
}

#[tokio::test]
async fn forwarded_names_a_client_with_its_port() {
    let limits = "[limits]\ntrusted = [\"127.0.0.9\"]\nheader = \"forwarded\"\n";
    let server = Server::start(limits).await;
    let lines = "Forwarded: for=198.51.100.1\r\nForwarded: proto=wss;for=\"[2001:db8::1]:4711\"\r\n\
                 X-Forwarded-For: 198.51.100.2\r\n";
    let _proxied = session(&server, 9, lines).await;
    assert_eq!(remotes(&server).await, ["[2001:db8::1]:4711"]);
}

#[tokio::test]
async fn a_plugin_sees_the_client_and_not_the_proxy() {
    let server = Server::start(&format!("{X_FORWARDED_FOR}{}", plugin("stamp", r#"["s"]"#, "{}"))).await;
    let admin = server.admin.strip_prefix("http://").expect("HTTP");
    let mut recording = TcpStream::connect(admin).await.expect("a listener");
    let head = format!(
        "GET /v1/plugins/stamp/record HTTP/1.1\r\nHost: {admin}\r\nAuthorization: Bearer {KEY}\r\n\r\n"
    );
    recording.write_all(head.as_bytes()).await.expect("a request");
    read_until(&mut recording, "\"recording\"").await;
    let _proxied = session(&server, 9, "X-Forwarded-For: 203.0.113.9\r\n").await;
    let recorded = read_until(&mut recording, "\"connect\"").await;
    assert!(recorded.contains(r#""remote":"203.0.113.9:0""#), "{recorded}");
}

/// Reads up to the end of the line with this text.
async fn read_until(tcp: &mut TcpStream, text: &str) -> String {
    let mut read = vec![];
    let reading = async {
        while !String::from_utf8_lossy(&read).contains(text) || read.last() != Some(&b'\n') {
            read.push(tcp.read_u8().await.expect("more"));
        }
    };
    timeout(EVENT_TIMEOUT, reading).await.unwrap_or_else(|_| panic!("no {text}"));
    String::from_utf8(read).expect("text")
}

#[tokio::test]
async fn requests_of_one_connection_may_come_from_different_clients() {
    let server = Server::start(&format!("{X_FORWARDED_FOR}[limits.address]\nconnections = 1\n")).await;
    let mut tcp = from(9, server.address()).await;
    let first = "GET /nowhere HTTP/1.1\r\nHost: here\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n";
    tcp.write_all(first.as_bytes()).await.expect("a request");
    let answer = read_until(&mut tcp, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    let length = answer.to_lowercase();
    let (_, length) = length.split_once("content-length: ").expect("a length");
    let length: usize = length.lines().next().expect("a line").parse().expect("a number");
    tcp.read_exact(&mut vec![0; length]).await.expect("a body");
    let (head, raw) = Raw { tcp }.upgrade_to("v2/realtime", "X-Forwarded-For: 203.0.113.10\r\n").await;
    assert!(head.starts_with("http/1.1 101"), "{head}");
    let _second = raw.greeted().await;
    assert_eq!(remotes(&server).await, ["203.0.113.10:0"]);
    let _first = session(&server, 9, "X-Forwarded-For: 203.0.113.9\r\n").await;
    let (head, mut raw) = upgrade(&server, 9, "X-Forwarded-For: 203.0.113.10\r\n").await;
    assert!(head.starts_with("http/1.1 429"), "it counts for the second client only: {head}");
    raw.ended().await;
}

#[tokio::test]
async fn a_proxy_that_is_trusted_and_names_nobody_is_exempt() {
    let limits =
        "[limits]\ntrusted = [\"127.0.0.9\"]\n[limits.address]\nconnections = 1\nconnects = \"1/m\"\n";
    let server = Server::start(limits).await;
    let headers = "X-Forwarded-For: 203.0.113.9\r\n";
    let _sessions = [session(&server, 9, headers).await, session(&server, 9, headers).await];
    let remotes: Vec<String> = remotes(&server).await;
    assert!(remotes.iter().all(|remote| remote.starts_with("127.0.0.9:")), "{remotes:?}");
}
