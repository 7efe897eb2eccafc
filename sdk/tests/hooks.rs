//! What the SDK does around a plugin's hooks: canonical filters, scopes, bounded reasons, the harness and its
//! test double.

use serde::{Deserialize, Serialize};
use serde_json::json;
use std::hash::BuildHasher;
use std::time::Duration;
use switchyard_sdk::log::Level;
use switchyard_sdk::testing::{Harness, advance_clock, logged, observed, set_clock, set_seed};
use switchyard_sdk::*;

/// Grants a scope that depends on the principal's tier.
struct Tiers;

#[derive(Serialize, Deserialize)]
struct Even {
    even: bool,
}

const MEMBERS: metrics::Histogram = metrics::Histogram::new(7, "members");

impl Plugin for Tiers {
    type Config = NoConfig;
    const METRICS: &'static [metrics::Metric] = &[MEMBERS.metric()];

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
    fn subscribe(&self, subscription: &Subscription<'_>) -> Result<Grant, Reject> {
        MEMBERS.observe(subscription.counts.in_room.into());
        match subscription.who.tier.as_str() {
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

/// Has the hook `subscribe` but not `deliver`, so it accepts no filters.
struct NoDeliver;

impl Plugin for NoDeliver {
    type Config = NoConfig;

    fn new(_: NoConfig) -> Result<Self, String> {
        Ok(Self)
    }
}

impl Subscribe for NoDeliver {
    fn subscribe(&self, _: &Subscription<'_>) -> Result<Grant, Reject> {
        Ok(Grant::default())
    }
}

export!(NoDeliver: subscribe);

#[test]
fn a_default_grant_keeps_the_filter_of_the_client() {
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

    let no_deliver = Harness::<NoDeliver>::new(json!({})).unwrap();
    let subscribe =
        |filter| no_deliver.subscribe(&Principal::default(), "numbers", filter, Counts::default());
    assert_eq!(subscribe(None).unwrap().filter, None);
    assert_eq!(subscribe(Some(json!({}))).unwrap_err().code, Code::Invalid, "nothing would apply the filter");
    assert_eq!(
        Harness::<NoDeliver>::new(json!({ "a": 1 })).err().as_deref(),
        Some("config: unknown field `a`, there are no fields")
    );
}

#[test]
fn compiling_an_invalid_filter_removes_the_previous_one() {
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
fn the_test_double_records_logs_and_sets_the_clock_and_reasons_are_truncated() {
    let plugin = Harness::<Tiers>::new(json!({})).unwrap();
    set_clock(1000);
    advance_clock(Duration::from_secs(1));
    let principal = Principal { tags: vec![("team".into(), "blue".into())], ..Principal::default() };
    let request = Request { principal, remote: "127.0.0.1:9".into(), ..Request::default() };
    assert_eq!(plugin.connect(&request).unwrap().rooms, Some(3));
    assert_eq!(logged(), [(Level::Info, "blue from 127.0.0.1:9 at 2000".to_owned())]);
    let reject = plugin.connect(&Request::default()).unwrap_err();
    assert!(reject.code == Code::Denied && reject.reason.len() <= 512 && reject.reason.ends_with('…'));
}

#[test]
#[should_panic(expected = "switchyard-sdk has no hook Publish: list it in export!")]
fn calling_a_hook_that_is_not_listed_panics() {
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
