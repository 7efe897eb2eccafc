//! A node that stops tells first the load balancer and then all clients, and exits in time.

use futures_util::StreamExt;
use serde_json::json;
use std::time::{Duration, Instant};
use switchyard_tests::{Client, FIN, Raw, Server, TEXT, eventually, framed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

#[tokio::test]
async fn every_client_is_told_when_to_reconnect() {
    let server = Server::start("").await;
    let mut clients = vec![];
    for _ in 0..20 {
        let mut client = Client::connect(&server).await;
        client.subscribe(json!(["prices"])).await;
        clients.push(client);
    }
    let mut unauthenticated = vec![];
    for _ in 0..20 {
        unauthenticated.push(Client::open(&*server.url).await);
    }
    assert_eq!(server.call("GET", "/readyz", None, "").await.0, 200);
    server.drain();
    // Regression: those that had not authenticated were all told to come back at once.
    for clients in [&mut clients, &mut unauthenticated] {
        let mut delays = vec![];
        for client in clients {
            let closed = client.closed().await;
            assert_eq!(closed.code, 4600);
            delays.push(closed.reason.parse::<u64>().unwrap_or_else(|_| panic!("{closed:?}")));
        }
        delays.sort();
        delays.dedup();
        assert!(delays.len() > 10, "clients come back spread over time: {delays:?}");
    }
    let started = Instant::now();
    drop((clients, unauthenticated));
    server.stop().await;
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

/// Regression: the connection was dropped, and a reset could cost the client the answer.
#[tokio::test]
async fn a_client_that_got_a_plain_answer_can_read_it_although_the_node_drains() {
    let server = Server::start("").await;
    let mut client = Raw::tcp(server.address()).await;
    client.bytes(b"GET /nothing HTTP/1.1\r\nHost: here\r\n\r\n").await;
    let mut answer = [0; 12];
    client.tcp.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 404");
    server.drain();
    client.tcp.read_to_end(&mut vec![]).await.expect("an end, not a reset");
    // If nobody reads them, the first of these is answered with a reset.
    for _ in 0..3 {
        client.tcp.write_all(b"GET /nothing").await.expect("a connection without a reset");
        tokio::task::yield_now().await;
    }
    drop(client);
    server.stop().await;
}

/// Clients that do not read, do not finish a message or do not answer the close do not delay the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_takes_at_most_ten_seconds_with_unresponsive_clients() {
    let server = Server::start("[session]\nauthenticate = \"60s\"").await;
    let mut stuck = Raw::connect(&server).await;
    stuck.bytes(&framed(FIN | TEXT, br#"{"type":"subscribe","rooms":["prices"]}"#)).await;
    stuck.json().await;
    let mut publisher = Client::connect(&server).await;
    // Much is waiting for this client, but less than the limit that closes it.
    for _ in 0..60 {
        publisher.publish("prices", json!("x".repeat(60_000))).await;
    }
    let mut half = Raw::tcp(server.address()).await;
    half.bytes(b"GET /v2/realtime HTTP/1.1\r\nHost: ").await;
    let silent = Raw::tcp(server.address()).await;
    let ungreeted = Raw::open(&server).await;
    let unanswering = Raw::connect(&server).await;
    let (admin, address) = (server.admin.clone(), server.address().to_owned());
    let admin = admin.strip_prefix("http://").expect("HTTP").to_owned();

    let started = Instant::now();
    server.drain();
    // Readiness fails first, and can be queried while connections are still ending.
    let ready = eventually("not ready", async || {
        let ready = switchyard_tests::Answer::of(&admin, "GET", "/readyz", "", b"").await;
        (ready.status == 503).then_some(ready)
    })
    .await;
    assert!(ready.body.contains("drain"), "{ready:?}");
    let live = switchyard_tests::Answer::of(&admin, "GET", "/livez", "", b"").await;
    assert_eq!(live.status, 200);
    tokio::time::timeout(Duration::from_secs(12), server.stop()).await.expect("an end");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "nobody listens any more");
    drop((stuck, half, silent, ungreeted, unanswering));
}

/// Health checks of load balancers open connections and send nothing.
#[tokio::test]
async fn connections_without_a_complete_request_do_not_delay_the_end() {
    let server = Server::start("").await;
    let silent = Raw::tcp(server.address()).await;
    let mut half = Raw::tcp(server.address()).await;
    half.bytes(b"GET /v2/realtime HTTP/1.1\r\nHost: ").await;
    // The node has accepted both, because it accepts in order.
    Client::connect(&server).await.round_trip().await;
    let started = Instant::now();
    server.stop().await;
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    drop((silent, half));
}

/// What was published before the end is delivered before the close.
#[tokio::test]
async fn waiting_messages_are_sent_before_the_close() {
    let server = Server::start("").await;
    let (mut client, mut publisher) = (Client::connect(&server).await, Client::connect(&server).await);
    client.subscribe(json!(["prices"])).await;
    for n in 1..=100 {
        publisher.publish("prices", json!(n)).await;
    }
    server.drain();
    let mut last = 0;
    let closed = loop {
        match client.socket.next().await.expect("a close").expect("a frame") {
            Message::Text(text) => {
                let frame: serde_json::Value = serde_json::from_str(&text).expect("JSON");
                assert_eq!(frame["offset"], last + 1);
                last += 1;
            }
            Message::Close(frame) => break frame.expect("a code"),
            _ => {}
        }
    };
    assert_eq!((last, u16::from(closed.code)), (100, 4600));
}

/// So that a load balancer notices before any client is rejected.
#[tokio::test]
async fn a_node_keeps_serving_during_its_drain_delay_but_is_not_ready() {
    let server = Server::start("[server]\ndrain_delay = \"3s\"").await;
    let mut client = Client::connect(&server).await;
    client.subscribe(json!(["prices"])).await;
    let began = Instant::now();
    server.drain();
    let (status, body) = eventually("not ready", async || {
        let answer = server.call("GET", "/readyz", None, "").await;
        (answer.0 == 503).then_some(answer)
    })
    .await;
    assert!(status == 503 && body.contains("draining"), "{body}");
    assert!(began.elapsed() < Duration::from_secs(2), "it says so at once");
    let mut late = Client::connect(&server).await;
    late.publish("prices", json!(1)).await;
    assert_eq!(client.expect("message").await["data"], 1);
    for client in [&mut client, &mut late] {
        assert_eq!(client.closed().await.code, 4600);
    }
    assert!(began.elapsed() >= Duration::from_secs(3), "{:?}", began.elapsed());
    drop((client, late));
    server.stop().await;
}
