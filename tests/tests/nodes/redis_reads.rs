//! Nodes read from Redis only what they send to clients, whatever clients request.

use serde_json::{Value, json};
use std::time::{Duration, Instant};
use switchyard_tests::{Client, FIN, KEY, Node, Raw, Redis, TEXT, framed};
use tokio::{io::AsyncWriteExt, time::sleep};

/// Bytes that Redis has sent.
async fn sent(redis: &Redis) -> u64 {
    let text = redis.command(&["INFO", "stats"]).await;
    let line = text.lines().find_map(|line| line.strip_prefix("total_net_output_bytes:")).expect("counted");
    line.trim().parse().expect("a number")
}

/// Fills rooms with this many messages of 60 kB.
async fn fill(node: &Node, rooms: &[String], messages: usize) {
    let mut publisher = node.client().await;
    let data = "x".repeat(60_000);
    for room in rooms {
        for _ in 0..messages {
            publisher.publish(room, json!(data)).await;
        }
    }
}

/// Regression: each request of 44 bytes read all 60 MB of the room from Redis, for an answer of 240 kB.
#[tokio::test]
async fn only_the_requested_page_of_history_is_read() {
    let redis = Redis::start().await;
    let node = Node::start(&redis.url(), "").await;
    fill(&node, &["prices".to_owned()], 200).await;
    let mut client = node.client().await;
    client.subscribe(json!(["prices"])).await;
    let (before, mut answered) = (sent(&redis).await, 0);
    for _ in 0..10 {
        let page = client.ask(json!({"type": "history", "room": "prices", "limit": 1000})).await;
        assert_eq!(page["more"], true);
        answered += page.to_string().len() as u64;
    }
    let read = sent(&redis).await - before;
    assert!(read < answered * 3 / 2, "{read} bytes were read for {answered}");

    // Page by page, everything is there.
    let (mut since, mut offsets) = (Value::Null, vec![]);
    loop {
        let mut ask = json!({"type": "history", "room": "prices", "limit": 1000});
        if !since.is_null() {
            ask["since"] = since;
        }
        let page = client.ask(ask).await;
        offsets.extend(
            page["messages"].as_array().expect("messages").iter().map(|m| m["offset"].as_u64().unwrap()),
        );
        since = json!({"epoch": page["epoch"], "offset": offsets.last()});
        if page["more"] == false {
            break;
        }
    }
    assert!(offsets.into_iter().eq(1..=200));
}

/// Regression: one frame of 5.5 kB moved 1.5 GB, because each of its hundred entries read the room.
#[tokio::test]
async fn a_room_named_a_hundred_times_is_joined_and_read_once() {
    let redis = Redis::start().await;
    let node = Node::start(&redis.url(), "").await;
    fill(&node, &["prices".to_owned()], 50).await;
    let mut client = node.client().await;
    let epoch = client.subscribe(json!(["prices"])).await["results"][0]["epoch"].clone();
    client.ask(json!({"type": "unsubscribe", "rooms": ["prices"]})).await;
    let before = sent(&redis).await;
    let entry = json!({"room": "prices", "since": {"epoch": epoch, "offset": 0}});
    let answer = client.ask(json!({"type": "subscribe", "rooms": vec![entry; 100]})).await;
    let results = answer["results"].as_array().expect("results");
    assert_eq!((&results[0]["status"], &results[0]["recovered"]), (&json!("subscribed"), &json!(true)));
    for result in &results[1..] {
        assert_eq!(
            (&result["status"], &result["error"]["code"]),
            (&json!("rejected"), &json!("invalid_request"))
        );
    }
    for offset in 1..=50 {
        assert_eq!(client.expect("message").await["offset"], offset);
    }
    client.round_trip().await;
    let read = sent(&redis).await - before;
    assert!(read < 50 * 60_000 * 3 / 2, "{read} bytes were read");
}

/// Regression: for a client that reads nothing, the node held a page and the buffered live messages for each
/// of its rooms: 182 MiB with 15 rooms. The client stays connected as long as it answers pings, which says
/// nothing about what else it reads.
#[tokio::test]
async fn a_replay_that_nobody_reads_is_not_read_from_redis_and_ends() {
    let redis = Redis::start().await;
    let heartbeat = "[session]\nheartbeat = { interval = \"5s\", timeout = \"5s\" }";
    let node = Node::start(&redis.url(), heartbeat).await;
    let rooms: Vec<_> = (0..15).map(|n| format!("room{n}")).collect();
    fill(&node, &rooms, 40).await;
    let mut first = node.client().await;
    let known = first.subscribe(json!(rooms)).await;
    first.cut();
    let since = |n: usize| json!({"epoch": known["results"][n]["epoch"], "offset": 0});
    let entries: Vec<_> = (0..rooms.len()).map(|n| json!({"room": rooms[n], "since": since(n)})).collect();

    let mut stalled = Raw::upgraded(&node.url).await;
    stalled.send(json!({"type": "connect", "auth": {"apiKey": KEY}})).await;
    assert_eq!(stalled.json().await["type"], "connected");
    let (before, memory) = (sent(&redis).await, node.process.memory());
    stalled.send(json!({"type": "subscribe", "rooms": entries})).await;
    // It keeps sending, and reads nothing.
    let requests =
        [framed(FIN | 0xA, b""), framed(FIN | TEXT, br#"{"type":"ack","room":"room0","offset":0}"#)].concat();
    let end = Instant::now() + Duration::from_secs(60);
    while !node.get("/v1/connections").await["connections"].as_array().expect("connections").is_empty() {
        assert!(Instant::now() < end, "it is never too slow");
        stalled.tcp.write_all(&requests).await.ok();
        sleep(Duration::from_millis(100)).await;
    }
    let (read, grown) = (sent(&redis).await - before, node.process.memory().saturating_sub(memory));
    assert!(read < 16 << 20, "{read} bytes were read for one who takes none");
    assert!(grown < 16 << 20, "{grown} bytes of memory");
    let mut comes_back = Client::connect_at(&node.url, json!({"auth": {"apiKey": KEY}})).await;
    comes_back.subscribe(json!([entries[3]])).await;
    for offset in 1..=40 {
        assert_eq!(comes_back.expect("message").await["offset"], offset);
    }
}
