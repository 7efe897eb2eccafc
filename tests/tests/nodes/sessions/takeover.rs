//! A session moves to another connection, and the previous one notices late or never, or the request itself
//! arrives too late.

use super::{lose_notices, two};
use serde_json::{Value, json};
use std::time::Duration;
use switchyard_tests::{Client, EVENT_TIMEOUT, KEY, Live, Node, Redis, eventually, eventually_within};

/// A session that moves while its node is stopped, without a notice to that node.
async fn moved_unheard(redis: &Redis, to: &Node, client: &Live) -> Live {
    let moved = Live::resume(&to.url, &client.token()).await;
    assert_eq!(moved.connected["resumed"], true);
    lose_notices(redis).await;
    moved
}

/// Until the old connection learns that it lost its session, it may still send requests. Regression: its
/// `subscribe` created a member of a session that did not exist there, and its `unsubscribe` removed the real
/// one.
#[tokio::test]
async fn a_connection_that_lost_its_session_changes_no_members() {
    let redis = Redis::start().await;
    let (one, other) = two(&redis, "").await;
    let (joining, leaving) = (Live::connect(&one.url).await, Live::connect(&one.url).await);
    for client in [&joining, &leaving] {
        client.subscribe(json!(["prices"])).await;
    }
    one.process.signal("STOP").await;
    let moved =
        [moved_unheard(&redis, &other, &joining).await, moved_unheard(&redis, &other, &leaving).await];
    joining.send(json!({"type": "subscribe", "rooms": ["trades"]}));
    leaving.send(json!({"type": "unsubscribe", "rooms": ["prices"]}));
    one.process.signal("CONT").await;
    for client in [&joining, &leaving] {
        assert_eq!(client.ended(EVENT_TIMEOUT).await.code, Some(4409));
    }
    // Sent to the node that wrote, so that it is read after the write.
    assert_eq!((one.members("prices").await, one.members("trades").await), (2, 0));
    other.call("POST", "/v1/publish", r#"{"room":"prices","data":1}"#).await;
    for client in &moved {
        client.message("prices", 1).await;
        assert_eq!(client.end(), None);
    }
    assert_eq!((other.members("prices").await, other.members("trades").await), (2, 0));
}

/// The notice of a takeover is lost. Regression: both connections received everything for ever. A periodic
/// check now ends the older one.
#[tokio::test]
async fn the_older_of_two_connections_of_a_session_ends_without_a_notice() {
    let redis = Redis::start().await;
    let (one, other) = two(&redis, "").await;
    let client = Live::connect(&one.url).await;
    client.subscribe(json!(["prices"])).await;
    one.process.signal("STOP").await;
    let moved = moved_unheard(&redis, &other, &client).await;
    one.process.signal("CONT").await;
    // A minute, plus time for a busy machine.
    assert_eq!(client.ended(Duration::from_secs(80)).await.code, Some(4409));
    other.call("POST", "/v1/publish", r#"{"room":"prices","data":1}"#).await;
    moved.message("prices", 1).await;
    assert_eq!((moved.end(), other.members("prices").await), (None, 1));
}

/// A client gets no answer from one node, gives up and resumes on another. When the first node processes the
/// request, the session is in use. Regression: it took the session from the only client there was, which was
/// told 4409 and must not come back.
#[tokio::test]
async fn a_resume_that_is_read_late_does_not_take_the_session_from_its_client() {
    let redis = Redis::start().await;
    let (one, other) = two(&redis, "").await;
    let client = Live::connect(&other.url).await;
    client.subscribe(json!(["prices"])).await;
    let token = client.token();
    client.cut();
    // Upgraded, and then the node stops before it reads.
    let mut late = Client::open(&*one.url).await;
    one.process.signal("STOP").await;
    late.send(json!({"type": "connect", "auth": {"apiKey": KEY}, "session": token})).await;
    // On a busy machine, a node may know Redis' clock too inaccurately to tell that this came after the
    // session was created.
    let resumes = json!({"auth": {"apiKey": KEY}, "session": token});
    let back =
        eventually("a resume", async || Live::try_connect(&other.url, resumes.clone()).await.ok()).await;
    assert_eq!(back.connected["resumed"], true);
    one.process.signal("CONT").await;
    let outcome = late.recv().await;
    back.subscribe(json!(["trades"])).await;
    assert_eq!(back.end(), None, "4409 to the only client");
    assert_eq!(outcome["type"], "error", "{outcome}");
    assert_eq!(late.closed().await.code, 4503);
    other.call("POST", "/v1/publish", r#"{"room":"prices","data":1}"#).await;
    back.message("prices", 1).await;
    assert_eq!((other.members("prices").await, other.members("trades").await), (1, 1));
}

/// According to an older file, the previous connection has the session. That one is long gone.
#[tokio::test]
async fn restoring_an_older_redis_file_does_not_end_live_connections() {
    let mut redis = Redis::start().await;
    let (one, other) = two(&redis, "").await;
    let client = Live::connect(&one.url).await;
    client.subscribe(json!(["prices"])).await;
    redis.command(&["SAVE"]).await;
    let moved = Live::resume(&other.url, &client.token()).await;
    assert_eq!(client.ended(EVENT_TIMEOUT).await.code, Some(4409));
    moved.subscribe(json!(["since"])).await;
    redis.restart().await;
    assert_ne!(redis.command(&["DBSIZE"]).await, "0", "it has loaded the file");
    eventually_within(Duration::from_secs(20), "a subscription", async || {
        let answer = moved.ask(json!({"type": "subscribe", "rooms": ["trades"]})).await;
        (status(&answer) == "subscribed").then_some(())
    })
    .await;
    // What the file does not contain is there again.
    for room in ["prices", "since", "trades"] {
        other.has_members(room, 1).await;
    }
    let token = moved.token();
    moved.cut();
    let back = Live::resume(&one.url, &token).await;
    assert_eq!(back.connected["resumed"], true);
    for room in ["prices", "since", "trades"] {
        assert!(back.resumed(room).is_some(), "{room}: {}", back.connected);
    }
    eventually("one member", async || (other.members("*").await == 1).then_some(())).await;
}

/// Regression: sessions that had ended returned with an older file, with their members, and nothing ended
/// them, because their node was alive.
#[tokio::test]
async fn sessions_restored_from_an_older_redis_file_end_again() {
    let mut redis = Redis::start().await;
    let (one, other) = two(&redis, "[session]\nttl = \"2s\"").await;
    let mut clients = vec![];
    for _ in 0..5 {
        let client = Live::connect(&one.url).await;
        client.subscribe(json!(["prices"])).await;
        clients.push(client);
    }
    let stays = Live::connect(&one.url).await;
    one.has_members("prices", 5).await;
    redis.command(&["SAVE"]).await;
    clients.into_iter().for_each(Live::cut);
    one.has_members("prices", 0).await;
    // What was released in the last 10 s is written again anyway.
    tokio::time::sleep(Duration::from_secs(10)).await;
    redis.restart().await;
    assert_eq!(redis.command(&["ZCARD", "switchyard:{prices}:members"]).await, "5", "it has loaded the file");
    eventually_within(Duration::from_secs(40), "an end of all sessions but one", async || {
        let sessions = redis.command(&["KEYS", "switchyard:{@acme}:session:*"]).await;
        let members = redis.command(&["ZCARD", "switchyard:{prices}:members"]).await;
        (sessions.lines().count() == 1 && members == "0").then_some(())
    })
    .await;
    other.has_members("*", 1).await;
    assert_eq!(stays.end(), None);
}

fn status(answer: &Value) -> &str {
    answer["results"][0]["status"].as_str().unwrap_or_default()
}
