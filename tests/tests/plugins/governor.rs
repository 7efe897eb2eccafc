//! Governors: every failure is an answer, and filters survive what happens to instances.

use super::{engine, guest, load};
use serde_json::{Value, json};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use switchyard::plugin::{
    Budget, Connecting, Counts, FilterId, Governor, OnFailure, Plugin, Principal, Refusal, RefusalCode,
    State, Verdict,
};

fn hostile(config: Value) -> Governor {
    Governor::new(load("hostile", &config), OnFailure::Deny)
}

fn subscribe(governor: &mut Governor, room: &str, filter: &str) -> Result<FilterId, Refusal> {
    let grant = governor.authorize(&Principal::default(), room, Some(filter), Counts::default())?;
    Ok(grant.filter.expect("a filter"))
}

#[test]
fn a_failure_costs_one_call() {
    let mut governor = hostile(Value::Null);
    let id = subscribe(&mut governor, "bad:a", "{}").unwrap();
    let mut out = Vec::new();
    for _ in 0..3 {
        let refusal = governor.check("alice", "bad:a", "", br#"{"do": "panic"}"#).unwrap_err();
        assert_eq!(refusal, Refusal { code: RefusalCode::Failed, message: "plugin 'test' failed".into() });
        assert_eq!(governor.check("alice", "bad:a", "", b"{}"), Ok(Verdict::Pass));
        governor.matches("bad:a", "", b"{}", &[id], &mut out).unwrap();
        assert_eq!(out, [1]);
    }
    let status = governor.stats().status();
    assert_eq!((status.failures["panic"], status.instances, status.filters), (3, 4, 1));
    assert!(status.last_failure.unwrap().contains("told to panic"));
}

#[test]
fn repeated_failure_is_quarantine_and_a_good_call_ends_it() {
    let mut governor = hostile(Value::Null);
    for _ in 0..5 {
        governor.check("alice", "bad:a", "", br#"{"do": "panic"}"#).unwrap_err();
    }
    let started = Instant::now();
    let refusal = governor.check("alice", "bad:a", "", b"{}").unwrap_err();
    assert!(started.elapsed() < Duration::from_millis(5));
    assert!(refusal.message.contains("plugin 'test' is quarantined"), "{refusal}");
    assert!(matches!(governor.stats().status().state, State::Quarantined { .. }));

    thread::sleep(Duration::from_millis(1050));
    assert_eq!(governor.check("alice", "bad:a", "", b"{}"), Ok(Verdict::Pass));
    let status = governor.stats().status();
    assert_eq!((status.state, status.refused, status.failures["panic"]), (State::Active, 1, 5));
}

#[test]
fn a_hundred_filters_are_one_call() {
    let mut governor = Governor::new(load("orderbook", &Value::Null), OnFailure::Deny);
    let ids: Vec<_> = (0..100)
        .map(|i| subscribe(&mut governor, "trades", &format!(r#"{{"minSize": {i}.5}}"#)).unwrap())
        .collect();
    let mut out = Vec::new();
    let trade = br#"{"market": "BTC-USD", "side": "BUY", "size": "40", "price": "1"}"#;
    governor.matches("trades", "trade", trade, &ids, &mut out).unwrap();
    let passed: Vec<_> = (0..128).filter(|i| out[i / 64] >> (i % 64) & 1 == 1).collect();
    assert_eq!(passed, (0..40).collect::<Vec<_>>());
    assert_eq!(governor.stats().status().calls["deliver.matches"].0, 1);
}

#[test]
fn equal_filters_are_one_and_plans_without_a_question_ask_none() {
    let mut governor = Governor::new(load("orderbook", &Value::Null), OnFailure::Deny);
    let ids = [r#"{"markets":["b","A"]}"#, r#"{ "markets": ["a", "b", "B"] }"#, "{}", r#"{"markets":[]}"#]
        .map(|filter| subscribe(&mut governor, "trades", filter).unwrap());
    assert_eq!(ids[0], ids[1]);
    assert_eq!(governor.stats().status().calls["deliver.compile"].0, 3);
    let mut out = Vec::new();
    governor.matches("trades", "trade", b"{}", &ids[2..], &mut out).unwrap();
    assert_eq!(out, [0b01]);
    assert!(!governor.stats().status().calls.contains_key("deliver.matches"));

    // Between others, their bits stay in place.
    let trade = br#"{"market": "A", "size": "1", "price": "1"}"#;
    governor.matches("trades", "trade", trade, &[ids[3], ids[0], ids[2], ids[1]], &mut out).unwrap();
    assert_eq!(out, [0b1110]);
    for id in ids {
        governor.release(id);
    }
    assert_eq!(governor.stats().status().filters, 0);
    governor.matches("trades", "trade", trade, &ids, &mut out).unwrap();
    assert_eq!(out, [0]);
}

#[test]
fn a_wrong_filter_is_the_clients_mistake() {
    let mut governor = Governor::new(load("orderbook", &Value::Null), OnFailure::Deny);
    let refusal = subscribe(&mut governor, "trades", r#"{"minSize": -1}"#).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Invalid, "{refusal}");
    assert!(refusal.message.contains("minSize"), "{refusal}");
}

#[test]
fn no_filter_passes_when_the_guest_cannot_tell() {
    for mode in ["loop", "panic", "short", "nonsense", "huge"] {
        let plugin = load("hostile", &json!({ "matches": mode }));
        for (on_failure, expected) in [(OnFailure::Deny, 0b00), (OnFailure::Allow, 0b11)] {
            let mut governor = Governor::new(plugin.clone(), on_failure);
            let ids = ["{}", r#"{"a":1}"#].map(|filter| subscribe(&mut governor, "bad:a", filter).unwrap());
            let mut out = vec![u64::MAX; 3];
            let answer = governor.matches("bad:a", "", b"{}", &ids, &mut out);
            assert_eq!(answer.is_err(), on_failure == OnFailure::Deny, "{mode}");
            assert_eq!(out, [expected], "{mode}");
        }
    }
}

#[test]
fn failing_may_be_configured_to_allow() {
    let config = json!({ "connect": "panic", "room": "panic", "subscribe": "panic", "publish": "panic" });
    let mut governor = Governor::new(load("hostile", &config), OnFailure::Allow);
    assert_eq!(governor.connect(&Connecting::default()), Ok(Default::default()));
    assert_eq!(governor.validate("bad:a"), Ok(None));
    assert_eq!(governor.check("alice", "bad:a", "", b"{}"), Ok(Verdict::Pass));
    let grant = governor.authorize(&Principal::default(), "bad:a", Some("{}"), Counts::default()).unwrap();
    assert_eq!(grant.filter, None);
    assert_eq!(governor.stats().status().failures["panic"], 4);
}

#[test]
fn a_refusal_reaches_the_client_in_bounds() {
    let mut governor = hostile(json!({ "connect": "huge", "publish": "refuse" }));
    // Larger than what may be lifted: a failure, whose text is the host's.
    let refusal = governor.connect(&Connecting::default()).unwrap_err();
    assert_eq!(refusal.message, "plugin 'test' failed");
    let refusal = governor.check("alice", "bad:a", "", b"{}").unwrap_err();
    assert_eq!(refusal, Refusal { code: RefusalCode::Denied, message: "refused as asked".into() });
}

#[test]
fn verdicts_on_rooms_are_remembered() {
    let config = json!({ "protocols": ["uniswap-v3"], "chains": ["ethereum"] });
    let mut governor = Governor::new(load("protocol_rooms", &config), OnFailure::Deny);
    for _ in 0..3 {
        assert_eq!(governor.validate("Uniswap-v3:Ethereum"), Ok(Some("uniswap-v3:ethereum".into())));
    }
    assert_eq!(governor.stats().status().calls["room.validate"].0, 1);
    for _ in 0..2 {
        assert_eq!(governor.validate("nonsense").unwrap_err().code, RefusalCode::Invalid);
    }
    assert_eq!(governor.stats().status().calls["room.validate"].0, 3);
    let refusal =
        governor.authorize(&Principal::default(), "uniswap-v3:ethereum", Some("{}"), Counts::default());
    assert_eq!(refusal.unwrap_err().code, RefusalCode::Invalid);
}

#[test]
fn a_swap_takes_all_filters_along_or_does_not_happen() {
    let mut governor = hostile(Value::Null);
    let ids = ["{}", r#"{"a":1}"#].map(|filter| subscribe(&mut governor, "bad:a", filter).unwrap());
    let mut out = Vec::new();

    for (config, says) in [
        (json!({ "compile": "refuse" }), "it refuses a filter in use, {}: refused as asked"),
        (json!({ "compile": "panic" }), "failed in deliver.compile (panic)"),
        (json!({ "compile": "loop" }), "failed in deliver.compile (deadline)"),
    ] {
        let error = governor.swap(load("hostile", &config), OnFailure::Deny).unwrap_err();
        assert!(error.contains(says), "{error}");
        governor.matches("bad:a", "", b"{}", &ids, &mut out).unwrap();
        assert_eq!(out, [0b11]);
    }
    let config = json!({ "protocols": ["a"], "chains": ["b"] });
    let error = governor.swap(load("protocol_rooms", &config), OnFailure::Deny).unwrap_err();
    assert!(error.contains("no deliver hook"), "{error}");
    assert!(governor.stats().status().failures.is_empty(), "the one in charge has not failed");

    governor.swap(load("hostile", &json!({ "matches": "refuse" })), OnFailure::Deny).unwrap();
    governor.matches("bad:a", "", b"{}", &ids, &mut out).unwrap();
    assert_eq!(out, [0b00]);

    // Other plans under another version: what was asked for is now known without asking.
    governor.swap(load("orderbook", &Value::Null), OnFailure::Deny).unwrap_err();
    governor.release(ids[1]);
    governor.swap(load("orderbook", &Value::Null), OnFailure::Deny).unwrap();
    governor.matches("bad:a", "", b"{}", &ids, &mut out).unwrap();
    assert_eq!(out, [0b01]);
}

#[test]
fn a_quarantined_plugin_is_cured_by_a_swap() {
    let mut governor = hostile(json!({ "publish": "panic" }));
    for _ in 0..6 {
        governor.check("alice", "bad:a", "", b"{}").unwrap_err();
    }
    governor.swap(load("hostile", &Value::Null), OnFailure::Deny).unwrap();
    assert_eq!(governor.check("alice", "bad:a", "", b"{}"), Ok(Verdict::Pass));
    assert_eq!(governor.stats().status().state, State::Active);
}

#[test]
fn an_instance_that_has_grown_is_replaced_before_it_fails() {
    let budget = Budget { memory: 1 << 20, ..Budget::default() };
    let plugin = Plugin::load(engine(), "test", &guest("orderbook"), &Value::Null, budget).unwrap();
    let mut governor = Governor::new(Arc::new(plugin), OnFailure::Deny);
    let id = subscribe(&mut governor, "trades", r#"{"minSize": 1}"#).unwrap();
    let data = format!("\"{}\"", "x".repeat(700_000));
    for _ in 0..3 {
        assert_eq!(governor.check("alice", "trades", "trade", data.as_bytes()), Ok(Verdict::Pass));
        assert_eq!(governor.matches("trades", "trade", br#"{"size": "2"}"#, &[id], &mut Vec::new()), Ok(()));
    }
    let status = governor.stats().status();
    assert_eq!((status.recycled, status.instances), (3, 4), "{status:?}");
    assert!(status.failures.is_empty());

    let tight = Budget { memory: 1 << 16, ..budget };
    let error = Plugin::load(engine(), "test", &guest("orderbook"), &Value::Null, tight).err().unwrap();
    assert!(error.to_string().contains("bytes of memory and may have 65536"), "{error}");
}

#[test]
fn an_instance_that_has_served_for_long_is_replaced() {
    let budget = Budget { calls: 10, ..Budget::default() };
    let plugin = Plugin::load(engine(), "test", &guest("orderbook"), &Value::Null, budget).unwrap();
    let mut governor = Governor::new(Arc::new(plugin), OnFailure::Deny);
    let id = subscribe(&mut governor, "trades", r#"{"minSize": 1}"#).unwrap();
    let mut out = Vec::new();
    for _ in 0..100 {
        governor.matches("trades", "trade", br#"{"size": "2"}"#, &[id], &mut out).unwrap();
        assert_eq!(out, [1], "the filter goes along");
    }
    let status = governor.stats().status();
    // Two of the ten go to starting and to the filter.
    assert_eq!((status.recycled, status.failures.len()), (12, 0), "{status:?}");
    assert_eq!((status.filters_asked, status.filters_passed), (100, 100));
}

#[test]
fn calls_are_counted_by_the_plugin_itself() {
    let plugin = load("hostile", &Value::Null);
    let mut governor = Governor::new(plugin.clone(), OnFailure::Deny);
    let before = format!("{:?}", plugin.metrics());
    governor.check("alice", "bad:a", "", b"{}").unwrap();
    assert_ne!(format!("{:?}", plugin.metrics()), before);
}
