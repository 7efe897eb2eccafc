//! A node dies, or the others think it is dead.

use super::{Publisher, saw_everything};
use serde_json::json;
use std::time::{Duration, Instant};
use switchyard_tests::{Follower, Node, Redis, eventually, eventually_within};

/// The guaranteed time to detect a dead node.
const NOTICED: Duration = Duration::from_secs(20);

#[tokio::test]
async fn clients_of_a_killed_node_resume_on_another_and_miss_nothing() {
    let redis = Redis::start().await;
    let url = redis.url();
    let (mut one, two, three) =
        tokio::join!(Node::start(&url, ""), Node::start(&url, ""), Node::start(&url, ""));
    let urls = |first: &Node, second: &Node| vec![first.url.clone(), second.url.clone()];
    let mut followers = vec![];
    for n in 0..12 {
        let urls = match n % 3 {
            0 => urls(&one, &two),
            1 => urls(&one, &three),
            _ => urls(&two, &three),
        };
        followers.push(Follower::start(urls, "prices").await);
    }
    // A client that never returns.
    let mut lost = one.client().await;
    lost.subscribe(json!(["prices"])).await;
    let publisher = Publisher::start(&two, "prices", Duration::from_millis(2)).await;
    followers[0].has("prices", 200, Duration::from_secs(10)).await;
    let killed = Instant::now();
    one.process.kill().await;
    eventually("clients elsewhere", async || (followers[0].received().connections == 2).then_some(())).await;
    let so_far = followers[0].received().order["prices"].len();
    followers[0].has("prices", so_far + 300, Duration::from_secs(10)).await;
    let published = publisher.stop().await;
    saw_everything(&followers, "prices", &published).await;
    assert_eq!(followers[0].received().connections, 2);
    assert_eq!(followers[2].received().connections, 1, "nobody else noticed");

    eventually_within(NOTICED, "a reaped node", async || {
        let reaped = two.metric("switchyard_store_reaped_total").await
            + three.metric("switchyard_store_reaped_total").await;
        (reaped > 0.0).then_some(reaped)
    })
    .await;
    assert!(killed.elapsed() < NOTICED, "{:?}", killed.elapsed());
    let reaped = two.metric("switchyard_store_reaped_total").await
        + three.metric("switchyard_store_reaped_total").await;
    assert_eq!(reaped, 1.0, "by one other");
    assert_eq!(two.members("prices").await, 13, "the one that was lost can still come back");
    let mut back = three.resume(&lost.token()).await;
    assert_eq!(back.connected["resumed"], true);
    back.drain_frames().await;
}

#[tokio::test]
async fn a_dead_nodes_sessions_end_in_time_and_counts_are_corrected() {
    let redis = Redis::start().await;
    let extra = "[session]\nttl = \"3s\"\n[tier.default]\nconnections = 2";
    let url = redis.url();
    let (mut one, two) = tokio::join!(Node::start(&url, extra), Node::start(&url, extra));
    let (mut lost, mut stays) = (one.client().await, two.client().await);
    for client in [&mut lost, &mut stays] {
        client.subscribe(json!(["prices"])).await;
    }
    one.process.kill().await;
    assert_eq!(two.members("prices").await, 2);
    eventually_within(NOTICED + Duration::from_secs(5), "an ended session", async || {
        (two.members("prices").await == 1).then_some(())
    })
    .await;
    let members = stays.ask(json!({"type": "members", "room": "prices"})).await;
    assert_eq!(members["count"], 1);
    // Its connections no longer count against the principal.
    two.client().await.round_trip().await;
    eventually("one connection", async || (two.metric("switchyard_connections").await == 1.0).then_some(()))
        .await;
    let mut new = two.resume(&lost.token()).await;
    assert_eq!(new.connected["resumed"], false);
    new.round_trip().await;
}

/// Stopped for longer than its lease, as on a machine that was suspended.
#[tokio::test]
async fn a_node_declared_dead_restores_its_sessions() {
    let redis = Redis::start().await;
    let url = redis.url();
    let (one, two) = tokio::join!(Node::start(&url, ""), Node::start(&url, ""));
    let (mut client, mut publisher) = (one.client().await, two.client().await);
    client.subscribe(json!(["prices"])).await;
    one.process.signal("STOP").await;
    for n in 1..=20 {
        publisher.publish("prices", json!(n)).await;
    }
    eventually_within(NOTICED, "a reaped node", async || {
        (two.metric("switchyard_store_reaped_total").await == 1.0).then_some(())
    })
    .await;
    assert_eq!(
        redis.command(&["ZCARD", "switchyard:{/nodes}:ends"]).await,
        "1",
        "its session waits to be resumed"
    );
    one.process.signal("CONT").await;
    let woken = Instant::now();
    for n in 1..=20 {
        let message = client.expect("message").await;
        assert_eq!((&message["offset"], &message["data"]), (&json!(n), &json!(n)), "without a gap");
    }
    // A connection has the session again, so it does not expire.
    let is_held = async || {
        let held = redis.command(&["ZCARD", "switchyard:{/nodes}:leases"]).await;
        let keys = redis.command(&["KEYS", "switchyard:{@acme}:session:*"]).await;
        let mut ends = vec![];
        for key in keys.lines() {
            ends.push(redis.command(&["HGET", key, "until"]).await);
        }
        held == "2" && ends.iter().all(String::is_empty)
    };
    // The client answers pings when it reads.
    while !is_held().await {
        client.round_trip().await;
        assert!(woken.elapsed() < NOTICED, "no session that is held");
    }
    assert!(one.log().contains("taking all sessions back under another name"), "{}", one.log());
    client.send(json!({"type": "ack", "room": "prices", "offset": 20})).await;
    client.round_trip().await;
    assert_eq!(two.members("prices").await, 1);
    let token = client.token();
    client.cut();
    let mut back = two.resume(&token).await;
    assert_eq!(back.connected["resumed"], true);
    back.drain_frames().await;
}

/// The lease task logs while Redis is away, and nothing can read the node's log.
#[tokio::test]
async fn a_node_whose_log_is_gone_keeps_its_lease() {
    let redis = Redis::start().await;
    let url = redis.url();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let (one, two) =
        tokio::join!(Node::start_logging_to(Node::create_folder(&url, ""), writer), Node::start(&url, ""));
    drop(reader);
    let (mut client, mut publisher) = (one.client().await, two.client().await);
    client.subscribe(json!(["prices"])).await;
    redis.pause().await;
    eventually("a lease that was not renewed", async || {
        let (_, metrics) = one.call("GET", "/metrics", "").await;
        metrics.contains(r#"switchyard_store_failures_total{command="renew_lease"}"#).then_some(())
    })
    .await;
    redis.resume().await;
    eventually("a node that is ready", async || one.is_ready().await.then_some(())).await;
    // Longer than a lease that is not renewed.
    let back = Instant::now();
    while back.elapsed() < Duration::from_secs(13) {
        assert_eq!(two.metric("switchyard_store_reaped_total").await, 0.0, "after {:?}", back.elapsed());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(two.metric("switchyard_store_nodes").await, 2.0);
    assert_eq!(two.members("prices").await, 1);
    publisher.publish("prices", json!(1)).await;
    assert_eq!(client.expect("message").await["data"], 1);
}
