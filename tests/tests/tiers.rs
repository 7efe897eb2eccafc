//! What a tier allows its principals: rates, filters and memory.

use serde_json::{Value, json};
use std::time::{Duration, Instant};
use switchyard_tests::{Answer, Client, EVENT_TIMEOUT, KEY, Server, eventually, plugin};

const SCOPES: &str = r#"["subscribe", "publish"]"#;

/// The configuration of a node where `acme` has three keys of the tier `t` with these limits, one of them for the
/// calls of operators. `KEY` is of another principal.
fn configuration(limits: &str, more: &str) -> String {
    ["sk_a", "sk_b"].map(|key| Server::key(key, "acme", SCOPES, "tier = \"t\"")).concat()
        + &Server::key("sk_admin", "acme", r#"["admin"]"#, "tier = \"t\"")
        + &Server::key(KEY, "op", r#"["subscribe", "publish", "broadcast", "admin"]"#, "")
        + &format!("[tier.t]\n{limits}\n{more}\n")
}

async fn server(limits: &str, more: &str) -> Server {
    Server::start_with(&configuration(limits, more)).await
}

/// Publishes, and returns how long to wait if that is refused because of a rate.
async fn refused_for(client: &mut Client, room: &str, data: Value) -> Option<u64> {
    let answer = client.ask(json!({"type": "publish", "room": room, "data": data})).await;
    if answer["type"] == "published" {
        return None;
    }
    assert_eq!(answer["error"]["code"], "rate_limited", "{answer}");
    Some(answer["error"]["retryAfter"].as_u64().expect("a number"))
}

async fn limited(server: &Server, limit: &str, mode: &str) -> u64 {
    let (_, metrics) = server.call("GET", "/metrics", None, "").await;
    let name = format!("switchyard_limited_total{{limit=\"{limit}\",mode=\"{mode}\"}} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
    value.map_or(0, |value| value.parse().expect("a number"))
}

#[tokio::test]
async fn all_connections_and_calls_of_a_principal_share_a_rate() {
    // One comes back every 15 s, which is longer than this test takes.
    let server = server("publishes = \"4/m\"", "").await;
    let mut a = Client::connect_as(&server, "sk_a").await;
    let mut b = Client::connect_as(&server, "sk_b").await;
    assert_eq!(refused_for(&mut a, "prices", json!(1)).await, None);
    assert_eq!(refused_for(&mut b, "prices", json!(2)).await, None);
    let message = |n: u32| json!({"room": "prices", "data": n});
    let post = async |body: Value| server.call("POST", "/v1/publish", Some("sk_b"), body.to_string()).await;
    assert_eq!(post(message(3)).await.0, 200);
    let list = json!([message(4), message(5)]).to_string();
    let headers = "Authorization: Bearer sk_a\r\n";
    let admin = server.admin.trim_start_matches("http://");
    let refused = Answer::of(admin, "POST", "/v1/publish", headers, list.as_bytes()).await;
    assert_eq!(refused.status, 429, "{}", refused.body);
    assert!(refused.head.contains("retry-after: "), "{}", refused.head);
    assert_eq!(post(json!([message(4)])).await.0, 200, "a list that was refused has taken nothing");
    for client in [&mut a, &mut b] {
        let wait = refused_for(client, "prices", json!(6)).await.expect("a refusal");
        assert!((1..=15_000).contains(&wait), "{wait}");
    }
    a.cut();
    let mut a = Client::connect_as(&server, "sk_a").await;
    assert!(refused_for(&mut a, "prices", json!(6)).await.is_some(), "connecting again refills nothing");
    let mut other = Client::connect(&server).await;
    let stored = other.publish("prices", json!("other")).await;
    assert_eq!(stored["offset"], 5, "nothing of what was refused was stored: {stored}");
    assert_eq!(limited(&server, "publishes", "enforce").await, 4);
}

#[tokio::test]
async fn bytes_and_rooms_are_counted_and_not_only_requests() {
    let limits = "bytes = \"1000/m\"\nsubscribes = \"4/m\"\nreads = \"512/m\"";
    let server = server(limits, "").await;
    let mut client = Client::connect_as(&server, "sk_a").await;
    assert_eq!(refused_for(&mut client, "prices", json!("x".repeat(798))).await, None);
    assert!(refused_for(&mut client, "prices", json!("x".repeat(298))).await.is_some());
    assert_eq!(refused_for(&mut client, "prices", json!("x".repeat(98))).await, None);
    let body = json!({"room": "prices", "data": "x".repeat(300)}).to_string();
    let over_http = server.refused("POST", "/v1/publish", Some("sk_b"), body).await;
    assert_eq!(over_http, (429, "rate_limited".to_owned()));
    client.subscribe(json!(["prices", "b", "c"])).await;
    let subscribe = |rooms: Value| json!({"type": "subscribe", "rooms": rooms});
    assert_eq!(client.refused(subscribe(json!(["d", "e"]))).await, "rate_limited");
    client.subscribe(json!(["d"])).await;
    let history = json!({"type": "history", "room": "prices"});
    assert_eq!(client.ask(history.clone()).await["type"], "history", "the first may take more than there is");
    assert_eq!(client.refused(history).await, "rate_limited");
    let over_http = server.refused("GET", "/v1/rooms/prices/history", Some("sk_admin"), "").await;
    assert_eq!(over_http, (429, "rate_limited".to_owned()));
    let mut other = Client::connect(&server).await;
    assert_eq!(other.publish("prices", json!(0)).await["offset"], 3);
}

#[tokio::test]
async fn requests_that_are_never_refused_are_read_more_slowly() {
    let heartbeat = "[session]\nheartbeat = { interval = \"300ms\", timeout = \"200ms\" }";
    let server = server("requests = \"30/m\"", heartbeat).await;
    let mut client = Client::connect_as(&server, "sk_a").await;
    client.subscribe(json!(["prices"])).await;
    for _ in 1..30 {
        client.round_trip().await;
    }
    assert_eq!(client.refused(json!({"type": "subscribe", "rooms": ["b"]})).await, "rate_limited");
    assert_eq!(server.refused("GET", "/v1/rooms", Some("sk_b"), "").await, (429, "rate_limited".to_owned()));
    let began = Instant::now();
    client.send(json!({"type": "ack", "id": 1, "room": "prices", "offset": 9})).await;
    let answer = client.recv().await;
    assert_eq!(answer["error"]["code"], "invalid_request", "it was carried out: {answer}");
    // One comes back every 2 s. The connection is silent for longer than its heartbeat allows.
    let answer = client.ask(json!({"type": "unsubscribe", "rooms": ["prices"]})).await;
    assert_eq!(answer["results"][0]["status"], "unsubscribed", "{answer}");
    client.round_trip().await;
    let took = began.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(15)).contains(&took), "{took:?}");
    assert!(limited(&server, "requests", "enforce").await >= 4);
}

#[tokio::test]
async fn a_client_that_ignores_refusals_is_closed_with_4420() {
    let server = server("publishes = \"1/m\"", "").await;
    let mut client = Client::connect_as(&server, "sk_a").await;
    for n in 0..102 {
        // The server may close first.
        let frame = json!({"type": "publish", "id": n, "room": "prices", "data": n}).to_string();
        client.send_text(&frame).await;
    }
    assert_eq!(client.recv().await["type"], "published");
    for n in 1..=100 {
        let answer = client.expect("error").await;
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(n), &json!("rate_limited")));
    }
    assert_eq!(client.closed().await.code, 4420);
    let resume = json!({"auth": {"apiKey": "sk_a"}, "session": client.token()});
    let again = Client::connect_with(&server, resume).await;
    assert_eq!(again.connected["resumed"], true);
}

#[tokio::test]
async fn a_changed_rate_applies_to_connected_clients_and_gives_nothing_back() {
    let server = server("publishes = \"2/m\"", "").await;
    let mut client = Client::connect_as(&server, "sk_a").await;
    for refused in [false, false, true] {
        assert_eq!(refused_for(&mut client, "prices", json!(1)).await.is_some(), refused);
    }
    let faster = configuration("publishes = \"120/m\"\nrequests = \"1000/s\"", "");
    server.reconfigure(&faster);
    // Two a second come back now, but what was taken did not.
    let wait = eventually("the new rate", async || {
        let mut other = Client::connect_as(&server, "sk_b").await;
        let wait = refused_for(&mut other, "prices", json!(2)).await;
        wait.is_none_or(|wait| wait <= 500).then_some(wait)
    })
    .await;
    let mut accepted = usize::from(wait.is_none());
    let began = Instant::now();
    while accepted < 3 {
        match refused_for(&mut client, "prices", json!(3)).await {
            None => accepted += 1,
            // Its connection may have the old rate for a moment.
            Some(wait) => tokio::time::sleep(Duration::from_millis(wait.min(500))).await,
        }
    }
    assert!(began.elapsed() < Duration::from_secs(10));
    server.reconfigure(&configuration("", ""));
    eventually("no rate", async || {
        for _ in 0..10 {
            if refused_for(&mut Client::connect_as(&server, "sk_b").await, "b", json!(4)).await.is_some() {
                return None;
            }
        }
        Some(())
    })
    .await;
}

#[tokio::test]
async fn in_observe_mode_everything_is_allowed_and_counted() {
    let limits = "publishes = \"1/m\"\nsubscribes = \"1/m\"\nrequests = \"1/m\"\nmemory = \"64KiB\"";
    let server = server(limits, "[limits]\nmode = \"observe\"").await;
    let mut client = Client::connect_as(&server, "sk_a").await;
    client.subscribe(json!(["a", "b", "c"])).await;
    client.subscribe(json!(["d"])).await;
    for _ in 0..5 {
        assert_eq!(refused_for(&mut client, "prices", json!("x".repeat(30_000))).await, None);
    }
    client.round_trip().await;
    assert_eq!(limited(&server, "publishes", "observe").await, 4);
    assert_eq!(limited(&server, "subscribes", "observe").await, 1);
    assert_eq!(limited(&server, "requests", "observe").await, 7);
    assert!(limited(&server, "memory", "observe").await > 0);
    for limit in ["publishes", "subscribes", "requests", "memory"] {
        assert_eq!(limited(&server, limit, "enforce").await, 0, "{limit}");
    }
}

#[tokio::test]
async fn a_noisy_principal_gets_its_rate_and_a_calm_one_is_not_refused() {
    let server = server("publishes = \"50/s\"", "").await;
    let noisy = async {
        let mut client = Client::connect_as(&server, "sk_a").await;
        let (began, mut accepted) = (Instant::now(), 0);
        while began.elapsed() < Duration::from_secs(3) {
            match refused_for(&mut client, "prices", json!(1)).await {
                None => accepted += 1,
                Some(wait) => tokio::time::sleep(Duration::from_millis(wait)).await,
            }
        }
        let expected = 50.0 + 50.0 * began.elapsed().as_secs_f64();
        assert!((f64::from(accepted) / expected - 1.0).abs() < 0.1, "{accepted} of {expected}");
    };
    let calm = async {
        let mut client = Client::connect(&server).await;
        for n in 0..30 {
            client.publish("calm", json!(n)).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::join!(noisy, calm);
}

/// A replay takes longer, and loses nothing.
#[tokio::test]
async fn a_replay_waits_instead_of_losing_messages() {
    let server = server("reads = \"300KiB/s\"", "").await;
    let mut client = Client::connect_as(&server, "sk_a").await;
    client.subscribe(json!(["prices"])).await;
    let token = client.token();
    client.cut();
    let mut publisher = Client::connect(&server).await;
    // Four pages of 256 KiB, or nearly.
    for n in 0..16 {
        publisher.publish("prices", json!([n, "x".repeat(60_000)])).await;
    }
    let began = Instant::now();
    let resume = json!({"auth": {"apiKey": "sk_a"}, "session": token});
    let mut client = Client::connect_with(&server, resume).await;
    assert_eq!(client.connected["resumed"], true);
    for n in 0..16 {
        let message = client.expect("message").await;
        assert_eq!(message["data"][0], n);
    }
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(500), "{took:?}");
    assert!(limited(&server, "reads", "enforce").await > 0);
    publisher.publish("prices", json!(["live"])).await;
    assert_eq!(client.expect("message").await["data"][0], "live");
}

#[tokio::test]
async fn the_different_filters_of_a_principal_are_limited() {
    let plugin = plugin("threshold_filter", r#"["tvl_changes", "tvl:*"]"#, "{}");
    let server = server("filters = 2", &plugin).await;
    let mut a = Client::connect_as(&server, "sk_a").await;
    let mut b = Client::connect_as(&server, "sk_b").await;
    let wish = |room: &str, min: u32| json!([{"room": room, "filter": {"minChange": min}}]);
    a.subscribe(wish("tvl:a", 1)).await;
    b.subscribe(wish("tvl:a", 2)).await;
    let third = json!({"type": "subscribe", "rooms": wish("tvl:b", 3)});
    let answer = a.ask(third.clone()).await;
    assert_eq!(answer["results"][0]["error"]["code"], "room_limit", "{answer}");
    let message = answer["results"][0]["error"]["message"].as_str().expect("a message");
    assert!(message.contains("has 2 different filters of this plugin, tier 't' allows 2"), "{message}");
    a.subscribe(wish("tvl:b", 2)).await;
    a.subscribe(json!(["tvl:c"])).await;
    let mut other = Client::connect(&server).await;
    for n in 1..5 {
        other.subscribe(wish(&format!("tvl:{n}"), n)).await;
    }
    assert_eq!(limited(&server, "filters", "enforce").await, 1);
    a.ask(json!({"type": "unsubscribe", "rooms": ["tvl:a"]})).await;
    assert_eq!(a.ask(third).await["results"][0]["status"], "subscribed");
}

#[tokio::test]
async fn a_principal_gets_no_more_memory_than_its_tier_allows() {
    let server = server("memory = \"200KiB\"", "").await;
    let mut client = Client::connect_as(&server, "sk_a").await;
    let mut stored = 0;
    let refusal = loop {
        let frame = json!({"type": "publish", "room": "prices", "data": "x".repeat(30_000)});
        let answer = client.ask(frame).await;
        if answer["type"] == "error" {
            break answer;
        }
        stored += 1;
        assert!(stored < 10, "300,000 bytes");
    };
    assert!(stored > 2, "{stored}");
    assert_eq!(refusal["error"]["code"], "overloaded", "{refusal}");
    let message = refusal["error"]["message"].as_str().expect("a message");
    assert!(message.contains("for principal 'acme', tier 't' allows 204800"), "{message}");
    let answer = client.ask(json!({"type": "subscribe", "rooms": ["another"]})).await;
    assert_eq!(answer["results"][0]["error"]["code"], "overloaded", "{answer}");
    let message = json!({"room": "prices", "data": 1});
    let body = message.to_string();
    let over_http = server.refused("POST", "/v1/publish", Some("sk_b"), body).await;
    assert_eq!(over_http, (503, "overloaded".to_owned()));
    let list = json!([message, message]).to_string();
    let (_, answer) = server.call("POST", "/v1/publish", Some("sk_b"), list).await;
    assert_eq!(answer.matches(r#""code":"overloaded""#).count(), 2, "{answer}");
    let mut other = Client::connect(&server).await;
    other.subscribe(json!(["prices"])).await;
    other.publish("prices", json!(1)).await;
    // A larger limit applies to connections that are there.
    server.reconfigure(&configuration("memory = \"1MiB\"", ""));
    eventually("more memory", async || {
        let mut again = Client::open(&*server.url).await;
        again.send(json!({"type": "connect", "auth": {"apiKey": "sk_b"}})).await;
        (again.recv().await["type"] == "connected").then_some(())
    })
    .await;
    let began = Instant::now();
    while client.ask(json!({"type": "publish", "room": "prices", "data": 2})).await["type"] == "error" {
        // Its connection learns of the new limit a moment after the key is valid.
        assert!(began.elapsed() < EVENT_TIMEOUT);
    }
}
