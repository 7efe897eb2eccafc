//! A client for tests: every wait is bounded, and what it did not expect is a panic that shows it.

use crate::{KEY, PATIENCE, Server};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, client::IntoClientRequest},
};

pub struct Client {
    pub socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// The `connected` frame.
    pub connected: Value,
}

/// How the server ended a connection.
#[derive(Debug, PartialEq, Eq)]
pub struct Closed {
    pub code: u16,
    pub reason: String,
}

impl Client {
    /// A socket that has not said `connect`.
    pub async fn open(request: impl IntoClientRequest + Unpin) -> Self {
        let (socket, _) =
            timeout(PATIENCE, connect_async(request)).await.expect("in time").expect("an upgrade");
        Self { socket, connected: Value::Null }
    }

    /// A new session of `acme`.
    pub async fn connect(server: &Server) -> Self {
        Self::connect_with(server, json!({"auth": {"apiKey": KEY}})).await
    }

    /// `connect` with these fields.
    pub async fn connect_with(server: &Server, fields: Value) -> Self {
        Self::connect_at(&server.url, fields).await
    }

    /// The same at a URL.
    pub async fn connect_at(url: &str, fields: Value) -> Self {
        Self::open(url).await.greet(fields).await
    }

    /// A new session with this key.
    pub async fn connect_as(server: &Server, key: &str) -> Self {
        Self::connect_with(server, json!({"auth": {"apiKey": key}})).await
    }

    /// Says `connect` with these fields, which must let it in.
    pub async fn greet(mut self, mut fields: Value) -> Self {
        fields["type"] = "connect".into();
        self.send(fields).await;
        self.connected = self.expect("connected").await;
        self
    }

    /// Says `frame` first, which must not let it in: the code of the error and the close.
    pub async fn turned_away(url: &str, frame: Value) -> (String, u16) {
        let mut client = Self::open(url).await;
        let code = client.refused(frame).await;
        (code, client.closed().await.code)
    }

    /// Whether a key lets somebody in now. One that is revoked at this moment may close without another word.
    pub async fn is_let_in(url: &str, key: &str) -> bool {
        let mut client = Self::open(url).await;
        client.send(json!({"type": "connect", "auth": {"apiKey": key}})).await;
        match timeout(PATIENCE, client.socket.next()).await.expect("a frame in time") {
            Some(Ok(Message::Text(text))) => text.contains(r#""type":"connected""#),
            Some(Ok(Message::Close(_))) => false,
            other => panic!("expected an answer to connect, got {other:?}"),
        }
    }

    /// The session of an earlier client.
    pub async fn resume(server: &Server, token: &str) -> Self {
        Self::connect_with(server, json!({"auth": {"apiKey": KEY}, "session": token})).await
    }

    pub fn token(&self) -> String {
        self.connected["session"].as_str().expect("a token").to_owned()
    }

    pub async fn send(&mut self, frame: Value) {
        self.send_text(&frame.to_string()).await;
    }

    pub async fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.expect("a live connection");
    }

    /// The next text frame as it came.
    pub async fn text(&mut self) -> String {
        loop {
            match timeout(PATIENCE, self.socket.next()).await.expect("a frame in time") {
                Some(Ok(Message::Text(text))) => return text.to_string(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("expected a text frame, got {other:?}"),
            }
        }
    }

    pub async fn recv(&mut self) -> Value {
        let text = self.text().await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The next frame, which must be of this type.
    pub async fn expect(&mut self, kind: &str) -> Value {
        let frame = self.recv().await;
        assert_eq!(frame["type"], kind, "{frame}");
        frame
    }

    /// The next frame, which must be an error: its code.
    pub async fn refusal(&mut self) -> String {
        let error = self.expect("error").await;
        error["error"]["code"].as_str().unwrap_or_else(|| panic!("{error}")).to_owned()
    }

    /// Sends a request and takes the next frame, which must answer it.
    pub async fn ask(&mut self, request: Value) -> Value {
        self.send(request).await;
        self.recv().await
    }

    /// The error code of the next frame.
    pub async fn refused(&mut self, request: Value) -> String {
        let answer = self.ask(request).await;
        assert_eq!(answer["type"], "error", "{answer}");
        answer["error"]["code"].as_str().expect("a code").to_owned()
    }

    /// Joins rooms; all must let it in.
    pub async fn subscribe(&mut self, rooms: Value) -> Value {
        let answer = self.ask(json!({"type": "subscribe", "rooms": rooms})).await;
        for result in answer["results"].as_array().unwrap_or_else(|| panic!("{answer}")) {
            assert_eq!(result["status"], "subscribed", "{answer}");
        }
        answer
    }

    /// Publishes and gives the answer; the publisher must not be a member.
    pub async fn publish(&mut self, room: &str, data: Value) -> Value {
        let answer = self.ask(json!({"type": "publish", "room": room, "data": data})).await;
        assert_eq!(answer["type"], "published", "{answer}");
        answer
    }

    /// A round trip: everything the server did before is in what it answers before.
    pub async fn settled(&mut self) {
        assert_eq!(self.ask(json!({"type": "ping", "id": "settled"})).await["type"], "pong");
    }

    /// The same, passing over what comes before.
    pub async fn drained(&mut self) {
        self.send(json!({"type": "ping", "id": "drained"})).await;
        while self.recv().await["id"] != "drained" {}
    }

    /// Reads until the server closes.
    pub async fn closed(&mut self) -> Closed {
        loop {
            match timeout(PATIENCE, self.socket.next()).await.expect("an end in time") {
                Some(Ok(Message::Close(Some(frame)))) => {
                    return Closed { code: frame.code.into(), reason: frame.reason.to_string() };
                }
                Some(Ok(_)) => {}
                other => panic!("expected a close frame, got {other:?}"),
            }
        }
    }

    /// Cuts the connection without a word, as a bad network does.
    pub fn cut(self) {
        drop(self);
    }
}
