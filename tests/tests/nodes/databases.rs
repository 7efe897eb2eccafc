//! Two Switchyard deployments in two databases of one Redis, which have its channels in common.

use serde_json::json;
use switchyard_tests::{Node, Redis};

#[tokio::test]
async fn deployments_in_two_databases_are_independent() {
    let redis = Redis::start().await;
    let url = |database: u8| format!("redis://127.0.0.1:{}/{database}", redis.port());
    let (first, third) = (Node::start(&url(0), "").await, Node::start(&url(3), "").await);
    let again = Node::start(&url(3), "").await;
    let (mut here, mut there, mut beside) =
        (first.client().await, third.client().await, again.client().await);
    for client in [&mut here, &mut there, &mut beside] {
        client.subscribe(json!(["prices"])).await;
    }
    let (mut one, mut other) = (first.client().await, third.client().await);
    for n in 0..50 {
        one.publish("prices", json!(["here", n])).await;
        other.publish("prices", json!(["there", n])).await;
    }
    for n in 0..50 {
        assert_eq!(here.expect("message").await["data"], json!(["here", n]));
        for client in [&mut there, &mut beside] {
            assert_eq!(client.expect("message").await["data"], json!(["there", n]));
        }
    }
    for node in [&first, &third, &again] {
        for series in
            ["switchyard_store_repairs_total", "switchyard_store_losses_total", "switchyard_gaps_total"]
        {
            assert_eq!(node.metric(series).await, 0.0, "{series}");
        }
    }
    let channels = redis.command(&["PUBSUB", "SHARDCHANNELS"]).await;
    let mut channels: Vec<_> = channels.lines().filter(|channel| channel.contains("{prices}")).collect();
    channels.sort_unstable();
    assert_eq!(channels, ["switchyard:{prices}:live", "switchyard:{prices}:live:3"]);
}
