//! Redis that is more than one process: a Cluster whose slots move, a master that is replaced.

use super::{Publisher, saw_everything};
use serde_json::json;
use std::time::Duration;
use switchyard_tests::{Cluster, Follower, Node, Sentinel, eventually};

const PACE: Duration = Duration::from_millis(2);

#[tokio::test]
async fn a_slot_that_moves_under_load_loses_nothing() {
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
        let so_far = followers[0].seen().order["prices"].len();
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
async fn a_master_that_is_replaced_is_followed_and_what_it_took_along_is_told() {
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
    let so_far = followers[0].seen().messages.len();
    eventually("messages of the new master", async || {
        (followers.iter().all(|f| f.seen().messages.len() > so_far + 100)).then_some(())
    })
    .await;
    let published = publisher.stop().await;
    for follower in &followers {
        let seen = follower.seen();
        assert_eq!(seen.connections, 1, "connections stay");
        let offsets = &seen.order["prices"];
        if seen.losses.is_empty() {
            // The replica had heard of everything.
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
