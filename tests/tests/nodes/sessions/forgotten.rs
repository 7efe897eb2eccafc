//! Redis forgets everything, or a node's lease runs out, under clients that live: they are taken back once, and then all is
//! as before.

use super::{NOTICED, commands_a_second, counted, is_counted, rests, sleeps_beyond_its_lease, two};
use serde_json::json;
use switchyard_tests::{KEY, Live, Node, Redis, eventually, eventually_within};

const LIMIT: &str = "[tier.default]\nconnections = 12";

async fn ten(node: &Node) -> Vec<Live> {
    let mut clients = vec![];
    for _ in 0..10 {
        let client = Live::connect(&node.url).await;
        client.subscribe(json!(["prices"])).await;
        clients.push(client);
    }
    clients
}

/// Ten connections of at most twelve: two more are let in, and no third.
async fn has_place_for_two(node: &Node, redis: &Redis) {
    is_counted(redis, "acme", 10).await;
    let _more = [Live::connect(&node.url).await, Live::connect(&node.url).await];
    let connect = json!({"auth": {"apiKey": KEY}});
    let refused = Live::try_connect(&node.url, connect).await.err().expect("no place for a third");
    assert_eq!(refused["error"]["code"], "connection_limit", "{refused}");
}

/// Names that were given up run out.
async fn knows_nodes(node: &Node, count: f64) {
    eventually_within(NOTICED, "one name a node", async || {
        (node.metric("switchyard_store_nodes").await == count).then_some(())
    })
    .await;
}

async fn all_hear(node: &Node, clients: &[Live], data: &str) {
    let (status, body) =
        node.call("POST", "/v1/publish", &json!({"room": "prices", "data": data}).to_string()).await;
    assert_eq!(status, 200, "{body}");
    for client in clients {
        client.sees(data, |frame| frame["data"] == data).await;
    }
}

/// The name that a node took on coming back had no lease, so that each renewal found it lost again: ten connections were
/// counted anew under a new name each second, for ever.
#[tokio::test]
async fn connections_are_taken_back_once_each_time_redis_forgets_everything() {
    let redis = Redis::start().await;
    let node = Node::start(&redis.url(), LIMIT).await;
    let clients = ten(&node).await;
    let resting = commands_a_second(&redis).await;
    for loss in ["first", "second"] {
        is_counted(&redis, "acme", 10).await;
        redis.command(&["FLUSHALL"]).await;
        node.has_members("prices", 10).await;
        rests(&redis, resting).await;
        has_place_for_two(&node, &redis).await;
        all_hear(&node, &clients, loss).await;
        knows_nodes(&node, 1.0).await;
    }
}

/// The same for a machine that slept, and then for a Redis that forgets.
#[tokio::test]
async fn connections_are_taken_back_once_after_a_sleep_longer_than_the_lease() {
    let redis = Redis::start().await;
    let (one, other) = two(&redis, LIMIT).await;
    let clients = ten(&one).await;
    let resting = commands_a_second(&redis).await;
    sleeps_beyond_its_lease(&one, &other).await;
    one.process.signal("CONT").await;
    eventually("its connections counted again", async || (counted(&redis, "acme").await > 0).then_some(()))
        .await;
    rests(&redis, resting).await;
    has_place_for_two(&other, &redis).await;
    all_hear(&other, &clients, "awake").await;
    is_counted(&redis, "acme", 10).await;
    redis.command(&["FLUSHALL"]).await;
    other.has_members("prices", 10).await;
    rests(&redis, resting).await;
    has_place_for_two(&other, &redis).await;
    all_hear(&other, &clients, "remembered").await;
    knows_nodes(&other, 2.0).await;
    assert!(clients.iter().all(|client| client.end().is_none()), "connections stay");
}
