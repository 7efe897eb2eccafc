//! The stand-in for the host's state. The host has the same tests for its own.

use serde_json::json;
use std::time::Duration;
use switchyard_sdk::state::{self, Rate, TakeError};
use switchyard_sdk::testing::{Harness, advance_clock, set_clock, set_state_full};
use switchyard_sdk::*;

/// Lets each principal publish once in ten seconds, and adds the number of its messages.
struct Once;

impl Plugin for Once {
    type Config = NoConfig;

    fn new(_: NoConfig) -> Result<Self, String> {
        Ok(Self)
    }
}

impl Publish for Once {
    fn publish(&self, publication: &Publication<'_>) -> Result<Verdict, Reject> {
        let Principal { id, key_id, .. } = publication.who;
        state::take(id, 1, Rate { burst: 1, per_minute: 6 })
            .map_err(|error| Reject::limit(error.to_string()))?;
        let before = state::get(id).map_or(0, |count| count[0]);
        state::set(id, &[before + 1], Some(Duration::from_secs(60)))
            .map_err(|error| Reject::limit(error.to_string()))?;
        Verdict::replace(&json!({
            "count": before + 1, "key": key_id, "http": publication.via == Via::Http, "again": publication.idempotency_key
        }))
    }
}

export!(Once: publish);

#[test]
fn state_follows_the_clock_and_survives_the_instance() {
    let mut plugin = Harness::<Once>::new(json!({})).unwrap();
    let publish =
        |plugin: &Harness<Once>| plugin.publish("acme", "room", "", "1").map_err(|reject| reject.reason);
    assert!(publish(&plugin).is_ok());
    plugin.restart(json!({})).unwrap();
    assert_eq!(publish(&plugin).unwrap_err(), "the limit is reached; try again in 10s");
    assert!(plugin.publish("zed", "room", "", "1").is_ok(), "another bucket");
    advance_clock(Duration::from_secs(10));
    let message = Message { room: "room", event: "", data: b"1" };
    let who = &Principal::new("acme");
    let publication = Publication { who, message, via: Via::Http, idempotency_key: Some("k") };
    let Verdict::Replace(data) = plugin.publish_as(&publication).unwrap() else { panic!("not replaced") };
    let told: serde_json::Value = serde_json::from_slice(&data).unwrap();
    assert_eq!(told, json!({"count": 2, "key": "key-1", "http": true, "again": "k"}));
    advance_clock(Duration::from_secs(61));
    set_state_full(true);
    assert_eq!(publish(&plugin).unwrap_err(), "there is no room for it", "the bucket is there");
    assert_eq!(plugin.publish("new", "room", "", "1").unwrap_err().reason, "the limit is reached");
    let plugin = Harness::<Once>::new(json!({})).unwrap();
    assert!(publish(&plugin).is_ok(), "a new harness has no state");
}

#[test]
fn a_bucket_gains_continuously_and_a_changed_rate_clamps_it() {
    Harness::<Once>::new(json!({})).unwrap();
    set_clock(0);
    let take = |amount, burst, per_minute| match state::take("k", amount, Rate { burst, per_minute }) {
        Ok(()) => 0,
        Err(TakeError::Wait(time)) => time.as_millis() as i64,
        Err(TakeError::Never) => -1,
    };
    assert_eq!((take(10, 10, 60), take(3, 10, 60), take(11, 10, 60)), (0, 3000, -1));
    advance_clock(Duration::from_millis(2500));
    assert_eq!((take(3, 10, 60), take(2, 10, 60), take(1, 10, 60)), (500, 0, 500));
    advance_clock(Duration::from_secs(3600));
    assert_eq!((take(1, 4, 60), take(4, 100, 60), take(0, 100, 6)), (0, 1000, 0));
    advance_clock(Duration::from_millis(10_000));
    assert_eq!(take(5, 100, 6), 10_000, "it holds four");
    assert_eq!((take(4, 100, 0), take(1, 100, 0)), (0, -1));
    assert_eq!((take(u32::MAX, u32::MAX, u32::MAX), take(0, 0, 0)), (60_000, 0));
}

#[test]
fn values_expire_and_are_separate_from_buckets() {
    Harness::<Once>::new(json!({})).unwrap();
    state::set("k", b"1", Some(Duration::from_micros(500))).unwrap();
    assert_eq!(state::get("k").as_deref(), Some(&b"1"[..]), "for a whole millisecond");
    advance_clock(Duration::from_millis(1));
    assert_eq!(state::get("k"), None);
    state::set("k", b"", None).unwrap();
    state::take("k", 1, Rate { burst: 1, per_minute: 0 }).unwrap();
    state::delete("k");
    assert_eq!(state::get("k"), None);
    assert_eq!(state::take("k", 1, Rate { burst: 1, per_minute: 0 }), Err(TakeError::Never));
    let error = state::set("k", &[0; 65_537], None).unwrap_err().to_string();
    assert_eq!(error, "the value has 65537 bytes, at most 65536 are allowed");
}
