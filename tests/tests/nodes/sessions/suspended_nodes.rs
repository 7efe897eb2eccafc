//! What a node does in the moment in which it resumes and does not know yet that others considered it dead.

use super::{NOTICED, sleeps_beyond_its_lease, two};
use serde_json::json;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use switchyard_tests::{EVENT_TIMEOUT, KEY, Live, Node, Raw, Redis, eventually_within};

/// Regression: restoring only added rooms, so a room that was left in that moment came back with the next
/// resume.
#[tokio::test]
async fn a_room_left_while_its_node_resumes_stays_left() {
    let redis = Redis::start().await;
    let (one, other) = two(&redis, "").await;
    let client = Live::connect(&one.url).await;
    client.subscribe(json!(["kept", "left"])).await;
    sleeps_beyond_its_lease(&one, &other).await;
    // It waits in the socket of a stopped node.
    let asked = client.request(json!({"type": "unsubscribe", "rooms": ["left"]}));
    one.process.signal("CONT").await;
    let mut answer = client.answer(asked).await;
    let end = Instant::now() + EVENT_TIMEOUT;
    while answer["results"][0]["error"]["code"] == "store_unavailable" && Instant::now() < end {
        answer = client.ask(json!({"type": "unsubscribe", "rooms": ["left"]})).await;
    }
    assert_eq!(answer["results"][0]["status"], "unsubscribed", "{answer}");
    other.has_members("left", 0).await;
    let back = Live::resume(&other.url, &client.token()).await;
    assert_eq!(back.connected["resumed"], true);
    assert!(back.resumed("kept").is_some_and(|room| room["recovered"] == true), "{}", back.connected);
    assert!(back.resumed("left").is_none(), "told `unsubscribed`, and found again: {}", back.connected);
    assert_eq!((other.members("kept").await, other.members("left").await), (1, 0));
}

/// Clients connect while Redis has forgotten everything and their node takes another name. Regression: a
/// session created in that moment was recorded under the old name, and ended with it although its client was
/// connected.
#[tokio::test]
async fn sessions_created_during_a_change_of_name_outlive_the_old_name() {
    let redis = Redis::start().await;
    let extra = "[session]\nttl = \"2s\"\n[tier.default]\nconnections = 2000";
    let (one, other) = two(&redis, extra).await;
    let enough = Arc::new(AtomicBool::new(false));
    let mut coming = vec![];
    for _ in 0..6 {
        let (url, enough) = (one.url.clone(), enough.clone());
        coming.push(tokio::spawn(async move {
            let mut clients = vec![];
            while !enough.load(Ordering::Relaxed) && clients.len() < 200 {
                clients.extend(Live::try_connect(&url, json!({"auth": {"apiKey": KEY}})).await.ok());
            }
            clients
        }));
    }
    let names = async || {
        let names = redis.command(&["ZRANGE", "switchyard:{/nodes}:leases", "0", "-1"]).await;
        names.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let before = names().await;
    redis.command(&["FLUSHALL"]).await;
    eventually_within(NOTICED, "another name", async || {
        names().await.iter().any(|name| !before.contains(name)).then_some(())
    })
    .await;
    enough.store(true, Ordering::Relaxed);
    let mut clients = vec![];
    for task in coming {
        clients.extend(task.await.expect("no panic"));
    }
    let count = clients.len() as u64;
    eventually_within(NOTICED, "all taken back", async || (other.members("*").await == count).then_some(()))
        .await;
    // The old name dies. What is left under it ends after its time to live.
    eventually_within(NOTICED, "the old name cleared away", async || {
        let left = names().await.iter().any(|name| before.contains(name));
        let dead = redis.command(&["ZCARD", "switchyard:{/nodes}:dead"]).await;
        (!left && dead == "0").then_some(())
    })
    .await;
    eventually_within(Duration::from_secs(10), "nothing that waits to end", async || {
        (redis.command(&["ZCARD", "switchyard:{/nodes}:ends"]).await == "0").then_some(())
    })
    .await;
    assert_eq!(other.members("*").await, count, "sessions ended under live clients");
    assert!(clients.iter().all(|client| client.end().is_none()));
    for client in clients.iter().step_by(clients.len() / 10 + 1) {
        let back = Live::resume(&other.url, &client.token()).await;
        assert_eq!(back.connected["resumed"], true);
    }
}

/// Regression: a node that was stopped for longer than a client may be silent closed its connections when it
/// resumed, before it had read what had arrived meanwhile.
#[tokio::test]
async fn a_node_that_was_suspended_does_not_consider_its_clients_silent() {
    let redis = Redis::start().await;
    let extra = "[session]\nheartbeat = { interval = \"1s\", timeout = \"1s\" }";
    let node = Node::start(&redis.url(), extra).await;
    let mut clients = vec![];
    for _ in 0..10 {
        clients.push(Live::connect(&node.url).await);
    }
    node.process.signal("STOP").await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    node.process.signal("CONT").await;
    for client in &clients {
        client.round_trip().await;
        assert_eq!(client.end(), None, "connections stay");
    }
}

/// The same for a client that sent `connect` while the node was stopped. Regression: it was closed with 4401,
/// which is final.
#[tokio::test]
async fn a_node_that_was_suspended_reads_connect_before_it_rejects_clients() {
    let redis = Redis::start().await;
    let node = Node::start(&redis.url(), "").await;
    let mut clients = vec![];
    for _ in 0..10 {
        clients.push(Raw::upgraded(&node.url).await);
    }
    node.process.signal("STOP").await;
    for client in &mut clients {
        client.send(json!({"type": "connect", "auth": {"apiKey": KEY}})).await;
    }
    tokio::time::sleep(Duration::from_millis(2600)).await;
    node.process.signal("CONT").await;
    for client in &mut clients {
        let answer = client.json().await;
        assert_eq!(answer["type"], "connected", "{answer}");
    }
}
