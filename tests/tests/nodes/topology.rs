//! Redis with more than one process: a Cluster whose slots move, and a master that is replaced.

use super::{Publisher, join, saw_everything};
use futures_util::future::join_all;
use serde_json::json;
use std::time::{Duration, Instant};
use switchyard_tests::{Cluster, Follower, Live, Node, Sentinel, eventually};

const PACE: Duration = Duration::from_millis(2);

#[tokio::test]
async fn moving_a_slot_under_load_loses_nothing() {
    let cluster = Cluster::start().await;
    let url = cluster.url();
    let (one, two) = tokio::join!(Node::start(&url, ""), Node::start(&url, ""));
    let mut followers = vec![];
    for node in [&one, &two, &one] {
        followers.push(Follower::start(vec![node.url.clone()], "prices").await);
    }
    // Rooms on other servers, so that all three are in use.
    let mut client = one.client().await;
    client.subscribe(json!(["a", "b", "c", "d", "e", "f"])).await;
    let publisher = Publisher::start(&two, "prices", PACE).await;
    followers[0].has("prices", 200, Duration::from_secs(10)).await;
    let slot = cluster.slot("prices").await;
    let from = cluster.owner(slot).await;
    for to in [(from + 1) % 3, (from + 2) % 3, from] {
        cluster.move_slot(slot, to).await;
        let so_far = followers[0].received().order["prices"].len();
        followers[0].has("prices", so_far + 200, Duration::from_secs(20)).await;
    }
    let published = publisher.stop().await;
    saw_everything(&followers, "prices", &published).await;
    for room in ["a", "b", "c", "d", "e", "f"] {
        two.call("POST", "/v1/publish", &json!({"room": room, "data": room}).to_string()).await;
        assert_eq!(client.expect("message").await["data"], room);
    }
    one.has_members("prices", 3).await;
}

#[tokio::test]
async fn nodes_follow_a_replaced_master_and_report_its_losses() {
    let mut sentinel = Sentinel::start().await;
    let url = sentinel.url();
    let (one, two) = tokio::join!(Node::start(&url, ""), Node::start(&url, ""));
    let followers = [
        Follower::start(vec![one.url.clone()], "prices").await,
        Follower::start(vec![two.url.clone()], "prices").await,
    ];
    let publisher = Publisher::start(&two, "prices", PACE).await;
    followers[0].has("prices", 300, Duration::from_secs(10)).await;
    sentinel.kill_master().await;
    let so_far = followers[0].received().messages.len();
    eventually("messages of the new master", async || {
        (followers.iter().all(|f| f.received().messages.len() > so_far + 100)).then_some(())
    })
    .await;
    let published = publisher.stop().await;
    for follower in &followers {
        let seen = follower.received();
        assert_eq!(seen.connections, 1, "connections stay");
        let offsets = &seen.order["prices"];
        if seen.losses.is_empty() {
            // The replica had received everything.
            follower.has("prices", published.offsets.len(), Duration::from_secs(10)).await;
            assert!(seen.wrong.is_empty() && offsets.is_sorted(), "{:?}", seen.wrong);
        }
        assert!(!published.offsets.is_empty());
    }
    one.has_members("prices", 2).await;
    let mut client = one.client().await;
    client.subscribe(json!(["after"])).await;
    two.call("POST", "/v1/publish", r#"{"room":"after","data":1}"#).await;
    assert_eq!(client.expect("message").await["data"], 1);
}

/// Regression: after any server's connection was re-established, every room was read again, a few at a time.
/// Rooms of a server that does not answer were waited for one after the other, and other rooms received
/// nothing until it was their turn.
#[tokio::test]
async fn rooms_on_an_unavailable_server_do_not_delay_others() {
    const AWAY: usize = 2000;
    let mut cluster = Cluster::start().await;
    for node in &cluster.nodes {
        node.command(&["CONFIG", "SET", "cluster-require-full-coverage", "no"]).await;
    }
    let node = Node::start(&cluster.url(), "[tier.default]\nrooms = 5000").await;
    let client = Live::connect(&node.url).await;
    let (mut away, mut others) = (vec![], vec![]);
    for n in 0.. {
        let room = format!("room-{n}");
        // The last third of the slots is on the third server.
        let rooms = if cluster.slot(&room).await >= 10923 { &mut away } else { &mut others };
        rooms.push(room);
        if away.len() == AWAY {
            break;
        }
    }
    others.truncate(60);
    join(&client, &[&away[..], &others].concat()).await;
    cluster.nodes[2].kill().await;
    eventually("slots that cannot be reached", async || {
        let (_, body) = node.call("GET", "/readyz", "").await;
        body.contains("slots of the Cluster cannot be reached").then_some(())
    })
    .await;
    for server in &cluster.nodes[..2] {
        server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    }
    let began = Instant::now();
    let publish = async |room: &String| {
        let body = json!({"room": room, "data": 1}).to_string();
        let (status, answer) = node.call("POST", "/v1/publish", &body).await;
        assert_eq!(status, 200, "{answer}");
    };
    join_all(others.iter().map(publish)).await;
    let published = began.elapsed();
    for other in &others {
        client.message(other, 1).await;
    }
    let slowest = began.elapsed();
    println!("published after {published:?}, {} rooms were heard after {slowest:?}", others.len());
    assert!(slowest < Duration::from_secs(3), "{slowest:?}");
    assert_eq!(client.end(), None);
}
