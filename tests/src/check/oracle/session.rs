//! The rules of connections and sessions: a resumed session is as the client was told, and a connection that
//! loses its session has a successor.

use super::{
    ACK_RECORD_TIME, Event, LEASE, Oracle, Session, TIME_TOLERANCE,
    room::{ConnectionRoom, Seat, SessionRoom},
    text,
};
use crate::check::filter::Filter;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

impl Oracle<'_> {
    pub(super) fn connected(&mut self, id: u32, frame: &Value) {
        let now = self.now;
        let token = text(frame, "session").to_owned();
        let connection = self.connections.entry(id).or_default();
        connection.name = text(frame, "connection").to_owned();
        (connection.token, connection.connected) = (Some(token.clone()), Some(now));
        let requested = connection.requested_session.clone();
        if frame["resumed"] == true {
            if requested.as_ref() != Some(&token) {
                self.report("a session is resumed by its token", None, frame.to_string());
            }
            return self.resumed(id, &token, frame["rooms"].as_array().map_or(&[][..], Vec::as_slice));
        }
        if let Some(requested) = requested {
            self.check_session_loss(id, &requested);
        }
        let mut session = Session { connections: vec![id], ..Session::default() };
        let (log, principal) = (&self.facts.log, &self.transcript.principal);
        let connection = self.connections.get_mut(&id).expect("made above");
        for room in ["*".to_owned(), format!("@{principal}")] {
            // Its position is unknown, but everything that is published from now on is delivered.
            let epoch = log.only_epoch(&room).filter(|_| !self.facts.lost_data);
            let view = epoch.map(|epoch| SessionRoom::join(epoch, log.before(&room, epoch, now)));
            let seats = BTreeSet::from([Seat::In(Filter::NONE)]);
            let epoch = epoch.map(str::to_owned);
            let here = ConnectionRoom { possible: seats.clone(), seats, epoch, ..ConnectionRoom::default() };
            connection.rooms.insert(room.clone(), here);
            session.rooms.insert(room, view.unwrap_or_default());
        }
        self.sessions.insert(token, session);
    }

    fn check_session_loss(&mut self, id: u32, token: &str) {
        let Some(session) = self.sessions.get(token) else { return };
        let connections = || session.connections.iter().map(|id| &self.connections[id]);
        // Of several connections, the one that was accepted last has the session. The others have yet to be
        // told.
        let holder = connections().max_by_key(|connection| connection.greeted);
        let is_open = holder.is_some_and(|connection| connection.ended.is_none());
        let last = holder.and_then(|one| one.earliest_end()).unwrap_or_default();
        let away = self.now.saturating_sub(last);
        let is_excused = self.facts.lost_data
            || session.is_ended
            || connections().any(|connection| {
                let end = connection.ended.unwrap_or(self.now);
                let long = self.facts.faults.iter().filter(|fault| fault.to - fault.from >= LEASE);
                long.into_iter().any(|fault| fault.overlaps(connection.node, connection.opened, end))
            });
        if is_excused || (!is_open && away + TIME_TOLERANCE >= self.facts.ttl) {
            return;
        }
        let what = match is_open {
            true => format!("connection {id} got a new session, while another holds the old one"),
            false => {
                format!("connection {id} got a new session, {} ms after the old one", away.as_millis())
            }
        };
        self.report("a session lives until its TTL", None, what);
    }

    fn resumed(&mut self, id: u32, token: &str, told: &[Value]) {
        let greeted = self.connections[&id].greeted.unwrap_or_default();
        let Some(session) = self.sessions.get(token) else { return };
        // The connection that requested last holds the session, whenever it was answered. Of two that
        // requested at about the same time, either may.
        let others = || session.connections.iter().map(|id| &self.connections[id]);
        let newest = others().filter_map(|other| other.greeted).max().unwrap_or_default();
        let holders: Vec<_> =
            others().filter(|other| other.greeted.unwrap_or_default() + TIME_TOLERANCE >= newest).collect();
        let rooms: BTreeSet<&String> = holders.iter().flat_map(|holder| holder.rooms.keys()).collect();
        let seats = |room: &String| {
            let seats = holders.iter().map(|holder| match holder.rooms.get(room) {
                Some(here) => here.found(greeted),
                None => BTreeSet::from([Seat::Out]),
            });
            seats.flatten().collect()
        };
        let found: BTreeMap<String, BTreeSet<Seat>> =
            rooms.into_iter().map(|room| (room.clone(), seats(room))).collect();
        let told: BTreeMap<&str, &Value> = told.iter().map(|entry| (text(entry, "room"), entry)).collect();
        let names: BTreeSet<&str> = found.keys().map(String::as_str).chain(told.keys().copied()).collect();
        let (mut broken, mut rooms) = (vec![], BTreeMap::new());
        for name in names {
            let out = BTreeSet::from([Seat::Out]);
            let possible = found.get(name).unwrap_or(&out);
            let entry = told.get(name).copied();
            let seats = match entry.filter(|entry| entry["error"].is_null()) {
                Some(entry) => {
                    let shown = Seat::In(Filter::read(&entry["filter"]));
                    let inside: BTreeSet<_> =
                        possible.iter().copied().filter(|seat| *seat != Seat::Out).collect();
                    if inside.is_empty() {
                        broken.push(("a room that was left stays left", name, entry.to_string()));
                    } else if self.facts.shows_filters && !possible.contains(&shown) {
                        broken.push((
                            "the reported filter applies",
                            name,
                            format!("{entry}, not {possible:?}"),
                        ));
                    }
                    if self.facts.shows_filters || inside.is_empty() { [shown].into() } else { inside }
                }
                None => {
                    if !possible.contains(&Seat::Out) && !self.facts.lost_data {
                        let what = entry.map_or_else(|| "it is not there".to_owned(), Value::to_string);
                        broken.push(("a room that was joined stays joined", name, what));
                    }
                    out.clone()
                }
            };
            rooms.insert(name.to_owned(), (seats, possible.clone(), entry));
        }
        for (rule, room, what) in broken {
            self.report(rule, Some(room), what);
        }
        for (name, (seats, possible, entry)) in rooms {
            let mut here = ConnectionRoom { possible: seats.clone(), seats, ..ConnectionRoom::default() };
            if let Some(entry) = entry.filter(|_| here.is_member()) {
                self.restored_room(id, token, &name, &mut here, &possible, entry);
            }
            self.connections.get_mut(&id).expect("it came").rooms.insert(name, here);
        }
        self.sessions.get_mut(token).expect("seen above").connections.push(id);
    }

    /// A room in `connected`.
    fn restored_room(
        &mut self,
        id: u32,
        token: &str,
        name: &str,
        here: &mut ConnectionRoom,
        possible: &BTreeSet<Seat>,
        entry: &Value,
    ) {
        let (epoch, offset) = (text(entry, "epoch"), entry["offset"].as_u64().unwrap_or_default());
        let recorded_ack = self.recorded_acknowledgement(id, token, name);
        let session = self.sessions.get_mut(token).expect("it was resumed");
        let view = session.rooms.entry(name.to_owned()).or_default();
        let is_other = view.epoch.as_deref().is_some_and(|before| before != epoch);
        let low = view.base.max(recorded_ack);
        here.epoch = Some(epoch.to_owned());
        let other = possible.iter().filter(|seat| !here.seats.contains(seat));
        view.earlier.extend(other.filter_map(|seat| match seat {
            Seat::In(filter) => Some((offset, *filter)),
            Seat::Out => None,
        }));
        if entry["recovered"] == true {
            if view.epoch.is_none() || possible.contains(&Seat::Out) {
                // The beginning of the membership is unknown. Everything from now on must be delivered.
                *view = SessionRoom { base: 0, ..SessionRoom::join(epoch, offset) };
                return;
            }
            if is_other {
                *view = SessionRoom::join(epoch, offset);
                return self.report("a new epoch is reported as a loss", Some(name), entry.to_string());
            }
            here.recorded_ack = recorded_ack;
            return;
        }
        here.last = Some(offset);
        if is_other || view.epoch.is_none() {
            *view = SessionRoom::join(epoch, offset);
        } else {
            view.cover(offset);
            view.base = view.base.max(offset);
        }
        if !self.facts.lost_data && (is_other || !self.is_gone(name, epoch, low + 1)) {
            let what = format!("{entry}, though what came after {low} is held");
            self.report("a loss is reported only if messages are gone", Some(name), what);
        }
    }

    /// The offset that was acknowledged long enough before the connection, without disturbance, that it must
    /// be recorded.
    fn recorded_acknowledgement(&self, id: u32, token: &str, room: &str) -> u64 {
        let Some(view) = self.sessions[token].rooms.get(room) else { return 0 };
        let greeted = self.connections[&id].greeted.unwrap_or_default();
        let recorded_ack = view.acks.iter().filter(|ack| {
            let connection = &self.connections[&ack.connection];
            let others = self.connections.iter().filter(|(other, _)| ![id, ack.connection].contains(other));
            let mut rivals = others.filter(|(_, other)| {
                other.greeted > connection.greeted && other.greeted <= Some(ack.at + ACK_RECORD_TIME)
            });
            ack.was_sent
                && ack.at + ACK_RECORD_TIME <= greeted
                && rivals.next().is_none()
                && !self.facts.faults.iter().any(|fault| fault.overlaps(connection.node, ack.at, greeted))
        });
        recorded_ack.map(|ack| ack.offset).max().unwrap_or(0)
    }

    pub(super) fn ended(&mut self, id: u32, code: Option<u16>) {
        let now = self.now;
        let connection = self.connections.get_mut(&id).expect("it was opened");
        connection.ended = Some(now);
        for here in connection.rooms.values_mut() {
            let pending = std::mem::take(&mut here.pending);
            here.possible.extend(pending);
        }
        connection.requests.clear();
        let had_stopped_reading =
            self.transcript.entries.iter().any(|e| e.connection == id && e.event == Event::StoppedReading);
        match code {
            None | Some(1000 | 1001 | 1006 | 4503 | 4508 | 4600) => {}
            Some(4504) if had_stopped_reading => {}
            Some(4403) if self.session(id).is_some_and(|session| session.is_ended) => {}
            // Decided at the end, when everything is known.
            Some(4409) => self.taken_over.push((id, now)),
            Some(code) => {
                self.report("no unexpected close codes", None, format!("connection {id} closed {code}"))
            }
        }
    }

    /// Each connection that was closed with 4409 has a successor.
    pub(super) fn check_successors(&mut self) {
        for (id, at) in std::mem::take(&mut self.taken_over) {
            if !self.has_successor(id, at) {
                self.now = at;
                let what = format!("connection {id} closed 4409, though no other one took the session later");
                self.report("4409 only after a takeover", None, what);
            }
        }
    }

    /// Whether another connection of the same session was, or may have been, accepted later. Of two at the
    /// same time, either may be the later one.
    fn has_successor(&self, id: u32, closed: Duration) -> bool {
        let connection = &self.connections[&id];
        let mine = connection.greeted.unwrap_or_default();
        let session = connection.token.as_ref().or(connection.requested_session.as_ref());
        self.connections.iter().filter(|(other, _)| **other != id).any(|(_, other)| {
            let is_there = other.ended.is_none_or(|ended| ended >= mine)
                && other.greeted.is_some_and(|greeted| greeted <= closed);
            let asks = other.token.as_ref().or(other.requested_session.as_ref()) == session;
            asks && is_there && other.connected.is_none_or(|connected| connected >= mine)
        })
    }
}
