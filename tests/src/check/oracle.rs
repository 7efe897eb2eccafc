//! Decides from the transcript of a client whether the protocol was kept. It knows docs/protocol.md, and
//! nothing about nodes.

mod delivery;
mod request;
mod room;
mod session;
#[cfg(test)]
mod tests;

pub use room::Seat;

use super::{
    log::Log,
    transcript::{Event, Fault, Transcript},
};
use room::{ConnectionRoom, SessionRoom};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

/// What is known in addition to the transcript.
pub struct Facts {
    pub log: Log,
    pub faults: Vec<Fault>,
    /// How long a session can be resumed after its connection has ended.
    pub ttl: Duration,
    /// The maximum number of messages in a room's history.
    pub history: u64,
    /// Redis has lost data.
    pub lost_data: bool,
    /// `connected.rooms` shows filters.
    pub shows_filters: bool,
}

/// A node that is silent for this long may be considered dead.
pub const LEASE: Duration = Duration::from_secs(8);
/// How long it may take to record an acknowledgement, if nothing is disturbed.
const ACK_RECORD_TIME: Duration = Duration::from_millis(1100);
/// The tolerance for clocks and for a busy machine.
const TIME_TOLERANCE: Duration = Duration::from_millis(400);

#[derive(Clone, Debug, PartialEq)]
pub struct Violation {
    /// The name of the broken rule.
    pub rule: &'static str,
    pub client: String,
    pub room: Option<String>,
    pub at: Duration,
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let at = self.at.as_secs_f64();
        write!(f, "{}: {}", self.rule, self.client)?;
        if let Some(room) = &self.room {
            write!(f, ", room {room}")?;
        }
        write!(f, ", at {at:.3}: {}", self.text)
    }
}

/// The verdict on a client: the violations, and its expected state at the end.
#[derive(Clone, Debug, PartialEq)]
pub struct LiveConnection {
    pub token: String,
    pub connection: String,
    pub node: usize,
    pub rooms: BTreeMap<String, Member>,
    /// The unanswered requests.
    pub waiting: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    pub seats: BTreeSet<Seat>,
    pub epoch: Option<String>,
    /// Everything up to here was delivered or reported as lost.
    pub covered: u64,
    /// The first message that should have been delivered and was not.
    pub missing: Option<u64>,
    pub acknowledged: u64,
}

pub struct Verdict {
    pub violations: Vec<Violation>,
    /// The open and accepted connections.
    pub live: Vec<LiveConnection>,
}

/// One connection of the client.
#[derive(Default)]
struct Connection {
    node: usize,
    /// The session token that it sent.
    requested_session: Option<String>,
    token: Option<String>,
    /// Its id in the admin API.
    name: String,
    opened: Duration,
    greeted: Option<Duration>,
    connected: Option<Duration>,
    ended: Option<Duration>,
    /// When it last stopped reading, and when it continued.
    not_reading: Option<(Duration, Option<Duration>)>,
    requests: BTreeMap<u64, Value>,
    rooms: BTreeMap<String, ConnectionRoom>,
}

impl Connection {
    /// The earliest time at which it may have ended. What a client finds when it reads again may have
    /// happened at any time before.
    fn earliest_end(&self) -> Option<Duration> {
        let ended = self.ended?;
        let not_reading = self
            .not_reading
            .filter(|(_, resumed)| resumed.is_none_or(|resumed| ended <= resumed + TIME_TOLERANCE));
        Some(not_reading.map_or(ended, |(since, _)| since))
    }
}

#[derive(Default)]
struct Session {
    connections: Vec<u32>,
    rooms: BTreeMap<String, SessionRoom>,
    is_ended: bool,
}

pub struct Oracle<'a> {
    facts: &'a Facts,
    transcript: &'a Transcript,
    connections: BTreeMap<u32, Connection>,
    sessions: BTreeMap<String, Session>,
    violations: Vec<Violation>,
    /// The connections that were closed with 4409, and when.
    taken_over: Vec<(u32, Duration)>,
    now: Duration,
}

pub fn check_transcript(transcript: &Transcript, facts: &Facts) -> Verdict {
    let mut oracle = Oracle {
        facts,
        transcript,
        connections: BTreeMap::new(),
        sessions: BTreeMap::new(),
        violations: vec![],
        taken_over: vec![],
        now: Duration::ZERO,
    };
    for entry in &transcript.entries {
        oracle.now = entry.at;
        oracle.take(entry.connection, &entry.event);
    }
    oracle.check_successors();
    let live = oracle.live();
    Verdict { violations: oracle.violations, live }
}

impl Oracle<'_> {
    fn take(&mut self, id: u32, event: &Event) {
        let now = self.now;
        let connection = self.connections.entry(id).or_default();
        match event {
            Event::Opened(node) => (connection.node, connection.opened) = (*node, now),
            Event::Sent(frame) if frame["type"] == "connect" => {
                connection.greeted = Some(now);
                connection.requested_session = frame["session"].as_str().map(str::to_owned);
            }
            Event::Sent(frame) => self.sent(id, frame),
            Event::Received(frame) => match frame["type"].as_str().unwrap_or_default() {
                "connected" => self.connected(id, frame),
                "message" => self.message(id, frame),
                "gap" => self.gap(id, frame),
                _ => self.answered(id, frame),
            },
            Event::Closed(code) => self.ended(id, *code),
            Event::Cut => self.ended(id, None),
            Event::StoppedReading => connection.not_reading = Some((now, None)),
            Event::ResumedReading => {
                connection.not_reading = connection.not_reading.map(|(since, _)| (since, Some(now)))
            }
            Event::Ended => self.session(id).into_iter().for_each(|session| session.is_ended = true),
        }
    }

    fn session(&mut self, id: u32) -> Option<&mut Session> {
        let token = self.connections.get(&id)?.token.clone()?;
        self.sessions.get_mut(&token)
    }

    fn report(&mut self, rule: &'static str, room: Option<&str>, text: String) {
        let room = room.map(str::to_owned);
        let client = self.transcript.client.clone();
        self.violations.push(Violation { rule, client, room, at: self.now, text });
    }

    /// The open connections, with their rooms.
    fn live(&self) -> Vec<LiveConnection> {
        let open = self.connections.values().filter(|one| one.connected.is_some() && one.ended.is_none());
        let live = open.filter_map(|connection| {
            let token = connection.token.clone()?;
            let session = self.sessions.get(&token)?;
            let member = |(name, here): (&String, &ConnectionRoom)| {
                let view = session.rooms.get(name)?;
                let is_in = here.seats.iter().any(|seat| matches!(seat, Seat::In(_)));
                is_in.then(|| (name.clone(), self.member(name, here, view)))
            };
            Some(LiveConnection {
                rooms: connection.rooms.iter().filter_map(member).collect(),
                token,
                connection: connection.name.clone(),
                node: connection.node,
                waiting: connection.requests.len(),
            })
        });
        live.collect()
    }

    fn member(&self, name: &str, here: &ConnectionRoom, view: &SessionRoom) -> Member {
        let epoch = view.epoch.clone();
        let covered = view.covered.unwrap_or(0);
        let missing = epoch.as_deref().filter(|_| view.covered.is_some()).and_then(|epoch| {
            let from = here.last.unwrap_or(0).max(covered);
            let later = self.facts.log.between(name, epoch, from, u64::MAX);
            later
                .into_iter()
                .find(|(offset, message)| view.must_deliver(here, *offset, message.change))
                .map(|m| m.0)
        });
        let acknowledged = view.acks.iter().map(|ack| ack.offset).max().unwrap_or(0);
        Member { seats: here.seats.clone(), epoch, covered, missing, acknowledged }
    }
}

fn text<'a>(frame: &'a Value, name: &str) -> &'a str {
    frame[name].as_str().unwrap_or_default()
}
