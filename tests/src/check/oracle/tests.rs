//! Tests each rule with made-up transcripts: one that keeps the rule, and one that breaks it.

use super::{Facts, check_transcript};
use crate::check::{
    log::{Log, Message},
    transcript::{Entry, Event, Fault, Transcript},
};
use serde_json::{Value, json};
use std::time::Duration;

const SKIPPED: &str = "no message is skipped";
const NOT_A_MEMBER: &str = "no messages from rooms that were left or refused";
const REPEATED: &str = "no acknowledged message is repeated";
const OUT_OF_ORDER: &str = "offsets increase";
const FILTERED: &str = "filters are applied";
const ALTERED: &str = "messages arrive as published";
const FALSE_LOSS: &str = "a loss is reported only if messages are gone";
const UNREPORTED_EPOCH: &str = "a new epoch is reported as a loss";
const LEFT: &str = "a room that was left stays left";
const NOT_RESTORED: &str = "a room that was joined stays joined";
const WRONG_FILTER: &str = "the reported filter applies";
const TOO_SHORT: &str = "a session lives until its TTL";
const NO_TAKEOVER: &str = "4409 only after a takeover";
const UNEXPECTED_ERROR: &str = "no unexpected errors";
const UNEXPECTED_CLOSE: &str = "no unexpected close codes";

/// The transcript of a client, in steps of 10 ms. The room `r` has messages 1 to 9 in epoch `e`; the message
/// at offset n has a change of n tenths.
struct Scenario {
    transcript: Transcript,
    facts: Facts,
    at: u64,
    requests: u64,
}

impl Scenario {
    fn new() -> Self {
        let mut log = Log::default();
        for offset in 1..=9 {
            let message = Message { number: offset, change: offset as u8, requested: Duration::ZERO };
            log.add("r", "e", offset, message);
        }
        let facts = Facts {
            log,
            faults: vec![],
            ttl: Duration::from_secs(3),
            history: 100,
            lost_data: false,
            shows_filters: true,
        };
        let transcript = Transcript { client: "client".into(), principal: "acme".into(), entries: vec![] };
        Self { transcript, facts, at: 0, requests: 0 }
    }

    /// Connects on connection 1, and joins `r` after offset 3.
    fn joined() -> Self {
        let mut scenario = Self::new();
        scenario.fresh(1, "s").subscribe(1, json!({"room": "r"})).receive(1, joined(3));
        scenario
    }

    fn event(&mut self, connection: u32, event: Event) -> &mut Self {
        self.at += 10;
        self.transcript.entries.push(Entry { at: Duration::from_millis(self.at), connection, event });
        self
    }

    fn pass(&mut self, millis: u64) -> &mut Self {
        self.at += millis;
        self
    }

    fn sent(&mut self, connection: u32, frame: Value) -> &mut Self {
        self.event(connection, Event::Sent(frame))
    }

    fn receive(&mut self, connection: u32, mut frame: Value) -> &mut Self {
        if frame.get("results").is_some() || frame["type"] == "error" {
            frame["id"] = self.requests.into();
        }
        self.event(connection, Event::Received(frame))
    }

    fn connect(&mut self, connection: u32, session: Option<&str>) -> &mut Self {
        let mut connect = json!({"type": "connect"});
        if let Some(session) = session {
            connect["session"] = session.into();
        }
        self.event(connection, Event::Opened(0)).sent(connection, connect)
    }

    fn fresh(&mut self, connection: u32, session: &str) -> &mut Self {
        self.connect(connection, None);
        self.receive(
            connection,
            json!({"type": "connected", "session": session, "resumed": false, "rooms": []}),
        )
    }

    /// The rooms other than `*` and the inbox.
    fn resume(&mut self, connection: u32, rooms: Value) -> &mut Self {
        self.connect(connection, Some("s")).resumed(connection, rooms)
    }

    fn resumed(&mut self, connection: u32, rooms: Value) -> &mut Self {
        let entry = |room: &str| json!({"room": room, "epoch": "e", "offset": 0, "recovered": true});
        let mut all = vec![entry("*"), entry("@acme")];
        all.extend(rooms.as_array().cloned().unwrap_or_default());
        self.receive(connection, json!({"type": "connected", "session": "s", "resumed": true, "rooms": all}))
    }

    fn subscribe(&mut self, connection: u32, entry: Value) -> &mut Self {
        self.requests += 1;
        let id = self.requests;
        self.sent(connection, json!({"type": "subscribe", "id": id, "rooms": [entry]}))
    }

    fn unsubscribe(&mut self, connection: u32) -> &mut Self {
        self.requests += 1;
        let id = self.requests;
        self.sent(connection, json!({"type": "unsubscribe", "id": id, "rooms": ["r"]}))
    }

    fn ack(&mut self, connection: u32, offset: u64) -> &mut Self {
        self.sent(connection, json!({"type": "ack", "offsets": {"r": offset}}))
    }

    fn messages(&mut self, connection: u32, offsets: impl IntoIterator<Item = u64>) -> &mut Self {
        for offset in offsets {
            let message = json!({"type": "message", "room": "r", "offset": offset, "data": {"n": offset}});
            self.receive(connection, message);
        }
        self
    }

    fn cut(&mut self, connection: u32) -> &mut Self {
        self.event(connection, Event::Cut)
    }

    fn closed(&mut self, connection: u32, code: u16) -> &mut Self {
        self.event(connection, Event::Closed(Some(code)))
    }

    /// Checks that exactly these rules were broken.
    #[track_caller]
    fn breaks(&self, rules: &[&str]) {
        let verdict = check_transcript(&self.transcript, &self.facts);
        let broken: Vec<_> = verdict.violations.iter().map(|violation| violation.rule).collect();
        assert_eq!(broken, rules, "{:#?}", verdict.violations);
    }

    fn missing(&self) -> Option<u64> {
        check_transcript(&self.transcript, &self.facts).live[0].rooms["r"].missing
    }
}

fn joined(offset: u64) -> Value {
    let result = json!({"room": "r", "status": "subscribed", "epoch": "e", "offset": offset});
    json!({"type": "subscribed", "results": [result]})
}

fn rejected(kind: &str, code: &str) -> Value {
    let result = json!({"room": "r", "status": "rejected", "error": {"code": code}});
    json!({"type": kind, "results": [result]})
}

fn left() -> Value {
    json!({"type": "unsubscribed", "results": [{"room": "r", "status": "unsubscribed"}]})
}

/// An entry of `connected.rooms`.
fn room(offset: u64, recovered: bool) -> Value {
    json!([{"room": "r", "epoch": "e", "offset": offset, "recovered": recovered}])
}

fn filtered(offset: u64, least: f64) -> Value {
    json!([{"room": "r", "epoch": "e", "offset": offset, "recovered": true, "filter": {"minChange": least}}])
}

#[test]
fn messages_come_in_order_and_without_holes() {
    Scenario::joined().messages(1, 4..=9).breaks(&[]);
    Scenario::joined().messages(1, [4, 6]).breaks(&[SKIPPED]);
    Scenario::joined().messages(1, [5]).breaks(&[SKIPPED]);
    Scenario::joined().messages(1, [4, 5, 5]).breaks(&[OUT_OF_ORDER]);
    let mut other = Scenario::joined();
    other
        .receive(1, json!({"type": "message", "room": "r", "offset": 4, "data": {"n": 77}}))
        .breaks(&[ALTERED]);
    assert_eq!(Scenario::joined().messages(1, 4..=9).missing(), None);
    assert_eq!(Scenario::joined().messages(1, 4..=7).missing(), Some(8));
}

#[test]
fn a_filter_makes_holes_and_holds() {
    let scenario = |offsets: &[u64]| {
        let mut scenario = Scenario::new();
        scenario.fresh(1, "s").subscribe(1, json!({"room": "r", "filter": {"minChange": 0.6}}));
        scenario.receive(1, joined(0)).messages(1, offsets.iter().copied());
        scenario
    };
    scenario(&[6, 7]).breaks(&[]);
    scenario(&[6, 8]).breaks(&[SKIPPED]);
    scenario(&[5, 6]).breaks(&[FILTERED]);
    // A changed filter applies from the offset in its answer.
    let changed = |offsets: &[u64]| {
        let mut scenario = scenario(&[]);
        scenario.subscribe(1, json!({"room": "r", "filter": {"minChange": 0.2}})).receive(1, joined(3));
        scenario.messages(1, offsets.iter().copied());
        scenario
    };
    changed(&[4, 5, 6]).breaks(&[]);
    changed(&[5, 6]).breaks(&[SKIPPED]);
    changed(&[2, 3, 4]).breaks(&[]);
}

#[test]
fn what_was_not_handled_comes_after_a_resume() {
    let scenario = || {
        let mut scenario = Scenario::joined();
        scenario.messages(1, [4, 5]).cut(1).resume(2, room(9, true));
        scenario
    };
    scenario().messages(2, 4..=9).breaks(&[]);
    scenario().messages(2, 6..=9).breaks(&[]);
    scenario().messages(2, 7..=9).breaks(&[SKIPPED]);
    assert_eq!(scenario().missing(), Some(6));
}

#[test]
fn the_connection_that_requested_last_holds_the_session() {
    let scenario = |pause: u64| {
        let mut scenario = Scenario::joined();
        scenario.connect(2, Some("s")).pass(pause).connect(3, Some("s")).resumed(3, room(3, true));
        scenario.subscribe(3, json!({"room": "r", "filter": {"minChange": 0.6}})).receive(3, joined(3));
        // It requested earlier, and was accepted and closed since; only the answer was late.
        scenario.resumed(2, room(3, true)).pass(1000).cut(3);
        scenario
    };
    scenario(500).resume(4, filtered(3, 0.6)).breaks(&[]);
    scenario(500).resume(4, room(3, true)).breaks(&[WRONG_FILTER]);
    scenario(0).resume(4, room(3, true)).breaks(&[]);
}

#[test]
fn who_does_not_read_cannot_say_when_a_connection_ended() {
    let scenario = |reads: u64| {
        let mut scenario = Scenario::joined();
        scenario
            .event(1, Event::StoppedReading)
            .pass(4000)
            .event(1, Event::ResumedReading)
            .pass(reads)
            .closed(1, 4600);
        scenario.connect(2, Some("s"));
        scenario.receive(2, json!({"type": "connected", "session": "t", "resumed": false, "rooms": []}));
        scenario
    };
    scenario(0).breaks(&[]);
    scenario(1000).breaks(&[TOO_SHORT]);
}

#[test]
fn what_was_acknowledged_in_time_does_not_come_again() {
    let scenario = |pause: u64| {
        let mut scenario = Scenario::joined();
        scenario.messages(1, [4, 5]).ack(1, 5).pass(pause).cut(1).resume(2, room(9, true));
        scenario
    };
    scenario(2000).messages(2, [6, 7]).breaks(&[]);
    scenario(2000).messages(2, [5, 6]).breaks(&[REPEATED]);
    scenario(100).messages(2, [5, 6]).breaks(&[]);
    let mut killed = scenario(2000);
    killed.messages(2, [5, 6]);
    let (from, to) = (Duration::from_millis(1500), Duration::from_millis(1600));
    killed.facts.faults.push(Fault { node: Some(0), from, to });
    killed.breaks(&[]);
}

#[test]
fn nothing_comes_of_a_room_that_was_left_or_refused() {
    Scenario::joined().unsubscribe(1).messages(1, [4]).receive(1, left()).breaks(&[]);
    Scenario::joined().unsubscribe(1).receive(1, left()).messages(1, [4]).breaks(&[NOT_A_MEMBER]);
    let mut refused = Scenario::new();
    refused.fresh(1, "s").subscribe(1, json!({"room": "r"}));
    refused.receive(1, rejected("subscribed", "store_unavailable")).breaks(&[]);
    refused.messages(1, [4]).breaks(&[NOT_A_MEMBER]);
    let mut early = Scenario::new();
    early.fresh(1, "s").subscribe(1, json!({"room": "r"})).messages(1, [4]).breaks(&[NOT_A_MEMBER]);
    // The old state remains valid.
    let mut stays = Scenario::joined();
    stays.unsubscribe(1).receive(1, rejected("unsubscribed", "store_unavailable")).messages(1, [4, 6]);
    stays.breaks(&[SKIPPED]);
}

#[test]
fn rooms_are_found_again_as_they_were_told() {
    let none = json!([]);
    Scenario::joined().cut(1).resume(2, none.clone()).breaks(&[NOT_RESTORED]);
    let mut gone = Scenario::joined();
    gone.unsubscribe(1).receive(1, left()).cut(1).resume(2, room(9, true)).breaks(&[LEFT]);
    // Without an answer, or after `store_unavailable`, both states are possible.
    for rooms in [none.clone(), room(9, true)] {
        Scenario::joined().unsubscribe(1).cut(1).resume(2, rooms.clone()).breaks(&[]);
        let mut failed = Scenario::joined();
        failed.unsubscribe(1).receive(1, rejected("unsubscribed", "store_unavailable"));
        failed.cut(1).resume(2, rooms).breaks(&[]);
    }
    let error = json!([{"room": "r", "recovered": false, "error": {"code": "store_unavailable"}}]);
    Scenario::joined().cut(1).resume(2, error).breaks(&[NOT_RESTORED]);
    // An answer that came after the request of the other connection does not decide for either.
    let mut crossed = Scenario::joined();
    crossed.unsubscribe(1).connect(2, Some("s")).receive(1, left()).resumed(2, room(3, true)).breaks(&[]);
    let mut left_for_good = Scenario::joined();
    left_for_good
        .unsubscribe(1)
        .receive(1, left())
        .connect(2, Some("s"))
        .resumed(2, room(3, true))
        .breaks(&[LEFT]);
}

#[test]
fn the_filter_that_was_told_rules_after_a_resume() {
    let scenario = |answered: bool| {
        let mut scenario = Scenario::joined();
        scenario.subscribe(1, json!({"room": "r", "filter": {"minChange": 0.6}}));
        if answered {
            scenario.receive(1, joined(3));
        }
        scenario.cut(1);
        scenario
    };
    scenario(true).resume(2, filtered(9, 0.6)).messages(2, 6..=9).breaks(&[]);
    scenario(true).resume(2, room(9, true)).breaks(&[WRONG_FILTER]);
    scenario(true).resume(2, filtered(9, 0.8)).breaks(&[WRONG_FILTER]);
    scenario(false).resume(2, filtered(9, 0.6)).breaks(&[]);
    scenario(false).resume(2, room(9, true)).messages(2, 4..=9).breaks(&[]);
    // If filters are not shown, the messages reveal them.
    let mut hidden = scenario(true);
    hidden.facts.shows_filters = false;
    hidden.resume(2, room(9, true)).messages(2, 4..=5).breaks(&[FILTERED, FILTERED]);
}

#[test]
fn a_loss_is_told_where_something_is_gone_and_only_there() {
    Scenario::joined().cut(1).resume(2, room(9, false)).breaks(&[FALSE_LOSS]);
    let gap = |epoch: &str| json!({"type": "gap", "room": "r", "epoch": epoch, "offset": 7});
    Scenario::joined().receive(1, gap("e")).messages(1, 7..=9).breaks(&[FALSE_LOSS]);
    Scenario::joined().receive(1, gap("f")).breaks(&[FALSE_LOSS]);
    let since = json!({"room": "r", "since": {"epoch": "e", "offset": 2}});
    let mut refused = joined(3);
    refused["results"][0]["recovered"] = false.into();
    Scenario::new().fresh(1, "s").subscribe(1, since.clone()).receive(1, refused).breaks(&[FALSE_LOSS]);
    // Here two messages are stored.
    let mut short = Scenario::joined();
    short.facts.history = 2;
    short.receive(1, gap("e")).messages(1, 7..=9).cut(1).resume(2, room(9, true)).breaks(&[]);
    let mut late = Scenario::joined();
    late.facts.history = 2;
    late.cut(1).resume(2, room(9, false)).breaks(&[]);
    assert_eq!(late.missing(), None);
    let mut answer = joined(3);
    answer["results"][0]["recovered"] = true.into();
    let mut replayed = Scenario::new();
    replayed.fresh(1, "s").subscribe(1, since).receive(1, answer);
    replayed.messages(1, 3..=9).breaks(&[]);
    assert_eq!(replayed.missing(), None);
}

#[test]
fn a_new_epoch_is_told_as_a_loss() {
    let other = |recovered: bool| json!([{"room": "r", "epoch": "f", "offset": 1, "recovered": recovered}]);
    let scenario = || {
        let mut scenario = Scenario::joined();
        scenario.facts.lost_data = true;
        scenario.messages(1, [4]).cut(1);
        scenario
    };
    scenario().resume(2, other(false)).breaks(&[]);
    scenario().resume(2, other(true)).breaks(&[UNREPORTED_EPOCH]);
}

#[test]
fn a_session_lives_for_its_time_and_no_shorter() {
    let new = || json!({"type": "connected", "session": "t", "resumed": false, "rooms": []});
    Scenario::joined().cut(1).pass(3000).connect(2, Some("s")).receive(2, new()).breaks(&[]);
    Scenario::joined().cut(1).pass(1000).connect(2, Some("s")).receive(2, new()).breaks(&[TOO_SHORT]);
    Scenario::joined().pass(9000).connect(2, Some("s")).receive(2, new()).breaks(&[TOO_SHORT]);
    let mut ended = Scenario::joined();
    ended.event(1, Event::Ended).closed(1, 4403).connect(2, Some("s")).receive(2, new()).breaks(&[]);
    let mut stopped = Scenario::joined();
    stopped.facts.faults.push(Fault { node: Some(0), from: Duration::ZERO, to: Duration::from_secs(9) });
    stopped.pass(9000).connect(2, Some("s")).receive(2, new()).breaks(&[]);
}

#[test]
fn whoever_is_sent_away_has_a_successor() {
    let mut taken = Scenario::joined();
    taken.connect(2, Some("s")).closed(1, 4409).resumed(2, room(3, true)).breaks(&[]);
    Scenario::joined().closed(1, 4409).breaks(&[NO_TAKEOVER]);
    // A connection that was given up before this one connected must not take the session.
    let mut late = Scenario::joined();
    late.cut(1)
        .connect(2, Some("s"))
        .closed(2, 4503)
        .resume(3, room(3, true))
        .closed(3, 4409)
        .breaks(&[NO_TAKEOVER]);
    Scenario::joined().closed(1, 4409).resume(2, room(3, true)).breaks(&[NO_TAKEOVER]);
    // At the same time, either may be the later one.
    let mut both = Scenario::joined();
    both.cut(1)
        .connect(2, Some("s"))
        .connect(3, Some("s"))
        .resumed(2, room(3, true))
        .resumed(3, room(3, true));
    both.closed(3, 4409).breaks(&[]);
}

#[test]
fn errors_and_closes_are_those_that_a_failure_explains() {
    let error = |code: &str| json!({"type": "error", "error": {"code": code}});
    Scenario::joined().subscribe(1, json!("r")).receive(1, error("store_unavailable")).breaks(&[]);
    Scenario::joined()
        .subscribe(1, json!("r"))
        .receive(1, error("internal"))
        .breaks(&[UNEXPECTED_ERROR, UNEXPECTED_ERROR]);
    Scenario::joined()
        .unsubscribe(1)
        .receive(1, rejected("unsubscribed", "not_subscribed"))
        .breaks(&[UNEXPECTED_ERROR]);
    Scenario::joined().closed(1, 4503).breaks(&[]);
    Scenario::joined().closed(1, 4500).breaks(&[UNEXPECTED_CLOSE]);
    Scenario::joined().closed(1, 4504).breaks(&[UNEXPECTED_CLOSE]);
    Scenario::joined().event(1, Event::StoppedReading).closed(1, 4504).breaks(&[]);
    Scenario::joined().closed(1, 4403).breaks(&[UNEXPECTED_CLOSE]);
}
