//! A Redis that is reachable and answers, but executes nothing: it is loading its data, or its Cluster is
//! down. Nodes send few commands, keep their connections, and serve as soon as it is over.

use super::join;
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use switchyard_tests::{Cluster, Live, Node, Redis, eventually, eventually_within};
use tokio::time::sleep;

const CLIENTS: usize = 10;
/// The number of rooms of each client.
const ROOMS: usize = 90;

fn room(client: usize, n: usize) -> String {
    format!("room-{client}-{n}")
}

/// Clients, each in rooms of its own.
async fn clients(node: &Node) -> Vec<Live> {
    let mut clients = vec![];
    for n in 0..CLIENTS {
        let client = Live::connect(&node.url).await;
        join(&client, &(0..ROOMS).map(|m| room(n, m)).collect::<Vec<_>>()).await;
        clients.push(client);
    }
    clients
}

async fn publish(node: &Node, room: &str, data: &Value) -> (u16, String) {
    node.call("POST", "/v1/publish", &json!({"room": room, "data": data}).to_string()).await
}

/// Checks that each client receives what is published in some of its rooms: the first, the last and one in
/// between.
async fn are_served(node: &Node, clients: &[Live]) {
    let served = clients.iter().enumerate().flat_map(|(n, client)| {
        [0, ROOMS / 2, ROOMS - 1].map(|m| async move {
            let room = room(n, m);
            let offset = eventually(&format!("publishing in {room}"), async || {
                let (status, body) = publish(node, &room, &json!(m)).await;
                (status == 200)
                    .then(|| serde_json::from_str::<Value>(&body).expect("JSON")["offset"].as_u64())
            })
            .await;
            client.message(&room, offset.expect("an offset")).await;
        })
    });
    join_all(served).await;
}

/// The commands that Redis executed or rejected.
async fn asked(redis: &Redis) -> u64 {
    let info = redis.command(&["INFO", "commandstats"]).await;
    let count = |line: &str, name: &str| line.split_once(name)?.1.split(',').next()?.parse::<u64>().ok();
    let lines = info.lines().map(str::trim);
    lines.filter_map(|line| Some(count(line, "calls=")? + count(line, "rejected_calls=")?)).sum()
}

async fn reconnects(node: &Node) -> f64 {
    node.metric("switchyard_store_reconnects_total").await
}

/// Regression: each rejected command ended the connection with everything on it, five times a second while
/// Redis was loading. Each of them, and each probe of the subscriptions, subscribed every room again, and
/// nodes retried reading all rooms ten times a second at once.
#[tokio::test]
async fn a_redis_that_is_loading_is_not_flooded() {
    // Loading a key takes slightly over 20 µs, and Redis answers after every 1024 keys.
    let keeps = ["--appendonly", "yes", "--appendfsync", "everysec", "--key-load-delay", "20"];
    let mut redis = Redis::start_with(&keeps).await;
    let fill = "for n = 1, 40000 do redis.call('SET', 'filling:' .. n, n) end";
    redis.command(&["EVAL", fill, "0"]).await;
    let node = Node::start(&redis.url(), "").await;
    let clients = clients(&node).await;
    let before = reconnects(&node).await;
    redis.written().await;
    redis.begin_restart().await;
    eventually("a Redis that loads", async || {
        let (status, body) = node.call("GET", "/readyz", "").await;
        (status == 503 && body.contains("LOADING")).then_some(())
    })
    .await;
    let began = Instant::now();
    let mut last = (asked(&redis).await, began.elapsed());
    let first = last;
    // Redis reports that it is loading until it is done. Count the commands up to then.
    while redis.try_command(&["PING"]).await.is_err_and(|error| error.starts_with("LOADING")) {
        last = (asked(&redis).await, began.elapsed());
        sleep(Duration::from_millis(20)).await;
    }
    let span = last.1 - first.1;
    assert!(span > Duration::from_secs(2), "it loaded for {span:?} only");
    let rate = (last.0 - first.0) as f64 / span.as_secs_f64();
    let reconnects = reconnects(&node).await - before;
    println!("{reconnects} reconnects, {rate:.0} commands a second in {span:?}");
    let back = Instant::now();
    are_served(&node, &clients).await;
    assert!(back.elapsed() < Duration::from_secs(5), "served after {:?}", back.elapsed());
    assert!(clients.iter().all(|client| client.end().is_none()), "clients stay");
    assert!(reconnects <= 4.0, "{reconnects} reconnects, two for the restart");
    // The test itself sends some 50 to 100 per second.
    assert!(rate < 300.0, "{rate} commands a second");
}

/// One master is away, in a Cluster that serves either all slots or none. Regression: the connections to the
/// other masters ended with each rejected command.
#[tokio::test]
async fn a_cluster_that_is_down_is_not_flooded() {
    let mut cluster = Cluster::start().await;
    let node = Node::start(&cluster.url(), "").await;
    let clients = clients(&node).await;
    cluster.nodes[2].kill().await;
    for server in &cluster.nodes[..2] {
        eventually_within(Duration::from_secs(20), "a Cluster that is down", async || {
            server.command(&["CLUSTER", "INFO"]).await.contains("cluster_state:fail").then_some(())
        })
        .await;
    }
    let (before, span) = (reconnects(&node).await, Duration::from_secs(6));
    let end = Instant::now() + span;
    while Instant::now() < end {
        // There are always requests for each of them.
        for n in 0..9 {
            assert_eq!(publish(&node, &room(0, n), &json!(1)).await.0, 503);
        }
        sleep(Duration::from_millis(50)).await;
    }
    let reconnects = reconnects(&node).await - before;
    println!("{reconnects} reconnects in {span:?}");
    let (_, readiness) = node.call("GET", "/readyz", "").await;
    cluster.nodes[2].restart().await;
    for server in &cluster.nodes {
        eventually("a Cluster that is whole", async || {
            server.command(&["CLUSTER", "INFO"]).await.contains("cluster_state:ok").then_some(())
        })
        .await;
    }
    let back = Instant::now();
    eventually_within(Duration::from_secs(4), "publishing", async || {
        (publish(&node, "any", &json!(1)).await.0 == 200).then_some(())
    })
    .await;
    are_served(&node, &clients).await;
    assert!(back.elapsed() < Duration::from_secs(8), "served after {:?}", back.elapsed());
    assert!(clients.iter().all(|client| client.end().is_none()), "clients stay");
    assert!(readiness.contains("CLUSTERDOWN"), "{readiness}");
    // Two servers are left, and the pause between retries grows to 2 s.
    assert!(reconnects <= 16.0, "{reconnects} reconnects in {span:?}");
}
