//! Unknown clients that use up connection slots, files and time. A well-behaved client and an operator are
//! served meanwhile.

use serde_json::json;
use std::{
    net::{IpAddr, Ipv4Addr},
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};
use switchyard_tests::{
    Answer, Client, EVENT_TIMEOUT, FIN, KEY, Process, Raw, Server, TEXT, binary, eventually,
    eventually_within, framed,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    process::Command,
    time::timeout,
};

const PORTS: &str = "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n";

fn folder(extra: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("s.toml"), format!("{PORTS}{}{extra}", Server::keys()))
        .expect("a file");
    folder
}

/// A node with this limit on open files.
async fn serve_with_files(folder: &Path, files: u32) -> Process {
    let mut command = Command::new("prlimit");
    command.arg(format!("--nofile={files}:{files}")).arg(binary());
    command.args(["serve", "--json", "--config", "s.toml"]).current_dir(folder).kill_on_drop(true);
    let log = std::fs::File::create(folder.join("stderr")).expect("a file for what it logs");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    Process::started(command).await.expect("prlimit is there, and the node starts")
}

/// Connections that send nothing.
async fn silent(address: &str, count: usize) -> Vec<TcpStream> {
    let mut silent = vec![];
    for _ in 0..count {
        silent.push(
            timeout(EVENT_TIMEOUT, TcpStream::connect(address)).await.expect("in time").expect("a listener"),
        );
    }
    silent
}

/// A connection from another address of this machine.
pub async fn from(host: u8, address: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((IpAddr::from(Ipv4Addr::new(127, 0, 0, host)), 0).into()).expect("loopback is a network");
    socket.connect(address.parse().expect("an address")).await.expect("a listener")
}

/// Whether the other side has closed the connection, or does so soon.
pub async fn is_ended(tcp: &mut TcpStream) -> bool {
    let read = timeout(Duration::from_secs(3), tcp.read(&mut [0; 1])).await;
    read.is_ok_and(|read| !matches!(read, Ok(1..)))
}

/// A session, if the node accepts one.
async fn try_connect(url: &str) -> Option<Client> {
    let connecting = async {
        let (socket, _) = tokio_tungstenite::connect_async(url).await.ok()?;
        let mut client = Client::over(socket);
        client.send(json!({"type": "connect", "auth": {"apiKey": KEY}})).await;
        client.connected = client.recv().await;
        (client.connected["type"] == "connected").then_some(client)
    };
    timeout(EVENT_TIMEOUT, connecting).await.ok().flatten()
}

fn admin_address(admin: &str) -> &str {
    admin.strip_prefix("http://").expect("plain HTTP")
}

pub async fn metric(admin: &str, series: &str) -> u64 {
    let text = Answer::called(admin, "GET", "/metrics", None, "").await.1;
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    line.unwrap_or_else(|| panic!("no {series} in {text}")).trim().parse().expect("a number")
}

pub async fn limited(admin: &str, limit: &str) -> u64 {
    metric(admin, &format!("switchyard_limited_total{{limit=\"{limit}\",mode=\"enforce\"}}")).await
}

#[tokio::test]
async fn silent_connections_on_every_file_lock_nobody_out() {
    let folder = folder("");
    let process = serve_with_files(folder.path(), 512).await;
    let mut member = Client::connect_at(&process.url, json!({"auth": {"apiKey": KEY}})).await;
    let _silent = silent(process.address(), 600).await;
    let _at_the_operators = silent(admin_address(&process.admin), 600).await;
    for _ in 0..3 {
        let mut client = Client::connect_at(&process.url, json!({"auth": {"apiKey": KEY}})).await;
        client.publish("prices", json!(1)).await;
    }
    let (status, _) = Answer::called(&process.admin, "GET", "/readyz", None, "").await;
    assert_eq!(status, 200);
    assert!(limited(&process.admin, "files").await > 0);
    assert!(limited(&process.admin, "operators").await > 0);
    member.round_trip().await;
    let log = std::fs::read_to_string(folder.path().join("stderr")).expect("a log");
    assert!(!log.contains("cannot accept"), "{log}");
}

#[tokio::test]
async fn clients_beyond_the_file_limit_are_rejected_and_operators_see_why() {
    let folder = folder("[tier.default]\nconnections = 1000\n");
    let process = serve_with_files(folder.path(), 192).await;
    let mut clients = vec![];
    let refused = loop {
        match try_connect(&process.url).await {
            Some(client) => clients.push(client),
            None => break clients.len(),
        }
        assert!(clients.len() < 192, "they cannot all have a file");
    };
    assert!(refused > 64, "only {refused} clients");
    let (status, body) = Answer::called(&process.admin, "GET", "/readyz", None, "").await;
    assert_eq!(status, 200, "who is here is served: {body}");
    assert!(body.contains("no files are left for more clients") && body.contains("of 192"), "{body}");
    let (status, _) = Answer::called(&process.admin, "GET", "/v1/connections", Some(KEY), "").await;
    assert_eq!(status, 200);
    assert!(limited(&process.admin, "files").await > 0);
    clients[0].round_trip().await;
    drop(clients.pop());
    eventually("a free file", || try_connect(&process.url)).await;
}

#[tokio::test]
async fn a_crowd_beyond_the_handshake_slots_gets_in_as_silent_clients_are_dropped() {
    let server = Server::start("[tier.default]\nconnections = 1000\n[limits]\nunauthenticated = 8").await;
    let crowd = futures_util::future::join_all((0..100).map(|_| try_connect(&server.url))).await;
    assert_eq!(crowd.iter().flatten().count(), 100, "who means well is never turned away");
    drop(crowd);
    let mut silent = silent(server.address(), 8).await;
    let mut client = Client::connect(&server).await;
    client.publish("prices", json!(1)).await;
    assert!(is_ended(&mut silent[0]).await, "the one that was there longest");
    assert!(limited(&server.admin, "unauthenticated").await > 0);
    // Including those whose upgrade was answered.
    let mut upgraded = vec![];
    for _ in 0..8 {
        upgraded.push(Raw::open(&server).await);
    }
    Client::connect(&server).await.round_trip().await;
    assert!(is_ended(&mut upgraded[0].tcp).await);
}

#[tokio::test]
async fn an_address_has_limited_handshake_slots_unless_it_is_trusted() {
    let limits = "[limits]\ntrusted = [\"127.0.0.9\"]\n[limits.address]\nunauthenticated = 3";
    let server = Server::start(limits).await;
    let mut held = vec![];
    for _ in 0..3 {
        held.push(from(2, server.address()).await);
    }
    assert!(is_ended(&mut from(2, server.address()).await).await, "one too many");
    assert!(limited(&server.admin, "address_unauthenticated").await > 0);
    Client::connect(&server).await.round_trip().await;
    drop(held.pop());
    eventually("a free place", async || {
        let mut tcp = from(2, server.address()).await;
        tcp.write_all(b"GET /nowhere HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n").await.ok()?;
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).await.ok()?;
        answer.starts_with("HTTP/1.1 404").then_some(())
    })
    .await;
    let mut trusted = vec![];
    for _ in 0..6 {
        trusted.push(from(9, server.address()).await);
    }
    trusted[5].write_all(b"GET /nowhere HTTP/1.1\r\nHost: here\r\n\r\n").await.expect("it is open");
    assert!(matches!(timeout(EVENT_TIMEOUT, trusted[5].read(&mut [0; 8])).await, Ok(Ok(8))));
}

/// An upgrade with this key. Returns the status and head of the answer.
async fn upgrade(tcp: &mut TcpStream, key: &str) -> Option<String> {
    let head = format!(
        "GET /v2/realtime HTTP/1.1\r\nHost: here\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-API-Key: {key}\r\n\r\n"
    );
    tcp.write_all(head.as_bytes()).await.ok()?;
    let mut answer = vec![];
    let read = async {
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(tcp.read_u8().await.ok()?);
        }
        Some(())
    };
    timeout(EVENT_TIMEOUT, read).await.expect("an answer in time")?;
    Some(String::from_utf8(answer).expect("text").to_lowercase())
}

#[tokio::test]
async fn invalid_keys_are_counted_delayed_and_end_the_connection() {
    let folder = folder("");
    let arguments = ["--config", "s.toml"];
    let process = Process::serve(folder.path(), &arguments, &[("RUST_LOG", "info")]).await;
    let started = Instant::now();
    for n in 0..12 {
        let mut tcp = TcpStream::connect(process.address()).await.expect("a listener");
        let head = upgrade(&mut tcp, &format!("sk_guess_{n}")).await.expect("an answer");
        assert!(head.starts_with("http/1.1 401") && head.contains("connection: close"), "{head}");
        // Another guess on the same connection is ignored.
        assert_eq!(upgrade(&mut tcp, "sk_another").await, None);
    }
    let mut raw = Raw::upgraded(&process.url).await;
    let connect = json!({"type": "connect", "auth": {"apiKey": "sk_guess"}}).to_string();
    raw.bytes(&framed(FIN | TEXT, connect.as_bytes())).await;
    assert_eq!(raw.closed().await.code, 4401);
    let took = started.elapsed();
    assert!(took > Duration::from_secs(2), "thirteen guesses in {took:?}");
    for n in 0..8 {
        let (status, _) =
            Answer::called(&process.admin, "GET", "/v1/rooms", Some(&format!("sk_{n}")), "").await;
        assert_eq!(status, 401);
    }
    let refused = |listener| format!("switchyard_keys_refused_total{{listener=\"{listener}\"}}");
    assert_eq!(metric(&process.admin, &refused("clients")).await, 13);
    assert_eq!(metric(&process.admin, &refused("operators")).await, 8);
    let log = std::fs::read_to_string(folder.path().join("stderr")).expect("a log");
    let warnings: Vec<_> = log.lines().filter(|line| line.contains("keys were refused")).collect();
    assert!((2..6).contains(&warnings.len()), "{log}");
    assert!(warnings.iter().all(|line| line.contains("127.0.0.1") && !line.contains("sk_")), "{log}");
    Client::connect_at(&process.url, json!({"auth": {"apiKey": KEY}})).await.round_trip().await;
}

#[tokio::test]
async fn an_address_with_too_many_invalid_keys_must_wait_and_others_need_not() {
    let server = Server::start("[limits.address]\nfailures = \"3/m\"").await;
    for _ in 0..3 {
        let head = upgrade(&mut from(2, server.address()).await, "sk_wrong").await.expect("an answer");
        assert!(head.starts_with("http/1.1 401"), "{head}");
    }
    let head = upgrade(&mut from(2, server.address()).await, KEY).await.expect("an answer");
    assert!(head.starts_with("http/1.1 429"), "{head}");
    assert!(limited(&server.admin, "address_failures").await > 0);
    let head = upgrade(&mut from(3, server.address()).await, KEY).await.expect("an answer");
    assert!(head.starts_with("http/1.1 101"), "{head}");
    // Every 20 s one more attempt is allowed.
    eventually_within(Duration::from_secs(25), "another chance", async || {
        let head = upgrade(&mut from(2, server.address()).await, KEY).await?;
        head.starts_with("http/1.1 101").then_some(())
    })
    .await;
}
