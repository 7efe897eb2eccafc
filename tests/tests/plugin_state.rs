//! What plugins keep beyond their instances, and what 0.2 of the contract tells them, seen from outside.

use serde_json::{Value, json};
use switchyard_tests::{Client, KEY, MORE_KEYS, Server, guest, plugin};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

/// A node whose rooms `kept:*` belong to the plugin that does with its state what messages say.
async fn server(more: &str) -> Server {
    let keeper = plugin("keeper", r#"["kept:*"]"#, "{}");
    Server::start_with(&format!("{}{}{keeper}{more}", Server::keys(), Server::more_keys())).await
}

#[tokio::test]
async fn a_limit_outlives_failures_reloads_and_rollbacks() {
    let server = server("").await;
    let mut ann = Client::connect_as(&server, MORE_KEYS[0]).await;
    ann.subscribe(json!(["kept:a"])).await;
    let mut publisher = Client::connect(&server).await;
    let once = json!({"take": "wallet", "burst": 1});
    let mut take = async |publisher: &mut Client| {
        publisher.publish("kept:a", once.clone()).await;
        ann.expect("message").await["data"]["wait"].clone()
    };
    assert_eq!(take(&mut publisher).await, Value::Null);
    assert_eq!(take(&mut publisher).await, -1);
    let panic = json!({"type": "publish", "room": "kept:a", "data": {"panic": true}});
    assert_eq!(publisher.refused(panic).await, "plugin_failed");
    assert_eq!(take(&mut publisher).await, -1, "after a failure");
    // The same plugin, but another file: a custom section at its end makes it another version.
    let mut other = std::fs::read(guest("keeper")).unwrap();
    other.extend([0, 2, 1, b'x']);
    let (status, body) = server.call("PUT", "/v1/plugins/keeper", Some(KEY), &other).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(take(&mut publisher).await, -1, "after a reload");
    let (status, body) = server.call("POST", "/v1/plugins/keeper/rollback", Some(KEY), "").await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(take(&mut publisher).await, -1, "after a rollback");
}

#[tokio::test]
async fn a_flood_of_keys_resets_nobodys_limit_and_stays_within_the_budget() {
    let server = server("budget = { state = \"100KiB\" }").await;
    let mut bob = Client::connect_as(&server, MORE_KEYS[1]).await;
    let mut ann = Client::connect_as(&server, MORE_KEYS[0]).await;
    let mut reader = Client::connect(&server).await;
    bob.publish("kept:a", json!({"take": "bob's wallet", "burst": 1})).await;
    for n in 0..500 {
        ann.publish("kept:a", json!({"take": format!("wallet {n}"), "burst": 1})).await;
    }
    reader.subscribe(json!(["kept:a"])).await;
    ann.publish("kept:a", json!({"take": "one more", "burst": 1})).await;
    assert_eq!(reader.expect("message").await["data"]["wait"], -1, "the flood has used up its part");
    bob.publish("kept:a", json!({"take": "bob's wallet", "burst": 1})).await;
    assert_eq!(reader.expect("message").await["data"]["wait"], -1, "the flood has reset a limit");
    bob.publish("kept:a", json!({"take": "bob's second wallet", "burst": 1})).await;
    assert_eq!(reader.expect("message").await["data"]["wait"], Value::Null, "the flood has left no room");
    let (_, metrics) = server.call("GET", "/metrics", None, "").await;
    let value = |name: &str| -> u64 {
        let line = metrics.lines().find(|line| line.starts_with(&format!("{name}{{plugin=\"keeper\"}}")));
        line.unwrap_or_else(|| panic!("{name}: {metrics}")).rsplit(' ').next().unwrap().parse().unwrap()
    };
    let bytes = value("switchyard_plugin_state_bytes");
    assert!((50_000..=102_400).contains(&bytes), "{bytes}");
    assert!(value("switchyard_plugin_state_entries") > 100);
    assert!(value("switchyard_plugin_state_refusals_total") > 200);
    assert_eq!(value("switchyard_plugin_state_evictions_total"), 0);
    assert!(metrics.contains(&format!("switchyard_memory_bytes{{kind=\"plugin_state\"}} {bytes}\n")));
}

#[tokio::test]
async fn a_repetition_is_answered_without_asking_the_plugin() {
    let server = server("").await;
    let mut publisher = Client::connect(&server).await;
    let take = json!({"take": "wallet", "burst": 1});
    let request = json!({"type": "publish", "room": "kept:a", "data": take, "key": "k1"});
    let first = publisher.ask(request.clone()).await;
    assert_eq!((&first["type"], &first["duplicate"]), (&json!("published"), &Value::Null), "{first}");
    let again = publisher.ask(request.clone()).await;
    assert_eq!((&again["offset"], &again["duplicate"]), (&first["offset"], &json!(true)), "{again}");
    let plugins = server.get("/v1/plugins/keeper").await;
    let calls = &plugins["calls"]["publish.check"];
    assert_eq!(calls[0], 1, "{plugins}");
    // The key belongs to its principal.
    let mut reader = Client::connect(&server).await;
    reader.subscribe(json!(["kept:a"])).await;
    let mut other = Client::connect_as(&server, MORE_KEYS[0]).await;
    assert_eq!(other.ask(request).await["duplicate"], Value::Null);
    assert_eq!(reader.expect("message").await["data"]["wait"], -1);
}

#[tokio::test]
async fn the_publish_hook_learns_the_key_and_how_the_message_came() {
    let server = server("").await;
    let mut reader = Client::connect(&server).await;
    reader.subscribe(json!(["kept:a"])).await;
    let mut ann = Client::connect_as(&server, MORE_KEYS[0]).await;
    ann.publish("kept:a", json!({})).await;
    let told = reader.expect("message").await["data"].clone();
    let digest = switchyard_store::key::Digest::of(MORE_KEYS[0]).to_string();
    let id = format!("key-{}", &digest["sha256:".len()..][..8]);
    assert_eq!(told["who"], json!(["ann", id, "default"]));
    assert_eq!((&told["via"], &told["key"]), (&json!("websocket"), &Value::Null));
    let body = json!({"room": "kept:a", "data": {}, "key": "k1"}).to_string();
    let (status, answer) = server.call("POST", "/v1/publish", Some(KEY), body).await;
    assert_eq!(status, 200, "{answer}");
    let told = reader.expect("message").await["data"].clone();
    assert_eq!((&told["who"][0], &told["via"], &told["key"]), (&json!("acme"), &json!("http"), &json!("k1")));
}

#[tokio::test]
async fn the_connect_hook_sees_the_headers_of_its_list_only() {
    let server = server(r#"headers = ["X-Region", "user-agent", "x-missing"]"#).await;
    let open = async |agent: &'static str| {
        let mut request = server.url.as_str().into_client_request().unwrap();
        request.headers_mut().insert("user-agent", agent.parse().unwrap());
        request.headers_mut().insert("x-region", "eu".parse().unwrap());
        request.headers_mut().insert("x-other", "secret".parse().unwrap());
        Client::open(request).await
    };
    let mut curious = open("curious").await;
    let answer = curious.ask(json!({"type": "connect", "auth": {"apiKey": KEY}})).await;
    let message = answer["error"]["message"].as_str().unwrap_or_else(|| panic!("{answer}"));
    assert!(message.ends_with("x-region: eu, user-agent: curious"), "{message}");
    open("other").await.authenticate(json!({"auth": {"apiKey": KEY}})).await;
}

/// The bundled plugin, as its README configures it.
#[tokio::test]
async fn rate_guard_limits_wallets_across_connections_and_reloads() {
    let rules =
        r#"{ rules = [{ by = ["/wallet"], burst = 1, per_minute = 6, message = "one in ten seconds" }] }"#;
    let server = Server::start_with(&format!(
        "{}{}{}",
        Server::keys(),
        Server::more_keys(),
        plugin("rate_guard", r#"["liquidations:**"]"#, rules)
    ))
    .await;
    let liquidation = |wallet: &str| json!({"type": "publish", "room": "liquidations:base:aave-v3", "data": {"wallet": wallet, "usd": 5}});
    let mut ann = Client::connect_as(&server, MORE_KEYS[0]).await;
    let mut bob = Client::connect_as(&server, MORE_KEYS[1]).await;
    assert_eq!(ann.ask(liquidation("0x1")).await["type"], "published");
    let mut refused = async |wallet: &str| {
        let answer = bob.ask(liquidation(wallet)).await;
        let error = &answer["error"];
        assert_eq!(error["code"], "rate_limited", "{answer}");
        error["message"].as_str().expect("a message").to_owned()
    };
    let message = refused("0x1").await;
    assert!(message.contains("one in ten seconds; try again in "), "{message}");
    let mut other = std::fs::read(guest("rate_guard")).unwrap();
    other.extend([0, 2, 1, b'x']);
    let (status, body) = server.call("PUT", "/v1/plugins/rate_guard", Some(KEY), &other).await;
    assert_eq!(status, 200, "{body}");
    refused("0x1").await;
    assert_eq!(ann.ask(liquidation("0x2")).await["type"], "published");
}
