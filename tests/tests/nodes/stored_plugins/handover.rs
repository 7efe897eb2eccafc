//! What rooms deliver and keep when they get another plugin.

use super::*;
use switchyard_tests::{Proxy, eventually_within};

/// The node's socket holds messages that were published after the change. Regression: they were delivered before the
/// node had read which plugin governs the room now.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_stopped_through_a_change_delivers_nothing_that_the_new_plugin_forbids() {
    let redis = Redis::start().await;
    let [one, two] = [Node::start(&redis.url(), "").await, Node::start(&redis.url(), "").await];
    let member = Live::connect(&two.url).await;
    member.subscribe(json!(["tvl"])).await;
    let publish = async |n: u64| {
        let message = json!({"room": "tvl", "data": {"n": n}}).to_string();
        assert_eq!(one.call("POST", "/v1/publish", &message).await.0, 200);
    };
    publish(1).await;
    member.message("tvl", 1).await;
    two.process.signal("STOP").await;
    // It is awaited until its report has expired.
    add_by_command(&one, "hostile", "hostile", "tvl", r#"{"subscribe":"refuse"}"#).await.expect("a plugin");
    for n in 2..20 {
        publish(n).await;
    }
    two.process.signal("CONT").await;
    let removed = member.wait_for_frame("removed", |frame| frame["type"] == "unsubscribed").await;
    assert_eq!(removed["results"][0]["status"], "removed", "{removed}");
    let received = member.offsets("tvl");
    assert_eq!(received, [1], "nothing that was published after the change");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_of_rooms_that_change_their_plugin_is_cleared_if_the_operator_wants_that() {
    let redis = Redis::start().await;
    let [one, two] = [Node::start(&redis.url(), "").await, Node::start(&redis.url(), "").await];
    let member = Live::connect(&two.url).await;
    member.subscribe(json!(["tvl", "prices"])).await;
    let publisher = Live::connect(&one.url).await;
    let publish = async |room: &str| {
        publisher.ask(json!({"type": "publish", "room": room, "data": {"change": 1}})).await
    };
    // In `empty`, nobody is a member.
    for room in ["tvl", "prices", "empty"] {
        publish(room).await;
    }
    let held = async |room: &str| {
        let reader = Live::connect(&two.url).await;
        reader.subscribe(json!([room])).await;
        let history = reader.ask(json!({"type": "history", "room": room})).await;
        history["messages"].as_array().unwrap_or_else(|| panic!("{history}")).len()
    };
    member.message("tvl", 1).await;
    stage(&one, NAME).await;
    let slot = json!({"rooms": ["tvl", "empty"]});
    let (status, added) = put_slot(&one, NAME, "?clear_history=true", slot).await;
    assert_eq!(status, 200, "{added}");
    member.wait_for_frame("a gap", |frame| frame["type"] == "gap" && frame["room"] == "tvl").await;
    for (room, expected) in [("tvl", 0), ("empty", 0), ("prices", 1)] {
        assert_eq!(held(room).await, expected, "{room}");
    }
    assert_eq!(publish("tvl").await["offset"], 2, "{added}");
    member.message("tvl", 2).await;
    assert_eq!(held("tvl").await, 1);
    // Without the wish, it stays.
    let (status, removed) = call(&two, "DELETE", "/v1/plugins/thresholds?open=true", "").await;
    assert_eq!(status, 200, "{removed}");
    assert_eq!(held("tvl").await, 1);
}

/// Once, each node opened the rooms as soon as it had handed them over itself, so others still delivered what was
/// published there as their plugins before the change decided. The plugin `stamp` takes no message without `n`, and no
/// member without a filter.
#[tokio::test(flavor = "multi_thread")]
async fn no_message_that_a_new_plugin_has_judged_is_delivered_to_whom_it_refuses() {
    let redis = Redis::start().await;
    let [one, two] = [Node::start(&redis.url(), "").await, Node::start(&redis.url(), "").await];
    let publisher = Live::connect(&two.url).await;
    let publish =
        async |data: Value| publisher.ask(json!({"type": "publish", "room": "s:a", "data": data})).await;
    for _ in 0..3 {
        let member = Live::connect(&one.url).await;
        member.subscribe(json!(["s:a"])).await;
        let code = fs::read(guest("stamp")).expect("a guest");
        let (status, staged) = call(&one, "PUT", "/v1/plugins/stamp", code).await;
        assert_eq!(status, 200, "{staged}");
        let added = put_slot(&one, "stamp", "", json!({"rooms": ["s:*"]}));
        let published = async {
            let mut judged = 0;
            while judged < 50 {
                // Only without a plugin.
                let unjudged = publish(json!({"x": 1})).await;
                if unjudged["error"]["code"] == "message_rejected" {
                    judged += u64::from(publish(json!({"n": 1, "to": 1})).await["type"] == "published");
                }
            }
        };
        let both = async { tokio::join!(added, published) };
        let both = tokio::time::timeout(SILENT_NODE_TIMEOUT, both).await;
        let ((status, added), ()) = both.expect("messages that the plugin has judged");
        assert_eq!(status, 200, "{added}");
        member.wait_for_frame("removed", |frame| frame["type"] == "unsubscribed").await;
        member.round_trip().await;
        let leaked: Vec<_> =
            member.frames().into_iter().filter(|frame| !frame["data"]["n"].is_null()).collect();
        assert!(leaked.is_empty(), "{} messages, such as {}", leaked.len(), leaked[0]);
        let (status, removed) = call(&one, "DELETE", "/v1/plugins/stamp?open=true", "").await;
        assert_eq!(status, 200, "{removed}");
        assert_eq!(
            publish(json!({"x": 1})).await["type"],
            "published",
            "the rooms are open again on all nodes"
        );
    }
}

/// Once, a node that could not ask the store took that for an outage, in which nobody can change anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_cut_off_publishes_nothing_by_the_plugins_of_before() {
    let redis = Redis::start().await;
    let proxy = Proxy::start(&redis).await;
    let [one, two] = [Node::start(&proxy.url(), "").await, Node::start(&redis.url(), "").await];
    let client = Live::connect(&one.url).await;
    let publish = async || client.ask(json!({"type": "publish", "room": "s:a", "data": {"x": 1}})).await;
    assert_eq!(publish().await["type"], "published");
    proxy.swallow();
    // It is awaited until its report expires.
    add_by_command(&two, "stamp", "stamp", "s:*", "{}").await.expect("the plugin is added");
    proxy.pass();
    eventually_within(SILENT_NODE_TIMEOUT, "the new plugin", async || {
        let answer = publish().await;
        assert_ne!(answer["type"], "published", "the plugin takes no message without `n`: {answer}");
        (answer["error"]["code"] == "message_rejected").then_some(())
    })
    .await;
}
