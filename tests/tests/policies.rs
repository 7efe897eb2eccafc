//! What `[[room]]` says holds in a room, on every way: deliveries, history, replays, HTTP, and while the
//! configuration changes. On several nodes: `nodes::policies`.

use serde_json::{Value, json};
use switchyard_tests::{KEY, Live, READER, Server, eventually, plugin, run};

fn entry(pattern: &str, rest: &str) -> String {
    format!("[[room]]\nmatch = \"{pattern}\"\n{rest}\n")
}

async fn connect(server: &Server, key: &str) -> Live {
    Live::connect_with(&server.url, json!({"auth": {"apiKey": key}})).await
}

async fn publish(client: &Live, room: &str, data: Value) -> Value {
    client.ask(json!({"type": "publish", "room": room, "data": data})).await
}

async fn publish_over_http(server: &Server, room: &str) -> Value {
    let body = json!({"room": room, "data": "http"}).to_string();
    let (_, answer) = server.call("POST", "/v1/publish", Some(KEY), body).await;
    serde_json::from_str(&answer).expect("JSON")
}

fn code(answer: &Value) -> Option<&str> {
    answer["error"]["code"].as_str()
}

/// Waits until the node applies this value of a room's policy.
async fn holds(server: &Server, room: &str, key: &str, value: Value) {
    eventually(&format!("{key} = {value}"), async || {
        let shown = server.get(&format!("/v1/rooms/{room}")).await;
        (shown["policy"][key] == value).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_replay_has_what_the_room_keeps_and_tells_of_the_rest() {
    let server = Server::start(&entry("few:*", "history = { messages = 2 }")).await;
    let client = connect(&server, KEY).await;
    client.subscribe(json!(["few:a", "other"])).await;
    let token = client.token();
    client.cut();
    let publisher = connect(&server, KEY).await;
    for n in 1..=4 {
        for room in ["FEW:a", "few:a", "other"] {
            assert_eq!(publish(&publisher, room, json!(n)).await["offset"], n);
        }
    }
    let client = Live::resume(&server.url, &token).await;
    let recovered = |room: &str| client.resumed(room).expect("its room")["recovered"].clone();
    assert_eq!((recovered("few:a"), recovered("other")), (json!(false), json!(true)));
    client.message("other", 4).await;
    assert_eq!(client.offsets("other"), [1, 2, 3, 4]);
    let history = async |room: &str| {
        let answer = client.ask(json!({"type": "history", "room": room})).await;
        let messages = answer["messages"].as_array().expect("messages").clone();
        messages.iter().map(|message| message["offset"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!((history("few:a").await, history("other").await), (vec![3, 4], vec![1, 2, 3, 4]));
    // Patterns match in either case: otherwise another spelling would keep more.
    let shown = server.get("/v1/rooms/FEW:a").await;
    assert_eq!((&shown["messages"], &shown["policy"]["match"]), (&json!(2), &json!("few:*")));
}

#[tokio::test]
async fn deliveries_name_the_sender_on_every_way_where_the_policy_says_so() {
    let policy = |sender: bool| entry("named", &format!("sender = {sender}"));
    let keys = Server::keys();
    let server = Server::start_with(&(keys.clone() + &policy(true))).await;
    let client = connect(&server, READER).await;
    client.subscribe(json!(["named", "unnamed"])).await;
    let publisher = connect(&server, KEY).await;
    for room in ["named", "unnamed"] {
        publish(&publisher, room, json!("socket")).await;
        publish_over_http(&server, room).await;
    }
    for offset in [1, 2] {
        let message = client.message("named", offset).await;
        assert_eq!(message["from"], "acme", "{message}");
        assert!(client.message("unnamed", offset).await.get("from").is_none());
    }
    let token = client.token();
    client.cut();
    publish(&publisher, "named", json!("missed")).await;
    let client = Live::connect_with(&server.url, json!({"auth": {"apiKey": READER}, "session": token})).await;
    assert_eq!(client.message("named", 3).await["from"], "acme", "replayed");
    let history = async || client.ask(json!({"type": "history", "room": "named"})).await["messages"].clone();
    let over_http = async || server.get("/v1/rooms/named/history").await["messages"].clone();
    for messages in [history().await, over_http().await] {
        let senders: Vec<_> = messages.as_array().expect("messages").iter().map(|m| &m["from"]).collect();
        assert_eq!(senders, ["acme"; 3]);
    }

    server.reconfigure(&(keys.clone() + &policy(false)));
    holds(&server, "named", "sender", json!(false)).await;
    publish(&publisher, "named", json!("off")).await;
    assert!(client.message("named", 4).await.get("from").is_none());
    for messages in [history().await, over_http().await] {
        assert_eq!(messages.as_array().map(Vec::len), Some(4));
        assert!(!messages.to_string().contains("from"), "{messages}");
    }

    server.reconfigure(&(keys + &policy(true)));
    holds(&server, "named", "sender", json!(true)).await;
    publish(&publisher, "named", json!("on")).await;
    assert_eq!(client.message("named", 5).await["from"], "acme");
    let messages = history().await;
    assert!(messages[3].get("from").is_none(), "it was stored without: {messages}");
}

#[tokio::test]
async fn all_publishers_of_a_room_share_its_rates() {
    let entries = entry("slow", "publishes = \"3/m\"") + &entry("small", "bytes = \"10B/m\"");
    let server = Server::start(&(Server::more_keys() + &entries)).await;
    let clients = [connect(&server, KEY).await, connect(&server, "ann").await];
    for (n, client) in clients.iter().enumerate() {
        assert_eq!(publish(client, "slow", json!(1)).await["offset"], n + 1);
    }
    assert_eq!(publish_over_http(&server, "slow").await["offset"], 3);
    for refused in [publish(&clients[1], "slow", json!(1)).await, publish_over_http(&server, "slow").await] {
        assert_eq!(code(&refused), Some("rate_limited"), "{refused}");
        let message = refused["error"]["message"].as_str().expect("a message");
        assert!(
            message.starts_with("room 'slow' takes at most 3/m messages on this node; wait "),
            "{message}"
        );
        let wait = refused["error"]["retryAfter"].as_u64().expect("how long");
        assert!((1..=20_000).contains(&wait), "{wait} ms until a third of a minute has passed");
    }
    assert_eq!(server.get("/v1/rooms/slow").await["offset"], 3, "nothing was stored");
    assert_eq!(publish(&clients[0], "small", json!("12345678")).await["offset"], 1);
    assert_eq!(code(&publish(&clients[0], "small", json!(1)).await), Some("rate_limited"));
    assert_eq!(publish(&clients[0], "other", json!(1)).await["offset"], 1);
    let (_, metrics) = server.call("GET", "/metrics", None, "").await;
    for (limit, count) in [("room_publishes", 2), ("room_bytes", 1)] {
        let line = format!("switchyard_limited_total{{limit=\"{limit}\",mode=\"enforce\"}} {count}");
        assert!(metrics.contains(&line), "{metrics}");
    }
}

#[tokio::test]
async fn a_rate_that_is_only_observed_refuses_nothing() {
    let text = "[limits]\nmode = \"observe\"\n".to_owned() + &entry("slow", "publishes = \"1/m\"");
    let server = Server::start(&text).await;
    let client = connect(&server, KEY).await;
    for n in 1..=3 {
        assert_eq!(publish(&client, "slow", json!(1)).await["offset"], n);
    }
    let (_, metrics) = server.call("GET", "/metrics", None, "").await;
    let line = "switchyard_limited_total{limit=\"room_publishes\",mode=\"observe\"} 2";
    assert!(metrics.contains(line), "{metrics}");
}

/// The name that the plugin gives to a room counts. What the plugin refuses takes nothing from others.
#[tokio::test]
async fn the_canonical_name_of_a_governed_room_counts() {
    let protocols =
        plugin("protocol_rooms", r#"["*:*"]"#, r#"{ protocols = ["curve", "uniswap"], chains = ["eth"] }"#);
    let entries = entry("uniswap:*", "publishes = \"2/m\"\nsender = true\nmembers = \"none\"");
    let server = Server::start(&(protocols + &entries)).await;
    let client = connect(&server, KEY).await;
    client.subscribe(json!(["Uniswap:ETH", "curve:eth"])).await;
    for (n, room) in ["UNISWAP:eth", "uniswap:Eth"].iter().enumerate() {
        assert_eq!(publish(&client, room, json!(1)).await["offset"], n + 1);
        assert_eq!(client.message("uniswap:eth", n as u64 + 1).await["from"], "acme");
    }
    let refused = publish(&client, "Uniswap:Eth", json!(1)).await;
    assert_eq!(code(&refused), Some("rate_limited"), "{refused}");
    assert!(refused["error"]["message"].as_str().expect("text").starts_with("room 'uniswap:eth' takes"));
    assert_eq!(publish(&client, "CURVE:eth", json!(1)).await["offset"], 1);
    let members = client.ask(json!({"type": "members", "room": "Uniswap:ETH"})).await;
    assert_eq!(code(&members), Some("forbidden"), "{members}");
}

#[tokio::test]
async fn messages_that_a_plugin_refuses_take_nothing_from_the_rate_of_the_room() {
    let stamp = plugin("stamp", r#"["stamped"]"#, "{}");
    let server = Server::start(&(stamp + &entry("stamped", "publishes = \"1/m\""))).await;
    let client = connect(&server, KEY).await;
    for _ in 0..3 {
        let refused = publish(&client, "stamped", json!("no number")).await;
        assert_eq!(code(&refused), Some("message_rejected"), "{refused}");
    }
    assert_eq!(publish(&client, "stamped", json!({"n": 1})).await["offset"], 1);
    assert_eq!(code(&publish(&client, "stamped", json!({"n": 2})).await), Some("rate_limited"));
}

#[tokio::test]
async fn the_members_of_a_room_are_shown_to_whom_its_policy_says() {
    let entries = entry("closed", "members = \"none\"") + &entry("private", "members = \"admin\"");
    let server = Server::start(&entries).await;
    let clients = [connect(&server, KEY).await, connect(&server, READER).await];
    let rooms = ["open", "private", "closed", "*"];
    for client in &clients {
        client.subscribe(json!(rooms[..3])).await;
    }
    let ask = async |client: &Live, room: &str| {
        let answer = client.ask(json!({"type": "members", "room": room})).await;
        (code(&answer).map(str::to_owned), answer["error"]["message"].as_str().unwrap_or_default().to_owned())
    };
    let forbidden = Some("forbidden".to_owned());
    for (room, of_admin, of_reader) in [
        ("open", None, None),
        ("private", None, forbidden.clone()),
        ("closed", forbidden.clone(), forbidden.clone()),
        ("*", None, forbidden.clone()),
    ] {
        let codes = (ask(&clients[0], room).await.0, ask(&clients[1], room).await.0);
        assert_eq!(codes, (of_admin, of_reader), "{room}");
    }
    let (_, message) = ask(&clients[1], "private").await;
    assert!(message.contains("'private', where members = \"admin\" holds"), "{message}");
    let (_, message) = ask(&clients[0], "closed").await;
    assert_eq!(message, "nobody may see the members of room 'closed', where members = \"none\" holds");
    // Operators see how many there are.
    assert_eq!(server.get("/v1/rooms/closed").await["members"], 2);
}

/// What is inherited from `[rooms]`, and `*` and inboxes, which no ordinary pattern matches.
#[tokio::test]
async fn rooms_without_an_entry_have_the_policy_of_all_rooms() {
    let text = "[rooms]\nsender = true\nmembers = \"none\"\n".to_owned()
        + &entry("@*", "sender = false")
        + &entry("**", "members = \"subscribe\"");
    let server = Server::start(&text).await;
    let client = connect(&server, KEY).await;
    client.subscribe(json!(["a"])).await;
    for (room, sender) in [("*", true), ("@acme", false), ("a", true)] {
        publish(&client, room, json!(1)).await;
        let shown = server.get(&format!("/v1/rooms/{room}")).await["policy"].clone();
        assert_eq!(shown["sender"], sender, "{room}: {shown}");
        assert_eq!(client.message(room, 1).await.get("from").is_some(), sender, "{room}");
    }
    let refused = client.ask(json!({"type": "members", "room": "*"})).await;
    assert_eq!(code(&refused), Some("forbidden"), "{refused}");
    let members = client.ask(json!({"type": "members", "room": "a"})).await;
    assert_eq!(members["count"], 1, "{members}");
}

#[tokio::test]
async fn changed_entries_apply_without_a_restart_and_a_dry_run_tells() {
    let keys = Server::keys();
    let server = Server::start_with(&(keys.clone() + &entry("a", "publishes = \"1/m\""))).await;
    let client = connect(&server, KEY).await;
    assert_eq!(publish(&client, "a", json!(1)).await["offset"], 1);
    assert_eq!(code(&publish(&client, "a", json!(1)).await), Some("rate_limited"));
    let reload = async |query: &str| {
        let (status, body) = server.call("POST", &format!("/v1/reload{query}"), Some(KEY), "").await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<Value>(&body).expect("JSON")
    };
    let narrow = entry("a", "history = { messages = 1 }\npublishes = \"100/m\"\nmembers = \"none\"");
    std::fs::write(&server.file, keys.clone() + &narrow).expect("a file");
    // The node may have noticed the file by itself already.
    reload("").await;
    holds(&server, "a", "members", json!("none")).await;
    client.subscribe(json!(["a"])).await;
    let refused = client.ask(json!({"type": "members", "room": "a"})).await;
    assert_eq!(code(&refused), Some("forbidden"), "{refused}");
    eventually("a token of the faster rate", async || {
        (code(&publish(&client, "a", json!(2)).await) != Some("rate_limited")).then_some(())
    })
    .await;
    assert_eq!(server.get("/v1/rooms/a").await["messages"], 1);
    let report = reload("?dry_run=true").await;
    assert_eq!((&report["changes"], &report["restart"]), (&json!([]), &json!([])), "{report}");
}

#[tokio::test]
async fn check_tells_what_holds_in_rooms() {
    let folder = tempfile::tempdir().expect("a folder");
    let text =
        entry("dydx:*", "history = { messages = 100, age = \"1m\" }\nsender = true\npublishes = \"50/s\"")
            + &entry("dydx:eth", "")
            + &plugin("threshold_filter", r#"["dydx:*"]"#, "{}");
    std::fs::write(folder.path().join("s.toml"), text).expect("a file");
    let check = async |more: &[&str]| {
        let arguments = [&["check", "--config", "s.toml", "--rooms", "DYDX:eth-usd", "@acme"], more].concat();
        run(folder.path(), &arguments, &[]).await
    };
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    let output = check(&[]).await;
    assert_eq!(
        text(output.stdout),
        "DYDX:eth-usd: plugin threshold_filter; entry dydx:*; history 100 messages, 1m, 16MiB; sender shown; \
         publishes 50/s; bytes unlimited; members subscribe\n\
         @acme: no plugin; no entry; history 1,000 messages, 10m, 16MiB; sender hidden; publishes unlimited; bytes \
         unlimited; members subscribe\n"
    );
    let warning = "the [[room]] entry for 'dydx:eth' never counts, because 'dydx:*' before it";
    assert!(text(output.stderr).contains(warning));
    let rooms: Value = serde_json::from_slice(&check(&["--json"]).await.stdout).expect("JSON");
    assert_eq!(
        (&rooms[0]["room"], &rooms[0]["governor"]),
        (&json!("DYDX:eth-usd"), &json!("threshold_filter"))
    );
    assert_eq!(
        (&rooms[0]["policy"]["match"], &rooms[1]["policy"]["match"]),
        (&json!("dydx:*"), &Value::Null)
    );
    let output = check(&["not a room"]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(text(output.stderr).contains("'not a room' contains ' '"));
}
