//! `publish`: what is delivered, byte for byte, what is rejected, and what is not sent twice.

use serde_json::{Value, json};
use switchyard_tests::{Client, KEY, READER, Server};

#[tokio::test]
async fn a_message_is_delivered_as_documented() {
    let server = Server::start("").await;
    let (mut publisher, mut member) = (Client::connect(&server).await, Client::connect(&server).await);
    let joined = member.subscribe(json!(["tvl_changes"])).await;
    let publish =
        json!({"type": "publish", "id": 4, "room": "tvl_changes", "event": "tvl_change", "data": {"a": 1}});
    let published = publisher.ask(publish).await;
    let epoch = &joined["results"][0]["epoch"];
    let expected = json!({"type": "published", "id": 4, "room": "tvl_changes", "epoch": epoch, "offset": 1});
    assert_eq!(published, expected);
    let message = member.expect("message").await;
    let time = message["time"].as_u64().unwrap_or_else(|| panic!("{message}"));
    let expected = json!({
        "type": "message", "room": "tvl_changes", "offset": 1, "event": "tvl_change", "time": time, "data": {"a": 1},
    });
    assert_eq!(message, expected);
    publisher.publish("tvl_changes", Value::Null).await;
    let message = member.expect("message").await;
    assert!(message.get("event").is_none() && message.get("data").is_some_and(Value::is_null), "{message}");
}

#[tokio::test]
async fn data_arrives_byte_for_byte() {
    let server = Server::start("").await;
    let (mut publisher, mut member) = (Client::connect(&server).await, Client::connect(&server).await);
    member.subscribe(json!(["raw"])).await;
    let texts = [
        r#"{"b" : 1.10,	"a":[ "\u00e9é\/\ud83d\ude00",1e3 , -0.0] }"#,
        r#"{"a":1,"a":2,"":null}"#,
        "[\n\t1 ,\r\n 2]",
        "123456789012345678901234567890.12345678901234567890",
        "1e308",
        r#""\ud83d\ude00 \u0000""#,
        "\"\u{2028}\u{7f}👩‍👩‍👧\"",
        "\"\"",
        "null",
        "false",
        "{}",
        "[]",
        "-0",
    ];
    for text in texts {
        publisher.send_text(&format!(r#"{{"data": {text} ,"room":"raw","type":"publish"}}"#)).await;
        publisher.expect("published").await;
        let delivery = member.text().await;
        assert!(delivery.ends_with(&format!(r#""data":{text}}}"#)), "{text}: {delivery}");
    }
    // As in history, and over HTTP as well.
    member.send_text(r#"{"type":"history","room":"raw"}"#).await;
    let history = member.text().await;
    for text in texts {
        assert!(history.contains(&format!(r#""data":{text}}}"#)), "{text}: {history}");
    }
    for text in texts {
        let body = format!(r#"{{"room":"raw","data": {text} }}"#);
        let (status, answer) = server.call("POST", "/v1/publish", Some(KEY), &body).await;
        assert_eq!(status, 200, "{text}: {answer}");
        assert!(member.text().await.ends_with(&format!(r#""data":{text}}}"#)), "{text}");
        let (status, answer) = server.call("POST", "/v1/publish", Some(KEY), &format!("[{body}]")).await;
        assert_eq!(status, 200, "{text}: {answer}");
        assert!(member.text().await.ends_with(&format!(r#""data":{text}}}"#)), "{text}");
    }
}

/// The same for `/v1/broadcast`.
#[tokio::test]
async fn a_broadcast_arrives_byte_for_byte() {
    let server = Server::start("").await;
    let mut member = Client::connect(&server).await;
    for text in [r#"{"b" : 1.10,"a":[ "\u00e9"], "a":1e3}"#, "null", "1e308", r#""\ud83d\ude00""#] {
        let body = format!(r#"{{"event":"news","data": {text} }}"#);
        let (status, answer) = server.call("POST", "/v1/broadcast", Some(KEY), &body).await;
        assert_eq!(status, 200, "{text}: {answer}");
        let delivery = member.text().await;
        assert!(delivery.ends_with(&format!(r#""data":{text}}}"#)), "{text}: {delivery}");
        assert!(delivery.contains(r#""room":"*""#) && delivery.contains(r#""event":"news""#), "{delivery}");
    }
}

#[tokio::test]
async fn fields_are_checked_to_the_byte() {
    let server = Server::start("[session]\nmessage = \"1KiB\"").await;
    let mut client = Client::connect(&server).await;
    let mut publish = async |fields: Value| {
        let mut frame = fields;
        frame["type"] = "publish".into();
        frame["id"] = 1.into();
        let answer = client.ask(frame).await;
        assert_eq!(answer["id"], 1, "{answer}");
        answer["error"]["code"].as_str().unwrap_or("").to_owned()
    };
    // With its quotes, data has two more bytes.
    assert_eq!(publish(json!({"room": "a", "data": "x".repeat(1022)})).await, "");
    assert_eq!(publish(json!({"room": "a", "data": "x".repeat(1023)})).await, "message_too_large");
    assert_eq!(publish(json!({"room": "a", "data": "é".repeat(511)})).await, "");
    assert_eq!(publish(json!({"room": "a", "data": "é".repeat(512)})).await, "message_too_large");
    for (name, most) in [("event", 64), ("key", 128)] {
        assert_eq!(publish(json!({"room": "a", "data": 1, name: "x".repeat(most)})).await, "", "{name}");
        assert_eq!(publish(json!({"room": "a", "data": 2, name: "é".repeat(most / 2)})).await, "", "{name}");
        let over = json!({"room": "a", "data": 1, name: "x".repeat(most + 1)});
        assert_eq!(publish(over).await, "invalid_request", "{name}");
        assert_eq!(publish(json!({"room": "a", "data": 1, name: 7})).await, "invalid_request", "{name}");
    }
    for wrong in [
        json!({"room": "a"}),
        json!({"data": 1}),
        json!({"room": 7, "data": 1}),
        json!({"room": ["a"], "data": 1}),
    ] {
        assert_eq!(publish(wrong.clone()).await, "invalid_request", "{wrong}");
    }
    assert_eq!(publish(json!({"room": "a::b", "data": 1})).await, "room_invalid");
}

#[tokio::test]
async fn scopes_decide_who_may_publish_where() {
    let keys = Server::keys()
        + &Server::key("sk_pub", "pub", r#"["publish"]"#, "")
        + &Server::key("sk_cast", "cast", r#"["broadcast"]"#, "");
    let server = Server::start_with(&keys).await;
    for (key, room, inbox, broadcast) in [
        (KEY, true, true, true),
        (READER, false, false, false),
        // The inbox of another principal is a matter of `key.rooms`.
        ("sk_pub", true, false, false),
        ("sk_cast", false, false, true),
    ] {
        let mut client = Client::connect_as(&server, key).await;
        for (name, may) in [("prices", room), ("@zed", inbox), ("*", broadcast)] {
            client.send(json!({"type": "publish", "id": 1, "room": name, "data": 1})).await;
            let mut answer = client.recv().await;
            while answer["type"] == "message" {
                answer = client.recv().await;
            }
            match may {
                true => assert_eq!(answer["type"], "published", "{key} {name}: {answer}"),
                false => {
                    assert_eq!(answer["error"]["code"], "forbidden", "{key} {name}: {answer}");
                    let message = answer["error"]["message"].as_str().expect("a message");
                    assert!(message.contains(name) && !message.contains(key), "{message}");
                }
            }
        }
    }
    let mut client = Client::connect_as(&server, "sk_pub").await;
    let answer = client.ask(json!({"type": "subscribe", "id": 1, "rooms": ["prices"]})).await;
    let error = if answer["type"] == "error" { &answer } else { &answer["results"][0] };
    assert_eq!(error["error"]["code"], "forbidden", "{answer}");
}

#[tokio::test]
async fn an_idempotency_key_makes_retries_safe_over_websocket_and_http() {
    let keys = Server::keys() + &Server::key("sk_pub", "pub", r#"["publish"]"#, "");
    let server = Server::start_with(&keys).await;
    let mut member = Client::connect(&server).await;
    let (mut one, mut two) = (Client::connect(&server).await, Client::connect_as(&server, "sk_pub").await);
    member.subscribe(json!(["prices", "other"])).await;
    let publish = |room, data: Value| json!({"type": "publish", "room": room, "data": data, "key": "evt-81"});
    let first = one.ask(publish("prices", json!("first"))).await;
    assert_eq!((&first["offset"], first.get("duplicate")), (&json!(1), None));
    for data in [json!("first"), json!("something else")] {
        let again = one.ask(publish("prices", data.clone())).await;
        let expected = json!({
            "type": "published", "room": "prices", "epoch": first["epoch"], "offset": 1, "duplicate": true,
        });
        assert_eq!(again, expected, "{data}");
        let body = json!({"room": "prices", "data": data, "key": "evt-81"}).to_string();
        let (status, answer) = server.call("POST", "/v1/publish", Some(KEY), &body).await;
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        assert_eq!((status, &answer["offset"], &answer["duplicate"]), (200, &json!(1), &json!(true)));
    }
    // Per principal and per room.
    let other = two.ask(publish("prices", json!("of another principal"))).await;
    assert_eq!((&other["offset"], other.get("duplicate")), (&json!(2), None));
    let other = one.ask(publish("other", json!("in another room"))).await;
    assert_eq!((&other["offset"], other.get("duplicate")), (&json!(1), None));
    let body = json!({"room": "prices", "data": "by http", "key": "evt-82"}).to_string();
    server.call("POST", "/v1/publish", Some(KEY), &body).await;
    let again = one.ask(json!({"type": "publish", "room": "prices", "data": 1, "key": "evt-82"})).await;
    assert_eq!((&again["offset"], &again["duplicate"]), (&json!(3), &json!(true)));
    for expected in ["first", "of another principal", "in another room", "by http"] {
        assert_eq!(member.expect("message").await["data"], expected);
    }
    member.round_trip().await;
}

/// JSON that is valid by its grammar, but that no strict parser accepts.
#[tokio::test]
async fn json_that_parsers_reject_is_not_delivered() {
    let server = Server::start("").await;
    let mut client = Client::connect(&server).await;
    client.subscribe(json!(["prices"])).await;
    for data in [r#""\ud800""#, r#"{"a":["\udc00x"]}"#, "1e400", r#"[{"a":-1e400}]"#] {
        client.send_text(&format!(r#"{{"type":"publish","id":1,"room":"prices","data":{data}}}"#)).await;
        let answer = client.recv().await;
        assert_eq!(
            (&answer["id"], &answer["error"]["code"]),
            (&json!(1), &json!("bad_frame")),
            "{data}: {answer}"
        );
        let body = format!(r#"{{"room":"prices","data":{data}}}"#);
        let refused = server.refused("POST", "/v1/publish", Some(KEY), body).await;
        assert_eq!(refused, (400, "bad_frame".into()), "{data}");
        let list = format!(r#"[{{"room":"prices","data":{data}}}]"#);
        let (_, answer) = server.call("POST", "/v1/publish", Some(KEY), list).await;
        assert!(answer.contains("bad_frame"), "{data}: {answer}");
    }
    for data in [r#""\ud83d\ude00""#, r#""\\ud800""#, "1e308"] {
        client.send_text(&format!(r#"{{"type":"publish","id":2,"room":"prices","data":{data}}}"#)).await;
        client.expect("published").await;
        let frame = client.text().await;
        assert!(frame.contains(&format!(r#""data":{data}"#)), "{data}: {frame}");
    }
}
