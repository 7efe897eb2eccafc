//! A client loses its network, returns and misses nothing. What cannot be recovered is reported.

use serde_json::{Value, json};
use switchyard_tests::{Client, Closed, READER, Server, plugin};

fn offsets(frames: &[Value]) -> Vec<u64> {
    frames.iter().map(|frame| frame["offset"].as_u64().expect("an offset")).collect()
}

/// The next `count` deliveries.
async fn take(client: &mut Client, count: usize) -> Vec<Value> {
    let mut frames = vec![];
    while frames.len() < count {
        frames.push(client.expect("message").await);
    }
    frames
}

fn room<'a>(connected: &'a Value, name: &str) -> &'a Value {
    let rooms = connected["rooms"].as_array().expect("rooms");
    rooms.iter().find(|room| room["room"] == name).unwrap_or_else(|| panic!("no {name} in {connected}"))
}

#[tokio::test]
async fn a_lost_connection_resumes_after_its_last_acknowledgement() {
    let server = Server::start("").await;
    let mut publisher = Client::connect(&server).await;
    let mut client = Client::connect(&server).await;
    client.subscribe(json!(["prices", "other"])).await;
    for n in 1..=3 {
        publisher.publish("prices", json!(n)).await;
    }
    assert_eq!(offsets(&take(&mut client, 3).await), [1, 2, 3]);
    client.send(json!({"type": "ack", "room": "prices", "offset": 2})).await;
    client.round_trip().await;
    let token = client.token();
    client.cut();
    publisher.publish("prices", json!(4)).await;
    publisher.publish("*", json!("to all")).await;
    publisher.expect("message").await;
    publisher.publish("@acme", json!("to acme")).await;
    publisher.expect("message").await;

    let mut client = Client::resume(&server, &token).await;
    assert_eq!(client.connected["resumed"], true);
    assert_eq!(client.connected["session"], token.as_str());
    for (name, offset) in [("prices", 4), ("other", 0), ("*", 1), ("@acme", 1)] {
        let room = room(&client.connected, name);
        assert_eq!((&room["offset"], &room["recovered"]), (&json!(offset), &json!(true)), "{name}");
    }
    let mut seen: Vec<_> = take(&mut client, 4)
        .await
        .iter()
        .map(|frame| (frame["room"].as_str().unwrap().to_owned(), frame["data"].to_string()))
        .collect();
    seen.sort();
    let expected = [("*", "\"to all\""), ("@acme", "\"to acme\""), ("prices", "3"), ("prices", "4")];
    assert_eq!(seen, expected.map(|(room, data)| (room.to_owned(), data.to_owned())));
    publisher.publish("prices", json!(5)).await;
    assert_eq!(offsets(&take(&mut client, 1).await), [5], "and it is live");
}

#[tokio::test]
async fn a_takeover_ends_the_old_connection_and_moves_its_rooms() {
    let server = Server::start("[tier.default]\nconnections = 2").await;
    let mut publisher = Client::connect(&server).await;
    let mut old = Client::connect(&server).await;
    old.subscribe(json!(["prices"])).await;
    let mut new = Client::resume(&server, &old.token()).await;
    let closed = old.closed().await;
    assert_eq!(closed.code, 4409, "{}", closed.reason);
    publisher.publish("prices", json!(1)).await;
    assert_eq!(offsets(&take(&mut new, 1).await), [1]);
    new.round_trip().await;
}

#[tokio::test]
async fn tokens_of_others_and_unknown_tokens_are_ignored() {
    let server = Server::start("").await;
    let client = Client::connect(&server).await;
    let token = client.token();
    client.cut();
    let foreign = Client::connect_with(&server, json!({"auth": {"apiKey": READER}, "session": token})).await;
    assert_eq!(foreign.connected["resumed"], false);
    assert_ne!(foreign.connected["session"], token.as_str());
    for forged in ["s_00000000000000000000000000000000", "nonsense", ""] {
        let client = Client::resume(&server, forged).await;
        assert_eq!((&client.connected["resumed"], &client.connected["rooms"]), (&json!(false), &json!([])));
    }
    let mut own = Client::resume(&server, &token).await;
    assert_eq!(own.connected["resumed"], true);
    own.round_trip().await;
}

#[tokio::test]
async fn lost_messages_are_reported_instead_of_a_partial_replay() {
    let server = Server::start("[rooms]\nhistory = { messages = 3, age = \"10m\" }").await;
    let mut publisher = Client::connect(&server).await;
    let mut client = Client::connect(&server).await;
    client.subscribe(json!(["prices", "calm"])).await;
    let token = client.token();
    client.cut();
    for n in 1..=5 {
        publisher.publish("prices", json!(n)).await;
    }
    publisher.publish("calm", json!(1)).await;
    let mut client = Client::resume(&server, &token).await;
    assert_eq!(room(&client.connected, "prices")["recovered"], false);
    assert_eq!(room(&client.connected, "calm")["recovered"], true);
    let calm = client.expect("message").await;
    assert_eq!((&calm["room"], &calm["offset"]), (&json!("calm"), &json!(1)));
    client.round_trip().await;
    // From here on it receives what is published, and the lost messages are not reported a second time.
    publisher.publish("prices", json!(6)).await;
    assert_eq!(offsets(&take(&mut client, 1).await), [6]);
    let token = client.token();
    client.cut();
    let mut client = Client::resume(&server, &token).await;
    assert_eq!(room(&client.connected, "prices")["recovered"], true);
    let mut again = offsets(&take(&mut client, 2).await);
    again.sort();
    assert_eq!(again, [1, 6], "what was not acknowledged comes again, of both rooms");
}

#[tokio::test]
async fn since_joins_without_a_gap() {
    let server = Server::start("").await;
    let mut publisher = Client::connect(&server).await;
    let mut epoch = Value::Null;
    for n in 1..=4 {
        epoch = publisher.publish("prices", json!(n)).await["epoch"].clone();
    }
    let mut client = Client::connect(&server).await;
    let since =
        |epoch: &Value, offset| json!([{"room": "prices", "since": {"epoch": epoch, "offset": offset}}]);
    let answer = client.subscribe(since(&epoch, 2)).await;
    let result = &answer["results"][0];
    assert_eq!((&result["offset"], &result["recovered"]), (&json!(4), &json!(true)));
    assert_eq!(offsets(&take(&mut client, 2).await), [3, 4]);
    for (epoch, offset) in [(json!("other"), 2), (epoch.clone(), 99)] {
        let answer = client.subscribe(since(&epoch, offset)).await;
        assert_eq!(answer["results"][0]["recovered"], false);
    }
    let answer = client.subscribe(since(&epoch, 4)).await;
    assert_eq!(answer["results"][0]["recovered"], true);
    client.round_trip().await;
}

/// A replay of a few thousand messages as in [`large`] is longer than sockets and outbox buffer.
const LONG: &str = "[rooms]\nhistory = { messages = 10000, age = \"10m\" }\n[session]\noutbox = \"256KiB\"\n";

/// Publishes large messages and returns the epoch.
async fn large(publisher: &mut Client, room: &str, numbers: std::ops::RangeInclusive<u64>) -> Value {
    let (filling, mut epoch) = ("x".repeat(2000), Value::Null);
    for n in numbers {
        epoch = publisher.publish(room, json!([n, filling])).await["epoch"].take();
    }
    epoch
}

#[tokio::test]
async fn the_socket_paces_a_replay() {
    let server = Server::start(LONG).await;
    let mut publisher = Client::connect(&server).await;
    let mut client = Client::connect(&server).await;
    client.subscribe(json!(["prices"])).await;
    let token = client.token();
    client.cut();
    large(&mut publisher, "prices", 1..=5000).await;
    let mut client = Client::resume(&server, &token).await;
    assert_eq!(room(&client.connected, "prices")["recovered"], true);
    // Live messages arrive meanwhile. They are neither lost nor early.
    large(&mut publisher, "prices", 5001..=5100).await;
    let seen = take(&mut client, 5100).await;
    assert!(offsets(&seen).into_iter().eq(1..=5100));
}

/// Regression: a client left a room during its replay, and still received what it had missed.
#[tokio::test]
async fn leaving_a_room_ends_its_replay() {
    let server = Server::start(LONG).await;
    let mut publisher = Client::connect(&server).await;
    let epoch = large(&mut publisher, "prices", 1..=5000).await;
    let mut client = Client::connect(&server).await;
    let since = json!({"room": "prices", "since": {"epoch": epoch, "offset": 0}});
    client.send(json!({"type": "subscribe", "rooms": [since]})).await;
    client.send(json!({"type": "unsubscribe", "rooms": ["prices"]})).await;
    assert_eq!(client.expect("subscribed").await["results"][0]["recovered"], true);
    // Some may have been in flight before.
    while client.recv().await["type"] != "unsubscribed" {}
    client.round_trip().await;
    client.subscribe(json!(["prices"])).await;
    publisher.publish("prices", json!(5001)).await;
    assert_eq!(offsets(&take(&mut client, 1).await), [5001]);
}

/// Regression: the replay was stopped before it was known whether the client would join again; then it never
/// received live messages.
#[tokio::test]
async fn a_rejected_filter_does_not_affect_the_replay() {
    let server = Server::start(&format!("{LONG}{}", plugin("threshold_filter", r#"["tvl"]"#, "{}"))).await;
    let mut publisher = Client::connect(&server).await;
    let epoch = large(&mut publisher, "tvl", 1..=5000).await;
    let mut client = Client::connect(&server).await;
    let since = json!([{"room": "tvl", "since": {"epoch": epoch, "offset": 0}}]);
    assert_eq!(client.subscribe(since).await["results"][0]["recovered"], true);
    let refused = json!([{"room": "tvl", "filter": {"minChange": "much"}}]);
    client.send(json!({"type": "subscribe", "rooms": refused})).await;
    large(&mut publisher, "tvl", 5001..=5100).await;
    let (mut next, mut answers) = (1, 0);
    while next <= 5100 || answers == 0 {
        let frame = client.recv().await;
        match frame["type"] == "subscribed" {
            true => {
                assert_eq!(frame["results"][0]["error"]["code"], "filter_invalid", "{frame}");
                answers += 1;
            }
            false => {
                assert_eq!(frame["offset"], next, "{frame}");
                next += 1;
            }
        }
    }
    client.round_trip().await;
}

/// Regression: a room that was named a second time was live at once, ahead of the replay for the first name.
#[tokio::test]
async fn a_room_with_two_names_is_replayed_once() {
    let plugin = plugin("protocol_rooms", r#"["*:*"]"#, r#"{ protocols = ["curve"], chains = ["base"] }"#);
    let server = Server::start(&format!("{LONG}{plugin}")).await;
    let mut publisher = Client::connect(&server).await;
    let epoch = large(&mut publisher, "curve:base", 1..=5000).await;
    let mut client = Client::connect(&server).await;
    let since = json!({"room": "curve:base", "since": {"epoch": epoch, "offset": 0}});
    client.send(json!({"type": "subscribe", "id": 1, "rooms": [since, "Curve:base"]})).await;
    assert_eq!(client.expect("subscribed").await["results"][0]["recovered"], true);
    client.send(json!({"type": "subscribe", "id": 2, "rooms": ["curve:Base"]})).await;
    large(&mut publisher, "curve:base", 5001..=5100).await;
    let mut newest = 0;
    while newest < 5100 {
        let frame = client.recv().await;
        match frame["offset"].as_u64() {
            // What was sent during the second join may be delivered again.
            Some(offset) if offset <= newest => {}
            Some(offset) => {
                assert_eq!(offset, newest + 1, "{frame}");
                newest = offset;
            }
            None => assert_eq!(
                (&frame["id"], &frame["results"][0]["requested"]),
                (&json!(2), &json!("curve:Base"))
            ),
        }
    }
    client.round_trip().await;
}

#[tokio::test]
async fn a_client_that_is_too_slow_is_closed_and_loses_nothing() {
    let server = Server::start("[session]\noutbox = \"256KiB\"\nmessage = \"64KiB\"").await;
    let mut publisher = Client::connect(&server).await;
    let mut client = Client::connect(&server).await;
    client.subscribe(json!(["prices"])).await;
    let filling = "x".repeat(60_000);
    for n in 1..=200 {
        publisher.publish("prices", json!([n, filling])).await;
    }
    // So far it did not read. Now it receives a part, and then the close.
    let closed = client.closed().await;
    assert_eq!(closed, Closed { code: 4508, reason: "too slow to keep up; resume the session".into() });
    let mut client = Client::resume(&server, &client.token()).await;
    assert_eq!(room(&client.connected, "prices")["recovered"], true);
    assert!(offsets(&take(&mut client, 200).await).into_iter().eq(1..=200));
}

#[tokio::test]
async fn receipts_follow_acknowledgements() {
    let server = Server::start("").await;
    let mut publisher = Client::connect(&server).await;
    let (mut one, mut two) = (Client::connect(&server).await, Client::connect(&server).await);
    one.subscribe(json!(["prices"])).await;
    two.subscribe(json!(["prices"])).await;
    publisher.publish("prices", json!(1)).await;
    one.expect("message").await;
    two.expect("message").await;
    for (request, expected) in [
        (json!({"type": "ack", "id": 1, "room": "prices", "offset": 2}), "invalid_request"),
        (json!({"type": "ack", "id": 1, "room": "elsewhere", "offset": 1}), "invalid_request"),
        (json!({"type": "ack", "id": 1, "room": "prices", "offset": "1"}), "invalid_request"),
    ] {
        assert_eq!(one.refused(request).await, expected);
    }
    one.send(json!({"type": "ack", "id": 2, "offsets": {"prices": 1}})).await;
    one.round_trip().await;
    let receipt = server.get("/v1/rooms/prices/messages/1/receipt").await;
    assert_eq!(receipt, json!({"members": 2, "acknowledged": 1}));
    two.cut();
    let receipt = server.get("/v1/rooms/prices/messages/1/receipt").await;
    assert_eq!(receipt["members"], 2, "a resumable session is a member");
}

/// Regression: an acknowledgement was applied to the room's current epoch, whichever epoch it was meant for.
#[tokio::test]
async fn an_acknowledgement_applies_only_to_its_epoch() {
    let server = Server::start("").await;
    let mut publisher = Client::connect(&server).await;
    let mut client = Client::connect(&server).await;
    client.subscribe(json!(["prices", "calm"])).await;
    let mut epoch = Value::Null;
    for n in 1..=3 {
        epoch = publisher.publish("prices", json!(n)).await["epoch"].take();
    }
    take(&mut client, 3).await;
    let acknowledged = async |offset| {
        server.get(&format!("/v1/rooms/prices/messages/{offset}/receipt")).await["acknowledged"].take()
    };

    let ended = json!({"type": "ack", "id": 1, "room": "prices", "epoch": "ended", "offset": 3});
    let answer = client.ask(ended).await;
    assert_eq!(answer["error"]["code"], "invalid_request", "{answer}");
    let expected = format!(
        "offset 3 of room 'prices' belongs to epoch 'ended', but the room is now in epoch '{}'",
        epoch.as_str().unwrap()
    );
    assert_eq!(answer["error"]["message"], expected.as_str());
    let several = json!({"prices": {"epoch": "ended", "offset": 2}, "calm": 0});
    client.send(json!({"type": "ack", "offsets": several})).await;
    client.round_trip().await;
    assert_eq!(acknowledged(1).await, 0);

    client.send(json!({"type": "ack", "room": "prices", "epoch": epoch, "offset": 1})).await;
    client.round_trip().await;
    assert_eq!((acknowledged(1).await, acknowledged(2).await), (json!(1), json!(0)));
    let several = json!({"prices": {"epoch": epoch, "offset": 2}, "calm": 0});
    client.send(json!({"type": "ack", "id": 2, "offsets": several})).await;
    client.round_trip().await;
    assert_eq!((acknowledged(2).await, acknowledged(3).await), (json!(1), json!(0)));
    client.send(json!({"type": "ack", "room": "prices", "offset": 3})).await;
    client.round_trip().await;
    assert_eq!(acknowledged(3).await, 1);
}
