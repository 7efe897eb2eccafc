//! State that a plugin shares between nodes: `state = "shared"`.

use serde_json::{Value, json};
use switchyard_tests::{Client, Node, Redis, eventually, plugin};

fn keeper() -> String {
    plugin("keeper", r#"["kept:*"]"#, "{}") + "state = \"shared\"\n"
}

/// A room of a node, in which the plugin is told what to do with its state, and answers.
struct Room {
    name: String,
    publisher: Client,
    member: Client,
}

impl Room {
    async fn of(node: &Node, name: &str) -> Self {
        let name = format!("kept:{name}");
        let (publisher, mut member) = (node.client().await, node.client().await);
        member.subscribe(json!([name])).await;
        Self { name, publisher, member }
    }

    async fn ask(&mut self, order: Value) -> Value {
        self.publisher.publish(&self.name, order).await;
        self.member.expect("message").await["data"].clone()
    }

    async fn set(&mut self, key: &str, value: &str) {
        self.ask(json!({"set": key, "value": value})).await;
    }

    async fn value(&mut self, key: &str) -> Value {
        self.ask(json!({"get": key})).await["value"].clone()
    }
}

/// Waits until a node has this value.
async fn until(node: &Node, key: &str, expected: Value) {
    eventually("a value on another node", async || {
        (Room::of(node, "check").await.value(key).await == expected).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_value_that_one_node_sets_or_deletes_changes_on_all_and_survives_them() {
    let redis = Redis::start().await;
    let (one, two) = (Node::start(&redis.url(), &keeper()).await, Node::start(&redis.url(), &keeper()).await);
    let (mut on_one, mut on_two) = (Room::of(&one, "one").await, Room::of(&two, "two").await);
    let set = on_one.ask(json!({"set": "limit", "value": "5", "get": "limit"})).await;
    assert_eq!(set["value"], "5", "it applies here at once");
    until(&two, "limit", json!("5")).await;
    on_one.set("limit", "6").await;
    until(&two, "limit", json!("6")).await;
    on_two.ask(json!({"delete": "limit"})).await;
    until(&one, "limit", Value::Null).await;
    // Limits remain each node's own.
    let take = json!({"take": "wallet", "burst": 1});
    assert_eq!(on_one.ask(take.clone()).await["wait"], Value::Null);
    assert_eq!(on_one.ask(take.clone()).await["wait"], -1);
    assert_eq!(on_two.ask(take).await["wait"], Value::Null);
    // Both nodes end, and a new one has what the last change left, also one made just before its node stopped.
    on_two.set("kept", "for good").await;
    drop((on_one, on_two));
    for mut node in [two, one] {
        node.process.signal("TERM").await;
        assert!(node.process.ended().await.success());
    }
    let three = Node::start(&redis.url(), &keeper()).await;
    let mut on_three = Room::of(&three, "three").await;
    assert_eq!(on_three.value("kept").await, "for good");
    assert_eq!(on_three.value("limit").await, Value::Null);
}

#[tokio::test]
async fn changes_at_the_same_time_end_in_one_value_everywhere() {
    let redis = Redis::start().await;
    let (one, two) = (Node::start(&redis.url(), &keeper()).await, Node::start(&redis.url(), &keeper()).await);
    let (mut on_one, mut on_two) = (Room::of(&one, "one").await, Room::of(&two, "two").await);
    for round in 0..3 {
        let (first, second) = (format!("one {round}"), format!("two {round}"));
        tokio::join!(on_one.set("x", &first), on_two.set("x", &second));
        // A node that knows a later change of the other one knows this one, too.
        tokio::join!(on_one.set("done one", &first), on_two.set("done two", &second));
        until(&one, "done two", json!(second)).await;
        until(&two, "done one", json!(first)).await;
        let (on_one, on_two) = (on_one.value("x").await, on_two.value("x").await);
        assert_eq!(on_one, on_two, "in round {round}");
        assert!(on_one == first || on_one == second, "{on_one}");
    }
}
