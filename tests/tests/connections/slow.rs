//! A client that does not read costs nobody else anything.

use serde_json::json;
use std::time::{Duration, Instant};
use switchyard_tests::{
    Answer, Client, EVENT_TIMEOUT, FIN, KEY, Process, Raw, Server, TEXT, eventually, eventually_within,
    framed,
};
use tokio::{io::AsyncWriteExt, sync::watch};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_members_keep_receiving_while_one_does_not_read() {
    let server = Server::start("").await;
    let mut stuck = Raw::connect(&server).await;
    stuck.bytes(&framed(FIN | TEXT, br#"{"type":"subscribe","rooms":["prices"]}"#)).await;
    assert_eq!(stuck.json().await["type"], "subscribed");
    let mut readers = vec![];
    let mut progress = vec![];
    for _ in 0..3 {
        let mut reader = Client::connect(&server).await;
        reader.subscribe(json!(["prices"])).await;
        let (reached, receiver) = watch::channel(0);
        progress.push(receiver);
        readers.push(tokio::spawn(async move {
            for n in 1..=600 {
                assert_eq!(reader.expect("message").await["offset"], n);
                reached.send_replace(n);
            }
        }));
    }
    let mut publisher = Client::connect(&server).await;
    let filling = "x".repeat(20_000);
    let mut slowest = Duration::ZERO;
    for n in 1..=600 {
        let started = Instant::now();
        publisher.publish("prices", json!(filling)).await;
        slowest = slowest.max(started.elapsed());
        // A busy machine may delay the clients that do read, which is not what this tests.
        for receiver in &mut progress {
            let near = receiver.wait_for(|reached| reached + 20 >= n);
            tokio::time::timeout(EVENT_TIMEOUT, near).await.expect("every reader goes on").expect("a reader");
        }
    }
    for reader in readers {
        reader.await.expect("every message in order");
    }
    assert!(slowest < Duration::from_secs(2), "a publisher waits for nobody: {slowest:?}");
    assert_eq!(stuck.closed().await.code, 4508);
}

/// The server stops waiting for a peer that has not read anything for this long.
const SHORT: &str = "[session]\nheartbeat = { interval = \"300ms\", timeout = \"700ms\" }";

/// Nor does it wait for one that requests much and reads nothing.
#[tokio::test]
async fn answers_that_nobody_reads_are_bounded() {
    let server = Server::start(SHORT).await;
    let mut publisher = Client::connect(&server).await;
    for _ in 0..20 {
        publisher.publish("prices", json!("x".repeat(60_000))).await;
    }
    let mut greedy = Raw::connect_narrow(&server).await;
    greedy.bytes(&framed(FIN | TEXT, br#"{"type":"subscribe","rooms":["prices"]}"#)).await;
    assert_eq!(greedy.json().await["type"], "subscribed");
    let history = framed(FIN | TEXT, br#"{"type":"history","room":"prices"}"#);
    // More answers than the kernels buffer.
    for _ in 0..100 {
        greedy.bytes(&history).await;
    }
    eventually("the end of one that does not read", async || {
        let live = server.get("/v1/connections").await;
        let live = live["connections"].as_array().expect("a list");
        assert!(live.iter().all(|one| one["waiting"].as_u64() <= Some(1 << 20)), "{live:?}");
        (live.len() <= 1).then_some(())
    })
    .await;
    assert_eq!(greedy.closed().await.code, 4508);
    Client::connect(&server).await.round_trip().await;
}

/// A short request may ask for a long answer, again and again.
#[tokio::test]
async fn long_answers_that_nobody_reads_take_no_memory() {
    let folder = tempfile::tempdir().expect("a folder");
    let ports = "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"";
    let configuration = format!("{}\n{ports}\n{SHORT}", Server::keys());
    std::fs::write(folder.path().join("s.toml"), configuration).expect("a file");
    let process = Process::serve(folder.path(), &["--config", "s.toml"], &[]).await;
    let mut greedy = Raw::upgraded(&process.url).await;
    greedy
        .bytes(&framed(FIN | TEXT, format!(r#"{{"type":"connect","auth":{{"apiKey":"{KEY}"}}}}"#).as_bytes()))
        .await;
    assert_eq!(greedy.json().await["type"], "connected");
    let before = process.memory();
    let rooms: Vec<_> = (0..1000).map(|n| format!("!{n}")).collect();
    let request = framed(FIN | TEXT, json!({"type": "subscribe", "rooms": rooms}).to_string().as_bytes());
    let asking = tokio::spawn(async move { while greedy.tcp.write_all(&request).await.is_ok() {} });
    let admin = process.admin.strip_prefix("http://").expect("plain HTTP");
    eventually_within(3 * EVENT_TIMEOUT, "the end of one that does not read", async || {
        let grown = process.memory().saturating_sub(before);
        assert!(grown < 64 << 20, "{} MiB wait for one that does not read", grown >> 20);
        let header = format!("Authorization: Bearer {KEY}\r\n");
        let live = Answer::of(admin, "GET", "/v1/connections", &header, b"").await;
        live.body.contains(r#""connections":[]"#).then_some(())
    })
    .await;
    asking.abort();
    let connected = Client::open(&*process.url).await.authenticate(json!({"auth": {"apiKey": KEY}})).await;
    assert_eq!(connected.connected["resumed"], false);
}
