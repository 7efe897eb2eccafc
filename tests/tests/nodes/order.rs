//! Overlapping messages get offsets in the order in which they were published, whatever happens between a
//! node and Redis.

use futures_util::SinkExt;
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};
use switchyard_tests::{
    Client, Cluster, KEY, Live, Node, Pattern, Proxy, Raw, Redis, Sentinel, eventually, plugin,
};
use tokio::{io::AsyncWriteExt, time::sleep};
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

/// Messages that are published at once. A node processes fewer per connection at a time.
const MANY: u64 = 300;

/// Publishes numbers from 1 on to one room, without waiting for answers in between.
struct Pipeline {
    client: Client,
    sent: u64,
    /// The numbers that were published, by epoch and offset.
    published: BTreeMap<(String, u64), u64>,
    refused: u64,
}

impl Pipeline {
    async fn connect(node: &Node) -> Self {
        Self { client: node.client().await, sent: 0, published: BTreeMap::new(), refused: 0 }
    }

    /// Over the WebSocket, then in a list over HTTP.
    async fn publish(&mut self, node: &Node) {
        let first = self.sent + 1;
        self.sent += 2 * MANY;
        for n in first..first + MANY {
            // Some with an idempotency key.
            let key = (n % 3 == 0).then(|| format!("key {n}"));
            let publish = json!({"type": "publish", "id": n, "room": "prices", "data": n, "key": key});
            self.client.send(publish).await;
        }
        for n in first..first + MANY {
            let answer = self.client.recv().await;
            assert_eq!(answer["id"], n, "answers come in order: {answer}");
            self.note(n, &answer);
        }
        let list: Vec<_> =
            (first + MANY..first + 2 * MANY).map(|n| json!({"room": "prices", "data": n})).collect();
        let (status, answers) = node.call("POST", "/v1/publish", &Value::from(list).to_string()).await;
        assert_eq!(status, 200, "{answers}");
        let answers: Vec<Value> = serde_json::from_str(&answers).expect("a list");
        assert_eq!(answers.len() as u64, MANY);
        for (n, answer) in (first + MANY..).zip(&answers) {
            self.note(n, answer);
        }
    }

    fn note(&mut self, n: u64, answer: &Value) {
        match answer["offset"].as_u64() {
            Some(offset) => {
                let epoch = answer["epoch"].as_str().expect("an epoch").to_owned();
                assert_eq!(
                    self.published.insert((epoch, offset), n),
                    None,
                    "an offset is given once: {answer}"
                );
            }
            None => {
                assert_eq!(answer["error"]["code"], "store_unavailable", "{answer}");
                self.refused += 1;
            }
        }
    }

    /// The numbers in the room's history, in order, after checking that published ones have the offsets in
    /// their answers.
    async fn is_in_order(&self, node: &Node) -> Vec<u64> {
        let mut client = node.client().await;
        let epoch = client.subscribe(json!(["prices"])).await["results"][0]["epoch"].clone();
        let (mut since, mut history) = (json!({"epoch": epoch, "offset": 0}), vec![]);
        loop {
            let ask = json!({"type": "history", "room": "prices", "since": since, "limit": 1000});
            let page = client.ask(ask).await;
            for message in page["messages"].as_array().expect("messages") {
                history.push((
                    message["offset"].as_u64().expect("an offset"),
                    message["data"].as_u64().expect("a number"),
                ));
            }
            if page["more"] == false {
                break;
            }
            since["offset"] = history.last().expect("one").0.into();
        }
        let by_offset: BTreeMap<u64, u64> = history.iter().copied().collect();
        for ((of, offset), n) in &self.published {
            if epoch == **of {
                assert_eq!(by_offset.get(offset), Some(n), "what was acknowledged is there");
            }
        }
        let offsets = history.iter().map(|(offset, _)| *offset);
        assert!(offsets.eq(1..=history.len() as u64), "all of it is held");
        let numbers: Vec<u64> = history.into_iter().map(|(_, n)| n).collect();
        let turned: Vec<_> = numbers.windows(2).filter(|pair| pair[0] >= pair[1]).take(3).collect();
        assert!(turned.is_empty(), "the order is not that of the requests: {turned:?}");
        numbers
    }
}

const KEPT: &str = "[rooms.history]\nmessages = 100000";

#[tokio::test]
async fn messages_keep_their_order_when_redis_forgets_its_scripts() {
    let redis = Redis::start().await;
    let node = Node::start(&redis.url(), KEPT).await;
    let mut pipeline = Pipeline::connect(&node).await;
    let forget = async {
        loop {
            redis.command(&["SCRIPT", "FLUSH"]).await;
        }
    };
    tokio::select! {
        () = forget => {}
        () = async { for _ in 0..4 { pipeline.publish(&node).await } } => {}
    }
    assert_eq!(pipeline.refused, 0);
    assert!(pipeline.is_in_order(&node).await.into_iter().eq(1..=pipeline.sent));
}

#[tokio::test]
async fn messages_keep_their_order_while_connections_are_cut() {
    let redis = Redis::start().await;
    let proxy = Proxy::start(&redis).await;
    let node = Node::start(&proxy.url(), KEPT).await;
    let mut pipeline = Pipeline::connect(&node).await;
    for _ in 0..5 {
        let cut = proxy.lose_answer(Pattern::script("publish").times(1));
        pipeline.publish(&node).await;
        cut.matched().await;
        // Until the node is connected again.
        eventually("a connection", async || node.is_ready().await.then_some(())).await;
    }
    assert!(pipeline.refused > 0 && !pipeline.published.is_empty());
    pipeline.is_in_order(&node).await;
}

#[tokio::test]
async fn messages_keep_their_order_while_their_slot_moves() {
    let cluster = Cluster::start().await;
    let node = Node::start(&cluster.url(), KEPT).await;
    let mut pipeline = Pipeline::connect(&node).await;
    // A member, so that all keys of the room exist.
    let member = Live::connect(&node.url).await;
    super::join(&member, &["prices".to_owned()]).await;
    pipeline.publish(&node).await;
    let slot = cluster.slot("prices").await;
    for _ in 0..3 {
        let to = (cluster.owner(slot).await + 1) % 3;
        tokio::join!(cluster.move_slot(slot, to), pipeline.publish(&node));
    }
    assert_eq!(pipeline.refused, 0);
    assert!(pipeline.is_in_order(&node).await.into_iter().eq(1..=pipeline.sent));
}

#[tokio::test]
async fn messages_keep_their_order_during_a_failover() {
    let mut sentinel = Sentinel::start().await;
    let node = Node::start(&sentinel.url(), KEPT).await;
    let mut pipeline = Pipeline::connect(&node).await;
    pipeline.publish(&node).await;
    let publishing = async {
        loop {
            pipeline.publish(&node).await;
            sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = sentinel.kill_master() => {}
        () = publishing => {}
    }
    eventually("the new master", async || node.is_ready().await.then_some(())).await;
    let mut pipeline = Pipeline { client: node.client().await, ..pipeline };
    pipeline.publish(&node).await;
    pipeline.is_in_order(&node).await;
}

/// Regression: a script that was still in flight when its node gave up on it was executed after messages that
/// were published later.
#[tokio::test]
async fn a_late_message_is_not_stored_after_later_ones() {
    let redis = Redis::start().await;
    let proxy = Proxy::start(&redis).await;
    let node = Node::start(&proxy.url(), KEPT).await;
    let mut client = node.client().await;
    let publish = |n: u64| json!({"type": "publish", "room": "prices", "data": n});
    client.publish("prices", json!(1)).await;
    let before = proxy.passed()["script publish"];
    let late = proxy.delay(Pattern::script("publish").times(1));
    client.send(publish(2)).await;
    late.matched().await;
    let answer = client.recv().await;
    assert_eq!(answer["error"]["code"], "store_unavailable", "{answer}");
    // The commands behind it are executed at once, but their answers come after its answer.
    client.send(publish(3)).await;
    eventually("the one behind it", async || (proxy.passed()["script publish"] > before).then_some(())).await;
    // Not so late that it misses its deadline.
    late.release();
    assert_eq!(client.recv().await["offset"], 2);
    eventually("the late one", async || (proxy.passed()["script publish"] > before + 1).then_some(())).await;
    assert_eq!(client.publish("prices", json!(4)).await["offset"], 3);
    client.subscribe(json!(["prices"])).await;
    let history = client.ask(json!({"type": "history", "room": "prices"})).await;
    let messages = history["messages"].as_array().expect("messages").iter();
    assert!(messages.map(|message| message["data"].clone()).eq([1, 3, 4]), "{history}");
}

/// Regression: each message of a list was a script of its own, one after the other, and so were those that
/// one connection published.
#[tokio::test]
async fn overlapping_messages_are_batched() {
    let redis = Redis::start().await;
    let proxy = Proxy::start(&redis).await;
    let node = Node::start(&proxy.url(), KEPT).await;
    let mut pipeline = Pipeline::connect(&node).await;
    pipeline.publish(&node).await;
    let scripts = proxy.passed()["script publish"];
    assert!(scripts <= pipeline.sent / 3, "{scripts} scripts for {} messages", pipeline.sent);
}

/// Answers to requests before a Close come before it, even if the server has to wait for them.
#[tokio::test]
async fn a_publisher_that_closes_is_answered_before_the_close() {
    let redis = Redis::start().await;
    let node = Node::start(&redis.url(), KEPT).await;
    let mut client = node.client().await;
    for n in 0..MANY {
        client.send(json!({"type": "publish", "id": n, "room": "prices", "data": n})).await;
    }
    let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    client.socket.send(Message::Close(Some(normal))).await.expect("a live connection");
    for n in 0..MANY {
        let answer = client.recv().await;
        assert_eq!((&answer["id"], &answer["type"]), (&json!(n), &json!("published")));
    }
    assert_eq!(client.closed().await.code, 1000);
}

/// A client that sends no more but still reads gets its answers as well, even those that need a plugin.
#[tokio::test]
async fn a_publisher_that_ends_its_stream_is_answered() {
    let redis = Redis::start().await;
    let node =
        Node::start(&redis.url(), &format!("{KEPT}\n{}", plugin("hostile", r#"["plugin:*"]"#, "{}"))).await;
    let mut raw = Raw::upgraded(&node.url).await;
    raw.send(json!({"type": "connect", "auth": {"apiKey": KEY}})).await;
    raw.json().await;
    for n in 0..MANY {
        let room = if n % 2 == 0 { "prices" } else { "plugin:prices" };
        raw.send(json!({"type": "publish", "id": n, "room": room, "data": n})).await;
    }
    raw.tcp.shutdown().await.expect("a connection");
    for n in 0..MANY {
        let answer = raw.json().await;
        assert_eq!((&answer["id"], &answer["type"]), (&json!(n), &json!("published")), "{answer}");
    }
    raw.ended().await;
}

/// Regression: what a request has besides its data was not counted, and its `id` could be as long as a frame.
#[tokio::test]
async fn requests_in_flight_are_bounded_including_their_ids() {
    let redis = Redis::start().await;
    let proxy = Proxy::start(&redis).await;
    let node = Node::start(&proxy.url(), KEPT).await;
    let mut client = node.client().await;
    client.publish("prices", json!(0)).await;
    let held = proxy.hold_answer(Pattern::script("publish"));
    let id = "x".repeat(100_000);
    // Few enough that the client need not wait until the node reads them: when Redis has not answered for 5 s, messages
    // are refused at once.
    for _ in 0..12 {
        client.send(json!({"type": "publish", "id": id, "room": "prices", "data": 1})).await;
    }
    held.matched().await;
    let kept = async || {
        let (_, metrics) = node.call("GET", "/metrics", "").await;
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("switchyard_memory_bytes{kind=\"publishes\"} "));
        line.expect("a kind").parse::<usize>().expect("a number")
    };
    eventually("as much as may be", async || (kept().await > 256 << 10).then_some(())).await;
    assert!(kept().await < 512 << 10, "{}", kept().await);
    held.release();
    for _ in 0..12 {
        client.recv().await;
    }
    eventually("nothing on its way", async || (kept().await == 0).then_some(())).await;
}
