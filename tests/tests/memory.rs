//! What a node keeps in memory for all clients together is bounded.

use serde_json::{Value, json};
use switchyard_tests::{Client, KEY, Node, Redis, Server, eventually};

/// The sum of what a node says that it keeps, and of one kind of it.
fn kept(metrics: &str, kind: &str) -> (f64, f64) {
    let value = |line: &str| line.rsplit_once(' ').expect("a value").1.parse::<f64>().expect("a number");
    let lines = || metrics.lines().filter(|line| line.starts_with("switchyard_memory_bytes{"));
    let of_kind = lines().filter(|line| line.contains(&format!("kind=\"{kind}\"")));
    (lines().map(value).sum(), of_kind.map(value).sum())
}

/// 200 MiB were kept after a second of such publishing.
#[tokio::test]
async fn messages_to_ever_new_rooms_do_not_pile_up() {
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
    // Who comes back to a room whose history was let go is told so.
    let since = json!({"epoch": first, "offset": 0});
    let mut client = Client::connect(&server).await;
    let answer = client.subscribe(json!([{"room": "room:0:0", "since": since}])).await;
    assert_eq!(answer["results"][0]["recovered"], false, "{answer}");
    assert_eq!(server.call("GET", "/readyz", None, "").await.0, 200);
}

/// Clients until one is refused: those that are in, and how it was refused.
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

/// The last client that came was too much, and what it took is free again: rooms take the rest.
async fn fill(client: &mut Client) {
    for n in 0..100 {
        let answer = client.ask(json!({"type": "subscribe", "rooms": [format!("filling:{n}")]})).await;
        if answer["results"][0]["status"] == "rejected" {
            return assert_eq!(answer["results"][0]["error"]["code"], "overloaded", "{answer}");
        }
    }
    panic!("a hundred rooms more");
}

/// Clients that only wait are not to be taken for gone, however long the crowd takes.
const SMALL: &str = "[memory]\nlimit = \"1MiB\"\n[tier.default]\nconnections = 1000\n\
    [session]\nheartbeat = { interval = \"10m\" }";

#[tokio::test]
async fn a_full_node_serves_those_that_are_there_and_takes_no_more() {
    let server = Server::start(SMALL).await;
    let mut one = Client::connect(&server).await;
    one.subscribe(json!(["prices"])).await;
    let (mut clients, refused) = crowd(&server.url, 140).await;
    assert!(clients.len() > 80, "{}", clients.len());
    assert_eq!(refused, ("overloaded".to_owned(), 4503));
    fill(&mut one).await;
    let answer = one.ask(json!({"type": "subscribe", "rooms": ["another", "prices"]})).await;
    assert_eq!(answer["results"][0]["error"]["code"], "overloaded", "{answer}");
    assert_eq!(answer["results"][1]["status"], "subscribed", "it is there already");
    let publish = json!({"type": "publish", "room": "prices", "data": 1});
    assert_eq!(one.ask(publish.clone()).await["error"]["code"], "overloaded", "it would be kept");
    let (status, body) = server.call("GET", "/readyz", None, "").await;
    assert!(status == 503 && body.contains("(memory.limit)"), "{status} {body}");
    let history = one.ask(json!({"type": "history", "room": "prices", "limit": 1})).await;
    assert_eq!(history["type"], "history", "{history}");
    // As soon as some go, others may come.
    clients.truncate(20);
    eventually("room again", async || (server.call("GET", "/readyz", None, "").await.0 == 200).then_some(()))
        .await;
    let mut other = Client::connect(&server).await;
    other.subscribe(json!(["prices"])).await;
    assert_eq!(other.publish("prices", json!(2)).await["offset"], 1);
    assert_eq!(one.expect("message").await["data"], 2);
}

/// Where rooms are in Redis, publishing to them takes nothing here.
#[tokio::test]
async fn a_full_node_on_redis_goes_on_delivering() {
    let redis = Redis::start().await;
    let node = Node::start(&redis.url(), SMALL).await;
    let mut one = node.client().await;
    one.subscribe(json!(["prices"])).await;
    let (mut clients, refused) = crowd(&node.url, 140).await;
    assert_eq!(refused, ("overloaded".to_owned(), 4503));
    fill(&mut clients[1]).await;
    assert!(!node.is_ready().await);
    let answer = clients[0].ask(json!({"type": "publish", "room": "prices", "data": 1})).await;
    assert_eq!(answer["offset"], 1, "{answer}");
    assert_eq!(one.expect("message").await["data"], 1);
    // Who was cut off comes back, as the room that it was in is there.
    let token = one.token();
    one.cut();
    clients.truncate(100);
    eventually("room again", async || node.is_ready().await.then_some(())).await;
    assert_eq!(node.resume(&token).await.connected["resumed"], true);
}

/// What is not read counts, and no more than once however many wait for it.
#[tokio::test]
async fn what_waits_for_slow_clients_counts() {
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
    // The system takes some of them.
    for _ in 0..60 {
        slow.send(json!({"type": "history", "room": "prices", "limit": 5})).await;
    }
    eventually("answers that wait", async || (outboxes().await > 100_000.0).then_some(())).await;
    slow.cut();
    eventually("nothing that waits", async || (outboxes().await == 0.0).then_some(())).await;
}
