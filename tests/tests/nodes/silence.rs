//! Connections to Redis on which nothing arrives any more although they stay open: a stopped process, or a
//! network that drops everything. The other side's kernel still acknowledges, so TCP notices nothing.

use super::{Publisher, saw_everything};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use switchyard_tests::{Client, Cluster, Follower, Live, Node, Proxy, Redis, Sentinel, eventually_within};

const PACE: Duration = Duration::from_millis(5);
/// Silence is noticed after 3 s, with a probe every second; the rest is for a busy machine.
const NOTICED: Duration = Duration::from_secs(10);

async fn publish(node: &Node, room: &str, data: &Value) -> u16 {
    let body = json!({"room": room, "data": data}).to_string();
    node.call("POST", "/v1/publish", &body).await.0
}

/// Regression: the Redis client reset its timer on each write, and a node writes twice a second, so the
/// connection stayed for ever.
#[tokio::test]
async fn silent_connections_are_replaced_without_loss() {
    let redis = Redis::start().await;
    let proxy = Proxy::start(&redis).await;
    let (url, direct) = (proxy.url(), redis.url());
    let (one, two) = tokio::join!(Node::start(&url, ""), Node::start(&direct, ""));
    let followers = [
        Follower::start(vec![one.url.clone()], "prices").await,
        Follower::start(vec![two.url.clone()], "prices").await,
    ];
    let publisher = Publisher::start(&two, "prices", PACE).await;
    followers[0].has("prices", 50, Duration::from_secs(10)).await;
    proxy.silence();
    // Data that cannot be sent fills every buffer on the way, and then the writer blocks, too.
    let much = json!("x".repeat(60_000));
    let filling = async {
        for _ in 0..10 {
            let list: Vec<_> = (0..20).map(|_| json!({"room": "other", "data": much})).collect();
            one.call("POST", "/v1/publish", &json!(list).to_string()).await;
        }
    };
    let began = Instant::now();
    let served = eventually_within(NOTICED, "publishing again", async || {
        (publish(&one, "new", &json!(1)).await == 200).then_some(())
    });
    tokio::join!(filling, served);
    assert!(began.elapsed() < 2 * NOTICED, "{:?}", began.elapsed());
    let so_far = followers[1].received().order["prices"].len();
    followers[0].has("prices", so_far + 50, NOTICED).await;
    let published = publisher.stop().await;
    saw_everything(&followers, "prices", &published).await;
    for follower in &followers {
        assert_eq!(follower.received().connections, 1, "clients do not notice");
    }
    eventually_within(NOTICED, "ready", async || one.is_ready().await.then_some(())).await;
}

/// Regression: both nodes stayed with a stopped master until it continued, published to it, and lost what
/// they had answered.
#[tokio::test]
async fn nodes_leave_a_stopped_master_for_the_one_that_sentinels_name() {
    let sentinel = Sentinel::start().await;
    let url = sentinel.url();
    let (one, two) = tokio::join!(Node::start(&url, ""), Node::start(&url, ""));
    let followers = [
        Follower::start(vec![one.url.clone()], "prices").await,
        Follower::start(vec![two.url.clone()], "prices").await,
    ];
    let publisher = Publisher::start(&two, "before", PACE).await;
    let (old, new) = sentinel.pair().await;
    old.pause().await;
    publisher.stop().await;
    sentinel.replaces(old.port()).await;
    for node in [&one, &two] {
        eventually_within(NOTICED, "the new master", async || {
            (publish(node, "prices", &json!("first")).await == 200).then_some(())
        })
        .await;
    }
    let late = Follower::start(vec![two.url.clone()], "later").await;
    let publisher = Publisher::start(&one, "later", PACE).await;
    old.resume().await;
    // It considers itself a master until its sentinels make it a replica, and then it loses what only it has.
    eventually_within(Duration::from_secs(40), "the old master a replica", async || {
        let info = old.command(&["INFO", "replication"]).await;
        (info.contains("role:slave") && info.contains("master_link_status:up")).then_some(())
    })
    .await;
    let published = publisher.stop().await;
    assert!(published.offsets.len() > 20 && published.refused == 0, "{}", published.refused);
    let log = new.command(&["XLEN", "switchyard:{later}:log"]).await;
    assert_eq!(log, published.offsets.len().min(1000).to_string(), "all that was answered is there");
    for follower in &followers {
        assert_eq!(follower.received().connections, 1, "clients stay");
        follower.has("prices", 2, NOTICED).await;
    }
    late.has("later", published.offsets.len(), NOTICED).await;
    assert!(late.received().losses.is_empty(), "{:?}", late.received().losses);
}

/// Regression: a killed server held up a whole Cluster, because the Redis client reconnected to it again and
/// again and did nothing else.
#[tokio::test]
async fn a_killed_cluster_server_affects_only_its_own_slots() {
    let mut cluster = Cluster::start().await;
    for node in &cluster.nodes {
        node.command(&["CONFIG", "SET", "cluster-require-full-coverage", "no"]).await;
    }
    let node = Node::start(&cluster.url(), "").await;
    let mut rooms = vec![];
    for n in 0.. {
        let room = format!("room-{n}");
        let owner = cluster.owner(cluster.slot(&room).await).await;
        if owner == rooms.len() {
            rooms.push(room);
        }
        if rooms.len() == 3 {
            break;
        }
    }
    for room in &rooms {
        assert_eq!(publish(&node, room, &json!(0)).await, 200);
    }
    cluster.nodes[2].kill().await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(8) {
        for room in &rooms[..2] {
            let asked = Instant::now();
            assert_eq!(publish(&node, room, &json!(1)).await, 200, "{room} after {:?}", began.elapsed());
            assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(publish(&node, &rooms[2], &json!(1)).await, 503);
    cluster.nodes[2].restart().await;
    eventually_within(NOTICED, "all of it", async || {
        (publish(&node, &rooms[2], &json!(2)).await == 200).then_some(())
    })
    .await;
    let mut client: Client = node.client().await;
    client.subscribe(json!(rooms)).await;
    for room in &rooms {
        assert_eq!(publish(&node, room, &json!(3)).await, 200);
        assert_eq!(client.expect("message").await["data"], 3);
    }
}

/// A master that Sentinels have replaced without being able to tell it. It continues as a master next to the
/// new one. What is written to it from then on is lost when it becomes a replica.
async fn two_masters(sentinel: &Sentinel) -> (&Redis, &Redis) {
    let (old, new) = sentinel.pair().await;
    // Sentinels use this command to make it a replica, and disconnect its clients at the same time.
    old.command(&["ACL", "SETUSER", "default", "-slaveof", "-replicaof", "-multi", "-client|kill"]).await;
    let sent = sentinel.sentinels[0].command(&["SENTINEL", "FAILOVER", "main"]).await;
    assert_eq!(sent, "OK");
    sentinel.replaces(old.port()).await;
    assert!(old.command(&["ROLE"]).await.starts_with("master"), "it takes itself for one still");
    (old, new)
}

/// A node asks Sentinels every 2 s, so it does not stay with a replaced master, although that one still
/// answers.
#[tokio::test]
async fn nodes_leave_a_replaced_master_that_still_answers_within_seconds() {
    let sentinel = Sentinel::start().await;
    let node = Node::start(&sentinel.url(), "").await;
    assert_eq!(publish(&node, "prices", &json!("before")).await, 200);
    let (old, new) = two_masters(&sentinel).await;
    eventually_within(NOTICED, "the new master", async || {
        publish(&node, "later", &json!("after")).await;
        (new.command(&["EXISTS", "switchyard:{later}:log"]).await == "1").then_some(())
    })
    .await;
    let lost = old.command(&["XLEN", "switchyard:{later}:log"]).await;
    // A node whose connection was replaced reads which plugin governs which rooms before it accepts messages.
    eventually_within(NOTICED, "a message is accepted", async || {
        (publish(&node, "later", &json!("last")).await == 200).then_some(())
    })
    .await;
    assert_eq!(old.command(&["XLEN", "switchyard:{later}:log"]).await, lost, "nothing more goes there");
    eventually_within(NOTICED, "ready", async || node.is_ready().await.then_some(())).await;
}

/// Most Sentinels cannot reach a node, so it is not told. What it then publishes to the old master is lost,
/// unless that has `min-replicas-to-write`: its replica is a master now, so within `min-replicas-max-lag` it
/// rejects writes.
#[tokio::test]
async fn min_replicas_bounds_the_loss_with_two_masters() {
    for bounded in [false, true] {
        let sentinel = Sentinel::start().await;
        let (old, new) = sentinel.pair().await;
        if bounded {
            for setting in [["min-replicas-to-write", "1"], ["min-replicas-max-lag", "1"]] {
                old.command(&["CONFIG", "SET", setting[0], setting[1]]).await;
            }
        }
        // Two of three do not exist.
        let reached = sentinel.sentinels[0].port();
        let url = format!(
            "redis-sentinel://127.0.0.1:1/0?sentinelServiceName=main&node=127.0.0.1:2&node=127.0.0.1:{reached}"
        );
        let node = Node::start(&url, "").await;
        assert_eq!(publish(&node, "prices", &json!("before")).await, 200);
        two_masters(&sentinel).await;
        // The master notices a missing replica when it checks, once a second.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let answered = publish(&node, "late", &json!("after")).await;
        assert_eq!(new.command(&["EXISTS", "switchyard:{late}:log"]).await, "0", "nobody told the node");
        let kept_by_the_old = old.command(&["EXISTS", "switchyard:{late}:log"]).await;
        match bounded {
            false => assert_eq!((answered, &*kept_by_the_old), (200, "1"), "it will be lost"),
            true => {
                assert_eq!((answered, &*kept_by_the_old), (503, "0"), "it is refused");
                let (status, body) = node.call("GET", "/readyz", "").await;
                assert!(status == 503 && body.contains("NOREPLICAS"), "{status} {body}");
            }
        }
    }
}

/// Regression: the Redis client relied on the first Sentinel that it reached, and when that one did not
/// answer, it asked no other.
#[tokio::test]
async fn a_sentinel_that_does_not_answer_is_skipped() {
    let sentinel = Sentinel::start().await;
    sentinel.sentinels[0].pause().await;
    // Whichever is asked first.
    let [a, b, c] = [0, 1, 2].map(|n: usize| sentinel.sentinels[n].port());
    let url = |ports: [u16; 3]| {
        let [first, second, third] = ports.map(|port| format!("127.0.0.1:{port}"));
        format!("redis-sentinel://{first}/0?sentinelServiceName=main&node={second}&node={third}")
    };
    let (first, last) = (url([a, b, c]), url([b, c, a]));
    let (one, two) = tokio::join!(Node::start(&first, ""), Node::start(&last, ""));
    let (old, new) = sentinel.pair_by(1).await;
    old.pause().await;
    for node in [&one, &two] {
        eventually_within(3 * NOTICED, "the new master", async || {
            (publish(node, "prices", &json!("there")).await == 200).then_some(())
        })
        .await;
    }
    assert_eq!(new.command(&["XLEN", "switchyard:{prices}:log"]).await, "2");
    sentinel.sentinels[0].resume().await;
    old.resume().await;
}

/// A slot migration that stopped half way: each server says that the slot is on the other one. Regression: a
/// node with a room in it asked both thousands of times a second, for as long as that lasted.
#[tokio::test]
async fn cluster_servers_that_disagree_are_not_flooded() {
    let cluster = Cluster::start().await;
    let node = Node::start(&cluster.url(), "").await;
    let client = Live::connect(&node.url).await;
    client.subscribe(json!(["prices"])).await;
    let slot = cluster.slot("prices").await;
    cluster.move_slot_by_half(slot, (cluster.owner(slot).await + 1) % 3).await;
    // Meanwhile the node checks the room, and each time is redirected to another server.
    tokio::time::sleep(Duration::from_secs(3)).await;
    for server in &cluster.nodes {
        server.command(&["CONFIG", "RESETSTAT"]).await;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut asked = 0;
    for server in &cluster.nodes {
        let info = server.command(&["INFO", "commandstats"]).await;
        let calls = |line: &str| line.split_once("calls=")?.1.split(',').next()?.parse::<u64>().ok();
        asked += info.lines().filter_map(calls).sum::<u64>();
    }
    assert!(asked < 1500, "{asked} commands in 5 s");
    assert_eq!(client.end(), None);
}
