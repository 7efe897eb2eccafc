//! Redis, or a connection to it, is away for a while.

use super::{Publisher, saw_everything};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use switchyard_tests::{Client, Follower, KEY, Node, Process, Redis, eventually, eventually_within};

const PACE: Duration = Duration::from_millis(2);
/// The time within which an answer must come while Redis gives none, plus time for a busy machine.
const BOUND: Duration = Duration::from_millis(2500);

async fn two(redis: &Redis, extra: &str) -> (Node, Node) {
    let url = redis.url();
    tokio::join!(Node::start(&url, extra), Node::start(&url, extra))
}

async fn followers(one: &Node, two: &Node) -> Vec<Follower> {
    let mut followers = vec![];
    for node in [one, two, one, two] {
        followers.push(Follower::start(vec![node.url.clone()], "prices").await);
    }
    followers
}

#[tokio::test]
async fn killed_subscriptions_lose_nothing() {
    let redis = Redis::start().await;
    let (one, two) = two(&redis, "").await;
    let followers = followers(&one, &two).await;
    let publisher = Publisher::start(&two, "prices", PACE).await;
    for round in 1..=5 {
        followers[0].has("prices", round * 150, Duration::from_secs(10)).await;
        redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    }
    followers[0].has("prices", 900, Duration::from_secs(10)).await;
    let published = publisher.stop().await;
    saw_everything(&followers, "prices", &published).await;
    assert_eq!(followers[0].received().connections, 1, "clients do not notice");
    assert!(one.metric("switchyard_store_repairs_total").await > 0.0);
    assert_eq!(one.metric("switchyard_store_losses_total").await, 0.0);
    // The silence is noticed too: after the kill, no message is published that could reveal the hole.
    redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    one.call("POST", "/v1/publish", r#"{"room":"prices","data":"last"}"#).await;
    for follower in &followers {
        follower.has("prices", published.offsets.len() + 1, Duration::from_secs(10)).await;
    }
}

#[tokio::test]
async fn a_restart_of_redis_loses_no_answered_message() {
    // With `everysec`, Redis itself may lose writes that it buffers while the disk is busy.
    let mut redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let (one, two) = two(&redis, "").await;
    let followers = followers(&one, &two).await;
    let publisher = Publisher::start(&two, "prices", PACE).await;
    followers[0].has("prices", 300, Duration::from_secs(10)).await;
    redis.kill().await;

    let began = Instant::now();
    eventually("not ready", async || (!one.is_ready().await).then_some(())).await;
    let (status, body) = one.call("GET", "/readyz", "").await;
    let readiness: Value = serde_json::from_str(&body).expect("JSON");
    assert!(status == 503 && readiness["reasons"][0].as_str().unwrap().contains("the store"), "{body}");
    let (status, body) = one.call("POST", "/v1/publish", r#"{"room":"prices","data":1}"#).await;
    assert!(status == 503 && body.contains("store_unavailable"), "{status} {body}");
    assert!(began.elapsed() < BOUND * 2, "{:?}", began.elapsed());
    let connect = json!({"type": "connect", "auth": {"apiKey": KEY}});
    assert_eq!(Client::rejected_connect(&one.url, connect).await, ("store_unavailable".into(), 4503));

    redis.restart().await;
    let so_far = followers[0].received().order["prices"].len();
    followers[0].has("prices", so_far + 200, Duration::from_secs(15)).await;
    let published = publisher.stop().await;
    assert!(published.refused > 0 && published.slowest < BOUND, "{:?}", published.slowest);
    saw_everything(&followers, "prices", &published).await;
    for follower in &followers {
        assert_eq!(follower.received().connections, 1, "connections stay");
    }
    eventually("ready", async || one.is_ready().await.then_some(())).await;
    // No node considered another one dead because of it.
    assert_eq!(one.members("prices").await, 4);
    for node in [&one, &two] {
        assert_eq!(node.metric("switchyard_store_reaped_total").await, 0.0);
    }
}

/// Without persistence, sessions and rooms start again, and all clients are told.
#[tokio::test]
async fn a_redis_that_lost_its_data_is_reported_as_a_gap() {
    let mut redis = Redis::start().await;
    let (one, two) = two(&redis, "").await;
    let mut client = one.client().await;
    client.subscribe(json!(["prices"])).await;
    let mut publisher = two.client().await;
    let first = publisher.publish("prices", json!(1)).await;
    client.expect("message").await;
    redis.restart().await;
    let second = eventually("published again", async || {
        let (status, body) = two.call("POST", "/v1/publish", r#"{"room":"prices","data":2}"#).await;
        (status == 200).then(|| serde_json::from_str::<Value>(&body).expect("JSON"))
    })
    .await;
    assert_ne!(first["epoch"], second["epoch"]);
    let mut frames = vec![];
    while frames.last().is_none_or(|frame: &Value| frame["data"] != 2) {
        frames.push(client.recv().await);
    }
    let gap = frames.iter().find(|frame| frame["type"] == "gap" && frame["room"] == "prices").expect("a gap");
    assert_eq!((&gap["epoch"], &gap["offset"]), (&second["epoch"], &second["offset"]));
    // The session was written again, with the room as it is now.
    client.send(json!({"type": "ack", "room": "prices", "offset": second["offset"]})).await;
    let sessions = async || redis.command(&["KEYS", "switchyard:{@acme}:session:*"]).await;
    let began = Instant::now();
    // They answer pings when they read.
    while sessions().await.lines().count() < 2 {
        tokio::join!(client.drain_frames(), publisher.drain_frames());
        assert!(began.elapsed() < BOUND * 4, "no sessions");
    }
    eventually("members", async || (two.members("prices").await == 1).then_some(())).await;
    eventually("an acknowledgement", async || {
        let receipt = two.get("/v1/rooms/prices/messages/1/receipt").await;
        (receipt["acknowledged"] == 1).then_some(())
    })
    .await;
    let token = client.token();
    client.cut();
    let mut back = two.resume(&token).await;
    assert_eq!(back.connected["resumed"], true);
    let rooms = back.connected["rooms"].as_array().unwrap();
    assert!(rooms.iter().all(|room| room["recovered"] == true), "{rooms:?}");
    back.round_trip().await;
}

#[tokio::test]
async fn waiting_for_a_redis_that_does_not_answer_is_bounded() {
    let redis = Redis::start().await;
    let (one, two) = two(&redis, "").await;
    let followers = followers(&one, &two).await;
    let publisher = Publisher::start(&two, "prices", PACE).await;
    followers[0].has("prices", 100, Duration::from_secs(10)).await;
    let mut client = one.client().await;
    redis.command(&["CLIENT", "PAUSE", "9000", "ALL"]).await;
    for request in [
        json!({"type": "publish", "room": "prices", "data": 1}),
        json!({"type": "subscribe", "rooms": ["new"]}),
        json!({"type": "members", "room": "*"}),
    ] {
        let asked = Instant::now();
        let answer = client.ask(request).await.to_string();
        assert!(answer.contains("store_unavailable"), "{answer}");
        assert!(asked.elapsed() < BOUND, "{:?}", asked.elapsed());
    }
    assert!(!one.is_ready().await);
    let so_far = followers[0].received().order["prices"].len();
    followers[0].has("prices", so_far + 100, Duration::from_secs(20)).await;
    let published = publisher.stop().await;
    assert!(published.slowest < BOUND, "{:?}", published.slowest);
    // A message that was answered as unavailable may have been stored later: the client's own.
    for follower in &followers {
        let newest = published.offsets.last().expect("some").0;
        follower.has("prices", newest as usize, Duration::from_secs(10)).await;
        let seen = follower.received();
        assert!(seen.losses.is_empty() && seen.wrong.is_empty(), "{:?} {:?}", seen.losses, seen.wrong);
        assert!(seen.order["prices"].is_sorted());
    }
    client.subscribe(json!(["new"])).await;
    eventually("ready", async || one.is_ready().await.then_some(())).await;
}

#[tokio::test]
async fn a_node_started_before_redis_waits_and_reports_it() {
    let mut redis = Redis::start().await;
    redis.kill().await;
    let folder = Node::create_folder(&redis.url(), "");
    let log = folder.path().join("stderr");
    let path = folder.path().to_owned();
    let starting =
        tokio::spawn(async move { Process::serve(&path, &["--config", "switchyard.toml"], &[]).await });
    let says = || std::fs::read_to_string(&log).unwrap_or_default().contains("waiting for the store");
    eventually("a word about it", async || says().then_some(())).await;
    assert!(!starting.is_finished());
    redis.restart().await;
    let process = starting.await.expect("a node");
    let connect = json!({"auth": {"apiKey": KEY}});
    Client::connect_at(&process.url, connect).await.round_trip().await;
}

/// Redis disconnects a subscriber that is too slow. The node then reads what it missed.
#[tokio::test]
async fn a_node_that_fell_behind_reads_what_it_missed() {
    let redis = Redis::start_with(&["--client-output-buffer-limit", "pubsub 64kb 64kb 1"]).await;
    let (one, two) = two(&redis, "[rooms]\nhistory = { messages = 20000, age = \"10m\" }").await;
    let follower = Follower::start(vec![one.url.clone()], "prices").await;
    one.process.signal("STOP").await;
    let filling = "x".repeat(20_000);
    let list: Vec<_> = (0..500).map(|n| json!({"room": "prices", "data": [n, filling]})).collect();
    let (status, body) = two.call("POST", "/v1/publish", &json!(list).to_string()).await;
    assert_eq!(status, 200, "{body}");
    one.process.signal("CONT").await;
    eventually_within(Duration::from_secs(20), "all of it", async || {
        (follower.received().order.get("prices").map_or(0, Vec::len) == 500).then_some(())
    })
    .await;
    let seen = follower.received();
    assert!(seen.order["prices"].iter().copied().eq(1..=500) && seen.losses.is_empty(), "{:?}", seen.losses);
}
