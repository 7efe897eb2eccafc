//! A client that behaves as the protocol requires: it acknowledges, resumes on the next node when its
//! connection ends, and drops duplicates. It records everything else.

use crate::{EVENT_TIMEOUT, KEY};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{task::JoinHandle, time::timeout};
use tokio_tungstenite::{connect_async, tungstenite::Message};

/// What a follower has received.
#[derive(Debug, Default, Clone)]
pub struct Received {
    /// By room and offset, without duplicates.
    pub messages: BTreeMap<(String, u64), Value>,
    /// The offsets of each room, in the order in which they first arrived.
    pub order: BTreeMap<String, Vec<u64>>,
    /// Gaps and rooms that were not recovered.
    pub losses: Vec<Value>,
    /// Violations: another message with the same offset, an error, a session that was not resumed.
    pub wrong: Vec<Value>,
    pub repeats: u64,
    pub connections: u64,
    pub closes: Vec<u16>,
}

pub struct Follower {
    received: Arc<Mutex<Received>>,
    task: JoinHandle<()>,
}

impl Follower {
    /// Starts a follower of a room, and returns once it is a member. When a connection ends, it continues at
    /// the next URL.
    pub async fn start(urls: Vec<String>, room: &str) -> Self {
        let received = Arc::new(Mutex::new(Received::default()));
        let (joined, is_in) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(follow(urls, room.to_owned(), received.clone(), joined));
        timeout(EVENT_TIMEOUT, is_in).await.expect("a subscription in time").expect("a subscription");
        Self { received, task }
    }

    pub fn received(&self) -> Received {
        self.received.lock().expect("no panic").clone()
    }

    /// Waits until it has received `count` messages of the room, or panics with what it has.
    pub async fn has(&self, room: &str, count: usize, max_wait: Duration) {
        let end = std::time::Instant::now() + max_wait;
        loop {
            let so_far = self.received.lock().expect("no panic").order.get(room).map_or(0, Vec::len);
            if so_far >= count {
                return;
            }
            if std::time::Instant::now() >= end {
                let received = self.received();
                let offsets = received.order.get(room).cloned().unwrap_or_default();
                let missing = (1..=count as u64).find(|offset| !offsets.contains(offset));
                panic!(
                    "received {so_far} of {count} messages; the first that is missing is {missing:?}; losses {:?}; \
                     wrong {:?}; closes {:?}; {} connections",
                    received.losses, received.wrong, received.closes, received.connections
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(
    urls: Vec<String>,
    room: String,
    received: Arc<Mutex<Received>>,
    joined: tokio::sync::oneshot::Sender<()>,
) {
    let (mut session, mut joined, mut n) = (None::<String>, Some(joined), 0);
    loop {
        let url = &urls[n % urls.len()];
        n += 1;
        let Ok(Ok((mut socket, _))) = timeout(Duration::from_secs(2), connect_async(url)).await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let mut connect = json!({"type": "connect", "auth": {"apiKey": KEY}});
        if let Some(session) = &session {
            connect["session"] = session.as_str().into();
        }
        if socket.send(Message::text(connect.to_string())).await.is_err() {
            continue;
        }
        while let Some(Ok(message)) = socket.next().await {
            let text = match message {
                Message::Text(text) => text,
                Message::Close(Some(frame)) => {
                    received.lock().expect("no panic").closes.push(frame.code.into());
                    continue;
                }
                _ => continue,
            };
            let frame: Value = serde_json::from_str(&text).expect("JSON");
            let reply = received.lock().expect("no panic").handle(&frame, &room, &mut session);
            if frame["type"] == "subscribed" {
                joined.take().map(|joined| joined.send(()));
            }
            if let Some(reply) = reply
                && socket.send(Message::text(reply.to_string())).await.is_err()
            {
                break;
            }
        }
    }
}

impl Received {
    /// Handles a frame, and returns the frame to answer it with.
    fn handle(&mut self, frame: &Value, wanted: &str, session: &mut Option<String>) -> Option<Value> {
        match frame["type"].as_str().unwrap_or_default() {
            "connected" => {
                self.connections += 1;
                if session.is_some() && frame["resumed"] != true {
                    self.wrong.push(frame.clone());
                }
                *session = frame["session"].as_str().map(str::to_owned);
                let rooms = frame["rooms"].as_array().cloned().unwrap_or_default();
                self.losses.extend(rooms.iter().filter(|room| room["recovered"] != true).cloned());
                let is_in = rooms.iter().any(|room| room["room"] == wanted);
                (!is_in).then(|| json!({"type": "subscribe", "rooms": [wanted]}))
            }
            "message" => {
                let room = frame["room"].as_str().expect("a room").to_owned();
                let offset = frame["offset"].as_u64().expect("an offset");
                match self.messages.insert((room.clone(), offset), frame["data"].clone()) {
                    None => self.order.entry(room.clone()).or_default().push(offset),
                    Some(before) if before == frame["data"] => self.repeats += 1,
                    Some(_) => self.wrong.push(frame.clone()),
                }
                Some(json!({"type": "ack", "room": room, "offset": offset}))
            }
            "gap" => {
                self.losses.push(frame.clone());
                None
            }
            "error" => {
                self.wrong.push(frame.clone());
                None
            }
            _ => None,
        }
    }
}
