//! Clients that show signs of life stay, and silent ones are closed.

use serde_json::json;
use std::time::{Duration, Instant};
use switchyard_tests::{Client, FIN, PING, PONG, Raw, Server, TEXT, framed};

const SHORT: &str = "[session]\nheartbeat = { interval = \"200ms\", timeout = \"300ms\" }";

#[tokio::test]
async fn a_silent_peer_is_closed_although_the_server_keeps_sending() {
    let server = Server::start(SHORT).await;
    let mut publisher = Client::connect(&server).await;
    let mut silent = Raw::connect(&server).await;
    let started = Instant::now();
    let feed = tokio::spawn(async move {
        loop {
            publisher.publish("*", json!(1)).await;
            publisher.expect("message").await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let (mut pings, mut messages) = (0, 0);
    let close = loop {
        let (first, payload) = silent.frame().await.expect("a frame");
        match first & 15 {
            PING => pings += 1,
            TEXT => messages += 1,
            _ => break payload,
        }
    };
    feed.abort();
    let took = started.elapsed();
    assert_eq!(u16::from_be_bytes([close[0], close[1]]), 4504);
    assert!(took >= Duration::from_millis(490) && took < Duration::from_secs(3), "{took:?}");
    assert!(pings >= 1 && messages > 5, "{pings} pings and {messages} messages");
}

/// Each sign of life alone keeps a connection open for many times the limit.
#[tokio::test]
async fn anything_received_is_a_sign_of_life() {
    let server = Server::start(SHORT).await;
    let signs: [(&str, Vec<u8>); 4] = [
        ("a WebSocket ping", framed(FIN | PING, b"")),
        ("an unasked pong", framed(FIN | PONG, b"")),
        ("a ping request", framed(FIN | TEXT, br#"{"type":"ping"}"#)),
        ("a part of a frame", vec![]),
    ];
    let lives = signs.map(|(name, sign)| {
        let server = &server;
        async move {
            let mut raw = Raw::connect(server).await;
            // A long frame, byte by byte.
            let long = framed(FIN | TEXT, &[b' '; 200]);
            for n in 0..15 {
                match sign.is_empty() {
                    true => raw.bytes(&long[n..n + 1]).await,
                    false => raw.bytes(&sign).await,
                }
                tokio::time::sleep(Duration::from_millis(120)).await;
            }
            if sign.is_empty() {
                raw.bytes(&long[15..]).await;
                assert_eq!(raw.json().await["error"]["code"], "bad_frame", "{name}");
            }
            raw.bytes(&framed(FIN | TEXT, br#"{"type":"ping","id":"alive"}"#)).await;
            loop {
                let answer = raw.json().await;
                if answer["id"] == "alive" {
                    break;
                }
            }
            assert_eq!(raw.closed().await.code, 4504, "{name}");
        }
    });
    let [a, b, c, d] = lives;
    tokio::join!(a, b, c, d);
}

#[tokio::test]
async fn a_client_whose_library_answers_pings_stays() {
    let server = Server::start(SHORT).await;
    let mut client = Client::connect(&server).await;
    let reading = tokio::time::timeout(Duration::from_secs(2), client.text()).await;
    assert!(reading.is_err(), "nothing but pings: {reading:?}");
    client.round_trip().await;
}

#[tokio::test]
async fn a_ping_is_answered_with_its_payload() {
    let server = Server::start("").await;
    let mut raw = Raw::connect(&server).await;
    raw.bytes(&framed(FIN | PING, b"payload")).await;
    assert_eq!(raw.frame().await, Some((FIN | PONG, b"payload".to_vec())));
}
