//! The rules of requests and answers, which tell a client in which rooms it is.

use super::{
    Oracle,
    room::{Ack, Seat, SessionRoom},
    text,
};
use crate::check::filter::Filter;
use serde_json::Value;

/// Errors that the server may return temporarily, without breaking a rule.
const TEMPORARY_ERRORS: [&str; 3] = ["store_unavailable", "overloaded", "rate_limited"];

/// The rooms in a request, and what it requests for each.
pub fn effects(request: &Value) -> Vec<(String, Seat)> {
    let rooms = request["rooms"].as_array().into_iter().flatten();
    let named = rooms.filter_map(|room| {
        let name = room.as_str().or(room["room"].as_str())?.to_owned();
        Some((name, Filter::read(&room["filter"])))
    });
    match text(request, "type") {
        "subscribe" => named.map(|(name, filter)| (name, Seat::In(filter))).collect(),
        "unsubscribe" => named.map(|(name, _)| (name, Seat::Out)).collect(),
        _ => vec![],
    }
}

impl Oracle<'_> {
    pub(super) fn sent(&mut self, id: u32, request: &Value) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if let Some(number) = request["id"].as_u64() {
            connection.requests.insert(number, request.clone());
        }
        for (room, seat) in effects(request) {
            let here = connection.rooms.entry(room).or_default();
            if here.seats.is_empty() {
                (here.seats, here.possible) = ([Seat::Out].into(), [Seat::Out].into());
            }
            here.pending.push(seat);
        }
        let offsets = request["offsets"].as_object().into_iter().flatten();
        for (room, offset) in offsets.filter_map(|(room, offset)| Some((room, offset.as_u64()?))) {
            let here = connection.rooms.get(room);
            let is_current = here.and_then(|here| here.epoch.clone());
            let was_sent = here.is_some_and(|here| here.last >= Some(offset));
            let session = connection.token.as_ref().and_then(|token| self.sessions.get_mut(token));
            let view = session.and_then(|session| session.rooms.get_mut(room));
            if let Some(view) = view.filter(|view| view.epoch.is_some() && view.epoch == is_current) {
                view.acks.push(Ack { at: now, connection: id, offset, was_sent });
            }
        }
    }

    pub(super) fn answered(&mut self, id: u32, frame: &Value) {
        let code = text(&frame["error"], "code").to_owned();
        if !code.is_empty() && !TEMPORARY_ERRORS.contains(&&*code) {
            self.report("no unexpected errors", None, frame.to_string());
        }
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let request = frame["id"].as_u64().and_then(|number| connection.requests.remove(&number));
        let Some(request) = request else { return };
        for (room, seat) in effects(&request) {
            let pending = &mut connection.rooms.get_mut(&room).expect("requested").pending;
            pending.iter().position(|other| *other == seat).map(|at| pending.remove(at));
        }
        let entries = request["rooms"].as_array().cloned().unwrap_or_default();
        let results = frame["results"].as_array().cloned().unwrap_or_default();
        for (n, (room, seat)) in effects(&request).into_iter().enumerate() {
            let result = results.get(n).unwrap_or(frame);
            match text(result, "status") {
                "subscribed" => self.subscribed(id, &room, seat, &entries[n], result),
                "unsubscribed" => self.update_room(id, &room, |here, at| here.set_seat(at, seat)),
                _ => self.refused(id, &room, seat, result),
            }
        }
    }

    fn update_room(
        &mut self,
        id: u32,
        room: &str,
        change: impl FnOnce(&mut super::ConnectionRoom, std::time::Duration),
    ) {
        let now = self.now;
        let connection = self.connections.get_mut(&id).expect("it sent a request");
        change(connection.rooms.get_mut(room).expect("requested"), now);
    }

    /// The old state remains valid here, but perhaps not in the store.
    fn refused(&mut self, id: u32, room: &str, seat: Seat, result: &Value) {
        let code = text(&result["error"], "code");
        let connection = &self.connections[&id];
        let is_in = connection.rooms[room].is_member();
        match code {
            "not_subscribed" if seat == Seat::Out && !is_in => {}
            _ if TEMPORARY_ERRORS.contains(&code) => {
                self.update_room(id, room, |here, _| here.possible.extend([seat]))
            }
            _ => {
                let rule = "no unexpected errors";
                self.report(
                    rule,
                    Some(room),
                    format!("{result} to a client that is {} the room", if is_in { "in" } else { "outside" }),
                );
            }
        }
    }

    fn subscribed(&mut self, id: u32, room: &str, seat: Seat, entry: &Value, result: &Value) {
        let (now, facts) = (self.now, self.facts);
        let (epoch, offset) = (text(result, "epoch"), result["offset"].as_u64().unwrap_or_default());
        let since = entry["since"]["offset"].as_u64();
        let is_other_epoch = text(&entry["since"], "epoch") != epoch;
        let recovered = result["recovered"] == true;
        let connection = self.connections.get_mut(&id).expect("it sent a request");
        let here = connection.rooms.get_mut(room).expect("requested");
        let token = connection.token.clone().unwrap_or_default();
        let Some(session) = self.sessions.get_mut(&token) else { return };
        let view = session.rooms.entry(room.to_owned()).or_default();
        let goes_on = here.is_member() && view.epoch.as_deref() == Some(epoch);
        let is_new_epoch = view.epoch.as_deref().is_some_and(|before| before != epoch);
        if goes_on {
            let filters = here.seats.iter().filter_map(|seat| match seat {
                Seat::In(filter) => Some((offset, *filter)),
                Seat::Out => None,
            });
            view.earlier.extend(filters);
        } else {
            *view = SessionRoom::join(epoch, offset);
            here.last = None;
        }
        here.epoch = Some(epoch.to_owned());
        here.set_seat(now, seat);
        if let Some(since) = since {
            let start = if recovered { since } else { offset };
            here.last = Some(start);
            here.recorded_ack = 0;
            view.base = view.base.min(start);
            if goes_on {
                view.cover(start);
            } else {
                view.covered = Some(start);
            }
        }
        if (is_new_epoch || (since.is_some() && is_other_epoch)) && !facts.lost_data {
            let what = format!("{result} names another epoch, though Redis lost nothing");
            self.report("a loss is reported only if messages are gone", Some(room), what);
        } else if let Some(since) = since
            && !recovered
            && !self.is_gone(room, epoch, since + 1)
        {
            let what = format!("{result}, though what came after {since} is held");
            self.report("a loss is reported only if messages are gone", Some(room), what);
        }
        if recovered && is_other_epoch {
            self.report("a new epoch is reported as a loss", Some(room), result.to_string());
        }
    }
}
