//! Nodes that do not have the same plugins: a room is governed in the same way on all of them, or closed.

use serde_json::{Value, json};
use std::time::Duration;
use switchyard_tests::{Answer, KEY, Live, Node, Redis, eventually, eventually_within, plugin, replace_file};

/// How long it may take until a node shows how others differ from it: it reads their reports twice.
const REPORT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a change may take if a node is silent: its report has to expire.
const SILENT_NODE_TIMEOUT: Duration = Duration::from_secs(40);

fn thresholds() -> String {
    plugin("threshold_filter", r#"["tvl"]"#, "{}")
}

/// Replaces the plugins in the configuration of a node.
fn reconfigure(node: &Node, before: &str, after: &str) {
    let file = node.folder().join("switchyard.toml");
    let text = std::fs::read_to_string(&file).expect("a configuration");
    assert!(text.contains(before), "{text}");
    replace_file(&file, text.replacen(before, after, 1));
}

/// The governor of the room. `null` also if nobody is in it.
async fn governor(node: &Node) -> Value {
    let (_, body) = node.call("GET", "/v1/rooms/tvl", "").await;
    serde_json::from_str::<Value>(&body).expect("JSON")["governor"].clone()
}

async fn is_governed(node: &Node, governor: &Value) {
    eventually_within(SILENT_NODE_TIMEOUT, "another governor", async || {
        (self::governor(node).await == *governor).then_some(())
    })
    .await;
}

/// Tries to join the room and to publish to it. Returns the error code of both, or nothing if both succeed.
async fn refused(node: &Node) -> Option<String> {
    let client = Live::connect(&node.url).await;
    let joined = client.ask(json!({"type": "subscribe", "rooms": ["tvl"]})).await;
    let published = client.ask(json!({"type": "publish", "room": "tvl", "data": {"change": 1}})).await;
    let (join, publish) = (&joined["results"][0]["error"]["code"], &published["error"]["code"]);
    // For a moment during a change, the room takes members and no messages.
    if join != publish {
        return Some("changing".to_owned());
    }
    publish.as_str().map(str::to_owned)
}

/// Waits until the room is refused with this error, or not: it is closed to messages until all nodes have handed it
/// over.
async fn is_refused(node: &Node, expected: Option<&str>) {
    eventually_within(SILENT_NODE_TIMEOUT, "the end of a change", async || {
        (refused(node).await.as_deref() == expected).then_some(())
    })
    .await;
}

/// The reasons that `/readyz` of a ready node gives.
async fn reasons(node: &Node) -> String {
    let (status, body) = Answer::called(&node.process.admin, "GET", "/readyz", None, "").await;
    assert_eq!(status, 200, "{body}");
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_is_closed_on_a_node_that_lacks_its_plugin() {
    let redis = Redis::start().await;
    let one = Node::start(&redis.url(), &thresholds()).await;
    let two = Node::start(&redis.url(), "").await;
    assert_eq!((refused(&one).await, refused(&two).await.as_deref()), (None, Some("plugin_failed")));
    assert_eq!(governor(&two).await, "threshold_filter");
    let expected = "plugin 'threshold_filter' governs rooms on other nodes and is not configured here";
    assert!(reasons(&two).await.contains(expected), "{}", reasons(&two).await);
    assert!(reasons(&two).await.contains(r#""ready":true,"degraded":true"#), "{}", reasons(&two).await);
    let (_, list) = two.call("GET", "/v1/plugins", "").await;
    assert!(list.contains(expected), "{list}");
    assert_eq!(two.metric("switchyard_governance_drift").await, 1.0);
    let (_, port) = two.process.admin.rsplit_once(':').expect("an address");
    let two_lacks_it = format!(":{port}; its rooms are closed there");
    eventually_within(REPORT_TIMEOUT, "the other node knows", async || {
        reasons(&one).await.contains(&two_lacks_it).then_some(())
    })
    .await;
    assert_eq!(one.metric("switchyard_governance_drift").await, 1.0);

    // The only node that governs the room dies.
    let mut one = one;
    one.process.kill().await;
    two.process.signal("HUP").await;
    eventually("a reload", async || (two.metric("switchyard_reloads_total").await > 0.0).then_some(())).await;
    assert_eq!(refused(&two).await.as_deref(), Some("plugin_failed"));
    let three = Node::start(&redis.url(), "").await;
    assert_eq!(refused(&three).await.as_deref(), Some("plugin_failed"), "also for a node that starts later");

    reconfigure(&two, "", &thresholds());
    eventually_within(SILENT_NODE_TIMEOUT, "the plugin", async || {
        refused(&two).await.is_none().then_some(())
    })
    .await;
    assert!(!reasons(&two).await.contains("governs rooms"));
    assert_eq!(refused(&three).await.as_deref(), Some("plugin_failed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_one_node_adds_closes_its_rooms_on_the_others_and_opens_them_where_it_is() {
    let redis = Redis::start().await;
    let one = Node::start(&redis.url(), "").await;
    let two = Node::start(&redis.url(), "").await;
    let [on_one, on_two] = [Live::connect(&one.url).await, Live::connect(&two.url).await];
    for member in [&on_one, &on_two] {
        member.subscribe(json!(["tvl"])).await;
    }
    let publisher = Live::connect(&one.url).await;
    let publish = async |change: u64| {
        publisher.ask(json!({"type": "publish", "room": "tvl", "data": {"change": change}})).await
    };
    assert_eq!(publish(1).await["type"], "published");
    on_two.message("tvl", 1).await;

    reconfigure(&one, "", &thresholds());
    for node in [&one, &two] {
        is_governed(node, &"threshold_filter".into()).await;
    }
    let removed = on_two.wait_for_frame("removed", |frame| frame["type"] == "unsubscribed").await;
    let result = &removed["results"][0];
    assert_eq!((&result["status"], &result["error"]["code"]), (&json!("removed"), &json!("plugin_failed")));
    is_refused(&one, None).await;
    is_refused(&two, Some("plugin_failed")).await;
    on_one.message("tvl", 2).await;

    reconfigure(&two, "", &thresholds());
    eventually("the plugin", async || refused(&two).await.is_none().then_some(())).await;
    on_two.subscribe(json!([{"room": "tvl", "filter": {"minChange": 5}}])).await;
    for change in [3, 9] {
        eventually("an open room", async || (publish(change).await["type"] == "published").then_some(()))
            .await;
    }
    let last = on_two.wait_for_frame("a message", |frame| frame["data"]["change"] == 9).await;
    assert_eq!(on_two.offsets("tvl").last(), last["offset"].as_u64().as_ref());
    assert!(!on_two.frames().iter().any(|frame| frame["data"]["change"] == 3), "filtered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_is_removed_when_all_live_nodes_have_been_told_to() {
    let redis = Redis::start().await;
    let closed = format!("{}[rooms]\nungoverned = \"closed\"\n", thresholds());
    let one = Node::start(&redis.url(), &closed).await;
    let two = Node::start(&redis.url(), &closed).await;
    let other = plugin("threshold_filter", r#"["other"]"#, "{}")
        .replace("name = \"threshold_filter\"", "name = \"x\"");
    // Messages, so that operators see the room.
    assert_eq!((refused(&one).await, refused(&two).await), (None, None));
    reconfigure(&one, &thresholds(), &other);
    // The other node has it.
    eventually_within(SILENT_NODE_TIMEOUT, "a closed room", async || {
        (refused(&one).await.as_deref() == Some("plugin_failed")).then_some(())
    })
    .await;
    is_governed(&one, &"threshold_filter".into()).await;
    is_refused(&two, None).await;
    reconfigure(&two, &thresholds(), &other);
    for node in [&one, &two] {
        is_governed(node, &Value::Null).await;
        is_refused(node, Some("room_rejected")).await;
    }
}

/// Once, clients were let in by a node on which the plugin that decides who may connect was missing.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_connects_to_a_node_without_the_plugin_that_decides_who_may() {
    let keeper = plugin("keeper", r#"["kept:*"]"#, "{}");
    let redis = Redis::start().await;
    let one = Node::start(&redis.url(), &keeper).await;
    let two = Node::start(&redis.url(), "").await;
    let with_key = json!({"auth": {"apiKey": KEY}});
    let connect = async |node: &Node| Live::try_connect(&node.url, with_key.clone()).await;
    let refused = async |node: &Node| {
        let answer = eventually("a refusal", async || connect(node).await.err()).await;
        let error = &answer["error"];
        assert_eq!(
            (&error["code"], error["retryAfter"].is_u64()),
            (&json!("plugin_failed"), true),
            "{answer}"
        );
        let expected = "plugin 'keeper', which decides who may connect, does not run on this node";
        assert_eq!(error["message"], expected);
    };
    refused(&two).await;
    let session = Live::connect(&one.url).await;
    assert!(reasons(&two).await.contains("no client is admitted"), "{}", reasons(&two).await);
    // A session is not taken over either.
    let resume = json!({"auth": {"apiKey": KEY}, "session": session.token()});
    let answer = Live::try_connect(&two.url, resume).await.err().expect("a refusal");
    assert_eq!(answer["error"]["code"], "plugin_failed", "{answer}");
    session.round_trip().await;

    // The only node that has the plugin is gone, and one that starts later cannot load it.
    let mut one = one;
    one.process.kill().await;
    let too_little = "budget = { memory = \"64KiB\" }\n";
    let three = Node::start(&redis.url(), &(keeper + too_little)).await;
    refused(&three).await;
    refused(&two).await;
    reconfigure(&three, too_little, "");
    eventually_within(SILENT_NODE_TIMEOUT, "a client", async || connect(&three).await.ok()).await;
    refused(&two).await;
}
