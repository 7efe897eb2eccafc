//! A client that behaves as the protocol requires: it acknowledges, resumes on the next node when its
//! connection ends, comes back to rooms that were closed for a time, and drops duplicates. It records everything
//! else.

use crate::{EVENT_TIMEOUT, KEY};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};
use tokio_tungstenite::{connect_async, tungstenite::Message};

/// What a follower has received.
#[derive(Debug, Default, Clone)]
pub struct Received {
    /// By room and offset, without duplicates.
    pub messages: BTreeMap<(String, u64), Value>,
    /// The offsets of each room, in the order in which they first arrived.
    pub order: BTreeMap<String, Vec<u64>>,
    /// The newest offset of each room when it was joined.
    pub joined: BTreeMap<String, u64>,
    /// The results for rooms that it must not join, or that it was removed from for good.
    pub refused: Vec<Value>,
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
        Self::start_with(urls, KEY, vec![json!({"room": room})]).await
    }

    /// Starts a follower with this key, which sends these entries in `subscribe`. Returns once every room was
    /// joined or refused.
    pub async fn start_with(urls: Vec<String>, key: &str, entries: Vec<Value>) -> Self {
        let received = Arc::new(Mutex::new(Received::default()));
        let (decided, is_decided) = oneshot::channel();
        let session = Session {
            key: key.to_owned(),
            entries,
            token: None,
            positions: BTreeMap::new(),
            retries: vec![],
            decided: Some(decided),
        };
        let task = tokio::spawn(session.follow(urls, received.clone()));
        timeout(EVENT_TIMEOUT, is_decided).await.expect("a subscription in time").expect("a subscription");
        Self { received, task }
    }

    pub fn received(&self) -> Received {
        self.received.lock().expect("no panic").clone()
    }

    /// Waits until it has received `count` messages of the room, or panics with what it has.
    pub async fn has(&self, room: &str, count: usize, max_wait: Duration) {
        let end = Instant::now() + max_wait;
        loop {
            let so_far = self.received.lock().expect("no panic").order.get(room).map_or(0, Vec::len);
            if so_far >= count {
                return;
            }
            if Instant::now() >= end {
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

/// What the client remembers when its connection ends.
struct Session {
    key: String,
    entries: Vec<Value>,
    token: Option<String>,
    /// The epoch of each room and the last offset in it.
    positions: BTreeMap<String, (Value, u64)>,
    /// Rooms that may be joined again at this time.
    retries: Vec<(Instant, String)>,
    /// Told when every room was joined or refused.
    decided: Option<oneshot::Sender<()>>,
}

impl Session {
    async fn follow(mut self, urls: Vec<String>, received: Arc<Mutex<Received>>) {
        for url in urls.iter().cycle() {
            let Ok(Ok((mut socket, _))) = timeout(Duration::from_secs(2), connect_async(url)).await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let mut connect = json!({"type": "connect", "auth": {"apiKey": self.key}});
            if let Some(token) = &self.token {
                connect["session"] = token.as_str().into();
            }
            if socket.send(Message::text(connect.to_string())).await.is_err() {
                continue;
            }
            loop {
                let retry = self.retries.iter().map(|(at, _)| *at).min();
                let reply = tokio::select! {
                    message = socket.next() => match message {
                        Some(Ok(Message::Text(text))) => {
                            let frame: Value = serde_json::from_str(&text).expect("JSON");
                            self.handle(&frame, &mut received.lock().expect("no panic"))
                        }
                        Some(Ok(Message::Close(Some(frame)))) => {
                            received.lock().expect("no panic").closes.push(frame.code.into());
                            None
                        }
                        Some(Ok(_)) => None,
                        Some(Err(_)) | None => break,
                    },
                    () = sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => self.retry(),
                };
                if let Some(reply) = reply
                    && socket.send(Message::text(reply.to_string())).await.is_err()
                {
                    break;
                }
            }
        }
    }

    /// Handles a frame, and returns the frame to answer it with.
    fn handle(&mut self, frame: &Value, received: &mut Received) -> Option<Value> {
        match frame["type"].as_str().unwrap_or_default() {
            "connected" => {
                received.connections += 1;
                if self.token.is_some() && frame["resumed"] != true {
                    received.wrong.push(frame.clone());
                }
                self.token = frame["session"].as_str().map(str::to_owned);
                let rooms = frame["rooms"].as_array().cloned().unwrap_or_default();
                received.losses.extend(rooms.iter().filter(|room| room["recovered"] != true).cloned());
                self.subscribe(|wanted| !rooms.iter().any(|room| room["room"] == *wanted))
            }
            "subscribed" | "unsubscribed" => {
                for result in frame["results"].as_array().into_iter().flatten() {
                    self.decide(result, received);
                }
                if self.retries.is_empty() {
                    self.decided.take().map(|decided| decided.send(()));
                }
                None
            }
            "message" => {
                let room = frame["room"].as_str().expect("a room").to_owned();
                let offset = frame["offset"].as_u64().expect("an offset");
                if let Some((_, last)) = self.positions.get_mut(&room) {
                    *last = offset.max(*last);
                }
                match received.messages.insert((room.clone(), offset), frame["data"].clone()) {
                    None => received.order.entry(room.clone()).or_default().push(offset),
                    Some(before) if before == frame["data"] => received.repeats += 1,
                    Some(_) => received.wrong.push(frame.clone()),
                }
                Some(json!({"type": "ack", "room": room, "offset": offset}))
            }
            "gap" => {
                received.losses.push(frame.clone());
                None
            }
            "error" => {
                received.wrong.push(frame.clone());
                None
            }
            _ => None,
        }
    }

    /// Handles what was decided about a room.
    fn decide(&mut self, result: &Value, received: &mut Received) {
        let room = result["room"].as_str().expect("a room").to_owned();
        if result["status"] == "subscribed" {
            if result["recovered"] == false {
                received.losses.push(result.clone());
            }
            if result["recovered"] != true {
                let offset = result["offset"].as_u64().expect("an offset");
                self.positions.insert(room.clone(), (result["epoch"].clone(), offset));
                received.joined.entry(room).or_insert(offset);
            }
            return;
        }
        let error = &result["error"];
        let is_temporary =
            matches!(error["code"].as_str(), Some("plugin_failed" | "store_unavailable" | "overloaded"));
        match is_temporary {
            true => {
                let wait = Duration::from_millis(error["retryAfter"].as_u64().unwrap_or(200));
                self.retries.push((Instant::now() + wait, room));
            }
            false => received.refused.push(result.clone()),
        }
    }

    /// Joins the rooms again whose time has come.
    fn retry(&mut self) -> Option<Value> {
        let now = Instant::now();
        let due: Vec<_> = self.retries.extract_if(.., |(at, _)| *at <= now).map(|(_, room)| room).collect();
        self.subscribe(|wanted| due.iter().any(|room| *wanted == **room))
    }

    /// A request to join these of the rooms, with what was missed since the last message.
    fn subscribe(&self, is_wanted: impl Fn(&Value) -> bool) -> Option<Value> {
        let wanted = self.entries.iter().filter(|entry| is_wanted(&entry["room"]));
        let rooms: Vec<_> = wanted
            .map(|entry| {
                let mut entry = entry.clone();
                let room = entry["room"].as_str().expect("a room");
                if let Some((epoch, offset)) = self.positions.get(room) {
                    entry["since"] = json!({"epoch": epoch, "offset": offset});
                }
                entry
            })
            .collect();
        (!rooms.is_empty()).then(|| json!({"type": "subscribe", "rooms": rooms}))
    }
}
