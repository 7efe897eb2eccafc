//! A rejected connection costs almost nothing, because it is rejected before the server does any work for it.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use switchyard_tests::{Client, KEY, Node, Proxy, Redis, eventually, guest};

/// Commands that a node sends to Redis by itself, whoever connects.
const OWN: [&str; 11] = [
    "script renew_lease",
    "script session_holders",
    "PING",
    "script time",
    "LPOP",
    "LRANGE",
    "HGET",
    "HSET",
    "INFO",
    "ROLE",
    "CLIENT",
];

/// All other commands that Redis received.
fn asked(proxy: &Proxy) -> BTreeMap<String, u64> {
    let mut passed = proxy.passed();
    passed.retain(|name, _| !OWN.contains(&&**name));
    passed
}

fn since(before: &BTreeMap<String, u64>, after: BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let more = |(name, count): (String, u64)| (count - before.get(&name).copied().unwrap_or(0), name);
    after.into_iter().map(more).filter(|(count, _)| *count > 0).map(|(count, name)| (name, count)).collect()
}

/// A plugin that decides about connections, and gives this answer.
fn asking(connect: &str) -> String {
    let file = guest("hostile").display().to_string();
    format!(
        "[[plugin]]\nname = \"p\"\nfile = \"{file}\"\nrooms = [\"p:*\"]\nconfig = {{ connect = \"{connect}\" }}\n\
         budget = {{ call = \"2s\" }}\n"
    )
}

fn connect(session: Option<&str>) -> Value {
    let mut connect = json!({"type": "connect", "auth": {"apiKey": KEY}});
    if let Some(session) = session {
        connect["session"] = session.into();
    }
    connect
}

/// The error code with which a `connect` is rejected.
async fn refused(url: &str, session: Option<&str>) -> String {
    Client::rejected_connect(url, connect(session)).await.0
}

/// A client, if the node accepts it.
async fn let_in(url: &str, session: Option<&str>) -> Option<Client> {
    let mut client = Client::open(url).await;
    client.send(connect(session)).await;
    client.connected = client.recv().await;
    (client.connected["type"] == "connected").then_some(client)
}

async fn sessions(redis: &Redis) -> usize {
    redis.command(&["KEYS", "*:session:*"]).await.lines().filter(|line| !line.is_empty()).count()
}

#[tokio::test]
async fn a_principal_at_its_limit_costs_one_redis_command_and_no_plugin_call() {
    let (redis, connections) = (Redis::start().await, "[tier.default]\nconnections = 2\n");
    let proxy = Proxy::start(&redis).await;
    let one = Node::start(&redis.url(), connections).await;
    let other = Node::start(&proxy.url(), &format!("{connections}{}", asking("busy-1"))).await;
    let lost = one.client().await;
    let token = lost.token();
    lost.cut();
    let held = eventually("two places", async || {
        let mut clients = vec![];
        for _ in 0..2 {
            let mut client = Client::open(&*one.url).await;
            client.send(json!({"type": "connect", "auth": {"apiKey": KEY}})).await;
            client.connected = client.recv().await;
            clients.push(client);
        }
        clients.iter().all(|client| client.connected["type"] == "connected").then_some(clients)
    })
    .await;
    // The first one causes the work that is done only once.
    assert_eq!(refused(&other.url, None).await, "connection_limit");
    let stored = sessions(&redis).await;
    let calls = other.metric("switchyard_plugin_calls_total").await;

    let before = asked(&proxy);
    for _ in 0..20 {
        assert_eq!(refused(&other.url, None).await, "connection_limit");
    }
    let cost = since(&before, asked(&proxy));
    assert!(cost.values().sum::<u64>() < 25, "twenty new ones: {cost:?}");

    // A session without a connection, and one that does not exist.
    let before = asked(&proxy);
    for session in [&*token, "s_00000000000000000000000000000001"] {
        for _ in 0..10 {
            assert_eq!(refused(&other.url, Some(session)).await, "connection_limit");
        }
    }
    let cost = since(&before, asked(&proxy));
    assert!(cost.values().sum::<u64>() <= 50, "twenty that would resume: {cost:?}");
    assert_eq!(sessions(&redis).await, stored);
    assert_eq!(other.metric("switchyard_plugin_calls_total").await, calls, "the plugin was not asked");

    // A session that has a connection is accepted, whatever the limit.
    let mut taking = other.resume(&held[0].token()).await;
    assert_eq!(taking.connected["resumed"], true, "{}", taking.connected);
    taking.round_trip().await;
    drop((taking, held));
    // The session that was rejected is unchanged.
    let back = eventually("a free place", async || let_in(&other.url, Some(&token)).await).await;
    assert_eq!(back.connected["resumed"], true, "{}", back.connected);
}

#[tokio::test]
async fn a_node_with_all_allowed_connections_rejects_without_redis() {
    let redis = Redis::start().await;
    let proxy = Proxy::start(&redis).await;
    let node = Node::start(&proxy.url(), "[tier.default]\nconnections = 1\n").await;
    let mut client = node.client().await;
    client.round_trip().await;
    // Counts are written with a short delay.
    eventually("the count", async || asked(&proxy).contains_key("script write_count").then_some(())).await;
    let before = asked(&proxy);
    for _ in 0..20 {
        assert_eq!(refused(&node.url, None).await, "connection_limit");
    }
    let mut cost = since(&before, asked(&proxy));
    cost.retain(|name, _| {
        ["acquire_slot", "resume_session", "create_session", "write_count"]
            .iter()
            .any(|script| name.ends_with(script))
    });
    assert_eq!(cost, BTreeMap::new());
}

#[tokio::test]
async fn a_slot_is_released_when_a_plugin_rejects_the_connection() {
    let redis = Redis::start().await;
    let connections = "[tier.default]\nconnections = 1\n";
    let one = Node::start(&redis.url(), connections).await;
    let other = Node::start(&redis.url(), &format!("{connections}{}", asking("refuse"))).await;
    for _ in 0..5 {
        // If the slot were not released, the next connection would find none.
        assert_eq!(refused(&other.url, None).await, "forbidden");
    }
    assert_eq!(sessions(&redis).await, 0, "no session was made");
    let mut client = eventually("the place", async || let_in(&one.url, None).await).await;
    client.subscribe(json!(["prices"])).await;
    let token = client.token();
    client.cut();
    eventually("a refusal by the plugin", async || {
        let code = refused(&other.url, Some(&token)).await;
        (code == "forbidden").then_some(())
    })
    .await;
    let back: Client = eventually("the session", async || let_in(&one.url, Some(&token)).await).await;
    assert_eq!(back.connected["resumed"], true, "{}", back.connected);
    let rooms = back.connected["rooms"].as_array().expect("rooms");
    assert!(rooms.iter().any(|room: &Value| room["room"] == "prices"), "{}", back.connected);
}

#[tokio::test]
async fn a_session_stays_with_its_connection_when_a_plugin_refuses_a_takeover() {
    let redis = Redis::start().await;
    let one = Node::start(&redis.url(), "").await;
    let other = Node::start(&redis.url(), &asking("refuse")).await;
    let mut old = one.client().await;
    old.subscribe(json!(["prices"])).await;
    for _ in 0..3 {
        assert_eq!(refused(&other.url, Some(&old.token())).await, "forbidden");
    }
    one.client().await.publish("prices", json!(1)).await;
    assert_eq!(old.expect("message").await["data"], 1);
    old.round_trip().await;
    // The session can still be taken over where no plugin refuses it.
    let new = one.resume(&old.token()).await;
    assert_eq!(new.connected["resumed"], true, "{}", new.connected);
    assert_eq!(old.closed().await.code, 4409);
}
