//! What clients leave behind expires, in Redis as well.

use serde_json::{Value, json};
use std::time::Duration;
use switchyard_tests::{Answer, Client, KEY, Live, Node, Redis, Server, eventually, eventually_within};

/// The keys of rooms whose names start with `visited`, each with its time to live in milliseconds.
async fn visited(redis: &Redis) -> Vec<(String, i64)> {
    let script = "local found = {} for _, key in ipairs(redis.call('KEYS', '*{visited*')) do \
        found[#found + 1] = key found[#found + 1] = redis.call('PTTL', key) end return found";
    let lines = redis.command(&["EVAL", script, "0"]).await;
    let lines: Vec<_> = lines.lines().filter(|line| !line.is_empty()).collect();
    lines.chunks(2).map(|pair| (pair[0].to_owned(), pair[1].parse().expect("milliseconds"))).collect()
}

async fn listed(redis: &Redis) -> usize {
    let range = ["ZRANGEBYLEX", "switchyard:{/rooms}:names", "[visited", "(visitee"];
    redis.command(&range).await.lines().filter(|line| !line.is_empty()).count()
}

/// Regression: each of these names stayed for a day.
#[tokio::test]
async fn rooms_that_were_only_visited_leave_nothing() {
    let redis = Redis::start().await;
    let node = Node::start(&redis.url(), "[session]\nttl = \"1s\"").await;
    let mut client = node.client().await;
    let names = |kind: &str| -> Vec<_> { (0..50).map(|n| format!("visited:{kind}:{n}")).collect() };
    for name in names("read") {
        for path in ["", "/history", "/messages/1/receipt"] {
            let path = format!("/v1/rooms/{name}{path}");
            assert_eq!(node.call("GET", &path, "").await.0, 404, "{path}");
        }
    }
    assert_eq!(visited(&redis).await, [], "reading makes nothing");
    client.subscribe(json!(names("left"))).await;
    let answer = client.ask(json!({"type": "unsubscribe", "rooms": names("left")})).await;
    assert_eq!(answer["type"], "unsubscribed");
    // Disconnected without a close frame.
    let cut = Live::connect(&node.url).await;
    let subscribed = cut.ask(json!({"type": "subscribe", "rooms": names("cut")})).await;
    assert_eq!(subscribed["type"], "subscribed", "{subscribed}");
    node.has_members("visited:cut:49", 1).await;
    cut.cut();
    node.has_members("visited:cut:49", 0).await;
    let goes = |keys: &[(String, i64)]| keys.iter().all(|(_, ttl)| (0..=60_000).contains(ttl));
    eventually("a time to live of a minute", async || goes(&visited(&redis).await).then_some(())).await;
    eventually_within(Duration::from_secs(100), "no key and no name", async || {
        (visited(&redis).await.is_empty() && listed(&redis).await == 0).then_some(())
    })
    .await;
    // A room with a member stays, even if nothing happens there.
    let mut client = node.client().await;
    let position = client.subscribe(json!(["visited:held"])).await;
    let held = visited(&redis).await;
    let room = held.iter().find(|(key, _)| key.ends_with(":room")).expect("a room");
    assert!(room.1 > 3_600_000, "{held:?}");
    assert_eq!(listed_soon(&redis).await, 1, "{position}");
}

async fn listed_soon(redis: &Redis) -> usize {
    eventually("a name in the list", async || Some(listed(redis).await).filter(|count| *count > 0)).await
}

/// Regression: 10 kB each to `@n1`, `@n2`, … were stored although nobody has these inboxes.
#[tokio::test]
async fn an_inbox_needs_a_principal() {
    let redis = Redis::start().await;
    let temporary = Server::key("sk_temp", "temp", r#"["subscribe"]"#, "");
    let one = Node::start(&redis.url(), &format!("[session]\nttl = \"1s\"\n{temporary}")).await;
    let other = Node::start(&redis.url(), "[session]\nttl = \"1s\"\n[rooms]\nungoverned = \"closed\"").await;
    let mut publisher = other.client().await;
    let publish = json!({"type": "publish", "room": "@temp", "data": 1});
    let invalid = |answer: Value| {
        assert_eq!(answer["error"]["code"], "room_invalid", "{answer}");
        let message = answer["error"]["message"].as_str().expect("a sentence");
        assert!(message.contains("'@temp' is the inbox of a principal that has no key"), "{message}");
    };
    invalid(publisher.ask(publish.clone()).await);
    let body = r#"{"room":"@temp","data":1}"#;
    let (status, answer) = Answer::called(&other.process.admin, "POST", "/v1/publish", Some(KEY), body).await;
    assert_eq!(status, 400, "{answer}");
    invalid(serde_json::from_str(&answer).expect("JSON"));
    assert_eq!(redis.command(&["EXISTS", "switchyard:{@temp}:log"]).await, "0", "nothing is kept");
    // A principal with a key has an inbox, even without a session.
    assert_eq!(
        publisher.ask(json!({"type": "publish", "room": "@zed", "data": 1})).await["type"],
        "published"
    );
    // So does one that is connected to another node, and later one that can resume.
    let fields = json!({"auth": {"apiKey": "sk_temp"}});
    let mut reader = Client::connect_at(&one.url, fields).await;
    assert_eq!(publisher.ask(publish.clone()).await["type"], "published");
    assert_eq!(reader.expect("message").await["room"], "@temp");
    reader.cut();
    eventually("an end of the session", async || {
        other.call("POST", "/v1/publish", body).await.1.contains("room_invalid").then_some(())
    })
    .await;
}

/// Regression: one key filled Redis with new rooms, at 63 MB/s, until nobody could publish.
#[tokio::test]
async fn one_principal_cannot_fill_redis() {
    let redis = Redis::start().await;
    let used = |info: String| -> u64 {
        let line = info.lines().find_map(|line| line.strip_prefix("used_memory:").map(str::to_owned));
        line.and_then(|bytes| bytes.trim().parse().ok()).expect("a number")
    };
    let limit = used(redis.command(&["INFO", "memory"]).await) * 5 + (20 << 20);
    redis.command(&["CONFIG", "SET", "maxmemory", &limit.to_string()]).await;
    let node = Node::start(&redis.url(), &Server::more_keys()).await;
    eventually("a look at Redis' memory", async || {
        (node.metric("switchyard_store_memory_limit_bytes").await == limit as f64).then_some(())
    })
    .await;
    let (data, mut lists) = ("x".repeat(1000), 0);
    let refused = loop {
        assert!(lists < 300, "nothing is refused");
        let message = |n: u32| json!({"room": format!("fresh:{lists}:{n}"), "data": data});
        let body = Value::from((0..200).map(message).collect::<Vec<_>>()).to_string();
        let (status, answer) =
            Answer::called(&node.process.admin, "POST", "/v1/publish", Some("ann"), body.as_str()).await;
        assert_eq!(status, 200, "{answer}");
        let answers: Vec<Value> = serde_json::from_str(&answer).expect("a list");
        if let Some(refused) = answers.into_iter().find(|answer| answer["error"].is_object()) {
            break refused;
        }
        lists += 1;
    };
    assert_eq!(refused["error"]["code"], "overloaded", "{refused}");
    assert!(lists > 5, "{lists}");
    let is = used(redis.command(&["INFO", "memory"]).await);
    assert!(is < limit / 100 * 95, "{is} of {limit} are used");
    // Others publish, connect and subscribe as before.
    let mut bob = Client::connect_at(&node.url, json!({"auth": {"apiKey": "bob"}})).await;
    for n in 1..=20 {
        assert_eq!(bob.publish("prices", json!(n)).await["offset"], n);
        bob.publish(&format!("bobs:{n}"), json!(n)).await;
    }
    bob.subscribe(json!(["prices"])).await;
}
