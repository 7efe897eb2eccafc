//! A Redis that answers with errors. Readiness reports it, in Redis' own words.

use serde_json::json;
use std::{process::Stdio, time::Duration};
use switchyard_tests::{Node, Proxy, Redis, eventually, eventually_within};
use tokio::{io::AsyncWriteExt, process::Command};

async fn is_not_ready_because(node: &Node, why: &str) {
    eventually(&format!("readiness that says {why}"), async || {
        let (status, body) = node.call("GET", "/readyz", "").await;
        (status == 503 && body.contains(why)).then_some(())
    })
    .await;
}

async fn is_ready(node: &Node) {
    eventually("a node that is ready", async || node.is_ready().await.then_some(())).await;
    let mut client = node.client().await;
    client.publish("prices", json!(1)).await;
}

#[tokio::test]
async fn readiness_reports_a_full_redis() {
    let redis = Redis::start().await;
    let node = Node::start(&redis.url(), "").await;
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    is_not_ready_because(&node, "OOM ").await;
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    is_ready(&node).await;
}

#[tokio::test]
async fn readiness_reports_a_redis_that_became_a_replica() {
    let redis = Redis::start().await;
    let node = Node::start(&redis.url(), "").await;
    redis.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
    is_not_ready_because(&node, "READONLY ").await;
    redis.command(&["REPLICAOF", "NO", "ONE"]).await;
    is_ready(&node).await;
}

/// One DNS name leads to whichever server is the master. Existing connections stay with the previous one.
#[tokio::test]
async fn nodes_leave_a_demoted_master_for_the_one_its_name_resolves_to() {
    let (old, new) = (Redis::start().await, Redis::start().await);
    let proxy = Proxy::start(&old).await;
    let node = Node::start(&proxy.url(), "").await;
    proxy.lead_to(&new);
    old.command(&["REPLICAOF", "127.0.0.1", &new.port().to_string()]).await;
    is_not_ready_because(&node, "READONLY ").await;
    eventually_within(Duration::from_secs(20), "a node that is ready", async || {
        node.is_ready().await.then_some(())
    })
    .await;
    node.client().await.publish("later", json!(1)).await;
    assert_eq!(new.command(&["XLEN", "switchyard:{later}:log"]).await, "1");
}

#[tokio::test]
async fn readiness_reports_missing_replicas() {
    let redis = Redis::start().await;
    let node = Node::start(&redis.url(), "").await;
    redis.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
    is_not_ready_because(&node, "NOREPLICAS ").await;
    redis.command(&["CONFIG", "SET", "min-replicas-to-write", "0"]).await;
    is_ready(&node).await;
}

/// Existing connections stay valid; new ones are rejected.
#[tokio::test]
async fn readiness_reports_a_changed_password() {
    let redis = Redis::start().await;
    let url = format!("redis://:before@127.0.0.1:{}", redis.port());
    redis.command(&["CONFIG", "SET", "requirepass", "before"]).await;
    let node = Node::start(&url, "").await;
    // On one connection, because another one would need the new password.
    let say = async |words: &str| {
        let mut client = Command::new("redis-cli");
        client.args(["-p", &redis.port().to_string()]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut client = client.stderr(Stdio::null()).spawn().expect("redis-cli is installed");
        client.stdin.take().expect("piped").write_all(words.as_bytes()).await.expect("commands");
        client.wait().await.expect("an end");
    };
    say("AUTH before\nCONFIG SET requirepass after\nCLIENT KILL TYPE normal\nCLIENT KILL TYPE pubsub\n")
        .await;
    is_not_ready_because(&node, "WRONGPASS ").await;
    let (_, body) = node.call("GET", "/readyz", "").await;
    assert!(!body.contains("before") && !node.log().contains("before"), "{body} {}", node.log());
    say("AUTH after\nCONFIG SET requirepass before\n").await;
    is_ready(&node).await;
}

#[tokio::test]
async fn readiness_reports_a_missing_permission() {
    let redis = Redis::start().await;
    redis.command(&["ACL", "SETUSER", "node", "on", ">pass", "~*", "&*", "+@all"]).await;
    let node = Node::start(&format!("redis://node:pass@127.0.0.1:{}", redis.port()), "").await;
    // A permission that only the lease needs.
    redis.command(&["ACL", "SETUSER", "node", "-zrangebyscore", "-zadd"]).await;
    is_not_ready_because(&node, "can't run this command").await;
    redis.command(&["ACL", "SETUSER", "node", "+@all"]).await;
    is_ready(&node).await;
    // One that only publishing needs.
    let mut client = node.client().await;
    redis.command(&["ACL", "SETUSER", "node", "-xadd"]).await;
    let answer = client.ask(json!({"type": "publish", "room": "prices", "data": 1})).await;
    assert_eq!(answer["error"]["code"], "store_unavailable", "{answer}");
    is_not_ready_because(&node, "can't run this command").await;
    redis.command(&["ACL", "SETUSER", "node", "+@all"]).await;
    client.publish("prices", json!(1)).await;
    is_ready(&node).await;
    // One that only the subscription needs.
    redis.command(&["ACL", "SETUSER", "node", "resetchannels"]).await;
    client.ask(json!({"type": "subscribe", "rooms": ["another"]})).await;
    is_not_ready_because(&node, "NOPERM").await;
}
