//! How many connections a principal may have, from which origins, and how an operator ends one.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::time::Duration;
use switchyard_tests::{Answer, Client, KEY, READER, Raw, Server, eventually, eventually_within};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

async fn try_connect(server: &Server, fields: Value) -> Option<Client> {
    let mut client = Client::open(&*server.url).await;
    client.send(fields).await;
    let answer = client.recv().await;
    client.connected = answer.clone();
    (answer["type"] == "connected").then_some(client)
}

#[tokio::test]
async fn a_tier_limits_the_connections_of_a_principal() {
    let keys = Server::key("sk_a", "acme", r#"["subscribe"]"#, "tier = \"pair\"")
        + &Server::key("sk_b", "acme", r#"["subscribe"]"#, "tier = \"pair\"")
        + &Server::key("sk_z", "zed", r#"["subscribe"]"#, "tier = \"pair\"")
        + "[tier.pair]\nconnections = 2\n";
    let server = Server::start_with(&keys).await;
    let connect = |key: &str| json!({"type": "connect", "id": 1, "auth": {"apiKey": key}});
    let first = Client::connect_as(&server, "sk_a").await;
    assert_eq!(first.connected["principal"], json!({"id": "acme", "tier": "pair"}));
    let second = Client::connect_as(&server, "sk_b").await;
    for key in ["sk_a", "sk_b"] {
        let refused = Client::rejected_connect(&server.url, connect(key)).await;
        assert_eq!(refused, ("connection_limit".into(), 4429), "the keys of a principal share the limit");
        let answer = Answer::of(
            server.address(),
            "GET",
            "/v2/realtime",
            &format!("{UPGRADE}X-API-Key: {key}\r\n"),
            b"",
        )
        .await;
        let body: Value = serde_json::from_str(&answer.body).expect("the error object");
        assert_eq!((answer.status, &body["error"]["code"]), (429, &json!("connection_limit")));
    }
    Client::connect_as(&server, "sk_z").await.round_trip().await;

    // A takeover does not count twice, however often it happens.
    let mut token = first.token();
    let mut held = first;
    for _ in 0..3 {
        let new = Client::connect_with(&server, json!({"auth": {"apiKey": "sk_a"}, "session": token})).await;
        assert_eq!(new.connected["resumed"], true);
        assert_eq!(held.closed().await.code, 4409);
        (token, held) = (new.token(), new);
    }
    assert_eq!(Client::rejected_connect(&server.url, connect("sk_a")).await.0, "connection_limit");
    // A connection that was rejected keeps its session.
    drop(held);
    let mut third = eventually("a free place", || try_connect(&server, connect("sk_a"))).await;
    let resume = json!({"type": "connect", "auth": {"apiKey": "sk_a"}, "session": token});
    assert_eq!(
        Client::rejected_connect(&server.url, resume.clone()).await,
        ("connection_limit".into(), 4429)
    );
    third.socket.close(None).await.ok();
    while third.socket.next().await.is_some_and(|frame| frame.is_ok()) {}
    let again = eventually("a free place", || try_connect(&server, resume.clone())).await;
    assert_eq!(again.connected["resumed"], true);
    drop((second, again));
}

#[tokio::test]
async fn the_rooms_of_a_connection_are_limited() {
    let keys =
        Server::key("sk_a", "acme", r#"["subscribe"]"#, "tier = \"small\"") + "[tier.small]\nrooms = 1\n";
    let server = Server::start_with(&keys).await;
    for _ in 0..2 {
        let mut client = Client::connect_as(&server, "sk_a").await;
        assert_eq!(client.connected["limits"]["rooms"], 1);
        let answer = client.ask(json!({"type": "subscribe", "rooms": ["a", "b"]})).await;
        assert_eq!(answer["results"][0]["status"], "subscribed");
        assert_eq!(answer["results"][1]["error"]["code"], "room_limit");
    }
}

#[tokio::test]
async fn a_page_of_another_origin_is_closed_with_4403() {
    let server = Server::start("[server]\norigins = [\"https://good.example\"]").await;
    let from = |origin: &str| {
        let mut request = server.url.as_str().into_client_request().expect("a URL");
        request.headers_mut().insert("origin", origin.parse().expect("a header"));
        request
    };
    let mut good =
        Client::open(from("https://good.example")).await.authenticate(json!({"auth": {"apiKey": KEY}})).await;
    good.round_trip().await;
    Client::connect(&server).await.round_trip().await;
    for origin in ["https://evil.example", "https://good.example.evil", "http://good.example", "null"] {
        let mut evil = Client::open(from(origin)).await;
        let connect = json!({"type": "connect", "auth": {"apiKey": KEY}}).to_string();
        evil.socket.send(tokio_tungstenite::tungstenite::Message::text(connect)).await.ok();
        let answer = evil.recv().await;
        assert_eq!(answer["error"]["code"], "forbidden", "{origin}: {answer}");
        assert_eq!(evil.closed().await.code, 4403, "{origin}");
    }
}

#[tokio::test]
async fn an_operator_ends_a_connection_and_its_session() {
    let server = Server::start("").await;
    let mut client = Client::connect_as(&server, READER).await;
    client.subscribe(json!(["prices"])).await;
    let path = format!("/v1/connections/{}", client.connected["connection"].as_str().expect("an id"));
    let (status, body) = server.call("DELETE", &path, Some(KEY), "").await;
    assert!((200..300).contains(&status), "{status} {body}");
    let closed = client.closed().await;
    assert_eq!(closed.code, 4403);
    let resume = json!({"auth": {"apiKey": READER}, "session": client.token()});
    let again = Client::connect_with(&server, resume).await;
    assert_eq!(again.connected["resumed"], false);
    assert_eq!(server.refused("GET", &path, Some(KEY), "").await, (404, "not_found".into()));
    let room = server.get("/v1/rooms/prices").await;
    assert_eq!(room["members"], 0, "{room}");
}

/// An upgrade that never finishes does not hold its slot for ever.
#[tokio::test]
async fn an_upgrade_that_never_connects_releases_its_slot() {
    let configuration = "[tier.default]\nconnections = 1\n[session]\nauthenticate = \"300ms\"";
    let server = Server::start(configuration).await;
    let (head, mut raw) = Raw::upgrade(&server, &format!("X-API-Key: {KEY}\r\n")).await;
    assert!(head.starts_with("http/1.1 101"), "{head}");
    assert_eq!(raw.json().await["error"]["code"], "auth_timeout");
    drop(raw);
    let connect = json!({"type": "connect", "auth": {"apiKey": KEY}});
    eventually("a free place", || try_connect(&server, connect.clone())).await;
}

/// The peer has been told why, and takes its time to close. Meanwhile it counts no more, like a connection that
/// was authenticated.
#[tokio::test]
async fn an_upgrade_that_was_closed_does_not_count_until_its_peer_closes() {
    let configuration = "[tier.default]\nconnections = 1\n[session]\nauthenticate = \"300ms\"";
    let server = Server::start(configuration).await;
    let (_, mut raw) = Raw::upgrade(&server, &format!("X-API-Key: {KEY}\r\n")).await;
    assert_eq!(raw.json().await["error"]["code"], "auth_timeout");
    let connect = json!({"type": "connect", "auth": {"apiKey": KEY}});
    // The server waits for 3 s until the peer closes.
    eventually_within(Duration::from_secs(2), "a free slot", || try_connect(&server, connect.clone())).await;
    drop(raw);
}
