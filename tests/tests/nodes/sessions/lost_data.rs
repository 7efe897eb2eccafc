//! Redis forgets everything, or a node's lease expires, while clients are connected. They are restored once,
//! and then everything is as before.

use super::{NOTICED, commands_a_second, counted, is_counted, rests, sleeps_beyond_its_lease, two};
use serde_json::json;
use switchyard_tests::{KEY, Live, Node, Pattern, Proxy, Raw, Redis, eventually, eventually_within};
use tokio::sync::Mutex;

const LIMIT: &str = "[tier.default]\nconnections = 12";

async fn ten(node: &Node) -> Vec<Live> {
    let mut clients = vec![];
    for _ in 0..10 {
        let client = Live::connect(&node.url).await;
        client.subscribe(json!(["prices"])).await;
        clients.push(client);
    }
    clients
}

/// With ten connections of at most twelve, two more are accepted, and no third.
async fn has_place_for_two(node: &Node, redis: &Redis) {
    is_counted(redis, "acme", 10).await;
    let _more = [Live::connect(&node.url).await, Live::connect(&node.url).await];
    let connect = json!({"auth": {"apiKey": KEY}});
    let refused = Live::try_connect(&node.url, connect).await.err().expect("no place for a third");
    assert_eq!(refused["error"]["code"], "connection_limit", "{refused}");
}

/// Waits until abandoned names have expired.
async fn knows_nodes(node: &Node, count: f64) {
    eventually_within(NOTICED, "one name a node", async || {
        (node.metric("switchyard_store_nodes").await == count).then_some(())
    })
    .await;
}

async fn all_hear(node: &Node, clients: &[Live], data: &str) {
    let (status, body) =
        node.call("POST", "/v1/publish", &json!({"room": "prices", "data": data}).to_string()).await;
    assert_eq!(status, 200, "{body}");
    for client in clients {
        client.wait_for_frame(data, |frame| frame["data"] == data).await;
    }
}

/// Regression: the new name that a node took had no lease, so each renewal found it lost again. Ten
/// connections were counted again under a new name each second, for ever.
#[tokio::test]
async fn connections_are_restored_once_whenever_redis_loses_its_data() {
    let redis = Redis::start().await;
    let node = Node::start(&redis.url(), LIMIT).await;
    let clients = ten(&node).await;
    let resting = commands_a_second(&redis).await;
    for loss in ["first", "second"] {
        is_counted(&redis, "acme", 10).await;
        redis.command(&["FLUSHALL"]).await;
        node.has_members("prices", 10).await;
        rests(&redis, resting).await;
        has_place_for_two(&node, &redis).await;
        all_hear(&node, &clients, loss).await;
        knows_nodes(&node, 1.0).await;
    }
}

/// The same for a machine that was suspended, and then for a Redis that forgets.
#[tokio::test]
async fn connections_are_restored_once_after_a_suspension_longer_than_the_lease() {
    let redis = Redis::start().await;
    let (one, other) = two(&redis, LIMIT).await;
    let clients = ten(&one).await;
    let resting = commands_a_second(&redis).await;
    sleeps_beyond_its_lease(&one, &other).await;
    one.process.signal("CONT").await;
    eventually("its connections counted again", async || (counted(&redis, "acme").await > 0).then_some(()))
        .await;
    rests(&redis, resting).await;
    has_place_for_two(&other, &redis).await;
    all_hear(&other, &clients, "awake").await;
    is_counted(&redis, "acme", 10).await;
    redis.command(&["FLUSHALL"]).await;
    other.has_members("prices", 10).await;
    rests(&redis, resting).await;
    has_place_for_two(&other, &redis).await;
    all_hear(&other, &clients, "remembered").await;
    knows_nodes(&other, 2.0).await;
    assert!(clients.iter().all(|client| client.end().is_none()), "connections stay");
}

/// Regression: between a loss and the moment at which a node noticed it, a connection was counted under the
/// name that the node then abandoned. Nothing looked there again, and for a day the connection counted
/// against the limit.
#[tokio::test]
async fn a_slot_acquired_under_a_lost_name_is_released() {
    let redis = Redis::start().await;
    let proxy = Proxy::start(&redis).await;
    let node = Node::start(&proxy.url(), LIMIT).await;
    let _first = Live::connect(&node.url).await;
    is_counted(&redis, "acme", 1).await;
    redis.command(&["FLUSHALL"]).await;
    let unheard = proxy.hold_answer(Pattern::script("renew_lease"));
    unheard.matched().await;
    let (_, second) = tokio::join!(
        async {
            eventually("a place", async || (counted(&redis, "acme").await > 0).then_some(())).await;
            unheard.release();
        },
        Live::try_connect(&node.url, json!({"auth": {"apiKey": KEY}})),
    );
    let _second = match second {
        Ok(second) => second,
        // It took too long.
        Err(refused) => {
            assert_eq!(refused["error"]["code"], "store_unavailable", "{refused}");
            Live::connect(&node.url).await
        }
    };
    eventually_within(NOTICED, "two connections counted, under a name that lives", async || {
        let live = redis.command(&["ZRANGE", "switchyard:{/nodes}:leases", "0", "-1"]).await;
        let under = redis.command(&["HKEYS", "switchyard:{@acme}:connections"]).await;
        let lives = under.lines().all(|name| live.lines().any(|live| live == name));
        (lives && counted(&redis, "acme").await == 2).then_some(())
    })
    .await;
}

/// Regression: a node that resumed counted a connection under a name that others had already cleared, and
/// died. The count stayed.
#[tokio::test]
async fn a_node_that_dies_after_a_suspension_leaves_no_count() {
    let redis = Redis::start().await;
    let (proxy, url) = (Proxy::start(&redis).await, redis.url());
    let proxied = proxy.url();
    let (one, other) = tokio::join!(Node::start(&proxied, LIMIT), Node::start(&url, LIMIT));
    let _first = Live::connect(&one.url).await;
    is_counted(&redis, "acme", 1).await;
    sleeps_beyond_its_lease(&one, &other).await;
    is_counted(&redis, "acme", 0).await;
    let unheard = proxy.hold_answer(Pattern::script("renew_lease"));
    one.process.signal("CONT").await;
    unheard.matched().await;
    let refused = Live::try_connect(&one.url, json!({"auth": {"apiKey": KEY}})).await.err();
    assert_eq!(refused.expect("it has no lease")["error"]["code"], "store_unavailable");
    one.process.signal("KILL").await;
    eventually_within(NOTICED, "one node", async || {
        (other.metric("switchyard_store_nodes").await == 1.0).then_some(())
    })
    .await;
    is_counted(&redis, "acme", 0).await;
}

/// Regression: what nodes wrote again had no schema version, so a node of another version would have mixed
/// its data with it.
#[tokio::test]
async fn the_schema_version_is_written_again_and_a_mismatch_is_reported() {
    let redis = Redis::start().await;
    let node = Node::start(&redis.url(), "").await;
    let schema = async || redis.command(&["GET", "switchyard:schema"]).await;
    let ours = schema().await;
    redis.command(&["FLUSHALL"]).await;
    eventually("the schema", async || (schema().await == ours).then_some(())).await;
    let other = "redis.call('FLUSHALL') redis.call('SET', 'switchyard:schema', '99')";
    redis.command(&["EVAL", other, "0"]).await;
    let reason = eventually("a reason", async || {
        let (status, body) = node.call("GET", "/readyz", "").await;
        (status == 503).then_some(body).filter(|body| body.contains("schema"))
    })
    .await;
    assert!(reason.contains("of schema 99"), "{reason}");
    redis.command(&["SET", "switchyard:schema", &ours]).await;
    eventually("a node that is ready", async || node.is_ready().await.then_some(())).await;
}

/// Regression: a client whose library does not answer pings could never prove that it was alive, and received
/// nothing for its session any more.
#[tokio::test]
async fn a_client_that_answers_no_pings_is_restored_when_it_sends_anything() {
    let redis = Redis::start().await;
    let node = Node::start(&redis.url(), "").await;
    let mut client = Raw::upgraded(&node.url).await;
    client.send(json!({"type": "connect", "auth": {"apiKey": KEY}})).await;
    assert_eq!(client.json().await["type"], "connected");
    client.send(json!({"type": "subscribe", "rooms": ["prices"]})).await;
    assert_eq!(client.json().await["type"], "subscribed");
    node.has_members("prices", 1).await;
    redis.command(&["FLUSHALL"]).await;
    node.has_members("prices", 0).await;
    let client = Mutex::new(client);
    eventually("a member again", async || {
        let mut client = client.lock().await;
        client.send(json!({"type": "ping"})).await;
        while client.json().await["type"] != "pong" {}
        (node.members("prices").await == 1).then_some(())
    })
    .await;
}
