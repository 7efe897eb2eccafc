//! A client that does what steps tell it, and otherwise what the protocol requires: it reconnects, subscribes
//! again if its session has ended, drops duplicates, and acknowledges occasionally.

mod state;

use super::{
    connection::{self, Command},
    filter::Filter,
    random::Random,
    transcript::{Entry, Event, Transcript},
    world::Urls,
};
use serde_json::{Value, json};
use state::State;
use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// What a connection shares with its client.
pub struct Shared {
    key: String,
    urls: Urls,
    began: Instant,
    state: Mutex<State>,
}

struct Open {
    commands: mpsc::UnboundedSender<Command>,
    node: usize,
    /// The connection's id in the admin API, once it is accepted.
    name: Option<String>,
    session: Option<String>,
}

#[derive(Clone)]
pub struct Actor(Arc<Shared>);

impl Actor {
    /// Starts a client, which connects to any node.
    pub fn start(name: String, principal: &str, key: &str, urls: Urls, began: Instant, seed: u64) -> Self {
        let transcript = Transcript { client: name, principal: principal.to_owned(), entries: vec![] };
        let state = State::new(transcript, Random::new(seed));
        let actor = Self(Arc::new(Shared { key: key.to_owned(), urls, began, state: Mutex::new(state) }));
        actor.0.clone().reconnect_later();
        actor
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("no panic")
    }

    pub fn transcript(&self) -> Transcript {
        self.state().transcript.clone()
    }

    /// Subscribes to a room. With `since`, from the last position, if there is one.
    pub fn subscribe(&self, room: &str, filter: Filter, since: bool) {
        let mut state = self.state();
        let entry = state.entry(room, filter, since);
        state.request(json!({"type": "subscribe", "rooms": [entry]}));
    }

    /// Repeats the subscriptions over every connection, so that connections that have lost the session notice
    /// it.
    pub fn confirm(&self) {
        let mut state = self.state();
        let rooms: Vec<_> = state.rooms.clone().into_iter().collect();
        let entries: Vec<_> = rooms.iter().map(|(room, filter)| state.entry(room, *filter, false)).collect();
        let ids: Vec<_> = state.open.keys().copied().collect();
        for id in ids.into_iter().filter(|_| !entries.is_empty()) {
            state.requests += 1;
            let request = json!({"type": "subscribe", "id": state.requests, "rooms": entries});
            let open = &state.open[&id];
            if open.name.is_some() {
                open.commands.send(Command::Send(request)).ok();
            }
        }
    }

    pub fn unsubscribe(&self, room: &str) {
        self.state().request(json!({"type": "unsubscribe", "rooms": [room]}));
    }

    /// Acknowledges everything that was handled.
    pub fn acknowledge(&self) {
        self.state().acknowledge();
    }

    /// Requests the members of a room, and returns the `id` of the request.
    pub fn ask_members(&self, room: &str) -> u64 {
        let mut state = self.state();
        state.request(json!({"type": "members", "room": room}));
        state.requests
    }

    /// The answer to a request, if it has arrived.
    pub fn answer(&self, id: u64) -> Option<Value> {
        let state = self.state();
        let mut received = state.transcript.entries.iter().rev().filter_map(|entry| match &entry.event {
            Event::Received(frame) if frame["id"] == id => Some(frame.clone()),
            _ => None,
        });
        received.next()
    }

    pub fn stop_reading(&self) {
        self.state().command(|| Command::StopReading);
    }

    pub fn resume_reading(&self) {
        self.state().command(|| Command::ResumeReading);
    }

    /// Breaks its connections. It reconnects later.
    pub fn cut(&self, node: usize, away: Duration) {
        let mut state = self.state();
        state.is_away = true;
        state.command(|| Command::Cut);
        let shared = self.0.clone();
        tokio::spawn(async move {
            tokio::time::sleep(away).await;
            shared.state.lock().expect("no panic").is_away = false;
            shared.open(node);
        });
    }

    /// Resumes the session on another connection.
    pub fn resume(&self, node: usize) {
        self.0.open(node);
    }

    /// The admin id of its newest accepted connection, and the node.
    pub fn end(&self) -> Option<(String, usize)> {
        let mut state = self.state();
        let (id, open) = state.open.iter().rev().find(|(_, open)| open.name.is_some())?;
        let (id, name, node) = (*id, open.name.clone()?, open.node);
        state.token = None;
        let at = self.0.began.elapsed();
        state.transcript.entries.push(Entry { at, connection: id, event: Event::Ended });
        Some((name, node))
    }

    /// The number of open connections, and how many of them are accepted.
    pub fn open(&self) -> (usize, usize) {
        let state = self.state();
        (state.open.len(), state.open.values().filter(|open| open.name.is_some()).count())
    }

    /// Stops reconnecting.
    pub fn stop(&self) {
        let mut state = self.state();
        state.is_done = true;
        state.command(|| Command::Cut);
    }
}

impl Shared {
    /// Records an event and reacts to it.
    pub fn take(self: &Arc<Self>, id: u32, event: Event) {
        let mut state = self.state.lock().expect("no panic");
        state.transcript.entries.push(Entry {
            at: self.began.elapsed(),
            connection: id,
            event: event.clone(),
        });
        match event {
            Event::Received(frame) => state.received(id, &frame),
            Event::Sent(frame) if frame["type"] == "subscribe" => {
                for entry in frame["rooms"].as_array().into_iter().flatten() {
                    let room = entry["room"].as_str().unwrap_or_default().to_owned();
                    state.rooms.insert(room, Filter::read(&entry["filter"]));
                }
            }
            Event::Closed(_) | Event::Cut => {
                state.open.remove(&id);
                let should_reconnect =
                    state.open.is_empty() && !state.is_away && !state.is_reconnecting && !state.is_done;
                drop(state);
                if should_reconnect {
                    self.clone().reconnect_later();
                }
            }
            _ => {}
        }
    }

    /// Reconnects to any running node after a moment.
    fn reconnect_later(self: Arc<Self>) {
        let mut state = self.state.lock().expect("no panic");
        state.is_reconnecting = true;
        let (pause, first) = (state.random.between(5, 200), state.random.below(3));
        drop(state);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            self.state.lock().expect("no panic").is_reconnecting = false;
            self.open(first);
        });
    }

    /// Connects to a node, or to the next one that runs.
    fn open(self: &Arc<Self>, node: usize) {
        let urls = self.urls.lock().expect("no panic").clone();
        let running = (0..urls.len()).map(|n| (node + n) % urls.len()).find(|node| urls[*node].is_some());
        let Some(node) = running else { return self.clone().reconnect_later() };
        let url = urls[node].clone().expect("seen above");
        let mut state = self.state.lock().expect("no panic");
        if state.is_done || state.is_away {
            return;
        }
        state.connections += 1;
        let id = state.connections;
        let mut connect = json!({"type": "connect", "auth": {"apiKey": self.key}});
        if let Some(token) = &state.token {
            connect["session"] = token.as_str().into();
        }
        let (commands, receiver) = mpsc::unbounded_channel();
        state.open.insert(id, Open { commands, node, name: None, session: None });
        let at = self.began.elapsed();
        state.transcript.entries.push(Entry { at, connection: id, event: Event::Opened(node) });
        drop(state);
        tokio::spawn(connection::run(self.clone(), id, url, connect, receiver));
    }
}
