//! What a client acknowledged just before its session moved is not forgotten.

use super::two;
use serde_json::json;
use switchyard_tests::{EVENT_TIMEOUT, Live, Node, Pattern, Proxy, Redis, eventually};

/// Acknowledges the third message of a room and waits until the server has processed that.
async fn acknowledge(node: &Node, client: &Live, room: &str) {
    for n in 1..=3 {
        node.call("POST", "/v1/publish", &json!({"room": room, "data": n}).to_string()).await;
    }
    client.message(room, 3).await;
    client.send(json!({"type": "ack", "room": room, "offset": 3}));
    client.round_trip().await;
}

async fn is_acknowledged(node: &Node, room: &str) {
    eventually(&format!("a receipt of {room}"), async || {
        let receipt = node.get(&format!("/v1/rooms/{room}/messages/3/receipt")).await;
        (receipt == json!({"members": 1, "acknowledged": 1})).then_some(())
    })
    .await;
}

/// The resume reads the acknowledged offsets, and then the batch of the old node arrives. Regression: when
/// the session joined its rooms, it was set back to what had been read. Receipts stayed at 0, and each resume
/// delivered the messages again.
#[tokio::test]
async fn acknowledgements_that_arrive_during_a_takeover_are_kept() {
    let redis = Redis::start().await;
    let (url, proxy) = (redis.url(), Proxy::start(&redis).await);
    let (one, other) = tokio::join!(Node::start(&url, ""), async { Node::start(&proxy.url(), "").await });
    let client = Live::connect(&one.url).await;
    client.subscribe(json!(["prices"])).await;
    let joins = proxy.hold(Pattern::command("EVALSHA").containing("{prices}:members"));
    let token = client.token();
    acknowledge(&one, &client, "prices").await;
    let taking = async {
        let moved = Live::resume(&other.url, &token).await;
        moved.round_trip().await;
        moved
    };
    let arriving = async {
        joins.matched().await;
        is_acknowledged(&one, "prices").await;
        joins.release();
    };
    let (moved, ()) = tokio::join!(taking, arriving);
    is_acknowledged(&one, "prices").await;
    assert_eq!(client.ended(EVENT_TIMEOUT).await.code, Some(4409));
    moved.cut();
    let back = Live::resume(&one.url, &token).await;
    back.round_trip().await;
    assert_eq!(back.offsets("prices"), [0_u64; 0], "acknowledged before, and again");
    is_acknowledged(&other, "prices").await;
}

/// On the same node nothing has to be written first, because the node knows.
#[tokio::test]
async fn acknowledgements_just_before_a_resume_on_the_same_node_count_at_once() {
    let redis = Redis::start().await;
    let (node, other) = two(&redis, "").await;
    for (room, is_cut) in [("a", false), ("b", true), ("c", false), ("d", true)] {
        let client = Live::connect(&node.url).await;
        client.subscribe(json!([room])).await;
        acknowledge(&node, &client, room).await;
        let (token, mut before) = (client.token(), Some(client));
        if is_cut {
            before.take();
        }
        let back = Live::resume(&node.url, &token).await;
        back.round_trip().await;
        assert_eq!(back.offsets(room), [0_u64; 0], "{room}: acknowledged before, and again");
        is_acknowledged(&other, room).await;
    }
}
