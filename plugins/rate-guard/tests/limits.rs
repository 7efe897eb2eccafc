//! Rules, their buckets and the configuration.

use rate_guard::RateGuard;
use serde_json::{Value, json};
use std::time::Duration;
use switchyard_sdk::testing::{Harness, advance_clock, counted, set_state_full};
use switchyard_sdk::{Code, Message, Principal, Publication, Verdict, Via};

fn guard(rules: Value) -> Harness<RateGuard> {
    Harness::new(json!({ "rules": rules })).unwrap()
}

fn by_wallet() -> Value {
    json!([{ "by": ["/wallet"], "burst": 1, "per_minute": 6 }])
}

/// `None` if the message passes, or the reason of the reject.
fn publish(guard: &Harness<RateGuard>, who: &str, room: &str, data: &Value) -> Option<String> {
    match guard.publish(who, room, "liquidation", data.to_string()) {
        Ok(verdict) => {
            assert_eq!(verdict, Verdict::Pass);
            None
        }
        Err(reject) => Some(reject.reason),
    }
}

#[test]
fn each_wallet_has_its_own_limit_whoever_publishes() {
    let mut guard = guard(by_wallet());
    let (one, other) = (json!({"wallet": "0x1", "usd": 5}), json!({"wallet": "0x2"}));
    assert_eq!(publish(&guard, "acme", "a", &one), None);
    let reason = "at most 1 at once and 6 a minute are allowed for each /wallet; try again in 10s";
    assert_eq!(publish(&guard, "acme", "a", &one).unwrap(), reason);
    assert_eq!(publish(&guard, "zed", "b", &one).unwrap(), reason, "in every room, for every principal");
    assert_eq!(publish(&guard, "acme", "a", &other), None);
    assert_eq!(counted(0), 2);
    advance_clock(Duration::from_millis(5500));
    // Another version or configuration goes on with the same buckets.
    guard
        .restart(json!({ "rules": [{ "by": ["principal"], "burst": 9, "per_minute": 9 }, by_wallet()[0]] }))
        .unwrap();
    assert!(publish(&guard, "acme", "a", &one).unwrap().ends_with("try again in 5s"));
    advance_clock(Duration::from_millis(4500));
    assert_eq!(publish(&guard, "acme", "a", &one), None);
}

#[test]
fn a_rule_applies_to_its_rooms_and_events_only() {
    let guard = guard(json!([{
        "rooms": "liquidations:*:aave-v3", "events": ["liquidation"], "by": ["room"], "burst": 1, "per_minute": 1
    }]));
    let data = json!({});
    assert_eq!(publish(&guard, "acme", "liquidations:base:aave-v3", &data), None);
    assert!(publish(&guard, "acme", "liquidations:base:aave-v3", &data).is_some());
    assert_eq!(publish(&guard, "acme", "liquidations:op:aave-v3", &data), None, "another room");
    for _ in 0..2 {
        assert_eq!(publish(&guard, "acme", "liquidations:base:curve", &data), None);
        assert_eq!(guard.publish("acme", "liquidations:base:aave-v3", "other", "1"), Ok(Verdict::Pass));
    }
}

#[test]
fn keys_and_principals_are_counted_separately_or_together() {
    let publish = |guard: &Harness<RateGuard>, id: &str, key: &str| {
        let who = Principal { key_id: key.into(), ..Principal::new(id) };
        let message = Message { room: "a", event: "", data: b"1" };
        let publication = Publication { who: &who, message, via: Via::Http, idempotency_key: None };
        guard.publish_as(&publication).is_ok()
    };
    let rule = |by: Value| guard(json!([{ "by": by, "burst": 1, "per_minute": 1 }]));
    let asked = [("acme", "k1"), ("acme", "k2"), ("zed", "k1"), ("acme", "k1")];
    for (by, expected) in [
        (json!(["principal"]), [true, false, true, false]),
        (json!(["key"]), [true, true, false, false]),
        (json!(["principal", "key"]), [true, true, true, false]),
    ] {
        let guard = rule(by.clone());
        assert_eq!(asked.map(|(id, key)| publish(&guard, id, key)), expected, "{by}");
    }
}

/// Otherwise a publisher would evade a limit by writing the same value in another way.
#[test]
fn one_value_has_one_bucket_however_it_is_written() {
    let mut rules = by_wallet();
    rules[0]["ignore_case"] = true.into();
    for (first, second) in
        [(r#""0xAb""#, r#""0xaB""#), ("1", "1.0"), ("10", "1e1"), ("1", r#""1""#), (r#""a""#, r#""\u0061""#)]
    {
        let guard = guard(rules.clone());
        let publish =
            |value: &str| guard.publish("acme", "a", "", format!(r#"{{"wallet":{value}}}"#)).is_ok();
        assert_eq!((publish(first), publish(second)), (true, false), "{first} {second}");
    }
    let guard = guard(json!([{ "by": ["/a", "/b"], "burst": 1, "per_minute": 1 }]));
    assert_eq!(publish(&guard, "acme", "a", &json!({"a": "x 1:y", "b": "z"})), None);
    assert_eq!(publish(&guard, "acme", "a", &json!({"a": "x", "b": "y 1:z"})), None, "another pair");
}

#[test]
fn a_message_without_the_field_is_rejected() {
    let guard = guard(by_wallet());
    for (data, reason) in [
        ("{}", "data/wallet must be a string or a number, got nothing"),
        ("1", "data/wallet must be a string or a number, got nothing"),
        (r#"{"wallet":null}"#, "data/wallet must be a string or a number, got null"),
        (r#"{"wallet":["0x1"]}"#, "data/wallet must be a string or a number, got a list"),
    ] {
        let reject = guard.publish("acme", "a", "", data).unwrap_err();
        assert_eq!((reject.code, reject.reason.as_str()), (Code::Invalid, reason));
    }
}

#[test]
fn a_message_beyond_the_limit_is_discarded_or_rejected_with_the_operators_words() {
    let guard = guard(json!([
        { "by": ["principal"], "burst": 2, "per_minute": 1, "message": "twice at most" },
        { "by": ["principal"], "burst": 1, "per_minute": 60, "action": "discard", "name": "a second" },
    ]));
    assert_eq!(guard.publish("acme", "a", "", "1"), Ok(Verdict::Pass));
    assert_eq!(guard.publish("acme", "a", "", "1"), Ok(Verdict::Discard));
    let reject = guard.publish("acme", "a", "", "1").unwrap_err();
    assert_eq!((reject.code, reject.reason.as_str()), (Code::Limit, "twice at most; try again in 60s"));
    assert_eq!((counted(0), counted(1)), (1, 1));
    set_state_full(true);
    let reject = guard.publish("zed", "a", "", "1").unwrap_err();
    assert_eq!(reject.reason, "twice at most; try again later");
}

#[test]
fn an_invalid_configuration_is_explained() {
    let rule = |field: &str, value: Value| {
        let mut rule = by_wallet()[0].clone();
        rule[field] = value;
        json!({ "rules": [rule] })
    };
    for (config, error) in [
        (json!({ "rules": [] }), "config.rules must have at least one entry"),
        (rule("burst", json!(0)), "config.rules[0].burst must be at least 1, got 0"),
        (rule("per_minute", json!(0)), "config.rules[0].per_minute must be at least 1, got 0"),
        (
            rule("by", json!([])),
            "config.rules[0].by must have at least one entry, e.g. \"principal\" or \"/wallet\"",
        ),
        (
            rule("by", json!(["wallet"])),
            "config.rules[0].by: invalid entry 'wallet'; expected principal, key, room or a JSON pointer such as /wallet",
        ),
        (
            rule("rooms", json!("a*b")),
            "config.rules[0].rooms: invalid pattern 'a*b'; expected a room name in which '*' ends a part or '**' ends the pattern",
        ),
        (
            json!({ "rules": [by_wallet()[0], by_wallet()[0]] }),
            "config.rules[1] has the same rooms and by as rules[0], so they would count together; give it a name of its own",
        ),
    ] {
        assert_eq!(Harness::<RateGuard>::new(config).err().unwrap(), error);
    }
}
