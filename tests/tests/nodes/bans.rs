//! Bans on several nodes: within a second on each, and kept when a node or the store restarts.

use serde_json::{Value, json};
use std::time::{Duration, Instant};
use switchyard_tests::{Client, KEY, Node, READER, Redis, eventually, run};

const HOUR: &str = r#"{"for":"1h"}"#;

async fn command(node: &Node, arguments: &[&str]) -> String {
    let arguments = [arguments, &["--admin", &node.process.admin]].concat();
    let output = run(node.folder(), &arguments, &[("SWITCHYARD_KEY", KEY)]).await;
    let printed = String::from_utf8([output.stdout, output.stderr].concat()).expect("text");
    assert!(output.status.success(), "{arguments:?}: {printed}");
    printed
}

async fn is_banned(node: &Node) {
    eventually("a ban", async || (!Client::is_accepted(&node.url, READER).await).then_some(())).await;
}

async fn is_admitted(node: &Node) {
    eventually("no ban", async || Client::is_accepted(&node.url, READER).await.then_some(())).await;
}

#[tokio::test]
async fn every_node_obeys_a_ban_within_a_second() {
    let redis = Redis::start().await;
    let url = redis.url();
    let (one, two) = tokio::join!(Node::start(&url, ""), Node::start(&url, ""));
    let mut clients = vec![];
    for node in [&one, &two] {
        clients.push(Client::connect_at(&node.url, json!({"auth": {"apiKey": READER}})).await);
    }
    let began = Instant::now();
    let printed = command(&one, &["principal", "ban", "zed", "--for", "1h"]).await;
    assert!(printed.starts_with("zed is banned until 20"), "{printed}");
    for client in &mut clients {
        assert_eq!(client.error_code().await, "forbidden");
        assert_eq!(client.closed().await.code, 4403);
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    // A node that starts later knows the ban at once.
    let three = Node::start(&redis.url(), "").await;
    assert!(!Client::is_accepted(&three.url, READER).await);
    assert!(command(&three, &["principal", "bans"]).await.starts_with("zed  until 20"));
    assert_eq!(command(&three, &["address", "bans", "--json"]).await.trim(), "[]");
    let printed = command(&two, &["principal", "unban", "zed"]).await;
    assert!(printed.contains("zed is not banned any more"), "{printed}");
    for node in [&one, &two, &three] {
        is_admitted(node).await;
    }
    let printed = command(&one, &["token", "revoke", "--principal", "zed", "--json"]).await;
    let revoked: Value = serde_json::from_str(&printed).expect("JSON");
    assert_eq!((&revoked["kind"], &revoked["name"]), (&json!("tokens"), &json!("zed")));
}

#[tokio::test]
async fn a_store_that_lost_its_bans_lets_nobody_in() {
    let redis = Redis::start().await;
    let url = redis.url();
    let (one, two) = tokio::join!(Node::start(&url, ""), Node::start(&url, ""));
    assert_eq!(one.call("PUT", "/v1/principals/zed/ban", HOUR).await.0, 200);
    assert_eq!(one.call("PUT", "/v1/principals/ann/ban", HOUR).await.0, 200);
    is_banned(&two).await;
    assert_eq!(two.call("DELETE", "/v1/principals/ann/ban", "").await.0, 204);
    let lifted = |node: &Value| node["bans"].as_array().map(Vec::len) == Some(1);
    eventually("the lifted ban", async || lifted(&one.get("/v1/bans").await).then_some(())).await;
    redis.command(&["FLUSHALL"]).await;
    let written = async || redis.command(&["HGET", "switchyard:{/denials}:all", "principal zed"]).await;
    eventually("the ban in the store", async || (!written().await.is_empty()).then_some(())).await;
    for node in [&one, &two] {
        assert!(!Client::is_accepted(&node.url, READER).await);
        assert!(lifted(&node.get("/v1/bans").await), "a lifted ban stays lifted");
    }
    // Neither does a node that starts again.
    let Node { process, folder, .. } = two;
    drop(process);
    let two = Node::start_in(folder).await;
    assert!(!Client::is_accepted(&two.url, READER).await);
    assert!(lifted(&two.get("/v1/bans").await));
}
