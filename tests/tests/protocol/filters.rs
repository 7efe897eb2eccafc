//! Filters and room names with the bundled plugins: for live messages, replay and history.

use serde_json::{Value, json};
use switchyard_tests::{Client, KEY, Server, plugin};

async fn offsets(client: &mut Client, count: usize) -> Vec<u64> {
    let mut seen = vec![];
    for _ in 0..count {
        seen.push(client.expect("message").await["offset"].as_u64().expect("an offset"));
    }
    seen
}

fn held(history: &Value) -> Vec<u64> {
    let messages = history["messages"].as_array().unwrap_or_else(|| panic!("{history}"));
    messages.iter().map(|message| message["offset"].as_u64().expect("an offset")).collect()
}

async fn thresholds() -> Server {
    Server::start(&plugin("threshold_filter", r#"["tvl_changes"]"#, "{}")).await
}

/// Publishes changes of 0, 10, 20 …, alternating between two chains.
async fn changes(publisher: &mut Client, numbers: std::ops::Range<u64>) {
    for n in numbers {
        let chain = if n % 2 == 0 { "ethereum" } else { "base" };
        publisher.publish("tvl_changes", json!({"change": n * 10, "chain": chain})).await;
    }
}

#[tokio::test]
async fn a_filter_applies_to_live_messages_replay_and_history() {
    let server = thresholds().await;
    let (mut publisher, mut client) = (Client::connect(&server).await, Client::connect(&server).await);
    let mut everything = Client::connect(&server).await;
    everything.subscribe(json!(["tvl_changes"])).await;
    let wish = json!([{"room": "tvl_changes", "filter": {"minChange": 50, "chains": ["ethereum"]}}]);
    let joined = client.subscribe(wish.clone()).await;
    let epoch = joined["results"][0]["epoch"].clone();
    changes(&mut publisher, 1..11).await;
    assert_eq!(offsets(&mut client, 3).await, [6, 8, 10]);
    assert!(offsets(&mut everything, 10).await.into_iter().eq(1..=10));
    client.round_trip().await;

    let history = client.ask(json!({"type": "history", "room": "tvl_changes"})).await;
    assert_eq!((held(&history), &history["more"]), (vec![6, 8, 10], &json!(false)));
    // A page is filled with messages that pass, and `more` says whether further messages may pass.
    let history = client.ask(json!({"type": "history", "room": "tvl_changes", "limit": 2})).await;
    assert_eq!((held(&history), &history["more"]), (vec![6, 8], &json!(true)));
    let since = json!({"epoch": epoch, "offset": 8});
    let history =
        client.ask(json!({"type": "history", "room": "tvl_changes", "limit": 2, "since": since})).await;
    assert_eq!((held(&history), &history["more"]), (vec![10], &json!(false)));

    // The session keeps the filter.
    client.send(json!({"type": "ack", "room": "tvl_changes", "offset": 8})).await;
    client.round_trip().await;
    let token = client.token();
    client.cut();
    changes(&mut publisher, 11..15).await;
    let mut client = Client::resume(&server, &token).await;
    assert_eq!(offsets(&mut client, 3).await, [10, 12, 14]);
    changes(&mut publisher, 15..17).await;
    assert_eq!(offsets(&mut client, 1).await, [16]);
    client.round_trip().await;

    // And so does joining with `since`.
    let mut late = Client::connect(&server).await;
    let mut wish = wish[0].clone();
    wish["since"] = json!({"epoch": epoch, "offset": 0});
    assert_eq!(late.subscribe(json!([wish])).await["results"][0]["recovered"], true);
    assert_eq!(offsets(&mut late, 6).await, [6, 8, 10, 12, 14, 16]);
    late.round_trip().await;
}

#[tokio::test]
async fn subscribing_again_replaces_the_filter_unless_it_is_rejected() {
    let server = thresholds().await;
    let (mut publisher, mut client) = (Client::connect(&server).await, Client::connect(&server).await);
    let wish =
        |filter: Value| json!({"type": "subscribe", "rooms": [{"room": "tvl_changes", "filter": filter}]});
    client.ask(wish(json!({"minChange": 50}))).await;
    for refused in
        [json!({"minChange": -1}), json!({"minChange": "x"}), json!({"unknown": 1}), json!([]), json!(5)]
    {
        let answer = client.ask(wish(refused.clone())).await;
        assert_eq!(answer["results"][0]["error"]["code"], "filter_invalid", "{refused}: {answer}");
    }
    changes(&mut publisher, 4..7).await;
    assert_eq!(offsets(&mut client, 2).await, [2, 3], "the filter that was good holds");
    client.round_trip().await;
    assert_eq!(client.ask(wish(json!({"minChange": 100}))).await["results"][0]["status"], "subscribed");
    changes(&mut publisher, 9..11).await;
    assert_eq!(offsets(&mut client, 1).await, [5]);
    client.subscribe(json!(["tvl_changes"])).await;
    changes(&mut publisher, 0..1).await;
    assert_eq!(offsets(&mut client, 1).await, [6], "no filter any more");
    client.ask(wish(json!({"chains": []}))).await;
    changes(&mut publisher, 20..22).await;
    client.round_trip().await;
}

#[tokio::test]
async fn plugins_choose_room_names_and_results_echo_the_requested_name() {
    let config = r#"{ protocols = ["uniswap-v3", "curve"], chains = ["ethereum", "base"], rooms = { per_connection = 2 } }"#;
    let server = Server::start(&plugin("protocol_rooms", r#"["*:*"]"#, config)).await;
    let (mut publisher, mut client) = (Client::connect(&server).await, Client::connect(&server).await);
    let rooms = json!(["Uniswap-V3:Ethereum", "uniswap-v3:mars", "curve:base", "curve:ethereum", "plain"]);
    let answer = client.ask(json!({"type": "subscribe", "rooms": rooms})).await;
    let first = &answer["results"][0];
    assert_eq!((&first["room"], &first["status"]), (&json!("uniswap-v3:ethereum"), &json!("subscribed")));
    assert_eq!(first["requested"], "Uniswap-V3:Ethereum");
    assert_eq!(answer["results"][1]["error"]["code"], "room_invalid");
    assert!(answer["results"][1]["error"]["message"].as_str().unwrap().contains("ethereum"), "{answer}");
    assert!(answer["results"][2].get("requested").is_none(), "{answer}");
    assert_eq!(answer["results"][2]["status"], "subscribed");
    assert_eq!(answer["results"][3]["error"]["code"], "room_limit");
    assert_eq!(answer["results"][4]["status"], "subscribed", "not of this plugin");
    let filtered = json!([{"room": "curve:base", "filter": {}}]);
    let answer = client.ask(json!({"type": "subscribe", "rooms": filtered})).await;
    assert_eq!(answer["results"][0]["error"]["code"], "filter_invalid");

    let published = publisher.publish("UNISWAP-V3:ethereum", json!(1)).await;
    assert_eq!(published["room"], "uniswap-v3:ethereum");
    assert_eq!(client.expect("message").await["room"], "uniswap-v3:ethereum");
    assert_eq!(
        publisher.refused(json!({"type": "publish", "room": "aave:base", "data": 1})).await,
        "room_invalid"
    );
    // Both of its names reach the room.
    for name in ["Uniswap-V3:Ethereum", "uniswap-v3:ethereum"] {
        let members = client.ask(json!({"type": "members", "room": name})).await;
        assert_eq!((&members["room"], &members["count"]), (&json!("uniswap-v3:ethereum"), &json!(1)));
        let history = client.ask(json!({"type": "history", "room": name})).await;
        assert_eq!(held(&history), [1]);
        assert_eq!(client.subscribe(json!([name])).await["results"][0]["room"], "uniswap-v3:ethereum");
    }
    let answer = client.ask(json!({"type": "unsubscribe", "rooms": ["Uniswap-V3:Ethereum"]})).await;
    assert_eq!(answer["results"][0]["status"], "unsubscribed", "{answer}");
    publisher.publish("uniswap-v3:ethereum", json!(2)).await;
    client.round_trip().await;
}

#[tokio::test]
async fn a_plugin_cuts_and_rejects_messages() {
    let server = Server::start(&plugin("orderbook", r#"["dydx:*"]"#, "{ max_depth = 2 }")).await;
    let (mut publisher, mut client) = (Client::connect(&server).await, Client::connect(&server).await);
    let large = json!([{"room": "dydx:eth-usd", "filter": {"minSize": 5}}]);
    client.subscribe(large).await;
    let mut everything = Client::connect(&server).await;
    everything.subscribe(json!(["dydx:eth-usd"])).await;
    let book = |size: &str| {
        json!({"type": "publish", "room": "dydx:eth-usd", "event": "orderbook", "data": {
            "offset": "1", "asks": [], "bids": [["10.0", "1.50"], ["9.0", size], ["8.0", "9"]],
        }})
    };
    publisher.ask(book("2")).await;
    publisher.ask(book("7.10")).await;
    let cut = everything.expect("message").await;
    assert_eq!(cut["data"]["bids"], json!([["10.0", "1.50"], ["9.0", "2"]]));
    everything.expect("message").await;
    let message = client.expect("message").await;
    assert_eq!((&message["offset"], &message["data"]["bids"][1]), (&json!(2), &json!(["9.0", "7.10"])));
    let mut wrong = book("2");
    wrong["data"]["bids"][1][1] = json!("much");
    assert_eq!(publisher.refused(wrong.clone()).await, "message_rejected");
    let body = json!({"room": "dydx:eth-usd", "event": "orderbook", "data": wrong["data"]}).to_string();
    let refused = server.refused("POST", "/v1/publish", Some(KEY), &body).await;
    assert_eq!(refused, (422, "message_rejected".into()));
    client.round_trip().await;
}

/// A plugin that cannot be loaded closes its own rooms and no others.
#[tokio::test]
async fn a_plugin_that_fails_to_load_closes_only_its_own_rooms() {
    let server =
        Server::start("[[plugin]]\nname = \"gone\"\nfile = \"gone.wasm\"\nrooms = [\"closed:**\"]").await;
    let mut client = Client::connect(&server).await;
    let answer = client.ask(json!({"type": "subscribe", "rooms": ["closed:a", "open"]})).await;
    assert_eq!(answer["results"][0]["error"]["code"], "plugin_failed");
    assert_eq!(answer["results"][1]["status"], "subscribed");
    assert_eq!(
        client.refused(json!({"type": "publish", "room": "CLOSED:a:b", "data": 1})).await,
        "plugin_failed"
    );
    let plugins = server.get("/v1/plugins").await;
    assert!(plugins.to_string().contains("gone.wasm"), "{plugins}");
    let (status, ready) = server.call("GET", "/readyz", None, "").await;
    assert!(ready.contains("gone"), "readiness tells of plugins: {status} {ready}");
}
