//! Connections that were never established leave nothing behind.

use super::{is_counted, two};
use serde_json::json;
use std::time::Duration;
use switchyard_tests::{KEY, Live, Node, Pattern, Proxy, Raw, Redis, eventually, eventually_within};
use tokio::{io::AsyncReadExt, io::AsyncWriteExt, time::timeout};

/// Twelve clients present their key on the upgrade and leave while Redis is slow to count them. Regression:
/// they stayed counted, so their principal was never accepted again.
#[tokio::test]
async fn cancelled_upgrades_release_their_slots_even_if_redis_is_slow() {
    let redis = Redis::start().await;
    let node = Node::start(&redis.url(), "[tier.default]\nconnections = 12").await;
    // So that every script is loaded, and only the pause is slow.
    Live::connect(&node.url).await.cut();
    is_counted(&redis, "acme", 0).await;
    redis.command(&["CLIENT", "PAUSE", "5000", "WRITE"]).await;
    let mut cancelled = vec![];
    for _ in 0..12 {
        let mut raw = Raw::tcp(node.process.address()).await;
        let head = format!(
            "GET /v2/realtime HTTP/1.1\r\nHost: here\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-API-Key: {KEY}\r\n\r\n"
        );
        raw.bytes(head.as_bytes()).await;
        cancelled.push(raw);
    }
    eventually("questions that wait in Redis", async || (waiting(&redis).await > 12 * 100).then_some(()))
        .await;
    for raw in &mut cancelled {
        raw.tcp.shutdown().await.expect("the end of what is written");
    }
    for mut raw in cancelled {
        // The node has noticed when it closes the connection too, without an answer.
        timeout(Duration::from_millis(100), raw.tcp.read_to_end(&mut vec![])).await.ok();
    }
    redis.command(&["CLIENT", "UNPAUSE"]).await;
    let mut clients = vec![];
    let connect = json!({"auth": {"apiKey": KEY}});
    for n in 1..=12 {
        let place = format!("place {n} of 12");
        let let_in = async || Live::try_connect(&node.url, connect.clone()).await.ok();
        clients.push(eventually(&place, let_in).await);
    }
    is_counted(&redis, "acme", 12).await;
    assert!(Live::try_connect(&node.url, connect).await.is_err(), "no place for a thirteenth");
}

/// Bytes of commands that Redis has received but not executed yet.
async fn waiting(redis: &Redis) -> usize {
    let clients = redis.command(&["CLIENT", "LIST"]).await;
    let sizes =
        clients.split_whitespace().filter_map(|field| field.strip_prefix("qbuf=")?.parse::<usize>().ok());
    sizes.sum()
}

/// A node gives up after 1.5 s and tells its client, but Redis still executes what it has received.
/// Regression: that left a session that seemed to have a connection, and its members, for a day.
#[tokio::test]
async fn commands_executed_after_a_timeout_leave_no_session_and_no_member() {
    let redis = Redis::start().await;
    let (one, other) = two(&redis, "[session]\nttl = \"3s\"").await;
    // Just after the node gave up, and after any deadline.
    for pause in ["1800", "2600"] {
        let client = Live::connect(&one.url).await;
        client.subscribe(json!(["prices"])).await;
        let token = client.token();
        client.cut();
        eventually("a session that waits", async || {
            (redis.command(&["ZCARD", "switchyard:{/nodes}:ends"]).await != "0").then_some(())
        })
        .await;
        redis.command(&["CLIENT", "PAUSE", pause, "ALL"]).await;
        let (new, back) = tokio::join!(
            Live::try_connect(&one.url, json!({"auth": {"apiKey": KEY}})),
            Live::try_connect(&other.url, json!({"auth": {"apiKey": KEY}, "session": token})),
        );
        for refused in [new.err(), back.err()].into_iter().flatten() {
            assert_eq!(refused["error"]["code"], "store_unavailable", "{refused}");
        }
    }
    eventually_within(Duration::from_secs(20), "an end of all sessions", async || {
        let sessions = redis.command(&["KEYS", "switchyard:{@acme}:session:*"]).await;
        (sessions.is_empty() && other.members("prices").await == 0).then_some(())
    })
    .await;
    assert_eq!((other.members("*").await, other.members("@acme").await), (0, 0));
    is_counted(&redis, "acme", 0).await;
}

/// The same if Redis executed everything in time and only its answers did not arrive.
#[tokio::test]
async fn sessions_whose_creation_was_not_answered_end() {
    let redis = Redis::start().await;
    let proxy = Proxy::start(&redis).await;
    let (behind, direct, extra) = (proxy.url(), redis.url(), "[session]\nttl = \"2s\"");
    let (one, other) = tokio::join!(Node::start(&behind, extra), Node::start(&direct, extra));
    for unanswered in [":session:", "{prices}:members"] {
        let client = Live::connect(&other.url).await;
        client.subscribe(json!(["prices"])).await;
        let token = client.token();
        client.cut();
        let pattern = Pattern::command("EVALSHA").containing(unanswered);
        let answers = proxy.hold_answer(pattern);
        let refused =
            Live::try_connect(&one.url, json!({"auth": {"apiKey": KEY}, "session": token})).await.err();
        assert_eq!(refused.expect("no answer, so no way in")["error"]["code"], "store_unavailable");
        assert!(answers.count() > 0);
        answers.release();
    }
    let answers = proxy.hold_answer(Pattern::command("EVALSHA").containing(":session:"));
    let refused = Live::try_connect(&one.url, json!({"auth": {"apiKey": KEY}})).await.err();
    assert_eq!(refused.expect("no answer, so no way in")["error"]["code"], "store_unavailable");
    answers.release();
    eventually_within(Duration::from_secs(20), "an end of all sessions", async || {
        let sessions = redis.command(&["KEYS", "switchyard:{@acme}:session:*"]).await;
        (sessions.is_empty() && other.members("prices").await == 0).then_some(())
    })
    .await;
    is_counted(&redis, "acme", 0).await;
}

/// Redis forgot everything after a session was written and before its member was, and the client left before
/// its session was restored. Regression: the member stayed for a day.
#[tokio::test]
async fn a_member_without_a_session_is_removed_with_its_client() {
    let redis = Redis::start().await;
    let proxy = Proxy::start(&redis).await;
    let node = Node::start(&proxy.url(), "").await;
    let client = Live::connect(&node.url).await;
    client.round_trip().await;
    let late = proxy.hold(Pattern::script("write_members"));
    client.request(json!({"type": "subscribe", "rooms": ["prices"]}));
    late.matched().await;
    redis.command(&["FLUSHALL"]).await;
    late.release();
    let members = async || redis.command(&["ZCARD", "switchyard:{prices}:members"]).await;
    eventually("a member", async || (members().await == "1").then_some(())).await;
    client.cut();
    eventually("no member", async || (members().await == "0").then_some(())).await;
}
