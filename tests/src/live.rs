//! A client that reads its socket all the time, so that it answers pings as a real one does. It keeps every
//! frame for the test.

use crate::{EVENT_TIMEOUT, KEY};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

pub struct Live {
    /// The `connected` frame.
    pub connected: Value,
    requests: mpsc::UnboundedSender<Value>,
    received: watch::Receiver<Received>,
    next_id: AtomicU64,
    task: JoinHandle<()>,
}

/// The frames so far.
#[derive(Debug, Default)]
struct Received {
    frames: Vec<Value>,
    end: Option<End>,
}

/// How a connection ended. There is no code if there was no close frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    pub code: Option<u16>,
}

impl Live {
    /// Opens a new session of `acme`.
    pub async fn connect(url: &str) -> Self {
        Self::connect_with(url, json!({"auth": {"apiKey": KEY}})).await
    }

    pub async fn resume(url: &str, token: &str) -> Self {
        Self::connect_with(url, json!({"auth": {"apiKey": KEY}, "session": token})).await
    }

    /// Connects with these fields in `connect`, which must be accepted.
    pub async fn connect_with(url: &str, fields: Value) -> Self {
        Self::try_connect(url, fields).await.unwrap_or_else(|refused| panic!("rejected: {refused}"))
    }

    /// Connects with these fields in `connect`. The error is the answer that rejects it.
    pub async fn try_connect(url: &str, mut fields: Value) -> Result<Self, Value> {
        let (socket, _) =
            timeout(EVENT_TIMEOUT, connect_async(url)).await.expect("in time").expect("an upgrade");
        fields["type"] = "connect".into();
        let mut client = Self::start(socket);
        client.send(fields);
        let first = |frame: &Value| frame["type"] == "connected" || frame["type"] == "error";
        let answer = client.wait_for_frame("an answer to connect", first).await;
        match answer["type"] == "connected" {
            true => {
                client.connected = answer;
                Ok(client)
            }
            false => Err(answer),
        }
    }

    fn start(socket: Socket) -> Self {
        let (requests, receiver) = mpsc::unbounded_channel();
        let (updates, received) = watch::channel(Received::default());
        let task = tokio::spawn(run_connection(socket, receiver, updates));
        Self { connected: Value::Null, requests, received, next_id: AtomicU64::new(0), task }
    }

    pub fn token(&self) -> String {
        self.connected["session"].as_str().expect("a token").to_owned()
    }

    /// The entry of a room in `connected`.
    pub fn resumed(&self, room: &str) -> Option<&Value> {
        self.connected["rooms"].as_array().expect("rooms").iter().find(|entry| entry["room"] == room)
    }

    pub fn send(&self, frame: Value) {
        self.requests.send(frame).expect("a client that was not cut");
    }

    /// Sends a request with a new `id`, with which [`Live::answer`] finds its answer.
    pub fn request(&self, mut frame: Value) -> u64 {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        frame["id"] = id.into();
        self.send(frame);
        id
    }

    pub async fn answer(&self, id: u64) -> Value {
        self.wait_for_frame(&format!("an answer to request {id}"), |frame| frame["id"] == id).await
    }

    pub async fn ask(&self, frame: Value) -> Value {
        self.answer(self.request(frame)).await
    }

    /// Joins rooms, each of which must accept it.
    pub async fn subscribe(&self, rooms: Value) {
        let answer = self.ask(json!({"type": "subscribe", "rooms": rooms})).await;
        for result in answer["results"].as_array().unwrap_or_else(|| panic!("{answer}")) {
            assert_eq!(result["status"], "subscribed", "{answer}");
        }
    }

    /// Makes a round trip, so that all earlier frames of the server have been received.
    pub async fn round_trip(&self) {
        assert_eq!(self.ask(json!({"type": "ping"})).await["type"], "pong");
    }

    /// Waits for a frame that satisfies the condition. Frames that have arrived already count.
    pub async fn wait_for_frame(&self, what: &str, matches: impl Fn(&Value) -> bool) -> Value {
        let mut received = self.received.clone();
        let found = timeout(
            EVENT_TIMEOUT,
            received.wait_for(|received| received.end.is_some() || received.frames.iter().any(&matches)),
        );
        let received = found.await.unwrap_or_else(|_| panic!("{what} did not come: {:?}", self.frames()));
        let received = received.expect("the task runs");
        let frame = received.frames.iter().find(|frame| matches(frame));
        let end = received.end;
        frame
            .cloned()
            .unwrap_or_else(|| panic!("the end came before {what}: {end:?} after {}", json!(received.frames)))
    }

    /// Waits for the message with this offset in a room.
    pub async fn message(&self, room: &str, offset: u64) -> Value {
        let matches =
            |frame: &Value| frame["type"] == "message" && frame["room"] == room && frame["offset"] == offset;
        self.wait_for_frame(&format!("message {offset} of {room}"), matches).await
    }

    /// The offsets of a room's messages, in the order of arrival.
    pub fn offsets(&self, room: &str) -> Vec<u64> {
        let frames = self.frames();
        let messages = frames.iter().filter(|frame| frame["type"] == "message" && frame["room"] == room);
        messages.filter_map(|frame| frame["offset"].as_u64()).collect()
    }

    pub fn frames(&self) -> Vec<Value> {
        self.received.borrow().frames.clone()
    }

    /// How the connection ended, if it did.
    pub fn end(&self) -> Option<End> {
        self.received.borrow().end
    }

    /// Waits for the end of the connection.
    pub async fn ended(&self, max_wait: Duration) -> End {
        let mut received = self.received.clone();
        let ended = timeout(max_wait, received.wait_for(|received| received.end.is_some()));
        let ended = ended.await.unwrap_or_else(|_| panic!("no end within {max_wait:?}"));
        ended.expect("the task runs").end.expect("waited for")
    }

    /// Cuts the connection without a close frame, as a bad network does.
    pub fn cut(self) {
        drop(self);
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run_connection(
    mut socket: Socket,
    mut requests: mpsc::UnboundedReceiver<Value>,
    updates: watch::Sender<Received>,
) {
    let mut code = None;
    loop {
        let message = tokio::select! {
            frame = requests.recv() => {
                let Some(frame) = frame else { return };
                match socket.send(Message::text(frame.to_string())).await {
                    Ok(()) => continue,
                    Err(_) => break,
                }
            }
            message = socket.next() => message,
        };
        match message {
            Some(Ok(Message::Text(text))) => {
                let frame = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
                updates.send_modify(|received| received.frames.push(frame));
            }
            Some(Ok(Message::Close(frame))) => code = frame.map(|frame| frame.code.into()),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => break,
        }
    }
    updates.send_modify(|received| received.end = Some(End { code }));
    // The test may still send requests, which are not answered any more.
    while requests.recv().await.is_some() {}
}
