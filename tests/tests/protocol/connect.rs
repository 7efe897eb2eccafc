//! `connect`: where the key may be, what the server answers, and how it rejects all others.

use serde_json::{Value, json};
use switchyard_tests::{Answer, Client, FIN, KEY, READER, Raw, Server, TEXT, framed};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest, http::Request};

fn with_header(server: &Server, name: &'static str, value: &str) -> Request<()> {
    let mut request = server.url.as_str().into_client_request().expect("a URL");
    request.headers_mut().insert(name, value.parse().expect("a header"));
    request
}

#[tokio::test]
async fn connected_contains_everything_a_client_needs() {
    let configuration = "[tier.default]\nrooms = 7\n[session]\nmessage = \"1KiB\"\n\
        heartbeat = { interval = \"3s\", timeout = \"500ms\" }";
    let server = Server::start(configuration).await;
    let client = Client::connect_with(&server, json!({"id": "first", "auth": {"apiKey": KEY}})).await;
    let mut connected = client.connected.clone();
    let fields = connected.as_object_mut().expect("an object");
    let connection = fields.remove("connection").expect("a connection");
    let session = fields.remove("session").expect("a session");
    assert!(connection.as_str().is_some_and(|id| id.starts_with("c_")), "{connection}");
    assert!(session.as_str().is_some_and(|token| token.starts_with("s_")), "{session}");
    let expected = json!({
        "type": "connected", "id": "first", "resumed": false,
        "principal": {"id": "acme", "tier": "default"},
        "heartbeat": {"interval": 3000, "timeout": 500},
        "limits": {"rooms": 7, "messageBytes": 1024},
        "rooms": [],
    });
    assert_eq!(connected, expected);
}

#[tokio::test]
async fn a_key_on_the_upgrade_is_enough_and_auth_is_ignored() {
    let server = Server::start("").await;
    let bearer = format!("Bearer {KEY}");
    for (name, value) in [("authorization", &*bearer), ("x-api-key", KEY)] {
        for frame in [
            json!({}),
            json!({"auth": {"apiKey": "wrong"}}),
            json!({"auth": {"apiKey": READER}}),
            json!({"auth": {"apiKey": 7}}),
            json!({"auth": "nonsense"}),
        ] {
            let client = Client::open(with_header(&server, name, value)).await.authenticate(frame).await;
            assert_eq!(client.connected["principal"]["id"], "acme");
        }
    }
    // A session can be resumed only with the frame.
    let client = Client::connect(&server).await;
    let resumed = Client::open(with_header(&server, "authorization", &bearer))
        .await
        .authenticate(json!({"session": client.token()}))
        .await;
    assert_eq!(resumed.connected["resumed"], true);
    // The key on the upgrade does not replace `connect`.
    let mut silent = Client::open(with_header(&server, "x-api-key", KEY)).await;
    assert_eq!(silent.refused(json!({"type": "ping"})).await, "auth_required");
    assert_eq!(silent.closed().await.code, 4401);
}

#[tokio::test]
async fn a_bad_key_on_the_upgrade_is_a_401_with_the_error() {
    let expired = Server::key("sk_old", "old", r#"["subscribe"]"#, "expires = 2020-01-01T00:00:00Z");
    let server = Server::start_with(&(Server::keys() + &expired)).await;
    for (headers, code) in [
        ("Authorization: Bearer sk_unknown\r\n", "invalid_key"),
        ("X-API-Key: sk_unknown\r\n", "invalid_key"),
        ("Authorization: sk_all\r\n", "invalid_key"),
        ("X-API-Key: sk_old\r\n", "expired_key"),
    ] {
        let upgrade = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nConnection: Upgrade\r\n";
        let address = server.address();
        let (head, mut raw) = Raw::upgrade(&server, headers).await;
        assert!(head.starts_with("http/1.1 401"), "{headers}: {head}");
        assert!(head.contains("content-type: application/json"), "{head}");
        raw.bytes(b"").await;
        drop(raw);
        let answer = Answer::of(address, "GET", "/v2/realtime", &format!("{upgrade}{headers}"), b"").await;
        let body: Value = serde_json::from_str(&answer.body).expect("JSON");
        assert_eq!((answer.status, &body["error"]["code"]), (401, &json!(code)), "{headers}");
        assert!(body["error"]["message"].is_string() && !answer.body.contains("sk_"), "{body}");
    }
}

#[tokio::test]
async fn anything_but_a_valid_connect_is_closed_with_4401() {
    let expired = Server::key("sk_old", "old", r#"["subscribe"]"#, "expires = 2020-01-01T00:00:00Z");
    let server = Server::start_with(&(Server::keys() + &expired)).await;
    let connect = |auth: Value| json!({"type": "connect", "id": 1, "auth": auth});
    for (frame, code) in [
        (json!({"type": "ping", "id": 1}), "auth_required"),
        (json!({"type": "subscribe", "id": 1, "rooms": ["a"]}), "auth_required"),
        (json!({"type": "nonsense"}), "auth_required"),
        (json!([1]), "auth_required"),
        (json!({"type": "connect"}), "auth_required"),
        (connect(json!({})), "auth_required"),
        (connect(json!({"apiKey": "sk_unknown"})), "invalid_key"),
        (connect(json!({"apiKey": ""})), "invalid_key"),
        (connect(json!({"apiKey": "sk_old"})), "expired_key"),
    ] {
        let text = frame.to_string();
        assert_eq!(Client::rejected_connect(&server.url, frame).await, (code.to_owned(), 4401), "{text}");
    }
    let mut client = Client::open(&*server.url).await;
    let answer = client.ask(connect(json!({"apiKey": "sk_unknown"}))).await;
    assert_eq!(answer["id"], 1);
    assert!(!answer.to_string().contains("sk_unknown"), "no error shows a key: {answer}");

    let mut binary = Client::open(&*server.url).await;
    use futures_util::SinkExt;
    binary.socket.send(Message::binary(&b"{}"[..])).await.expect("a connection");
    assert_eq!(binary.expect("error").await["error"]["code"], "auth_required");
    assert_eq!(binary.closed().await.code, 4401);
}

/// A key in the URL would end up in logs.
#[tokio::test]
async fn a_key_in_the_url_is_ignored() {
    let server = Server::start("").await;
    let url = format!("{}?apiKey={KEY}&key={KEY}&token={KEY}", server.url);
    assert_eq!(
        Client::rejected_connect(&url, json!({"type": "connect"})).await,
        ("auth_required".into(), 4401)
    );
}

#[tokio::test]
async fn a_client_that_does_not_connect_in_time_is_closed() {
    let server = Server::start("[session]\nauthenticate = \"300ms\"").await;
    let started = std::time::Instant::now();
    let mut client = Client::open(&*server.url).await;
    // Signs of life do not replace `connect`.
    use futures_util::SinkExt;
    client.socket.send(Message::Ping(Default::default())).await.expect("a connection");
    assert_eq!(client.expect("error").await["error"]["code"], "auth_timeout");
    assert_eq!(client.closed().await.code, 4504);
    let took = started.elapsed().as_millis();
    assert!((300..2000).contains(&took), "{took} ms");
}

#[tokio::test]
async fn the_subprotocol_is_echoed_if_offered_and_never_required() {
    let server = Server::start("").await;
    for (offered, echoed) in [
        ("", false),
        ("Sec-WebSocket-Protocol: switchyard.v1\r\n", true),
        ("Sec-WebSocket-Protocol: other, switchyard.v1\r\n", true),
        ("Sec-WebSocket-Protocol: other\r\n", false),
    ] {
        let (head, mut raw) = Raw::upgrade(&server, offered).await;
        assert!(head.starts_with("http/1.1 101"), "{offered}: {head}");
        assert_eq!(head.contains("sec-websocket-protocol: switchyard.v1\r\n"), echoed, "{offered}: {head}");
        assert_eq!(head.contains("sec-websocket-protocol"), echoed, "{offered}: {head}");
        raw.bytes(&framed(FIN | TEXT, br#"{"type":"connect","auth":{"apiKey":"sk_all"}}"#)).await;
        assert_eq!(raw.json().await["type"], "connected");
    }
}

#[tokio::test]
async fn a_second_connect_is_an_invalid_request_and_harmless() {
    let server = Server::start("").await;
    let mut client = Client::connect(&server).await;
    let again = json!({"type": "connect", "id": 9, "auth": {"apiKey": READER}});
    let answer = client.ask(again).await;
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(9), &json!("invalid_request")));
    client.publish("still", json!("acme")).await;
}

#[tokio::test]
async fn a_request_that_is_not_an_upgrade_is_told_what_to_send() {
    let server = Server::start("[server]\npath = \"/socket\"").await;
    assert!(server.url.ends_with("/socket"));
    Client::connect(&server).await.round_trip().await;
    for (method, path, status) in [("GET", "/", 404), ("GET", "/v2/realtime", 404), ("POST", "/socket", 405)]
    {
        let answer = Answer::of(server.address(), method, path, "", b"").await;
        assert_eq!(answer.status, status, "{method} {path}");
        let body: Value = serde_json::from_str(&answer.body).expect("the error object");
        assert!(
            body["error"]["message"].as_str().is_some_and(|message| message.contains("WebSocket")),
            "{body}"
        );
    }
    let answer = Answer::of(server.address(), "GET", "/socket", "", b"").await;
    assert!((400..500).contains(&answer.status), "{answer:?}");
    serde_json::from_str::<Value>(&answer.body).expect("the error object");
}
