//! What the SDK adds to a plugin's hooks.

use serde::{Deserialize, Serialize};
use serde_json::json;
use std::hash::BuildHasher;
use std::time::Duration;
use switchyard_sdk::log::Level;
use switchyard_sdk::testing::{Harness, advance_clock, logged, observed, set_clock, set_seed};
use switchyard_sdk::*;

/// Grants what the principal's tier says.
struct Tiers;

#[derive(Serialize, Deserialize)]
struct Even {
    even: bool,
}

const ASKED: metrics::Histogram = metrics::Histogram::new(7, "asked");

impl Plugin for Tiers {
    type Config = NoConfig;
    const METRICS: &'static [metrics::Metric] = &[ASKED.metric()];

    fn new(_: NoConfig) -> Result<Self, String> {
        Ok(Self)
    }
}

impl Connect for Tiers {
    fn connect(&self, request: &Request) -> Result<Limits, Reject> {
        match request.principal.tag("team") {
            Some(team) => {
                info!("{team} from {} at {}", request.remote, clock::unix_ms());
                Ok(Limits { rooms: Some(3), ..Limits::default() })
            }
            None => Err(Reject::denied("x".repeat(10_000))),
        }
    }
}

impl Subscribe for Tiers {
    fn subscribe(&self, asked: &Subscription<'_>) -> Result<Grant, Reject> {
        ASKED.observe(asked.counts.in_room.into());
        match asked.who.tier.as_str() {
            "all" => Ok(Grant { scope: Scope::Everything, ..Grant::default() }),
            "even" => Grant::filtered(&Even { even: true }),
            _ => Ok(Grant::default().with_limits(Limits { rooms: Some(1), ..Limits::default() })),
        }
    }
}

impl Deliver for Tiers {
    type Filter = Even;
    type Parsed<'a> = u64;

    fn parse<'a>(&self, message: Message<'a>) -> Option<u64> {
        message.read()
    }

    fn matches(&self, filter: &Even, number: &u64) -> bool {
        number.is_multiple_of(2) == filter.even
    }
}

export!(Tiers: connect, subscribe, deliver);

/// Subscribes, but filters nothing.
struct Doorman;

impl Plugin for Doorman {
    type Config = NoConfig;

    fn new(_: NoConfig) -> Result<Self, String> {
        Ok(Self)
    }
}

impl Subscribe for Doorman {
    fn subscribe(&self, _: &Subscription<'_>) -> Result<Grant, Reject> {
        Ok(Grant::default())
    }
}

export!(Doorman: subscribe);

#[test]
fn a_grant_can_not_lose_a_filter_by_being_silent() {
    let plugin = Harness::<Tiers>::new(json!({})).unwrap();
    let granted = |tier: &str, filter| {
        let who = Principal { tier: tier.into(), ..Principal::default() };
        plugin.subscribe(&who, "numbers", filter, Counts { in_room: 4, ..Counts::default() }).unwrap().filter
    };
    let odd = Some(json!({ "even": false, "other": 1 }));
    assert_eq!(granted("", odd.clone()).as_deref(), Some(r#"{"even":false}"#));
    assert_eq!(granted("", None), None);
    assert_eq!(granted("even", odd.clone()).as_deref(), Some(r#"{"even":true}"#));
    assert_eq!(granted("even", None).as_deref(), Some(r#"{"even":true}"#));
    assert_eq!(granted("all", odd), None);
    assert!(observed(7).iter().all(|value| *value == 4.0) && !observed(7).is_empty());

    let doorman = Harness::<Doorman>::new(json!({})).unwrap();
    let ask = |filter| doorman.subscribe(&Principal::default(), "numbers", filter, Counts::default());
    assert_eq!(ask(None).unwrap().filter, None);
    assert_eq!(ask(Some(json!({}))).unwrap_err().code, Code::Invalid, "a filter that nobody would apply");
    assert_eq!(
        Harness::<Doorman>::new(json!({ "a": 1 })).err().as_deref(),
        Some("config: unknown field `a`, there are no fields")
    );
}

#[test]
fn a_filter_that_failed_to_compile_leaves_nothing_under_its_number() {
    let plugin = Harness::<Tiers>::new(json!({})).unwrap();
    plugin.compile(1, json!({ "even": true })).unwrap();
    plugin.compile(2, json!({ "even": false })).unwrap();
    assert_eq!(plugin.matches("numbers", "", "4", &[2, 1, 3]), [false, true, false]);
    assert_eq!(plugin.matches("numbers", "", "four", &[1, 2]), [false, false]);
    assert_eq!(
        plugin.compile(1, json!({ "even": 1 })).unwrap_err(),
        "filter.even: invalid type: integer `1`, expected a boolean"
    );
    assert_eq!(plugin.matches("numbers", "", "4", &[1]), [false]);
}

#[test]
fn the_stand_in_keeps_logs_and_moves_the_clock_and_reasons_are_bounded() {
    let plugin = Harness::<Tiers>::new(json!({})).unwrap();
    set_clock(1000);
    advance_clock(Duration::from_secs(1));
    let principal = Principal { tags: vec![("team".into(), "blue".into())], ..Principal::default() };
    let request = Request { principal, remote: "127.0.0.1:9".into(), origin: None };
    assert_eq!(plugin.connect(&request).unwrap().rooms, Some(3));
    assert_eq!(logged(), [(Level::Info, "blue from 127.0.0.1:9 at 2000".to_owned())]);
    let reject = plugin.connect(&Request::default()).unwrap_err();
    assert!(reject.code == Code::Denied && reject.reason.len() <= 512 && reject.reason.ends_with('…'));
}

#[test]
#[should_panic(expected = "switchyard-sdk has no hook Publish: list it in export!")]
fn a_hook_that_is_not_listed_can_not_be_tested() {
    let _ = Harness::<Tiers>::new(json!({})).unwrap().publish("acme", "numbers", "", "1");
}

#[test]
fn hashes_depend_on_the_seed() {
    let hash = |seed| {
        set_seed(seed);
        SeededState::default().hash_one("key")
    };
    assert_eq!(hash(1), hash(1));
    assert_ne!(hash(1), hash(2));
}
