//! Plugins that misbehave, seen from outside. Clients get a clear answer, the connection stays open, and
//! other rooms keep working.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use switchyard_tests::{Client, KEY, MORE_KEYS, READER, Server, eventually, guest};
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

/// A node whose rooms `bad:**` are governed by the hostile plugin with this configuration.
async fn server(config: &str) -> Server {
    let plugin = |name, file: &str, rooms, config| {
        let file = guest(file);
        let file = file.display();
        format!(
            "[[plugin]]\nname = \"{name}\"\nfile = \"{file}\"\nrooms = [\"{rooms}\"]\nconfig = {config}\n"
        )
    };
    let hostile = plugin("hostile", "hostile", "bad:**", config);
    let orderbook = plugin("orderbook", "orderbook", "dydx:*", "{ max_depth = 2 }");
    Server::start_with(&format!("{}{}{hostile}{orderbook}", Server::keys(), Server::more_keys())).await
}

/// The code of an error, after checking that its message names the plugin.
fn refused(answer: &Value) -> (String, String) {
    let error = match answer["results"][0]["error"].is_null() {
        true => &answer["error"],
        false => &answer["results"][0]["error"],
    };
    let text = |field: &str| error[field].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
    (text("code"), text("message"))
}

/// Another room with another plugin works on the same connection.
async fn others_go_on(client: &mut Client) {
    let data = json!({"bids": [["1", "1"], ["2", "1"], ["3", "1"]], "asks": []});
    let published = client
        .ask(json!({"type": "publish", "room": "dydx:eth-usd", "event": "orderbook", "data": data}))
        .await;
    assert_eq!(published["type"], "published", "{published}");
    client.round_trip().await;
}

#[tokio::test]
async fn misbehaving_in_publish_costs_only_that_message() {
    let server = server("{}").await;
    let mut client = Client::connect(&server).await;
    client.subscribe(json!(["bad:room"])).await;
    // One more failure within ten seconds would quarantine it.
    for misdeed in ["loop", "allocate", "recurse", "nonsense"] {
        let answer =
            client.ask(json!({"type": "publish", "room": "bad:room", "data": {"do": misdeed}})).await;
        let (code, message) = refused(&answer);
        assert_eq!(code, "plugin_failed", "{misdeed}: {message}");
        assert!(message.contains("'hostile'"), "{misdeed}: {message}");
        others_go_on(&mut client).await;
    }
    // The instance was replaced, so valid messages still pass.
    client.send(json!({"type": "publish", "room": "bad:room", "data": {"do": "nothing"}})).await;
    // In either order.
    let (one, other) = (client.recv().await, client.recv().await);
    let mut kinds = [one["type"].as_str(), other["type"].as_str()];
    kinds.sort_unstable();
    assert_eq!(kinds, [Some("message"), Some("published")], "{one} {other}");
    assert_eq!((&one["offset"], &other["offset"]), (&json!(1), &json!(1)));
}

#[tokio::test]
async fn a_plugin_that_fails_repeatedly_is_quarantined_and_others_are_not() {
    let server = server("{}").await;
    let mut client = Client::connect(&server).await;
    let mut last = String::new();
    for key in MORE_KEYS.iter().cycle().take(8) {
        let mut client = Client::connect_as(&server, key).await;
        let answer =
            client.ask(json!({"type": "publish", "room": "bad:room", "data": {"do": "panic"}})).await;
        let (code, message) = refused(&answer);
        assert_eq!(code, "plugin_failed");
        last = message;
    }
    assert!(last.contains("plugin 'hostile' is quarantined"), "{last}");
    let plugins = server.get("/v1/plugins").await;
    let hostile =
        plugins["plugins"].as_array().unwrap().iter().find(|plugin| plugin["name"] == "hostile").unwrap();
    assert_eq!(hostile["state"], "quarantined", "{hostile}");
    let failure = hostile["last_failure"].as_str().unwrap();
    for part in ["hostile", "publish", "bad:room", ".rs:"] {
        assert!(
            failure.contains(part),
            "the failure names plugin, hook, room and the panic's place: {failure}"
        );
    }
    others_go_on(&mut client).await;
}

/// Without a hook for publishing its rooms stayed open for publishers while nobody could be asked who may
/// read what they publish.
#[tokio::test]
async fn a_quarantined_plugin_refuses_publishes_whatever_hooks_it_has() {
    let plugin = |name: &str, more: &str| {
        let file = guest("fragile");
        let (file, rooms) = (file.display(), format!("{name}:*"));
        format!("[[plugin]]\nname = \"{name}\"\nfile = \"{file}\"\nrooms = [\"{rooms}\"]\n{more}\n")
    };
    let plugins = plugin("denies", "") + &plugin("allows", "on_failure = \"allow\"");
    let server = Server::start_with(&format!("{}{}{plugins}", Server::keys(), Server::more_keys())).await;
    let mut reader = Client::connect(&server).await;
    let rooms = |n: u32| ["denies:a", "allows:a"].map(|room| json!({"room": room, "filter": {"n": n}}));
    reader.subscribe(json!(rooms(1))).await;
    // With the filter of another principal it is known that the message is the reason.
    let mut other = Client::connect_as(&server, READER).await;
    other.subscribe(json!(rooms(2))).await;
    let mut publishers = vec![];
    for key in MORE_KEYS {
        publishers.push(Client::connect_as(&server, key).await);
    }
    // Each message is stored without a call, and its publisher answers for the failure. A pause may end
    // before it is seen on a busy machine; two more failures start a longer one.
    let mut refusals = vec![];
    for n in 0..30 {
        let publisher = &mut publishers[n % MORE_KEYS.len()];
        let publish = json!({"type": "publish", "room": "denies:a", "data": {"panic": true}});
        let answer = publisher.ask(publish).await;
        if answer["type"] == "published" {
            assert_eq!(reader.expect("gap").await["room"], "denies:a");
            continue;
        }
        let joined = publisher.ask(json!({"type": "subscribe", "rooms": ["denies:b"]})).await;
        if joined["results"][0]["status"] == "rejected" {
            refusals = vec![refused(&answer), refused(&joined)];
            break;
        }
    }
    assert_eq!(refusals.len(), 2, "the plugin's rooms stay open");
    for (code, message) in refusals {
        assert_eq!(code, "plugin_failed");
        assert!(message.contains("plugin 'denies' is quarantined"), "{message}");
    }
    for n in 0..5 {
        publishers[n % MORE_KEYS.len()].publish("allows:a", json!({"panic": true})).await;
        assert_eq!(reader.expect("message").await["room"], "allows:a");
    }
    let client = &mut publishers[0];
    // Where failures are allowed, they close nothing.
    client.publish("allows:a", json!({})).await;
    assert_eq!(reader.expect("message").await["room"], "allows:a");
    // The pause ends, and the first that goes well ends the quarantine.
    let published = eventually("the plugin is tried again", || {
        let server = &server;
        async move {
            let mut client = Client::connect(server).await;
            let publish = json!({"type": "publish", "room": "denies:a", "data": {"n": 1}});
            Some(client.ask(publish).await).filter(|answer| answer["type"] == "published")
        }
    });
    let published = published.await;
    assert_eq!(reader.expect("message").await["offset"], published["offset"]);
}

/// The plugin's state, as operators see it.
async fn state(server: &Server) -> Value {
    let plugins = server.get("/v1/plugins").await;
    let plugins = plugins["plugins"].as_array().expect("a list").clone();
    plugins.into_iter().find(|plugin| plugin["name"] == "hostile").expect("it is there")
}

/// One tenant sends everything that makes the plugin fail, in every possible way. Other tenants are not
/// affected.
#[tokio::test]
async fn a_hostile_tenant_loses_the_plugin_only_for_itself() {
    let server = server("{}").await;
    let mut ann = Client::connect_as(&server, "ann").await;
    ann.subscribe(json!(["bad:room"])).await;
    let mut filtered = Client::connect_as(&server, "bob").await;
    filtered.subscribe(json!([{"room": "bad:room", "filter": {"of": "bob"}}])).await;
    let mut mallory = Client::connect(&server).await;
    // A filter that fails on every message, next to filters of others.
    let poison = json!([{"room": "bad:room", "filter": {"do": "panic", "in": "matches"}}]);
    mallory.subscribe(poison).await;
    let mut publisher = Client::connect_as(&server, "cyd").await;
    for n in 1..=8 {
        publisher.publish("bad:room", json!({"n": n})).await;
        assert_eq!(ann.expect("message").await["data"]["n"], n);
        assert_eq!(
            filtered.expect("message").await["data"]["n"],
            n,
            "nothing is lost to the filter of another"
        );
    }
    // Filters and room names that fail when the plugin checks them, and messages.
    let mut mallory = Client::connect(&server).await;
    for n in 0..8 {
        let rooms = json!([
            {"room": format!("bad:room{n}"), "filter": {"do": "panic", "in": "compile"}},
            {"room": "bad:room.panic"},
        ]);
        let answer = mallory.ask(json!({"type": "subscribe", "rooms": rooms})).await;
        assert_eq!(answer["results"][0]["error"]["code"], "plugin_failed", "{answer}");
        let publish = json!({"type": "publish", "room": "bad:room", "data": {"do": "panic"}});
        assert_eq!(mallory.refused(publish).await, "plugin_failed");
    }
    ann.subscribe(json!([{"room": "bad:other", "filter": {"of": "ann"}}])).await;
    filtered.subscribe(json!(["bad:other"])).await;
    publisher.publish("bad:other", json!({"n": 100})).await;
    for client in [&mut ann, &mut filtered] {
        assert_eq!(client.expect("message").await["data"]["n"], 100);
    }
    let state = state(&server).await;
    assert_eq!(state["state"], "active", "{state}");
    assert!(state["principals_quarantined"].as_u64() > Some(0), "{state}");
}

/// The host measures what a client sends before it calls the plugin.
#[tokio::test]
async fn a_filter_that_is_too_large_is_the_clients_error_not_a_failure() {
    let server = server("{}").await;
    let mut client = Client::connect(&server).await;
    let filter = json!({"of": "x".repeat(70_000)});
    for _ in 0..8 {
        let wish = json!({"type": "subscribe", "rooms": [{"room": "bad:room", "filter": filter}]});
        let (code, message) = refused(&client.ask(wish).await);
        assert_eq!(code, "filter_invalid", "{message}");
        assert!(message.contains("at most 65536"), "{message}");
    }
    let state = state(&server).await;
    assert!(state["state"] == "active" && state["last_failure"].is_null(), "{state}");
    others_go_on(&mut client).await;
}

/// Publishes until it is told to wait, and returns the number of accepted messages.
async fn publishes(server: &Server, client: &mut Client, room: &str) -> usize {
    for n in 0..20 {
        let answer = client.ask(json!({"type": "publish", "room": room, "data": n})).await;
        if answer["type"] == "error" {
            assert_eq!(answer["error"]["code"], "rate_limited", "{answer}");
            assert!(answer["error"]["retryAfter"].as_u64() > Some(0), "{answer}");
            let body = json!({"room": room, "data": n}).to_string();
            let over_http = server.refused("POST", "/v1/publish", Some(KEY), body).await;
            assert_eq!(over_http, (429, "rate_limited".to_owned()), "the same holds over HTTP");
            return n;
        }
    }
    20
}

/// A plugin's limits apply to a principal, however its messages arrive.
#[tokio::test]
async fn a_plugins_limits_apply_to_nonmembers_and_after_reconnecting() {
    let server = server("{}").await;
    let room = "bad:subscribe.limit";
    let mut stranger = Client::connect(&server).await;
    let began = std::time::Instant::now();
    let mut sent = publishes(&server, &mut stranger, room).await;
    for round in 0..5 {
        let mut client = match round % 2 {
            // Reconnecting, or leaving and joining again, does not refill a bucket.
            0 => Client::connect(&server).await,
            _ => stranger,
        };
        client.subscribe(json!([room])).await;
        client.subscribe(json!([room])).await;
        sent += publishes(&server, &mut client, room).await;
        client.ask(json!({"type": "unsubscribe", "rooms": [room]})).await;
        stranger = client;
    }
    let most = 2 + 2 * (began.elapsed().as_secs() as usize + 1);
    assert!((2..=most).contains(&sent), "{sent} messages, and {most} at most in that time");
    let long = json!({"type": "publish", "room": room, "data": "x".repeat(40)});
    assert_eq!(Client::connect(&server).await.refused(long).await, "message_too_large");
    let long = json!({"room": room, "data": "x".repeat(40)}).to_string();
    let over_http = server.refused("POST", "/v1/publish", Some(KEY), long).await;
    assert_eq!(over_http, (413, "message_too_large".to_owned()));
    // Other rooms and other principals have their own limits.
    let mut ann = Client::connect_as(&server, "ann").await;
    ann.publish(room, json!(1)).await;
    stranger.publish("bad:free", json!({"long": "x".repeat(40)})).await;
}

#[tokio::test]
async fn a_plugins_connection_limits_apply_to_the_whole_principal() {
    let server = server("{ connect = \"limit\" }").await;
    let began = std::time::Instant::now();
    let mut sent = 0;
    for _ in 0..5 {
        sent += publishes(&server, &mut Client::connect(&server).await, "free").await;
    }
    let most = 2 + 2 * (began.elapsed().as_secs() as usize + 1);
    assert!((2..=most).contains(&sent), "{sent} messages, and {most} at most in that time");
}

#[tokio::test]
async fn joining_fails_closed() {
    let misdeeds = [
        ("bad:room.panic", "none"),
        ("bad:room.other", "none"),
        ("bad:subscribe.loop", "none"),
        ("bad:room", "subscribe"),
        ("bad:room", "compile"),
    ];
    for (room, hook) in misdeeds {
        let server = server("{}").await;
        let mut client = Client::connect(&server).await;
        let wish =
            json!({"type": "subscribe", "rooms": [{"room": room, "filter": {"do": "panic", "in": hook}}]});
        let answer = client.ask(wish).await;
        assert_eq!(answer["results"][0]["status"], "rejected", "{room}: {answer}");
        let (code, message) = refused(&answer);
        assert!(
            ["plugin_failed", "filter_invalid", "room_invalid"].contains(&&*code),
            "{room}: {code}: {message}"
        );
        client.subscribe(json!(["bad:fine", "dydx:eth-usd", "free"])).await;
    }
}

/// Filters fail closed: a member whose filter cannot be evaluated receives nothing, and is told that messages
/// were lost.
#[tokio::test]
async fn a_filter_that_fails_passes_nothing_and_reports_a_gap() {
    for misdeed in ["panic", "loop", "short"] {
        let server = server("{}").await;
        let mut publisher = Client::connect(&server).await;
        let mut client = Client::connect(&server).await;
        client.subscribe(json!([{"room": "bad:room", "filter": {"a": 1}}, "free"])).await;
        publisher.publish("bad:room", json!({"do": "nothing"})).await;
        assert_eq!(client.expect("message").await["offset"], 1);
        publisher.publish("bad:room", json!({"do": misdeed, "in": "matches"})).await;
        let gap = client.expect("gap").await;
        assert_eq!((&gap["room"], &gap["offset"]), (&json!("bad:room"), &json!(3)), "{misdeed}");
        publisher.publish("free", json!("other rooms go on")).await;
        assert_eq!(client.expect("message").await["room"], "free");
        publisher.publish("bad:room", json!({"do": "nothing"})).await;
        assert_eq!(client.expect("message").await["offset"], 3, "the filter was compiled again");
    }
}

#[tokio::test]
async fn a_plugin_that_cannot_be_loaded_closes_only_its_own_rooms() {
    let server = server(r#"{ init = "panic" }"#).await;
    let mut client = Client::connect(&server).await;
    let answer = client.ask(json!({"type": "subscribe", "rooms": ["bad:room"]})).await;
    let (code, message) = refused(&answer);
    assert_eq!(code, "plugin_failed", "{message}");
    others_go_on(&mut client).await;
    let ready = server.get("/readyz").await;
    assert_eq!(ready["plugins"]["hostile"]["state"], "failed", "{ready}");
    let reason = ready["plugins"]["hostile"]["reason"].as_str().unwrap();
    assert!(reason.contains(".rs:"), "the guest's own panic: {reason}");
}

#[tokio::test]
async fn a_failing_connect_hook_rejects_clients_with_a_reason_to_retry() {
    let server = server(r#"{ connect = "panic" }"#).await;
    let mut client = Client::open(&*server.url).await;
    client.send(json!({"type": "connect", "auth": {"apiKey": switchyard_tests::KEY}})).await;
    let error = client.expect("error").await;
    assert_eq!(error["error"]["code"], "plugin_failed", "{error}");
    assert_eq!(client.closed().await.code, 4503, "it may be better later");
}

/// Regression: a room that the plugin refuses took the place of one that is allowed.
#[tokio::test]
async fn a_room_that_a_plugin_refuses_does_not_count_towards_the_limit_of_the_request() {
    let server = server("{ subscribe = \"refuse\" }\n[tier.default]\nrooms = 2").await;
    let mut client = Client::connect(&server).await;
    let answer = client
        .ask(json!({"type": "subscribe", "rooms": ["bad:a", "bad:b", "one", "bad:c", "two", "three"]}))
        .await;
    let results = answer["results"].as_array().expect("results");
    let outcome = |result: &Value| match result["status"].as_str() {
        Some("subscribed") => "subscribed".to_owned(),
        _ => result["error"]["code"].as_str().expect("a code").to_owned(),
    };
    let outcomes: Vec<_> = results.iter().map(outcome).collect();
    let refused = &outcomes[0];
    assert_ne!(refused, "room_limit", "{answer}");
    assert_eq!(outcomes, [refused, refused, "subscribed", refused, "subscribed", "room_limit"], "{answer}");
}

/// Sends a close frame.
async fn close(client: &mut Client) {
    let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    client.socket.send(Message::Close(Some(frame))).await.expect("a live connection");
}

/// Regression: the session was taken from the connection that held it, for a client that nobody heard from again.
#[tokio::test]
async fn a_client_that_is_gone_before_the_plugin_has_answered_takes_no_session() {
    let server = server("{ connect = \"busy-300\" }\nbudget = { call = \"5s\" }").await;
    let mut owner = Client::connect(&server).await;
    let takeover = json!({"type": "connect", "auth": {"apiKey": KEY}, "session": owner.token()});
    let mut closing = Client::open(&*server.url).await;
    closing.send(takeover.clone()).await;
    close(&mut closing).await;
    assert_eq!(closing.closed().await.code, 1000, "nobody has to wait for the plugin to close");
    let mut cut = Client::open(&*server.url).await;
    cut.send(takeover).await;
    cut.cut();
    // The plugin is asked about this one after the others.
    Client::connect(&server).await.round_trip().await;
    owner.round_trip().await;
}

/// A client may send requests before its connect is answered, and then close: they are carried out.
#[tokio::test]
async fn requests_that_are_sent_before_connected_are_carried_out_even_if_the_client_has_closed() {
    let server = server("{ connect = \"busy-100\" }\nbudget = { call = \"5s\" }").await;
    let mut reader = Client::connect(&server).await;
    reader.subscribe(json!(["free"])).await;
    let mut hasty = Client::open(&*server.url).await;
    hasty.send(json!({"type": "connect", "auth": {"apiKey": KEY}})).await;
    for n in 1..=3 {
        hasty.send(json!({"type": "publish", "room": "free", "data": n})).await;
    }
    close(&mut hasty).await;
    for n in 1..=3 {
        assert_eq!(reader.expect("message").await["data"], n);
    }
}

/// Regression: any number of connections waited, each without a connection slot.
#[tokio::test]
async fn no_more_connections_wait_to_take_sessions_over_than_the_tier_allows() {
    let config = "{ connect = \"busy-500\" }\nbudget = { call = \"5s\" }\n[tier.default]\nconnections = 2";
    let server = server(config).await;
    let mut owner = Client::connect(&server).await;
    let takeover = json!({"type": "connect", "auth": {"apiKey": KEY}, "session": owner.token()});
    let mut waiting = vec![];
    for _ in 0..2 {
        let mut client = Client::open(&*server.url).await;
        client.send(takeover.clone()).await;
        // So that its connect is read before the next one.
        client.socket.send(Message::Ping(Default::default())).await.expect("a live connection");
        let pong = client.socket.next().await.expect("a frame").expect("a live connection");
        assert!(matches!(pong, Message::Pong(_)), "{pong:?}");
        waiting.push(client);
    }
    let mut refused = Client::open(&*server.url).await;
    refused.send(takeover).await;
    let error = refused.expect("error").await["error"].clone();
    assert_eq!((&error["code"], &error["retryAfter"]), (&json!("overloaded"), &json!(1000)), "{error}");
    let message = error["message"].as_str().expect("a message");
    assert!(message.starts_with("2 connections of principal 'acme' are already resuming"), "{message}");
    assert_eq!(refused.closed().await.code, 4503, "it may try again");
    assert_eq!(waiting[0].recv().await["resumed"], true);
    assert_eq!(owner.closed().await.code, 4409);
}

/// A plugin that uses its whole budget on every call delays only its own rooms.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_plugin_delays_only_its_own_rooms() {
    let server = server(r#"{ publish = "busy-8" }"#).await;
    let mut slow = Client::connect(&server).await;
    for n in 0..100 {
        slow.send(json!({"type": "publish", "id": n, "room": "bad:room", "data": 1})).await;
    }
    let mut other = Client::connect(&server).await;
    let mut round_trips = 0;
    // The slow plugin has 800 ms per call. The other one completes many round trips before the slow one
    // completes a tenth of that.
    let slow = tokio::spawn(async move {
        for n in 0..100 {
            assert_eq!(slow.recv().await["id"], n);
        }
    });
    while !slow.is_finished() {
        others_go_on(&mut other).await;
        round_trips += 1;
    }
    slow.await.unwrap();
    assert!(round_trips > 200, "{round_trips} round trips beside 100 slow calls");
}

/// Regression: the client was told that the store does not answer.
#[tokio::test]
async fn a_client_learns_that_the_plugin_has_too_much_to_do() {
    let server = server("{ subscribe = \"busy-700\" }\nbudget = { call = \"5s\" }").await;
    let mut client = Client::connect(&server).await;
    let answer = client.ask(json!({"type": "subscribe", "rooms": ["bad:a", "bad:b", "bad:c", "free"]})).await;
    let results = answer["results"].as_array().expect("results");
    assert_eq!(results[0]["status"], "subscribed", "{answer}");
    for result in &results[1..3] {
        let error = &result["error"];
        assert_eq!((&error["code"], &error["retryAfter"]), (&json!("overloaded"), &json!(1000)), "{answer}");
    }
    assert_eq!(results[3]["status"], "subscribed", "{answer}");
}

/// Regression: one such message made the room's history unavailable to every member with a filter.
#[tokio::test]
async fn messages_on_which_a_filter_fails_are_left_out_of_history() {
    let server = server("{}").await;
    let mut reader = Client::connect(&server).await;
    let answer = reader.subscribe(json!([{"room": "bad:room", "filter": {}}])).await;
    assert_eq!(answer["results"][0]["status"], "subscribed", "{answer}");
    for data in [json!(1), json!({"do": "panic", "in": "matches"}), json!(3)] {
        let (status, answer) = server
            .call("POST", "/v1/publish", Some(KEY), &json!({"room": "bad:room", "data": data}).to_string())
            .await;
        assert_eq!(status, 200, "{answer}");
    }
    assert_eq!(reader.expect("message").await["data"], 1);
    assert_eq!(reader.expect("gap").await["offset"], 3);
    assert_eq!(reader.expect("message").await["data"], 3);
    let history = reader.ask(json!({"type": "history", "room": "bad:room"})).await;
    let offsets: Vec<_> =
        history["messages"].as_array().expect("messages").iter().map(|m| &m["offset"]).collect();
    assert_eq!((offsets, &history["recovered"]), (vec![&json!(1), &json!(3)], &json!(false)), "{history}");
}
