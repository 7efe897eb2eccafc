//! Policies of rooms on several nodes: what one node stores, the others show, and what happens while their
//! configurations differ.

use serde_json::{Value, json};
use switchyard_tests::{KEY, Live, Node, READER, Redis, eventually};

const ENTRIES: &str =
    "[[room]]\nmatch = \"named:*\"\nsender = true\nhistory = { messages = 2, age = \"30s\" }\n";

async fn connect(node: &Node, key: &str) -> Live {
    Live::connect_with(&node.url, json!({"auth": {"apiKey": key}})).await
}

async fn publish(client: &Live, room: &str, data: Value) -> Value {
    let answer = client.ask(json!({"type": "publish", "room": room, "data": data})).await;
    assert_eq!(answer["type"], "published", "{answer}");
    answer
}

/// The offset and the sender of each message that is kept.
async fn history(node: &Node, room: &str) -> Vec<(u64, Option<String>)> {
    let page = node.get(&format!("/v1/rooms/{room}/history")).await;
    let messages = page["messages"].as_array().expect("messages");
    let sender = |message: &Value| message["from"].as_str().map(str::to_owned);
    messages.iter().map(|message| (message["offset"].as_u64().unwrap(), sender(message))).collect()
}

#[tokio::test]
async fn all_nodes_keep_and_show_what_the_policy_of_a_room_says() {
    let redis = Redis::start().await;
    let nodes = [Node::start(&redis.url(), ENTRIES).await, Node::start(&redis.url(), ENTRIES).await];
    let member = connect(&nodes[1], READER).await;
    member.subscribe(json!(["named:a", "other"])).await;
    let publisher = connect(&nodes[0], KEY).await;
    for n in 1..=4 {
        for room in ["named:a", "other"] {
            publish(&publisher, room, json!(n)).await;
        }
    }
    for offset in 1..=4 {
        assert_eq!(member.message("named:a", offset).await["from"], "acme");
        assert!(member.message("other", offset).await.get("from").is_none());
    }
    let named = Some("acme".to_owned());
    for node in &nodes {
        assert_eq!(history(node, "named:a").await, [(3, named.clone()), (4, named.clone())]);
        assert_eq!(history(node, "other").await.len(), 4);
    }
    // Keys in Redis live as long as the room's own history, and messages name nobody without need.
    let alive: i64 = redis.command(&["PTTL", "switchyard:{named:a}:log"]).await.parse().expect("a number");
    assert!((1..=31_000).contains(&alive), "{alive} ms");
    let alive: i64 = redis.command(&["PTTL", "switchyard:{other}:log"]).await.parse().expect("a number");
    assert!(alive > 500_000, "{alive} ms");
    let stored = redis.command(&["XRANGE", "switchyard:{other}:log", "-", "+"]).await;
    assert!(!stored.contains("acme"), "{stored}");
    // A session that comes back on the other node.
    member.send(json!({"type": "ack", "offsets": {"named:a": 4, "other": 4}}));
    for room in ["named:a", "other"] {
        eventually("an acknowledgement in Redis", async || {
            let receipt = nodes[0].get(&format!("/v1/rooms/{room}/messages/4/receipt")).await;
            (receipt["acknowledged"] == 1).then_some(())
        })
        .await;
    }
    let token = member.token();
    member.cut();
    for room in ["named:a", "other"] {
        publish(&publisher, room, json!(5)).await;
    }
    let fields = json!({"auth": {"apiKey": READER}, "session": token});
    let member = Live::connect_with(&nodes[0].url, fields).await;
    assert_eq!(member.message("named:a", 5).await["from"], "acme");
    assert!(member.message("other", 5).await.get("from").is_none());
}

#[tokio::test]
async fn while_nodes_differ_the_one_that_publishes_decides() {
    let redis = Redis::start().await;
    let nodes = [Node::start(&redis.url(), ENTRIES).await, Node::start(&redis.url(), "").await];
    let clients = [connect(&nodes[0], KEY).await, connect(&nodes[1], KEY).await];
    clients[0].subscribe(json!(["named:a"])).await;
    for n in 1..=3 {
        publish(&clients[1], "named:a", json!(n)).await;
    }
    assert!(clients[0].message("named:a", 3).await.get("from").is_none());
    assert_eq!(history(&nodes[0], "named:a").await, [(1, None), (2, None), (3, None)]);
    publish(&clients[0], "named:a", json!(4)).await;
    assert_eq!(clients[0].message("named:a", 4).await["from"], "acme");
    assert_eq!(history(&nodes[0], "named:a").await, [(3, None), (4, Some("acme".to_owned()))]);
    assert_eq!(history(&nodes[1], "named:a").await, [(3, None), (4, None)], "this node names no senders");
    // Then both have the same, without a restart.
    let file = nodes[1].folder().join("switchyard.toml");
    let text = std::fs::read_to_string(&file).expect("its configuration") + ENTRIES;
    switchyard_tests::replace_file(&file, &text);
    eventually("the policy on the other node", async || {
        let shown = nodes[1].get("/v1/rooms/named:a").await;
        (shown["policy"]["match"] == "named:*").then_some(())
    })
    .await;
    assert_eq!(history(&nodes[1], "named:a").await, [(3, None), (4, Some("acme".to_owned()))]);
}
