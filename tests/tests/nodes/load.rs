//! The load on Redis does not grow with the number of members.

use serde_json::json;
use std::collections::BTreeMap;
use switchyard_tests::{Client, Node, Redis, eventually};

/// The number of calls of each command so far. Calls of all scripts are counted together.
async fn calls(redis: &Redis) -> BTreeMap<String, u64> {
    let text = redis.command(&["INFO", "commandstats"]).await;
    let line = |line: &str| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

/// Commands per message while `members` receive and acknowledge each of a hundred messages.
async fn commands_a_message(members: usize) -> (f64, BTreeMap<String, u64>) {
    let redis = Redis::start().await;
    let node = Node::start(&redis.url(), "[tier.default]\nconnections = 5000").await;
    let mut clients = vec![];
    for _ in 0..members {
        let mut client = node.client().await;
        client.subscribe(json!(["prices"])).await;
        clients.push(client);
    }
    let mut publisher = node.client().await;
    let before = calls(&redis).await;
    const MESSAGES: u64 = 100;
    for n in 1..=MESSAGES {
        publisher.publish("prices", json!(n)).await;
        for client in &mut clients {
            acknowledge(client, n).await;
        }
    }
    let path = format!("/v1/rooms/prices/messages/{MESSAGES}/receipt");
    eventually("all acknowledged", async || (node.get(&path).await["acknowledged"] == members).then_some(()))
        .await;
    let mut calls = calls(&redis).await;
    calls.retain(|name, count| {
        *count -= before.get(name).copied().unwrap_or(0);
        ["evalsha", "eval", "zadd", "hset", "hdel", "sadd", "srem", "zrem", "ssubscribe"].contains(&&**name)
    });
    // Commands within a script count as part of its call.
    let direct: u64 = ["evalsha", "zadd", "hset"].iter().filter_map(|name| calls.get(*name)).sum();
    (direct as f64 / MESSAGES as f64, calls)
}

async fn acknowledge(client: &mut Client, offset: u64) {
    assert_eq!(client.expect("message").await["offset"], offset);
    client.send(json!({"type": "ack", "room": "prices", "offset": offset})).await;
}

#[tokio::test]
async fn commands_do_not_grow_with_members() {
    let ((few, of_few), (many, of_many)) = (commands_a_message(10).await, commands_a_message(300).await);
    // One publish and what it needs, and one command per room for the acknowledgements of a moment.
    assert!(many < few + 4.0, "{few} a message with 10 members ({of_few:?}), {many} with 300 ({of_many:?})");
}
