//! What all requests have in common: ids, types, bad frames, and requests that change nothing.

use futures_util::SinkExt;
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};
use switchyard_tests::{Client, FIN, KEY, Raw, Server, TEXT, framed};
use tokio_tungstenite::tungstenite::Message;

#[tokio::test]
async fn an_id_is_echoed_as_it_was_written() {
    let server = Server::start("").await;
    let mut client = Client::connect(&server).await;
    for id in ["1", "-1.50", "1e3", "123456789012345678901234567890", r#""""#, r#""a\u0041\"""#, "0"] {
        client.send_text(&format!(r#"{{"type":"ping","id":{id}}}"#)).await;
        let answer = client.text().await;
        assert!(answer.contains(&format!(r#""id":{id},"#)), "{id}: {answer}");
    }
    client.send_text(r#"{"type":"ping"}"#).await;
    assert!(!client.text().await.contains("\"id\""), "no id, none in the reply");
    for id in [json!(true), json!({}), json!([1]), Value::Null] {
        let answer = client.ask(json!({"type": "ping", "id": id})).await;
        assert_eq!(answer["error"]["code"], "invalid_request", "{id}: {answer}");
        assert!(answer.get("id").is_none(), "{answer}");
    }
}

#[tokio::test]
async fn a_ping_is_answered_with_the_time() {
    let server = Server::start("").await;
    let mut client = Client::connect(&server).await;
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let pong = client.ask(json!({"type": "ping", "id": 7})).await;
    let time = pong["time"].as_u64().unwrap_or_else(|| panic!("{pong}"));
    assert_eq!(pong, json!({"type": "pong", "id": 7, "time": time}));
    assert!((before..before + 10_000).contains(&time));
}

#[tokio::test]
async fn unknown_types_and_fields_do_not_close_the_connection() {
    let server = Server::start("").await;
    let mut client = Client::connect(&server).await;
    for n in 0..20 {
        let answer = client.ask(json!({"type": format!("shout{n}"), "id": n, "rooms": 7})).await;
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(n), &json!("unknown_type")));
    }
    for kind in [Value::Null, json!(7), json!(["ping"])] {
        let answer = client.ask(json!({"type": kind, "id": 1})).await;
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(1), &json!("invalid_request")));
    }
    assert_eq!(client.refused(json!({"id": 1})).await, "invalid_request");
    client.send_text(r#"{"type":"ping","future":{"deep":[1e999]},"data":5,"rooms":{},"offset":"x"}"#).await;
    client.expect("pong").await;
    client.send_text(" \t\r\n{ \"type\" : \"p\\u0069ng\" } ").await;
    client.expect("pong").await;
}

/// Thirteen elements, as many as a request has fields, in case the parser accepts arrays as objects.
const ARRAY: &str = r#"["ping",1,null,null,null,null,null,null,null,null,null,null,null]"#;

#[tokio::test]
async fn a_frame_must_be_one_json_object() {
    let server = Server::start("").await;
    for bad in [
        "",
        "{",
        "null",
        "7",
        "\"ping\"",
        "[]",
        ARRAY,
        r#"{"type":"ping"}{"type":"ping"}"#,
        "{'type':'ping'}",
        "\u{0}",
    ] {
        let mut client = Client::connect(&server).await;
        client.send_text(bad).await;
        let answer = client.recv().await;
        assert_eq!(answer["error"]["code"], "bad_frame", "{bad:?}: {answer}");
        client.round_trip().await;
    }
    let mut client = Client::connect(&server).await;
    let join = json!({"type": "subscribe", "rooms": [{"room": "a", "since": ["epoch", 1]}]});
    let answer = client.ask(join).await;
    assert_eq!(answer["results"][0]["status"], "rejected", "since is an object: {answer}");
}

#[tokio::test]
async fn ten_bad_frames_close_and_nine_do_not() {
    let server = Server::start("").await;
    let mut client = Client::connect(&server).await;
    for n in 1..=10 {
        match n % 2 {
            0 => client.send_text("no JSON").await,
            _ => {
                client.socket.send(Message::binary(&b"{\"type\":\"ping\"}"[..])).await.expect("a connection")
            }
        }
        assert_eq!(client.expect("error").await["error"]["code"], "bad_frame");
        if n == 9 {
            client.round_trip().await;
        }
    }
    assert_eq!(client.closed().await.code, 4400);
}

#[tokio::test]
async fn deeply_nested_json_is_rejected() {
    let server = Server::start("").await;
    let (open, close) = ("[".repeat(50_000), "]".repeat(50_000));
    let objects = r#"{"a":"#.repeat(20_000);
    let mut raw = Raw::connect(&server).await;
    for (text, codes) in [
        ("[".repeat(100_000), &["bad_frame"][..]),
        (format!("{open}{close}"), &["bad_frame"]),
        (objects.clone(), &["bad_frame"]),
        (format!(r#"{{"type":"publish","id":1,"room":"deep","data":{open}{close}}}"#), &["invalid_request"]),
        (
            format!(r#"{{"type":"publish","id":1,"room":"deep","data":{objects}1{}}}"#, "}".repeat(20_000)),
            &["invalid_request", "message_too_large"],
        ),
        (format!(r#"{{"type":"ping","id":{open}{close}}}"#), &["invalid_request"]),
        (format!(r#"{{"type":"ack","id":1,"offsets":{open}{close}}}"#), &["invalid_request"]),
        (format!(r#"{{"type":"history","id":1,"room":"*","since":{open}{close}}}"#), &["invalid_request"]),
    ] {
        raw.bytes(&framed(FIN | TEXT, text.as_bytes())).await;
        let answer = raw.json().await;
        let code = answer["error"]["code"].as_str().unwrap_or_else(|| panic!("{answer}"));
        assert!(codes.contains(&code), "{}: {answer}", &text[..60]);
    }
    let filter =
        format!(r#"{{"type":"subscribe","rooms":["a",{{"room":"b","filter":{{"x":{open}{close}}}}}]}}"#);
    raw.bytes(&framed(FIN | TEXT, filter.as_bytes())).await;
    let answer = raw.json().await;
    assert_eq!(answer["results"][0]["status"], "subscribed", "{answer}");
    assert_eq!(answer["results"][1]["error"]["code"], "filter_invalid", "{answer}");
}

#[tokio::test]
async fn no_error_contains_a_secret() {
    let server = Server::start("").await;
    let mut client = Client::connect(&server).await;
    let token = client.token();
    for frame in [
        json!({"type": "connect", "auth": {"apiKey": KEY}, "session": token}),
        json!({"type": "publish", "room": "a b", "data": "sk_secret"}),
        json!({"type": "publish", "room": "*", "key": KEY.repeat(100), "data": "sk_secret"}),
    ] {
        let answer = client.ask(frame).await.to_string();
        assert!(answer.contains("error") && !answer.contains("sk_") && !answer.contains(&token), "{answer}");
    }
}
