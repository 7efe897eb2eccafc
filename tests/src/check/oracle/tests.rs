//! Tests each rule with made-up transcripts: one that keeps the rule, and one that breaks it.

use super::{Facts, judge};
use crate::check::{
    log::{Log, Message},
    transcript::{Entry, Fault, Transcript, What},
};
use serde_json::{Value, json};
use std::time::Duration;

const WITHHELD: &str = "nothing is withheld";
const STRAY: &str = "nothing of a room that was left or refused";
const AGAIN: &str = "nothing acknowledged comes again";
const ORDER: &str = "offsets rise";
const EXCLUDED: &str = "a filter excludes";
const OTHER: &str = "what was published is delivered";
const FALSE_LOSS: &str = "a loss is told only where something is gone";
const SILENT: &str = "a new epoch is told as a loss";
const LEFT: &str = "a room that was left stays left";
const JOINED: &str = "a room that was joined stays";
const FILTER: &str = "the filter that was told rules";
const LIVES: &str = "a session lives as long as it should";
const AWAY: &str = "4409 only when somebody else is let in";
const ERRORS: &str = "errors are in order";
const CLOSES: &str = "closes are in order";

/// The transcript of a client, in steps of 10 ms. The room `r` has messages 1 to 9 in epoch `e`; the message
/// at offset n has a change of n tenths.
struct Story {
    transcript: Transcript,
    facts: Facts,
    at: u64,
    requests: u64,
}

impl Story {
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
            forgot: false,
            shows_filters: true,
        };
        let transcript = Transcript { client: "client".into(), principal: "acme".into(), entries: vec![] };
        Self { transcript, facts, at: 0, requests: 0 }
    }

    /// Connects on connection 1, and joins `r` after offset 3.
    fn joined() -> Self {
        let mut story = Self::new();
        story.fresh(1, "s").subscribe(1, json!({"room": "r"})).told(1, joined(3));
        story
    }

    fn what(&mut self, connection: u32, what: What) -> &mut Self {
        self.at += 10;
        self.transcript.entries.push(Entry { at: Duration::from_millis(self.at), connection, what });
        self
    }

    fn pass(&mut self, millis: u64) -> &mut Self {
        self.at += millis;
        self
    }

    fn sent(&mut self, connection: u32, frame: Value) -> &mut Self {
        self.what(connection, What::Sent(frame))
    }

    fn told(&mut self, connection: u32, mut frame: Value) -> &mut Self {
        if frame.get("results").is_some() || frame["type"] == "error" {
            frame["id"] = self.requests.into();
        }
        self.what(connection, What::Received(frame))
    }

    fn hello(&mut self, connection: u32, session: Option<&str>) -> &mut Self {
        let mut hello = json!({"type": "connect"});
        if let Some(session) = session {
            hello["session"] = session.into();
        }
        self.what(connection, What::Opened(0)).sent(connection, hello)
    }

    fn fresh(&mut self, connection: u32, session: &str) -> &mut Self {
        self.hello(connection, None);
        self.told(connection, json!({"type": "connected", "session": session, "resumed": false, "rooms": []}))
    }

    /// The rooms other than `*` and the inbox.
    fn resume(&mut self, connection: u32, rooms: Value) -> &mut Self {
        self.hello(connection, Some("s")).back(connection, rooms)
    }

    fn back(&mut self, connection: u32, rooms: Value) -> &mut Self {
        let entry = |room: &str| json!({"room": room, "epoch": "e", "offset": 0, "recovered": true});
        let mut all = vec![entry("*"), entry("@acme")];
        all.extend(rooms.as_array().cloned().unwrap_or_default());
        self.told(connection, json!({"type": "connected", "session": "s", "resumed": true, "rooms": all}))
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
            self.told(connection, message);
        }
        self
    }

    fn cut(&mut self, connection: u32) -> &mut Self {
        self.what(connection, What::Cut)
    }

    fn closed(&mut self, connection: u32, code: u16) -> &mut Self {
        self.what(connection, What::Closed(Some(code)))
    }

    /// Checks that exactly these rules were broken.
    #[track_caller]
    fn breaks(&self, rules: &[&str]) {
        let verdict = judge(&self.transcript, &self.facts);
        let broken: Vec<_> = verdict.violations.iter().map(|violation| violation.rule).collect();
        assert_eq!(broken, rules, "{:#?}", verdict.violations);
    }

    fn missing(&self) -> Option<u64> {
        judge(&self.transcript, &self.facts).living[0].rooms["r"].missing
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
    Story::joined().messages(1, 4..=9).breaks(&[]);
    Story::joined().messages(1, [4, 6]).breaks(&[WITHHELD]);
    Story::joined().messages(1, [5]).breaks(&[WITHHELD]);
    Story::joined().messages(1, [4, 5, 5]).breaks(&[ORDER]);
    let mut other = Story::joined();
    other.told(1, json!({"type": "message", "room": "r", "offset": 4, "data": {"n": 77}})).breaks(&[OTHER]);
    assert_eq!(Story::joined().messages(1, 4..=9).missing(), None);
    assert_eq!(Story::joined().messages(1, 4..=7).missing(), Some(8));
}

#[test]
fn a_filter_makes_holes_and_holds() {
    let story = |offsets: &[u64]| {
        let mut story = Story::new();
        story.fresh(1, "s").subscribe(1, json!({"room": "r", "filter": {"minChange": 0.6}}));
        story.told(1, joined(0)).messages(1, offsets.iter().copied());
        story
    };
    story(&[6, 7]).breaks(&[]);
    story(&[6, 8]).breaks(&[WITHHELD]);
    story(&[5, 6]).breaks(&[EXCLUDED]);
    // A changed filter applies from the offset in its answer.
    let changed = |offsets: &[u64]| {
        let mut story = story(&[]);
        story.subscribe(1, json!({"room": "r", "filter": {"minChange": 0.2}})).told(1, joined(3));
        story.messages(1, offsets.iter().copied());
        story
    };
    changed(&[4, 5, 6]).breaks(&[]);
    changed(&[5, 6]).breaks(&[WITHHELD]);
    changed(&[2, 3, 4]).breaks(&[]);
}

#[test]
fn what_was_not_handled_comes_after_a_resume() {
    let story = || {
        let mut story = Story::joined();
        story.messages(1, [4, 5]).cut(1).resume(2, room(9, true));
        story
    };
    story().messages(2, 4..=9).breaks(&[]);
    story().messages(2, 6..=9).breaks(&[]);
    story().messages(2, 7..=9).breaks(&[WITHHELD]);
    assert_eq!(story().missing(), Some(6));
}

#[test]
fn the_connection_that_requested_last_holds_the_session() {
    let story = |pause: u64| {
        let mut story = Story::joined();
        story.hello(2, Some("s")).pass(pause).hello(3, Some("s")).back(3, room(3, true));
        story.subscribe(3, json!({"room": "r", "filter": {"minChange": 0.6}})).told(3, joined(3));
        // It requested earlier, and was accepted and closed since; only the answer was late.
        story.back(2, room(3, true)).pass(1000).cut(3);
        story
    };
    story(500).resume(4, filtered(3, 0.6)).breaks(&[]);
    story(500).resume(4, room(3, true)).breaks(&[FILTER]);
    story(0).resume(4, room(3, true)).breaks(&[]);
}

#[test]
fn who_does_not_read_cannot_say_when_a_connection_ended() {
    let story = |reads: u64| {
        let mut story = Story::joined();
        story.what(1, What::Deaf).pass(4000).what(1, What::Hears).pass(reads).closed(1, 4600);
        story.hello(2, Some("s"));
        story.told(2, json!({"type": "connected", "session": "t", "resumed": false, "rooms": []}));
        story
    };
    story(0).breaks(&[]);
    story(1000).breaks(&[LIVES]);
}

#[test]
fn what_was_acknowledged_in_time_does_not_come_again() {
    let story = |pause: u64| {
        let mut story = Story::joined();
        story.messages(1, [4, 5]).ack(1, 5).pass(pause).cut(1).resume(2, room(9, true));
        story
    };
    story(2000).messages(2, [6, 7]).breaks(&[]);
    story(2000).messages(2, [5, 6]).breaks(&[AGAIN]);
    story(100).messages(2, [5, 6]).breaks(&[]);
    let mut killed = story(2000);
    killed.messages(2, [5, 6]);
    let (from, to) = (Duration::from_millis(1500), Duration::from_millis(1600));
    killed.facts.faults.push(Fault { node: Some(0), from, to });
    killed.breaks(&[]);
}

#[test]
fn nothing_comes_of_a_room_that_was_left_or_refused() {
    Story::joined().unsubscribe(1).messages(1, [4]).told(1, left()).breaks(&[]);
    Story::joined().unsubscribe(1).told(1, left()).messages(1, [4]).breaks(&[STRAY]);
    let mut refused = Story::new();
    refused.fresh(1, "s").subscribe(1, json!({"room": "r"}));
    refused.told(1, rejected("subscribed", "store_unavailable")).breaks(&[]);
    refused.messages(1, [4]).breaks(&[STRAY]);
    let mut early = Story::new();
    early.fresh(1, "s").subscribe(1, json!({"room": "r"})).messages(1, [4]).breaks(&[STRAY]);
    // The old state remains valid.
    let mut stays = Story::joined();
    stays.unsubscribe(1).told(1, rejected("unsubscribed", "store_unavailable")).messages(1, [4, 6]);
    stays.breaks(&[WITHHELD]);
}

#[test]
fn rooms_are_found_again_as_they_were_told() {
    let none = json!([]);
    Story::joined().cut(1).resume(2, none.clone()).breaks(&[JOINED]);
    let mut gone = Story::joined();
    gone.unsubscribe(1).told(1, left()).cut(1).resume(2, room(9, true)).breaks(&[LEFT]);
    // Without an answer, or after `store_unavailable`, both states are possible.
    for rooms in [none.clone(), room(9, true)] {
        Story::joined().unsubscribe(1).cut(1).resume(2, rooms.clone()).breaks(&[]);
        let mut failed = Story::joined();
        failed.unsubscribe(1).told(1, rejected("unsubscribed", "store_unavailable"));
        failed.cut(1).resume(2, rooms).breaks(&[]);
    }
    let error = json!([{"room": "r", "recovered": false, "error": {"code": "store_unavailable"}}]);
    Story::joined().cut(1).resume(2, error).breaks(&[JOINED]);
    // An answer that came after the request of the other connection does not decide for either.
    let mut crossed = Story::joined();
    crossed.unsubscribe(1).hello(2, Some("s")).told(1, left()).back(2, room(3, true)).breaks(&[]);
    let mut told = Story::joined();
    told.unsubscribe(1).told(1, left()).hello(2, Some("s")).back(2, room(3, true)).breaks(&[LEFT]);
}

#[test]
fn the_filter_that_was_told_rules_after_a_resume() {
    let story = |answered: bool| {
        let mut story = Story::joined();
        story.subscribe(1, json!({"room": "r", "filter": {"minChange": 0.6}}));
        if answered {
            story.told(1, joined(3));
        }
        story.cut(1);
        story
    };
    story(true).resume(2, filtered(9, 0.6)).messages(2, 6..=9).breaks(&[]);
    story(true).resume(2, room(9, true)).breaks(&[FILTER]);
    story(true).resume(2, filtered(9, 0.8)).breaks(&[FILTER]);
    story(false).resume(2, filtered(9, 0.6)).breaks(&[]);
    story(false).resume(2, room(9, true)).messages(2, 4..=9).breaks(&[]);
    // If filters are not shown, the messages reveal them.
    let mut hidden = story(true);
    hidden.facts.shows_filters = false;
    hidden.resume(2, room(9, true)).messages(2, 4..=5).breaks(&[EXCLUDED, EXCLUDED]);
}

#[test]
fn a_loss_is_told_where_something_is_gone_and_only_there() {
    Story::joined().cut(1).resume(2, room(9, false)).breaks(&[FALSE_LOSS]);
    let gap = |epoch: &str| json!({"type": "gap", "room": "r", "epoch": epoch, "offset": 7});
    Story::joined().told(1, gap("e")).messages(1, 7..=9).breaks(&[FALSE_LOSS]);
    Story::joined().told(1, gap("f")).breaks(&[FALSE_LOSS]);
    let since = json!({"room": "r", "since": {"epoch": "e", "offset": 2}});
    let mut refused = joined(3);
    refused["results"][0]["recovered"] = false.into();
    Story::new().fresh(1, "s").subscribe(1, since.clone()).told(1, refused).breaks(&[FALSE_LOSS]);
    // Here two messages are stored.
    let mut short = Story::joined();
    short.facts.history = 2;
    short.told(1, gap("e")).messages(1, 7..=9).cut(1).resume(2, room(9, true)).breaks(&[]);
    let mut late = Story::joined();
    late.facts.history = 2;
    late.cut(1).resume(2, room(9, false)).breaks(&[]);
    assert_eq!(late.missing(), None);
    let mut told = joined(3);
    told["results"][0]["recovered"] = true.into();
    let mut replayed = Story::new();
    replayed.fresh(1, "s").subscribe(1, since).told(1, told);
    replayed.messages(1, 3..=9).breaks(&[]);
    assert_eq!(replayed.missing(), None);
}

#[test]
fn a_new_epoch_is_told_as_a_loss() {
    let other = |recovered: bool| json!([{"room": "r", "epoch": "f", "offset": 1, "recovered": recovered}]);
    let story = || {
        let mut story = Story::joined();
        story.facts.forgot = true;
        story.messages(1, [4]).cut(1);
        story
    };
    story().resume(2, other(false)).breaks(&[]);
    story().resume(2, other(true)).breaks(&[SILENT]);
}

#[test]
fn a_session_lives_for_its_time_and_no_shorter() {
    let new = || json!({"type": "connected", "session": "t", "resumed": false, "rooms": []});
    Story::joined().cut(1).pass(3000).hello(2, Some("s")).told(2, new()).breaks(&[]);
    Story::joined().cut(1).pass(1000).hello(2, Some("s")).told(2, new()).breaks(&[LIVES]);
    Story::joined().pass(9000).hello(2, Some("s")).told(2, new()).breaks(&[LIVES]);
    let mut ended = Story::joined();
    ended.what(1, What::Ended).closed(1, 4403).hello(2, Some("s")).told(2, new()).breaks(&[]);
    let mut stopped = Story::joined();
    stopped.facts.faults.push(Fault { node: Some(0), from: Duration::ZERO, to: Duration::from_secs(9) });
    stopped.pass(9000).hello(2, Some("s")).told(2, new()).breaks(&[]);
}

#[test]
fn whoever_is_sent_away_has_a_successor() {
    let mut taken = Story::joined();
    taken.hello(2, Some("s")).closed(1, 4409).back(2, room(3, true)).breaks(&[]);
    Story::joined().closed(1, 4409).breaks(&[AWAY]);
    // A connection that was given up before this one connected must not take the session.
    let mut late = Story::joined();
    late.cut(1).hello(2, Some("s")).closed(2, 4503).resume(3, room(3, true)).closed(3, 4409).breaks(&[AWAY]);
    Story::joined().closed(1, 4409).resume(2, room(3, true)).breaks(&[AWAY]);
    // At the same time, either may be the later one.
    let mut both = Story::joined();
    both.cut(1).hello(2, Some("s")).hello(3, Some("s")).back(2, room(3, true)).back(3, room(3, true));
    both.closed(3, 4409).breaks(&[]);
}

#[test]
fn errors_and_closes_are_those_that_a_failure_explains() {
    let error = |code: &str| json!({"type": "error", "error": {"code": code}});
    Story::joined().subscribe(1, json!("r")).told(1, error("store_unavailable")).breaks(&[]);
    Story::joined().subscribe(1, json!("r")).told(1, error("internal")).breaks(&[ERRORS, ERRORS]);
    Story::joined().unsubscribe(1).told(1, rejected("unsubscribed", "not_subscribed")).breaks(&[ERRORS]);
    Story::joined().closed(1, 4503).breaks(&[]);
    Story::joined().closed(1, 4500).breaks(&[CLOSES]);
    Story::joined().closed(1, 4504).breaks(&[CLOSES]);
    Story::joined().what(1, What::Deaf).closed(1, 4504).breaks(&[]);
    Story::joined().closed(1, 4403).breaks(&[CLOSES]);
}
