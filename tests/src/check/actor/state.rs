//! What a client knows about its rooms and positions, and how it reacts to frames.

use super::{Command, Open};
use crate::check::{filter::Filter, random::Random, transcript::Transcript};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub struct State {
    pub transcript: Transcript,
    pub random: Random,
    pub open: BTreeMap<u32, Open>,
    pub token: Option<String>,
    pub connections: u32,
    pub requests: u64,
    /// The filters of the rooms that it is in or wants to join.
    pub rooms: BTreeMap<String, Filter>,
    /// The epoch and the last offset that it has handled, 0 if it does not know any.
    pub positions: BTreeMap<String, (String, u64)>,
    /// It reconnects only when it is told to.
    pub is_away: bool,
    pub is_reconnecting: bool,
    pub is_done: bool,
}

impl State {
    pub(super) fn new(transcript: Transcript, random: Random) -> Self {
        Self {
            transcript,
            random,
            open: BTreeMap::new(),
            token: None,
            connections: 0,
            requests: 0,
            rooms: BTreeMap::new(),
            positions: BTreeMap::new(),
            is_away: false,
            is_reconnecting: false,
            is_done: false,
        }
    }

    pub(super) fn entry(&self, room: &str, filter: Filter, since: bool) -> Value {
        let mut entry = json!({"room": room});
        if let Some(filter) = filter.json() {
            entry["filter"] = filter;
        }
        if let Some((epoch, offset)) = self.positions.get(room).filter(|(_, offset)| since && *offset > 0) {
            entry["since"] = json!({"epoch": epoch, "offset": offset});
        }
        entry
    }

    /// Sends over the newest accepted connection.
    pub(super) fn request(&mut self, mut request: Value) {
        self.requests += 1;
        request["id"] = self.requests.into();
        if let Some(open) = self.open.values().rev().find(|open| open.name.is_some()) {
            open.commands.send(Command::Send(request)).ok();
        }
    }

    pub(super) fn acknowledge(&mut self) {
        let handled = self.positions.iter().filter(|(_, (_, offset))| *offset > 0);
        let offsets: BTreeMap<_, _> = handled.map(|(room, (_, offset))| (room.clone(), *offset)).collect();
        if let Some(open) = self.open.values().rev().find(|open| open.name.is_some()) {
            open.commands.send(Command::Send(json!({"type": "ack", "offsets": offsets}))).ok();
        }
    }

    pub(super) fn command(&self, command: impl Fn() -> Command) {
        self.open.values().for_each(|open| drop(open.commands.send(command())));
    }

    pub(super) fn connected(&mut self, id: u32, frame: &Value) {
        let was_lost = frame["resumed"] != true;
        self.token = frame["session"].as_str().map(str::to_owned);
        let open = self.open.get_mut(&id).expect("open");
        open.name = frame["connection"].as_str().map(str::to_owned);
        open.session = self.token.clone();
        // Two connections without a session each got a new one, but the client needs only one.
        for other in self.open.values().filter(|other| other.session.is_some() && other.session != self.token)
        {
            other.commands.send(Command::Cut).ok();
        }
        if was_lost {
            let rooms = std::mem::take(&mut self.rooms);
            let entries: Vec<_> =
                rooms.iter().map(|(room, filter)| self.entry(room, *filter, true)).collect();
            if !entries.is_empty() {
                self.request(json!({"type": "subscribe", "rooms": entries}));
            }
            self.positions.retain(|room, _| rooms.contains_key(room));
            self.rooms = rooms;
            return;
        }
        let connected = frame["rooms"].as_array().cloned().unwrap_or_default();
        let is_restored = |room: &String| connected.iter().any(|entry| entry["room"] == room.as_str());
        self.rooms.retain(|room, _| is_restored(room));
        self.positions.retain(|room, _| is_restored(room));
        for entry in &connected {
            let room = entry["room"].as_str().unwrap_or_default();
            let (epoch, newest) = position(entry, "offset");
            if !room.starts_with(['*', '@']) {
                let filter = entry.get("filter").map(Filter::read);
                let known = self.rooms.get(room).copied().unwrap_or(Filter::NONE);
                self.rooms.insert(room.to_owned(), filter.unwrap_or(known));
            }
            // Replays up to the newest offset follow: it is not handled yet.
            if entry["recovered"] != true {
                self.positions.insert(room.to_owned(), (epoch, newest));
            } else if !self.positions.contains_key(room) {
                self.positions.insert(room.to_owned(), (epoch, 0));
            }
        }
    }

    pub(super) fn received(&mut self, id: u32, frame: &Value) {
        let room = frame["room"].as_str().unwrap_or_default().to_owned();
        match frame["type"].as_str().unwrap_or_default() {
            "connected" => self.connected(id, frame),
            "message" => {
                let offset = frame["offset"].as_u64().unwrap_or_default();
                if let Some((_, handled)) = self.positions.get_mut(&room) {
                    *handled = offset.max(*handled);
                }
                if self.random.chance(8) {
                    self.acknowledge();
                }
            }
            "gap" => {
                let (epoch, offset) = position(frame, "offset");
                self.positions.insert(room, (epoch, offset.saturating_sub(1)));
            }
            "subscribed" => {
                for result in frame["results"].as_array().into_iter().flatten() {
                    self.subscribed(result);
                }
            }
            "unsubscribed" => {
                for result in frame["results"].as_array().into_iter().flatten() {
                    if result["status"] == "unsubscribed" {
                        let room = result["room"].as_str().unwrap_or_default();
                        self.rooms.remove(room);
                        self.positions.remove(room);
                    }
                }
            }
            _ => {}
        }
    }

    pub(super) fn subscribed(&mut self, result: &Value) {
        let room = result["room"].as_str().unwrap_or_default().to_owned();
        if result["status"] != "subscribed" {
            return;
        }
        let (epoch, offset) = position(result, "offset");
        let goes_on = self.positions.get(&room).is_some_and(|(before, _)| *before == epoch);
        if !goes_on || result["recovered"] == false {
            self.positions.insert(room, (epoch, offset));
        }
    }
}

fn position(frame: &Value, offset: &str) -> (String, u64) {
    (frame["epoch"].as_str().unwrap_or_default().to_owned(), frame[offset].as_u64().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    /// A client that acknowledged the newest offset of a recovered room at once lost the replays that had not
    /// arrived when its connection broke, and the server was blamed for it.
    #[test]
    fn a_client_acknowledges_only_what_it_has_handled() {
        let (commands, mut sent) = mpsc::unbounded_channel();
        let mut state = State::new(Transcript::default(), Random::new(1));
        state.open.insert(1, Open { commands, node: 0, name: None, session: None });
        let rooms = json!([{"room": "*", "epoch": "e", "offset": 9, "recovered": true},
            {"room": "@ann", "epoch": "e", "offset": 5, "recovered": false}]);
        state.received(
            1,
            &json!({"type": "connected", "connection": "c", "session": "s", "resumed": true, "rooms": rooms}),
        );
        let mut acknowledged = |state: &mut State| {
            state.acknowledge();
            let Ok(Command::Send(frame)) = sent.try_recv() else { panic!("nothing was sent") };
            frame["offsets"].clone()
        };
        assert_eq!(acknowledged(&mut state), json!({"@ann": 5}));
        state.received(1, &json!({"type": "message", "room": "*", "offset": 4}));
        assert_eq!(acknowledged(&mut state), json!({"*": 4, "@ann": 5}));
    }
}
