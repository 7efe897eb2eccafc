//! A client for tests. Every wait has a timeout, and an unexpected frame is a panic that shows it.

use crate::{EVENT_TIMEOUT, KEY, Server};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::collections::VecDeque;
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, client::IntoClientRequest},
};

pub struct Client {
    pub socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// The `connected` frame.
    pub connected: Value,
    /// Messages that came before an answer that was waited for.
    overtaken: VecDeque<String>,
}

/// How the server closed a connection.
#[derive(Debug, PartialEq, Eq)]
pub struct Closed {
    pub code: u16,
    pub reason: String,
}

impl Client {
    /// Opens a WebSocket without sending `connect`.
    pub async fn open(request: impl IntoClientRequest + Unpin) -> Self {
        let (socket, _) =
            timeout(EVENT_TIMEOUT, connect_async(request)).await.expect("in time").expect("an upgrade");
        Self::over(socket)
    }

    /// A client over a WebSocket on which `connect` was not sent.
    pub fn over(socket: WebSocketStream<MaybeTlsStream<TcpStream>>) -> Self {
        Self { socket, connected: Value::Null, overtaken: VecDeque::new() }
    }

    /// Opens a new session of `acme`.
    pub async fn connect(server: &Server) -> Self {
        Self::connect_with(server, json!({"auth": {"apiKey": KEY}})).await
    }

    /// Connects with these fields in `connect`.
    pub async fn connect_with(server: &Server, fields: Value) -> Self {
        Self::connect_at(&server.url, fields).await
    }

    /// Connects to a URL with these fields in `connect`.
    pub async fn connect_at(url: &str, fields: Value) -> Self {
        Self::open(url).await.authenticate(fields).await
    }

    /// Opens a new session with this key.
    pub async fn connect_as(server: &Server, key: &str) -> Self {
        Self::connect_with(server, json!({"auth": {"apiKey": key}})).await
    }

    /// Sends `connect` with these fields, which must be accepted.
    pub async fn authenticate(mut self, mut fields: Value) -> Self {
        fields["type"] = "connect".into();
        self.send(fields).await;
        self.connected = self.expect("connected").await;
        self
    }

    /// Sends `frame` as the first frame, which must be rejected. Returns the error code and the close code.
    pub async fn rejected_connect(url: &str, frame: Value) -> (String, u16) {
        let mut client = Self::open(url).await;
        let code = client.refused(frame).await;
        (code, client.closed().await.code)
    }

    /// Whether a key is accepted now. With a key that is revoked at this moment, the connection may close
    /// without an error.
    pub async fn is_accepted(url: &str, key: &str) -> bool {
        let mut client = Self::open(url).await;
        client.send(json!({"type": "connect", "auth": {"apiKey": key}})).await;
        match timeout(EVENT_TIMEOUT, client.socket.next()).await.expect("a frame in time") {
            Some(Ok(Message::Text(text))) => text.contains(r#""type":"connected""#),
            Some(Ok(Message::Close(_))) => false,
            other => panic!("expected an answer to connect, got {other:?}"),
        }
    }

    /// Resumes the session of an earlier client.
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

    /// Receives the next text frame, unparsed.
    pub async fn text(&mut self) -> String {
        match self.overtaken.pop_front() {
            Some(text) => text,
            None => self.newest_text().await,
        }
    }

    /// Receives the next text frame from the socket.
    async fn newest_text(&mut self) -> String {
        loop {
            match timeout(EVENT_TIMEOUT, self.socket.next()).await.expect("a frame in time") {
                Some(Ok(Message::Text(text))) => return text.to_string(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("expected a text frame, got {other:?}"),
            }
        }
    }

    pub async fn recv(&mut self) -> Value {
        let text = self.text().await;
        parse(&text)
    }

    /// Receives the next frame, which must have this type.
    pub async fn expect(&mut self, kind: &str) -> Value {
        let frame = self.recv().await;
        assert_eq!(frame["type"], kind, "{frame}");
        frame
    }

    /// Receives the next frame, which must be an error, and returns its code.
    pub async fn error_code(&mut self) -> String {
        let error = self.expect("error").await;
        error["error"]["code"].as_str().unwrap_or_else(|| panic!("{error}")).to_owned()
    }

    /// Sends a request and receives the next frame, which must be its answer.
    pub async fn ask(&mut self, request: Value) -> Value {
        self.send(request).await;
        self.recv().await
    }

    /// Sends a request and returns the error code of the next frame.
    pub async fn refused(&mut self, request: Value) -> String {
        let answer = self.ask(request).await;
        assert_eq!(answer["type"], "error", "{answer}");
        answer["error"]["code"].as_str().expect("a code").to_owned()
    }

    /// Joins rooms, each of which must accept it.
    pub async fn subscribe(&mut self, rooms: Value) -> Value {
        let answer = self.ask(json!({"type": "subscribe", "rooms": rooms})).await;
        for result in answer["results"].as_array().unwrap_or_else(|| panic!("{answer}")) {
            assert_eq!(result["status"], "subscribed", "{answer}");
        }
        answer
    }

    /// Publishes a message and returns the answer. A member of the room may receive the message before the answer or
    /// after it; here it is received after it.
    pub async fn publish(&mut self, room: &str, data: Value) -> Value {
        self.send(json!({"type": "publish", "room": room, "data": data})).await;
        loop {
            let text = self.newest_text().await;
            let answer = parse(&text);
            if answer["type"] == "message" {
                self.overtaken.push_back(text);
                continue;
            }
            assert_eq!(answer["type"], "published", "{answer}");
            return answer;
        }
    }

    /// Makes a round trip, so that all earlier frames of the server have been received.
    pub async fn round_trip(&mut self) {
        assert_eq!(self.ask(json!({"type": "ping", "id": "round_trip"})).await["type"], "pong");
    }

    /// Makes a round trip and drops all frames before the answer.
    pub async fn drain_frames(&mut self) {
        self.send(json!({"type": "ping", "id": "drain"})).await;
        while self.recv().await["id"] != "drain" {}
    }

    /// Reads until the server closes the connection.
    pub async fn closed(&mut self) -> Closed {
        loop {
            match timeout(EVENT_TIMEOUT, self.socket.next()).await.expect("an end in time") {
                Some(Ok(Message::Close(Some(frame)))) => {
                    return Closed { code: frame.code.into(), reason: frame.reason.to_string() };
                }
                Some(Ok(_)) => {}
                other => panic!("expected a close frame, got {other:?}"),
            }
        }
    }

    /// Cuts the connection without a close frame, as a bad network does.
    pub fn cut(self) {
        drop(self);
    }
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}
