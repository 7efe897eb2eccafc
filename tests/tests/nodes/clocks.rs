//! The clock of Redis is set forward or back: no lease, session or count ends because of it, and none is
//! prolonged.

use super::{Publisher, saw_everything};
use serde_json::json;
use std::time::Duration;
use switchyard_tests::{Follower, Node, Redis, eventually, eventually_within};

const HOUR_AHEAD: i64 = 3600;
const TEN_MINUTES_BACK: i64 = -600;
/// The guaranteed time to detect a dead node.
const NOTICED: Duration = Duration::from_secs(20);
/// A short time to live, and the maximum time beyond it until a session ends.
const SHORT: &str = "[session]\nttl = \"3s\"\n[tier.default]\nconnections = 2";
const ENDED: Duration = Duration::from_secs(10);

async fn two(redis: &Redis, extra: &str) -> (Node, Node) {
    let url = redis.url();
    tokio::join!(Node::start(&url, extra), Node::start(&url, extra))
}

/// Names of nodes, each with the end of its lease.
async fn leases(redis: &Redis) -> Vec<String> {
    let leases = redis.command(&["ZRANGE", "switchyard:{/nodes}:leases", "0", "-1", "WITHSCORES"]).await;
    leases.lines().map(str::to_owned).collect()
}

async fn names(redis: &Redis) -> Vec<String> {
    let mut names: Vec<_> = leases(redis).await.into_iter().step_by(2).collect();
    names.sort();
    names
}

/// Waits until each node has renewed its lease this many times.
async fn renewed(redis: &Redis, times: usize) {
    for _ in 0..times {
        let before = leases(redis).await;
        eventually("renewed leases", async || {
            let now = leases(redis).await;
            let is_renewed = |name: &String| {
                let until =
                    |all: &[String]| all.iter().position(|one| one == name).map(|at| all[at + 1].clone());
                until(&now) != until(&before)
            };
            before.iter().step_by(2).all(is_renewed).then_some(())
        })
        .await;
    }
}

/// Waits until this many sessions can be resumed.
async fn waiting(redis: &Redis, count: usize) {
    eventually("sessions that wait", async || {
        (redis.command(&["ZCARD", "switchyard:{/nodes}:ends"]).await == count.to_string()).then_some(())
    })
    .await;
}

/// The sum of the connections of `acme` that the nodes report.
async fn counted(redis: &Redis) -> u64 {
    let counts = redis.command(&["HVALS", "switchyard:{@acme}:connections"]).await;
    counts.lines().filter_map(|count| count.parse::<u64>().ok()).sum()
}

/// A node dies after `step` has set the clock. What it leaves behind is cleared as at any other time.
async fn a_dead_node_is_cleared_away(step: impl AsyncFnOnce(&Redis)) {
    let redis = Redis::with_clock().await;
    let (mut one, two) = two(&redis, SHORT).await;
    let (mut lost, mut stays) = (one.client().await, two.client().await);
    for client in [&mut lost, &mut stays] {
        client.subscribe(json!(["prices"])).await;
    }
    renewed(&redis, 1).await;
    step(&redis).await;
    one.process.kill().await;
    eventually_within(NOTICED, "one node", async || {
        (two.metric("switchyard_store_nodes").await == 1.0).then_some(())
    })
    .await;
    eventually_within(ENDED, "one member", async || (two.members("prices").await == 1).then_some(())).await;
    eventually("one connection that is counted", async || (counted(&redis).await == 1).then_some(())).await;
    // The limit has a free slot again, and the connection that stayed is where it was.
    two.client().await.round_trip().await;
    stays.round_trip().await;
    assert_eq!(names(&redis).await.len(), 1);
    let mut late = two.resume(&lost.token()).await;
    assert_eq!(late.connected["resumed"], false);
    late.round_trip().await;
}

/// Regression: for an hour, dead sessions were members and counted.
#[tokio::test]
async fn a_node_that_dies_after_an_hour_ahead_is_cleared_in_time() {
    a_dead_node_is_cleared_away(async |redis| {
        redis.set_clock(HOUR_AHEAD);
        renewed(redis, 5).await;
        redis.set_clock(0);
    })
    .await;
}

/// Regression: for ten minutes, dead sessions stayed alive.
#[tokio::test]
async fn a_node_that_dies_when_the_clock_is_set_back_is_cleared_in_time() {
    a_dead_node_is_cleared_away(async |redis| redis.set_clock(TEN_MINUTES_BACK)).await;
}

#[tokio::test]
async fn a_session_released_before_the_clock_is_set_forward_can_be_resumed() {
    let redis = Redis::with_clock().await;
    let (one, two) = two(&redis, "[session]\nttl = \"1m\"").await;
    let mut client = one.client().await;
    client.subscribe(json!(["prices"])).await;
    let token = client.token();
    client.cut();
    waiting(&redis, 1).await;
    redis.set_clock(HOUR_AHEAD);
    renewed(&redis, 3).await;
    assert_eq!(two.members("prices").await, 1);
    let mut back = two.resume(&token).await;
    assert_eq!(back.connected["resumed"], true);
    back.round_trip().await;
}

/// A session is waiting to be resumed while the clock is set. It ends when its time to live is over, not
/// sooner and not later.
async fn a_session_ends_in_time(before: i64, after: i64) {
    let redis = Redis::with_clock().await;
    let (one, two) = two(&redis, SHORT).await;
    redis.set_clock(before);
    renewed(&redis, 2).await;
    let mut client = one.client().await;
    client.subscribe(json!(["prices"])).await;
    let token = client.token();
    client.cut();
    waiting(&redis, 1).await;
    redis.set_clock(after);
    assert_eq!(two.members("prices").await, 1);
    eventually_within(ENDED, "an ended session", async || (two.members("prices").await == 0).then_some(()))
        .await;
    waiting(&redis, 0).await;
    let mut late = two.resume(&token).await;
    assert_eq!(late.connected["resumed"], false);
    late.round_trip().await;
}

#[tokio::test]
async fn a_session_released_while_the_clock_is_ahead_ends_in_time() {
    a_session_ends_in_time(HOUR_AHEAD, 0).await;
}

#[tokio::test]
async fn a_session_released_before_the_clock_is_set_back_ends_in_time() {
    a_session_ends_in_time(0, TEN_MINUTES_BACK).await;
}

#[tokio::test]
async fn connected_clients_do_not_notice_a_clock_change() {
    let redis = Redis::with_clock().await;
    let (one, two) = two(&redis, "[tier.default]\nconnections = 5").await;
    let followers = [
        Follower::start(vec![one.url.clone()], "prices").await,
        Follower::start(vec![two.url.clone()], "prices").await,
    ];
    let publisher = Publisher::start(&two, "prices", Duration::from_millis(5)).await;
    followers[0].has("prices", 100, Duration::from_secs(10)).await;
    let before = names(&redis).await;
    for wrong in [HOUR_AHEAD, 0, TEN_MINUTES_BACK, 0] {
        redis.set_clock(wrong);
        // A client that connects at this moment is accepted.
        let mut client = one.client().await;
        client.subscribe(json!(["other"])).await;
        let token = client.token();
        client.cut();
        let back = two.resume(&token).await;
        assert_eq!(back.connected["resumed"], true, "the clock wrong by {wrong} s");
        back.cut();
        renewed(&redis, 3).await;
        let so_far = followers[0].received().order["prices"].len();
        followers[0].has("prices", so_far + 100, Duration::from_secs(10)).await;
        one.has_members("prices", 2).await;
        eventually("three connections that are counted", async || (counted(&redis).await == 3).then_some(()))
            .await;
    }
    let published = publisher.stop().await;
    saw_everything(&followers, "prices", &published).await;
    assert_eq!(published.refused, 0);
    assert!(followers.iter().all(|follower| follower.received().connections == 1), "nobody was cut");
    assert_eq!(names(&redis).await, before, "no node took another name");
}

/// Redis ages history and idempotency keys by its own clock. Regression: they no longer aged after the clock
/// had been ahead.
#[tokio::test]
async fn history_keeps_aging_after_the_clock_of_redis_is_corrected() {
    let redis = Redis::with_clock().await;
    let node = Node::start(&redis.url(), "[rooms]\nhistory = { messages = 100, age = \"4s\" }").await;
    let publish = async || {
        let body = json!({"room": "prices", "data": 1, "key": "same"}).to_string();
        let (status, body) = node.call("POST", "/v1/publish", &body).await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<serde_json::Value>(&body).expect("JSON")["offset"].as_u64().expect("an offset")
    };
    let held = async || match node.call("GET", "/v1/rooms/prices", "").await {
        (200, body) => serde_json::from_str::<serde_json::Value>(&body).expect("JSON")["messages"].as_u64(),
        _ => Some(0),
    };
    // A room without members goes with its messages.
    let mut member = node.client().await;
    member.subscribe(json!(["prices"])).await;
    assert_eq!((publish().await, publish().await), (1, 1), "one key");
    redis.set_clock(HOUR_AHEAD);
    assert_eq!(held().await, Some(0), "an hour old");
    assert_eq!((publish().await, held().await), (2, Some(1)));
    redis.set_clock(0);
    let (status, body) = node.call("POST", "/v1/publish", r#"{"room":"prices","data":1}"#).await;
    assert_eq!((status, held().await), (200, Some(2)), "{body}");
    eventually("a history without old messages", async || (held().await == Some(0)).then_some(())).await;
}
