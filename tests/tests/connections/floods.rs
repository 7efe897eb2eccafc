//! Many unknown clients at once: they are cut off and forgotten, and a well-behaved client is served
//! meanwhile.

use serde_json::json;
use std::time::{Duration, Instant};
use switchyard_tests::{Client, KEY, Process, Raw, Server};
use tokio::io::AsyncWriteExt;

/// Header bytes that never end.
#[tokio::test]
async fn a_slow_upgrade_is_cut_off_and_delays_nobody() {
    let server = Server::start("").await;
    let mut drips = vec![];
    for endless in [&b"GET /v2/realtime HTTP/1.1\r\nHost: here\r\nX-Drip: "[..], b"", b"\x16\x03\x01"] {
        let mut raw = Raw::tcp(server.address()).await;
        raw.bytes(endless).await;
        drips.push(tokio::spawn(async move {
            let started = Instant::now();
            let (mut reading, mut writing) = raw.tcp.into_split();
            let dripping = tokio::spawn(async move {
                while writing.write_all(b"x").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            });
            let end = async {
                use tokio::io::AsyncReadExt;
                while reading.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {}
            };
            tokio::time::timeout(Duration::from_secs(12), end).await.expect("cut off");
            dripping.abort();
            started.elapsed()
        }));
    }
    let started = Instant::now();
    Client::connect(&server).await.round_trip().await;
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    for drip in drips {
        let took = drip.await.expect("cut off");
        assert!(took < Duration::from_millis(11_000), "{took:?}");
    }
}

#[tokio::test]
async fn an_endless_request_head_is_rejected_early() {
    let server = Server::start("").await;
    let mut raw = Raw::tcp(server.address()).await;
    raw.bytes(b"GET /v2/realtime HTTP/1.1\r\nHost: here\r\nX-Long: ").await;
    let flood = async { while raw.tcp.write_all(&[b'x'; 4096]).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(5), flood).await.expect("an end long before ten seconds");
}

/// Bytes that are not UTF-8, the same in every run.
fn noise(seed: u64, bytes: &mut [u8]) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for byte in bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = state as u8;
    }
}

async fn garbage(address: &str, n: u64) {
    let mut raw = Raw::tcp(address).await;
    let mut bytes = [0; 600];
    noise(n, &mut bytes);
    let upgrade = "GET /v2/realtime HTTP/1.1\r\nHost: here\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    // A client that is rejected early may find its connection closed, as intended.
    match n % 5 {
        0 => {}
        1 => raw.tcp.write_all(&bytes).await.unwrap_or(()),
        2 => raw.tcp.write_all(&upgrade.as_bytes()[..(n as usize % upgrade.len())]).await.unwrap_or(()),
        3 => {
            raw.tcp.write_all(format!("{upgrade}\r\n").as_bytes()).await.ok();
            raw.tcp.write_all(&bytes).await.ok();
        }
        _ => {
            let connect = br#"{"type":"connect","auth":{"apiKey":"sk_forged"},"session":"s_forged"}"#;
            raw.tcp.write_all(format!("{upgrade}\r\n").as_bytes()).await.ok();
            raw.tcp.write_all(&switchyard_tests::framed(0x81, connect)).await.ok();
        }
    }
    if n.is_multiple_of(3) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn two_thousand_garbage_connections_leave_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let configuration =
        format!("{}\n[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"", Server::keys());
    std::fs::write(folder.path().join("s.toml"), configuration).expect("a file");
    let mut process = Process::serve(folder.path(), &["--config", "s.toml"], &[("RUST_LOG", "warn")]).await;
    let connect = || json!({"auth": {"apiKey": KEY}});
    let mut member = Client::open(&*process.url).await.authenticate(connect()).await;
    member.subscribe(json!(["prices"])).await;
    let flood = async |rounds: std::ops::Range<u64>| {
        for round in rounds {
            let crowd = (0..100).map(|n| garbage(process.address(), round * 100 + n));
            futures_util::future::join_all(crowd).await;
        }
    };
    // The first round allocates what is allocated only once.
    flood(0..4).await;
    let before = process.memory();
    flood(4..24).await;
    let started = Instant::now();
    let mut fresh = Client::open(&*process.url).await.authenticate(connect()).await;
    fresh.publish("prices", json!("still here")).await;
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    assert_eq!(member.expect("message").await["data"], "still here");
    let grown = process.memory().saturating_sub(before);
    assert!(grown < 16 << 20, "{} KiB more than before", grown >> 10);
    process.signal("TERM").await;
    assert!(process.ended().await.success());
    let log = std::fs::read_to_string(folder.path().join("stderr")).expect("a log");
    assert!(!log.contains("panicked"), "{log}");
}

#[tokio::test]
async fn thousands_of_rooms_and_requests_are_handled() {
    let server = Server::start("[tier.default]\nrooms = 5000").await;
    let mut client = Client::connect(&server).await;
    for part in 0..10 {
        let rooms: Vec<_> = (0..500).map(|n| format!("room:{}", part * 500 + n)).collect();
        client.subscribe(json!(rooms)).await;
    }
    let answer = client.ask(json!({"type": "subscribe", "rooms": ["one-more"]})).await;
    assert_eq!(answer["results"][0]["error"]["code"], "room_limit");
    let mut publisher = Client::connect(&server).await;
    publisher.publish("room:4999", json!(1)).await;
    assert_eq!(client.expect("message").await["room"], "room:4999");
    let token = client.token();
    client.cut();
    let resumed = Client::resume(&server, &token).await;
    assert_eq!(resumed.connected["rooms"].as_array().map(Vec::len), Some(5002));
}
