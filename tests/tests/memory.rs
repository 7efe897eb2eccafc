//! The memory that a node uses for all clients together is bounded.

use serde_json::{Value, json};
use switchyard_tests::{
    Client, EVENT_TIMEOUT, FIN, KEY, Node, PING, Raw, Redis, Server, TEXT, eventually, framed,
};
use tokio::time::timeout;

/// The total memory that a node reports, and the part of one kind.
fn kept(metrics: &str, kind: &str) -> (f64, f64) {
    let value = |line: &str| line.rsplit_once(' ').expect("a value").1.parse::<f64>().expect("a number");
    let lines = || metrics.lines().filter(|line| line.starts_with("switchyard_memory_bytes{"));
    let of_kind = lines().filter(|line| line.contains(&format!("kind=\"{kind}\"")));
    (lines().map(value).sum(), of_kind.map(value).sum())
}

/// Regression: 200 MiB were in use after a second of such publishing.
#[tokio::test]
async fn messages_to_ever_new_rooms_do_not_accumulate() {
    const LIMIT: f64 = (8 << 20) as f64;
    let server = Server::start("[memory]\nlimit = \"8MiB\"").await;
    let (data, mut first) = ("x".repeat(10_000), Value::Null);
    for list in 0..40 {
        let message = |n: u32| json!({"room": format!("room:{list}:{n}"), "data": data});
        let body = Value::from((0..100).map(message).collect::<Vec<_>>()).to_string();
        let (status, answer) = server.call("POST", "/v1/publish", Some(KEY), &body).await;
        assert_eq!(status, 200, "{answer}");
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        assert!(answer.as_array().expect("a list").iter().all(|one| one["offset"] == 1), "{answer}");
        if list == 0 {
            first = answer[0]["epoch"].clone();
        }
        let (_, metrics) = server.call("GET", "/metrics", None, "").await;
        let (all, history) = kept(&metrics, "history");
        assert!(all <= LIMIT && history <= all, "{all} bytes, {history} of them history");
        assert!(metrics.contains(&format!("switchyard_memory_limit_bytes {LIMIT}\n")), "{metrics}");
    }
    assert_eq!(
        server.get("/v1/rooms/room:39:99/history").await["messages"][0]["offset"],
        1,
        "the newest is held"
    );
    // A client that returns to a room whose history was dropped is told so.
    let since = json!({"epoch": first, "offset": 0});
    let mut client = Client::connect(&server).await;
    let answer = client.subscribe(json!([{"room": "room:0:0", "since": since}])).await;
    assert_eq!(answer["results"][0]["recovered"], false, "{answer}");
    assert_eq!(server.call("GET", "/readyz", None, "").await.0, 200);
}

/// Connects clients until one is rejected. Returns the accepted ones and the error.
async fn crowd(url: &str, most: usize) -> (Vec<Client>, (String, u16)) {
    let mut clients = vec![];
    loop {
        assert!(clients.len() < most, "nobody is refused");
        let mut client = Client::open(url).await;
        client.send(json!({"type": "connect", "auth": {"apiKey": KEY}})).await;
        let answer = client.recv().await;
        if answer["type"] == "connected" {
            clients.push(client);
            continue;
        }
        let code = answer["error"]["code"].as_str().expect("a code").to_owned();
        return (clients, (code, client.closed().await.code));
    }
}

/// The last client was one too many, and its memory is free again: rooms use the rest.
async fn fill(client: &mut Client) {
    for n in 0..100 {
        let answer = client.ask(json!({"type": "subscribe", "rooms": [format!("filling:{n}")]})).await;
        if answer["results"][0]["status"] == "rejected" {
            return assert_eq!(answer["results"][0]["error"]["code"], "overloaded", "{answer}");
        }
    }
    panic!("a hundred rooms more");
}

/// Answers pings, so that waiting clients are not considered dead, however long this takes.
const SMALL: &str = "[memory]\nlimit = \"1MiB\"\n[tier.default]\nconnections = 1000\n\
    [session]\nheartbeat = { interval = \"10m\" }";

/// Regression: one principal prevented all others from connecting and publishing.
#[tokio::test]
async fn a_principal_with_much_memory_gets_no_more_and_others_do() {
    let server = Server::start(&format!("{SMALL}\n{}", Server::more_keys())).await;
    let mut one = Client::connect(&server).await;
    one.subscribe(json!(["prices"])).await;
    let (mut clients, refused) = crowd(&server.url, 140).await;
    assert!(clients.len() > 60, "{}", clients.len());
    assert_eq!(refused, ("overloaded".to_owned(), 4503));
    fill(&mut one).await;
    let answer = one.ask(json!({"type": "subscribe", "rooms": ["another", "prices"]})).await;
    assert_eq!(answer["results"][0]["error"]["code"], "overloaded", "{answer}");
    assert_eq!(answer["results"][1]["status"], "subscribed", "it is there already");
    let publish = json!({"type": "publish", "room": "prices", "data": 1});
    assert_eq!(one.ask(publish.clone()).await["error"]["code"], "overloaded", "it would be kept");
    let history = one.ask(json!({"type": "history", "room": "prices", "limit": 1})).await;
    assert_eq!(history["type"], "history", "{history}");
    // No client may take a node out of service for others.
    let (status, body) = server.call("GET", "/readyz", None, "").await;
    assert!(status == 200 && body.contains("(memory.limit)"), "{status} {body}");
    let mut ann = Client::connect_as(&server, "ann").await;
    ann.subscribe(json!(["prices", "ann:1", "ann:2"])).await;
    assert_eq!(ann.publish("prices", json!(2)).await["offset"], 1);
    assert_eq!(one.expect("message").await["data"], 2);
    let mut bob = Client::connect_as(&server, "bob").await;
    assert_eq!(bob.publish("bob:1", json!(1)).await["offset"], 1);
    // As soon as some of its clients disconnect, it may connect again.
    clients.truncate(20);
    eventually("room again", async || Client::is_accepted(&server.url, KEY).await.then_some(())).await;
    assert_eq!(one.ask(publish).await["type"], "published");
}

/// With rooms in Redis, publishing to them takes no memory here.
#[tokio::test]
async fn a_full_node_on_redis_keeps_delivering() {
    let redis = Redis::start().await;
    let node = Node::start(&redis.url(), SMALL).await;
    let mut one = node.client().await;
    one.subscribe(json!(["prices"])).await;
    let (mut clients, refused) = crowd(&node.url, 140).await;
    assert_eq!(refused, ("overloaded".to_owned(), 4503));
    fill(&mut clients[1]).await;
    let answer = clients[0].ask(json!({"type": "publish", "room": "prices", "data": 1})).await;
    assert_eq!(answer["offset"], 1, "{answer}");
    assert_eq!(one.expect("message").await["data"], 1);
    // A member that was disconnected returns, because its room is still there.
    let token = one.token();
    one.cut();
    clients.truncate(50);
    eventually("a new client again", async || Client::is_accepted(&node.url, KEY).await.then_some(())).await;
    assert_eq!(node.resume(&token).await.connected["resumed"], true);
}

/// Regression: two megabytes were allocated for each unknown client, without being counted.
#[tokio::test]
async fn incomplete_messages_count() {
    let server = Server::start("").await;
    let frames = async || kept(&server.call("GET", "/metrics", None, "").await.1, "frames").1;
    let half = |length: usize, of: usize| {
        let whole = framed(FIN | TEXT, " ".repeat(of).as_bytes());
        whole[..whole.len() - of + length].to_vec()
    };
    let (_, mut stranger) = Raw::upgrade(&server, "").await;
    stranger.bytes(&half(10_000, 100_000)).await;
    stranger.bytes(&[b' '; 10_000]).await;
    assert_eq!(stranger.closed().await.code, 1009, "a stranger says who it is in 16 KiB");
    let mut client = Raw::connect(&server).await;
    client.bytes(&half(100_000, 120_000)).await;
    eventually("half a frame", async || (frames().await == 98_304.0).then_some(())).await;
    client.bytes(&[b' '; 20_000]).await;
    eventually("no half frame", async || (frames().await == 0.0).then_some(())).await;
    // Pings and complete frames leave nothing behind, and neither do connections that are cut.
    for _ in 0..200 {
        client.bytes(&framed(FIN | PING, &[b'x'; 125])).await;
    }
    client.bytes(&half(60_000, 120_000)).await;
    eventually("half a frame", async || (frames().await == 49_152.0).then_some(())).await;
    drop(client);
    eventually("no half frame", async || (frames().await == 0.0).then_some(())).await;
}

/// Regression: incomplete bodies of a key that could only publish used up all connections of operators.
#[tokio::test]
async fn incomplete_request_bodies_lock_nobody_out() {
    let server = Server::start(&Server::more_keys()).await;
    let head =
        "POST /v1/publish HTTP/1.1\r\nHost: localhost\r\nX-API-Key: ann\r\nContent-Length: 100000\r\n\r\n[";
    let (mut held, admin) = (vec![], server.admin.trim_start_matches("http://").to_owned());
    for _ in 0..700 {
        let mut raw = Raw::tcp(&admin).await;
        raw.bytes(head.as_bytes()).await;
        held.push(raw);
    }
    for _ in 0..20 {
        let answer =
            timeout(EVENT_TIMEOUT, server.call("GET", "/readyz", None, "")).await.expect("an answer");
        assert_eq!(answer.0, 200, "{}", answer.1);
        let body = r#"{"room":"prices","data":1}"#;
        let answer = timeout(EVENT_TIMEOUT, server.call("POST", "/v1/publish", Some("bob"), body)).await;
        assert_eq!(answer.expect("an answer").0, 200);
    }
    drop(held);
    let bodies = async || kept(&server.call("GET", "/metrics", None, "").await.1, "bodies").1;
    eventually("no body", async || (bodies().await == 0.0).then_some(())).await;
}

/// What is not read counts, but only once, however many clients wait for it.
#[tokio::test]
async fn messages_waiting_for_slow_clients_count() {
    let server = Server::start("[session]\noutbox = \"64MiB\"").await;
    let outboxes = async || kept(&server.call("GET", "/metrics", None, "").await.1, "outboxes").1;
    let mut publisher = Client::connect(&server).await;
    publisher.subscribe(json!(["prices"])).await;
    for _ in 0..20 {
        publisher.publish("prices", json!("x".repeat(60_000))).await;
        publisher.expect("message").await;
    }
    assert_eq!(outboxes().await, 0.0, "all of it was sent");
    let mut slow = Client::connect(&server).await;
    slow.subscribe(json!(["prices"])).await;
    // The kernel buffers some of them.
    for _ in 0..60 {
        slow.send(json!({"type": "history", "room": "prices", "limit": 5})).await;
    }
    eventually("answers that wait", async || (outboxes().await > 100_000.0).then_some(())).await;
    slow.cut();
    eventually("nothing that waits", async || (outboxes().await == 0.0).then_some(())).await;
}
