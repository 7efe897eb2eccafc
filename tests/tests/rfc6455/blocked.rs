//! What a client sends while it reads nothing, so that the server has written part of a frame and cannot
//! write the rest.

use super::{
    Node,
    case::{Case, ask, case},
    line::{Got, Line, masked},
};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};
use switchyard_tests::{
    Answer, BINARY, CLOSE, CONTINUATION, Client, EVENT_TIMEOUT, FIN, KEY, PING, PONG, TEXT, eventually_within,
};

/// The size of what is delivered: more than the kernel buffers for a connection.
const DELIVERY: usize = 60_000;

fn cases() -> Vec<Case> {
    let close = |code: u16| masked(FIN | CLOSE, &code.to_be_bytes());
    let text = ask("whole");
    let (head, tail) = text.as_bytes().split_at(9);
    let mut many = case("5.5.3", "2.11", "2000 pings");
    many.pings = (0..2000).map(|n| format!("payload {n}").into_bytes()).collect();
    many.sent = vec![many.pings.iter().flat_map(|ping| masked(FIN | PING, ping)).collect()];
    vec![
        many,
        case("5.5.2", "2.1", "a ping").pings(b""),
        case("5.5.2", "2.4", "a ping of 125 bytes").pings(&[0xfe; 125]),
        case("5.5.3", "2.8", "a pong").frame(FIN | PONG, b"unasked"),
        case("5.4", "5.3", "a request in two parts and a ping between them")
            .frame(TEXT, head)
            .pings(b"between")
            .frame(FIN | CONTINUATION, tail)
            .echoes("whole"),
        case("5.6", "1.1.1", "a request").asks("answered"),
        case("5.6", "1.2.1", "a binary message").frame(FIN | BINARY, b"").refused(),
        case("5.5.1", "7.1.1", "a request and a close").asks("answered").sends(close(1000)).closed(1000),
        case("5.5.1", "7.3.1", "a close of nothing").frame(FIN | CLOSE, b"").closed_empty(),
        case("5.5.1", "7.7.1", "a close").sends(close(4321)).closed(4321),
        case("5.5.1", "7.1.6", "a ping, a close and much behind it")
            .pings(b"heard")
            .sends(close(1000))
            .sends(vec![0; 1 << 20])
            .closed(1000),
        case("7.4", "7.9.1", "a close that nobody may send").sends(close(1005)).closed(1002),
        case("8.1", "6.3.1", "what is no UTF-8").frame(FIN | TEXT, b"\xff").closed(1007),
        case("8.1", "", "a request and what is no UTF-8")
            .asks("answered")
            .frame(FIN | TEXT, b"\xff")
            .closed(1007),
        case("7.4.1", "", "what is too long").frame(FIN | TEXT, &[b' '; 1 << 20]).closed(1009),
        case("5.2", "3.1", "reserved bits").frame(FIN | 0x40 | TEXT, b"{}").closed(1002),
        case("5.2", "4.1.1", "an unknown opcode").frame(FIN | 3, b"").closed(1002),
        case("5.1", "", "a frame without a mask").sends([FIN | TEXT, 2, b'{', b'}']).closed(1002),
        case("5.5", "2.5", "a ping that is too long").frame(FIN | PING, &[0; 126]).closed(1002),
    ]
}

/// Checks that every delivery is complete and none is missing, and that the expected answer follows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case_passes_while_writes_are_blocked() {
    let more = "[session]\noutbox = \"8MiB\"\nheartbeat = { interval = \"10m\", timeout = \"10m\" }\n\
        [rooms.history]\nmessages = 10";
    let (tcp, tls) = tokio::join!(Node::start(false, more), Node::start(true, more));
    for node in [&tcp, &tls] {
        let cases = cases();
        let subscribe = masked(FIN | TEXT, br#"{"type":"subscribe","rooms":["prices"]}"#);
        let mut lines = vec![];
        for _ in &cases {
            let mut line = Line::narrow(&node.url).await.ready(true).await.expect("connected");
            line.write(&subscribe).await.expect("a connection");
            assert_eq!(line.text().await.expect("an answer")["type"], "subscribed");
            lines.push(line);
        }
        let published = AtomicU64::new(0);
        eventually_within(6 * EVENT_TIMEOUT, "every write is blocked", async || {
            node.publish(json!("x".repeat(DELIVERY))).await;
            published.fetch_add(1, Ordering::Relaxed);
            let (_, live) =
                Answer::called(&node.process.admin, "GET", "/v1/connections?limit=1000", Some(KEY), "").await;
            let live: serde_json::Value = serde_json::from_str(&live).expect("JSON");
            let live = live["connections"].as_array().expect("a list");
            let blocked = live.iter().filter(|one| one["waiting"].as_u64() > Some(DELIVERY as u64));
            (blocked.count() == cases.len()).then_some(())
        })
        .await;
        let delivered = published.into_inner();
        let held = cases.iter().zip(lines).map(async |(case, mut line)| {
            for piece in &case.sent {
                line.write(piece).await.ok();
            }
            if case.end == super::case::End::Open {
                line.write(&masked(FIN | CLOSE, &1000u16.to_be_bytes())).await.ok();
            }
            let mut offset = 0;
            let compared = case.compare(&mut line, |text| {
                let is_next = text["type"] == "message" && text["offset"] == offset + 1;
                offset += u64::from(is_next);
                is_next
            });
            let compared = compared.await.map_err(|error| format!("{}: {error}", case.name));
            compared.and_then(|()| match offset == delivered {
                true => Ok(()),
                false => Err(format!("{}: {offset} of {delivered} deliveries", case.name)),
            })
        });
        // A few at a time, because connections that close have 3 s to read what is waiting.
        let held = stream::iter(held).buffer_unordered(4);
        let failed: Vec<_> = held.filter_map(async |held| held.err()).collect().await;
        assert!(failed.is_empty(), "{}:\n{}", node.url, failed.join("\n"));
    }
}

/// Nothing gets into the middle of a frame when the writing task changes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_pings_before_connect_do_not_break_frames() {
    let patient = "[session]\nauthenticate = \"60s\"";
    let (tcp, tls) = tokio::join!(Node::start(false, patient), Node::start(true, patient));
    for node in [&tcp, &tls] {
        let mut line = Line::narrow(&node.url).await.ready(false).await.expect("an upgrade");
        let ping = masked(FIN | PING, &[b'p'; 125]);
        for _ in 0..60 {
            line.write(&ping.repeat(1000)).await.expect("a server that reads");
        }
        line.write(&super::line::connect()).await.expect("a connection");
        let subscribe = masked(FIN | TEXT, br#"{"type":"subscribe","rooms":["prices"]}"#);
        line.write(&subscribe).await.expect("a connection");
        // Its answer replaces the last one that is not written yet, and never a partly written one.
        line.write(&masked(FIN | PING, b"after")).await.expect("a connection");
        assert_eq!(whole(&mut line).await["type"], "connected");
        assert_eq!(whole(&mut line).await["type"], "subscribed");
        node.publish(json!(1)).await;
        assert_eq!(whole(&mut line).await["data"], 1);
        line.write(&masked(FIN | CLOSE, &1000u16.to_be_bytes())).await.expect("a connection");
        case("5.5.1", "", "a close").closed(1000).compare(&mut line, |_| false).await.expect("a close");
    }
}

/// The next text, after pongs that contain only what was pinged.
async fn whole(line: &mut Line) -> Value {
    loop {
        match line.frame().await.expect("whole frames") {
            Got::Text(text) => return text,
            Got::Pong(payload) => assert!(payload == b"after" || payload == [b'p'; 125], "{payload:x?}"),
            other => panic!("{other:?}"),
        }
    }
}

/// Of pongs that nobody reads, only one is kept (5.5.3).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_pings_take_no_memory() {
    let node = Node::start(false, "[session]\nauthenticate = \"60s\"").await;
    let mut warm = Line::narrow(&node.url).await.ready(true).await.expect("connected");
    warm.write(&masked(FIN | PING, b"")).await.expect("a connection");
    let before = node.process.memory();
    for greeted in [false, true] {
        let mut line = Line::narrow(&node.url).await.ready(greeted).await.expect("an upgrade");
        let pings = masked(FIN | PING, &[b'p'; 125]).repeat(1000);
        for _ in 0..200 {
            line.write(&pings).await.expect("a server that reads");
        }
        line.write(&masked(FIN | PING, b"last")).await.expect("a server that reads");
        // Until it was read and answered, 25 MB of pings were sent. As many bytes of pongs would have been
        // waiting.
        loop {
            match line.frame().await.expect("whole frames") {
                Got::Pong(payload) if payload == b"last" => break,
                Got::Pong(_) | Got::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        }
        let grown = node.process.memory().saturating_sub(before);
        assert!(grown < 8 << 20, "{} MiB wait for one that does not read", grown >> 20);
        Client::open(&*node.url)
            .await
            .authenticate(json!({"auth": {"apiKey": KEY}}))
            .await
            .round_trip()
            .await;
    }
}
