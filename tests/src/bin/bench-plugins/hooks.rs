//! The cost of a call to each hook of a plugin, compared with the same request to an HTTP server on the same
//! machine.

use crate::decider::Decider;
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use switchyard_plugin::{
    Budget, ConnectRequest, Counts, Engine, FilterId, Governor, OnFailure, Plugin, Principal, PublishRequest,
    Verdict,
};
use switchyard_tests::{
    guest,
    report::{Section, figure, median, rounded},
};

const ROUNDS: usize = 5;
const WINDOW: Duration = Duration::from_millis(150);
const FILTERS: usize = 64;
const ROOM: &str = "governed:eth-usd";
/// As long as a typical message of a feed.
const DATA: &str = r#"{"n":4711,"market":"ETH-USD","side":"BUY","price":"3150.25","size":"0.75","id":"8f14e45f-ceea-467f-a8b5-91c0c7e2ba7c","at":"2026-01-01T12:00:00.000Z","maker":"dydx1qqqq","taker":"dydx1pppp"}"#;

/// A hook, called in both ways.
struct Way {
    name: &'static str,
    /// Microseconds per call, by round.
    plugin: Vec<f64>,
    http: Vec<f64>,
}

pub fn measure() -> Section {
    let mut bench = Bench::start();
    let wrong = bench.differs();
    let names = ["connect", "room", "subscribe", "publish", "deliver, 1 filter", "deliver, 64 filters"];
    let mut ways = names.map(|name| Way { name, plugin: vec![], http: vec![] });
    for _ in 0..ROUNDS {
        for (n, way) in ways.iter_mut().enumerate() {
            way.plugin.push(each(|| bench.plugin(n)));
            way.http.push(each(|| bench.http(n)));
        }
    }
    section(&ways, wrong)
}

/// Calls it repeatedly, and returns the microseconds per call.
pub fn each(mut ask: impl FnMut()) -> f64 {
    const BATCH: u32 = 16;
    let (began, mut count) = (Instant::now(), 0);
    while began.elapsed() < WINDOW {
        (0..BATCH).for_each(|_| ask());
        count += BATCH;
    }
    began.elapsed().as_secs_f64() * 1e6 / f64::from(count)
}

struct Bench {
    governor: Governor,
    from: ConnectRequest,
    ids: Vec<FilterId>,
    bits: Vec<u64>,
    decider: Decider,
    questions: [(&'static str, Value); 6],
}

impl Bench {
    fn start() -> Self {
        let engine = Engine::new().expect("a machine that runs plugins");
        let file = std::fs::read(guest("stamp")).expect("a guest");
        let plugin = Plugin::load(&engine, "stamp", &file, &Value::Null, Budget::default());
        let mut governor =
            Governor::new(Arc::new(plugin.unwrap_or_else(|error| panic!("{error}"))), OnFailure::Deny);
        let principal = Principal::new("acme", "0123456789abcdef", "default");
        let from = ConnectRequest::new(principal, "127.0.0.1:50000");
        let join = |n| {
            let filter = format!(r#"{{"g":{n}}}"#);
            governor.authorize(&from.principal, ROOM, Some(&filter), Counts::default())
        };
        let grants: Vec<_> = (0..FILTERS).map(join).collect();
        let ids = grants.into_iter().map(|grant| grant.expect("a good filter").filter.expect("a filter"));
        let ids = ids.collect();
        let data: Value = serde_json::from_str(DATA).expect("JSON");
        let filters: Vec<Value> = (0..FILTERS).map(|n| json!({"g": n})).collect();
        let questions = [
            ("connect", json!({"principal": "acme", "tier": "default", "remote": from.remote})),
            ("room", json!({"room": ROOM})),
            (
                "subscribe",
                json!({"principal": "acme", "tier": "default", "room": ROOM, "filter": {"g": 7}, "counts": [1, 1, 1]}),
            ),
            ("publish", json!({"principal": "acme", "room": ROOM, "event": "trade", "data": data})),
            ("deliver", json!({"room": ROOM, "event": "trade", "data": data, "filters": filters[..1]})),
            ("deliver", json!({"room": ROOM, "event": "trade", "data": data, "filters": filters})),
        ];
        Self { governor, from, ids, bits: vec![], decider: Decider::start(), questions }
    }

    fn plugin(&mut self, hook: usize) {
        let data = DATA.as_bytes();
        match hook {
            0 => drop(self.governor.connect(&self.from).expect("an answer")),
            1 => drop(self.governor.validate("acme", ROOM).expect("an answer")),
            2 => {
                let (who, filter) = (&self.from.principal, Some(r#"{ "g": 7 }"#));
                let grant = self.governor.authorize(who, ROOM, filter, Counts::default());
                // A second instance holds the filter too, so that it is compiled only once.
                self.governor.release(grant.expect("an answer").filter.expect("a filter"), &who.id);
            }
            3 => {
                let request = PublishRequest::new(&self.from.principal, ROOM, "trade", data);
                let verdict = self.governor.check(&request);
                assert_eq!(verdict, Ok(Verdict::Pass));
            }
            _ => {
                let ids = if hook == 4 { &self.ids[..1] } else { &self.ids[..] };
                let result = self.governor.matches(ROOM, "trade", data, ids, &mut self.bits);
                result.expect("an answer");
            }
        }
    }

    fn http(&mut self, hook: usize) {
        let (name, question) = &self.questions[hook];
        let answer: Value = serde_json::from_slice(self.decider.ask(name, question)).expect("JSON");
        assert!(!answer.is_null());
    }

    /// The number of filters on which the two disagree.
    fn differs(&mut self) -> u64 {
        self.plugin(5);
        let (name, question) = &self.questions[5];
        let answer: Value = serde_json::from_slice(self.decider.ask(name, question)).expect("JSON");
        (0..FILTERS).filter(|n| answer[n] != (self.bits[0] >> n & 1 == 1)).count() as u64
    }
}

fn section(ways: &[Way], wrong: u64) -> Section {
    let of = |way: &Way| (median(way.plugin.clone()), median(way.http.clone()));
    let ratios = |way: &Way| -> Vec<f64> {
        way.http.iter().zip(&way.plugin).map(|(http, plugin)| http / plugin).collect()
    };
    let row = |way: &Way| {
        let ((plugin, http), ratios) = (of(way), ratios(way));
        let (least, most) = ratios
            .iter()
            .fold((f64::MAX, 0.0), |(least, most): (f64, f64), one| (least.min(*one), most.max(*one)));
        let range = format!("{least:.0} to {most:.0}");
        vec![way.name.to_owned(), figure(plugin), figure(http), figure(median(ratios)), range]
    };
    let figures = |way: &Way| {
        let (plugin, http) = of(way);
        let ratios: Vec<f64> = ratios(way).into_iter().map(rounded).collect();
        json!({
            "hook": way.name, "plugin_us": rounded(plugin), "http_us": rounded(http),
            "ratio": median(ratios.clone()), "ratio_of_rounds": ratios,
        })
    };
    Section {
        name: "hooks",
        title: "What one call costs",
        how: format!(
            "The same decision made by the plugin, called as a shard calls it, and by an HTTP server (axum, a \
             thread of this process) over one connection that is kept open, with JSON both ways, one round trip \
             at a time. Medians of {ROUNDS} rounds of {} ms each, in turn; a message has {} bytes.",
            WINDOW.as_millis(),
            DATA.len(),
        ),
        columns: vec!["hook", "plugin µs", "HTTP µs", "HTTP to plugin", "by round"],
        rows: ways.iter().map(row).collect(),
        remarks: vec![],
        figures: ways.iter().map(figures).collect(),
        wrong,
    }
}
