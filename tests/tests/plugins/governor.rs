//! Governors turn every failure into an answer, and filters outlive instances.

use super::{check, engine, guest, load, principal};
use serde_json::{Value, json};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use switchyard_plugin::{
    Audience, Budget, ConnectRequest, Counts, FilterId, FilterResults, Governor, OnFailure, Plugin,
    Rejection, RejectionCode, State, Verdict,
};

fn hostile(config: Value) -> Governor {
    Governor::new(load("hostile", &config), OnFailure::Deny)
}

fn subscribe(governor: &mut Governor, room: &str, filter: &str) -> Result<FilterId, Rejection> {
    let grant = governor.authorize(&principal(""), room, Some(filter), Counts::default())?;
    Ok(grant.filter.expect("a filter"))
}

#[test]
fn a_failure_affects_one_call() {
    let mut governor = hostile(Value::Null);
    let id = subscribe(&mut governor, "bad:a", "{}").unwrap();
    let mut out = Vec::new();
    for _ in 0..3 {
        let refusal = check(&mut governor, "alice", "bad:a", "", br#"{"do": "panic"}"#).unwrap_err();
        assert_eq!(
            refusal,
            Rejection { code: RejectionCode::Failed, message: "plugin 'test' failed".into() }
        );
        assert_eq!(check(&mut governor, "alice", "bad:a", "", b"{}"), Ok(Verdict::Pass));
        governor.matches("bad:a", "", b"{}", &[id], &mut out).unwrap();
        assert_eq!(out, [1]);
    }
    let status = governor.stats().status();
    assert_eq!((status.counts.failures["panic"], status.counts.instances, status.filters), (3, 4, 1));
    assert!(status.last_failure.unwrap().contains("told to panic"));
}

/// Enough failures, on requests of enough principals, to quarantine the plugin itself.
fn fail(governor: &mut Governor) {
    for who in ["alice", "bob", "carol", "alice", "bob"] {
        check(governor, who, "bad:a", "", br#"{"do": "panic"}"#).unwrap_err();
    }
}

#[test]
fn repeated_failures_quarantine_the_plugin_and_a_successful_call_ends_it() {
    let mut governor = hostile(Value::Null);
    fail(&mut governor);
    let started = Instant::now();
    let refusal = check(&mut governor, "alice", "bad:a", "", b"{}").unwrap_err();
    assert!(started.elapsed() < Duration::from_millis(5));
    assert!(refusal.message.contains("plugin 'test' is quarantined"), "{refusal}");
    assert!(matches!(governor.stats().status().state, State::Quarantined { .. }));

    thread::sleep(Duration::from_millis(1050));
    assert_eq!(check(&mut governor, "alice", "bad:a", "", b"{}"), Ok(Verdict::Pass));
    let status = governor.stats().status();
    assert_eq!((status.state, status.counts.refused, status.counts.failures["panic"]), (State::Active, 1, 5));
}

fn subscribe_as(governor: &mut Governor, who: &str, filter: &str) -> Result<FilterId, Rejection> {
    let who = principal(who);
    let grant = governor.authorize(&who, "bad:a", Some(filter), Counts::default())?;
    Ok(grant.filter.expect("a filter"))
}

#[test]
fn a_principal_that_makes_a_plugin_fail_is_quarantined_alone() {
    let mut governor = hostile(Value::Null);
    for _ in 0..20 {
        check(&mut governor, "mallory", "bad:a", "", br#"{"do": "panic"}"#).unwrap_err();
        assert_eq!(check(&mut governor, "alice", "bad:a", "", b"{}"), Ok(Verdict::Pass));
    }
    let refusal = check(&mut governor, "mallory", "bad:a", "", b"{}").unwrap_err();
    assert!(refusal.message.contains("principal 'mallory' is quarantined for plugin 'test'"), "{refusal}");
    subscribe_as(&mut governor, "mallory", "{}").unwrap_err();
    let status = governor.stats().status();
    assert_eq!(
        (status.state, status.counts.failures["panic"], status.counts.principals_quarantined),
        (State::Active, 5, 1)
    );
    assert_eq!(status.quarantined_principals, 1);
}

/// A filter that fails affects only its own members, and counts against its owner.
#[test]
fn a_filter_that_fails_loses_messages_for_its_own_members_only() {
    for (misdeed, from) in [("panic", "mallory"), ("loop", "mallory"), ("short", "mallory")] {
        let mut governor = hostile(Value::Null);
        let mut ids: Vec<_> = (0..40)
            .map(|n| subscribe_as(&mut governor, &format!("p{}", n % 10), &format!("{{\"n\":{n}}}")).unwrap())
            .collect();
        let bad = format!(r#"{{"do":"{misdeed}","in":"matches"}}"#);
        ids.insert(17, subscribe_as(&mut governor, from, &bad).unwrap());
        let mut bits = FilterResults::default();
        for _ in 0..10 {
            governor.filter("bad:a", "", b"{}", &ids, Audience::Members(Some("alice")), &mut bits).ok();
            for n in 0..ids.len() {
                assert_eq!((bits.passes(n), bits.is_lost(n)), (n != 17, n == 17), "{misdeed}: {n}");
            }
        }
        let status = governor.stats().status();
        assert_eq!((status.state, status.counts.principals_quarantined), (State::Active, 1), "{misdeed}");
        assert_eq!(check(&mut governor, "alice", "bad:a", "", b"{}"), Ok(Verdict::Pass));
        check(&mut governor, "mallory", "bad:a", "", b"{}").unwrap_err();
    }
}

/// A message on which every filter fails counts against its publisher if that is known, otherwise against the
/// room. Once, a quarantined publisher's messages were still evaluated, so that each kept the plugin busy.
#[test]
fn a_message_that_fails_every_filter_counts_against_its_publisher_or_room() {
    let poison = br#"{"do": "panic", "in": "matches"}"#;
    for known in [true, false] {
        let mut governor = hostile(Value::Null);
        let ids = ["alice", "bob", "carol", "dora"]
            .map(|who| subscribe_as(&mut governor, who, &format!("{{\"of\":\"{who}\"}}")).unwrap());
        let mut bits = FilterResults::default();
        let mallory = Audience::Members(known.then_some("mallory"));
        for _ in 0..8 {
            governor.filter("bad:a", "", poison, &ids, mallory, &mut bits).unwrap_err();
            assert!((0..4).all(|n| bits.is_lost(n)));
        }
        assert_eq!(governor.stats().status().state, State::Active);
        for who in ["alice", "bob", "carol", "dora"] {
            assert_eq!(check(&mut governor, who, "bad:a", "", b"{}"), Ok(Verdict::Pass));
        }
        // Whoever is quarantined is not heard, and nobody else notices.
        let alice = Audience::Members(Some("alice"));
        for (room, from, is_heard) in
            [("bad:a", alice, known), ("bad:b", alice, true), ("bad:b", mallory, !known)]
        {
            governor.filter(room, "", b"{}", &ids, from, &mut bits).ok();
            assert!((0..4).all(|n| bits.passes(n) == is_heard), "{room}, known: {known}");
        }
        assert_eq!(check(&mut governor, "mallory", "bad:a", "", b"{}").is_err(), known);
    }
}

/// Regression: if all filters in a room belonged to one principal, or several had the same one, it was not known whether
/// the filter or the message was the cause. So the room was quarantined, and one publisher could keep the messages of
/// all others from its members.
#[test]
fn failing_messages_of_one_publisher_keep_those_of_others_from_nobody() {
    let poison = br#"{"do": "panic", "in": "matches"}"#;
    for owners in [&["alice"][..], &["alice", "bob"]] {
        let mut governor = hostile(Value::Null);
        let ids: Vec<_> =
            owners.iter().map(|who| subscribe_as(&mut governor, who, r#"{"same":1}"#).unwrap()).collect();
        let ids = &ids[..1];
        let mut bits = FilterResults::default();
        let [mallory, carol] = ["mallory", "carol"].map(|who| Audience::Members(Some(who)));
        for _ in 0..8 {
            governor.filter("bad:a", "", poison, ids, mallory, &mut bits).unwrap_err();
            governor.filter("bad:a", "", b"{}", ids, carol, &mut bits).unwrap();
            assert!(bits.passes(0));
        }
        governor.filter("bad:a", "", b"{}", ids, mallory, &mut bits).unwrap_err();
        assert_eq!(governor.stats().status().state, State::Active);
        governor.filter("bad:b", "", b"{}", ids, mallory, &mut bits).unwrap();
        assert_eq!(check(&mut governor, "mallory", "bad:a", "", b"{}"), Ok(Verdict::Pass));
        for who in owners {
            assert_eq!(check(&mut governor, who, "bad:a", "", b"{}"), Ok(Verdict::Pass));
        }
    }
    // Its own filter and its own messages.
    let mut governor = hostile(Value::Null);
    let ids = [subscribe_as(&mut governor, "mallory", "{}").unwrap()];
    for _ in 0..5 {
        let mut bits = FilterResults::default();
        let mallory = Audience::Members(Some("mallory"));
        governor.filter("bad:a", "", poison, &ids, mallory, &mut bits).unwrap_err();
    }
    check(&mut governor, "mallory", "bad:a", "", b"{}").unwrap_err();
    assert_eq!(check(&mut governor, "carol", "bad:a", "", b"{}"), Ok(Verdict::Pass));
}

/// Regression: after its quarantine, a room stayed on trial however many messages were delivered, so that a single
/// failure quarantined it again, for longer.
#[test]
fn a_message_that_is_delivered_ends_the_trial_of_its_room() {
    let mut governor = hostile(Value::Null);
    let ids = [subscribe_as(&mut governor, "alice", "{}").unwrap()];
    let mut deliver = |data: &[u8]| {
        let mut bits = FilterResults::default();
        governor.filter("bad:a", "", data, &ids, Audience::Members(None), &mut bits).ok();
        bits.passes(0)
    };
    let poison = br#"{"do": "panic", "in": "matches"}"#;
    for _ in 0..5 {
        assert!(!deliver(poison));
    }
    assert!(!deliver(b"{}"), "the room is quarantined");
    // Failures count for 10 s. Then there are no others with which the next one could count.
    let window = Instant::now() + Duration::from_secs(11);
    let mut is_delivered = false;
    while Instant::now() < window {
        is_delivered = deliver(b"{}");
        thread::sleep(Duration::from_millis(100));
    }
    assert!(is_delivered, "the quarantine has ended");
    assert!(!deliver(poison));
    assert!(deliver(b"{}"), "one failure does not quarantine the room again");
}

#[test]
fn a_filter_that_fails_on_history_affects_only_its_reader() {
    let mut governor = hostile(Value::Null);
    let ids = ["mallory", "alice"]
        .map(|who| subscribe_as(&mut governor, who, &format!("{{\"of\":\"{who}\"}}")).unwrap());
    let poison = br#"{"do": "panic", "in": "matches"}"#;
    let mut bits = FilterResults::default();
    for _ in 0..8 {
        governor
            .filter("bad:a", "", poison, &ids[..1], Audience::HistoryReader("mallory"), &mut bits)
            .unwrap_err();
    }
    assert_eq!(governor.stats().status().counts.failures["panic"], 5, "it is not asked any more");
    governor.filter("bad:a", "", b"{}", &ids[1..], Audience::HistoryReader("alice"), &mut bits).unwrap();
    governor.filter("bad:a", "", b"{}", &ids, Audience::Members(None), &mut bits).unwrap();
    assert!(bits.passes(0) && bits.passes(1));
    assert_eq!(governor.stats().status().state, State::Active);
}

/// The host measures what a client sends before it calls the plugin, and a filter that is too large does not
/// count as a failure of the plugin.
#[test]
fn input_that_is_too_large_is_the_clients_error() {
    let mut governor = Governor::new(load("orderbook", &Value::Null), OnFailure::Deny);
    let long = format!(r#"{{"markets":["{}"]}}"#, "x".repeat(70_000));
    let asked =
        |governor: &Governor| governor.stats().status().counts.calls.get("subscribe.authorize").copied();
    for _ in 0..8 {
        let refusal = subscribe(&mut governor, "trades", &long).unwrap_err();
        assert_eq!(refusal.code, RejectionCode::Invalid, "{refusal}");
        assert!(refusal.message.contains("70016 bytes, at most 65536"), "{refusal}");
    }
    assert_eq!(asked(&governor), None, "it was measured before");
}

#[test]
fn a_hundred_filters_take_one_call() {
    let mut governor = Governor::new(load("orderbook", &Value::Null), OnFailure::Deny);
    let ids: Vec<_> = (0..100)
        .map(|i| subscribe(&mut governor, "trades", &format!(r#"{{"minSize": {i}.5}}"#)).unwrap())
        .collect();
    let mut out = Vec::new();
    let trade = br#"{"market": "BTC-USD", "side": "BUY", "size": "40", "price": "1"}"#;
    governor.matches("trades", "trade", trade, &ids, &mut out).unwrap();
    let passed: Vec<_> = (0..128).filter(|i| out[i / 64] >> (i % 64) & 1 == 1).collect();
    assert_eq!(passed, (0..40).collect::<Vec<_>>());
    assert_eq!(governor.stats().status().counts.calls["deliver.matches"].0, 1);
}

#[test]
fn equal_filters_are_compiled_once_and_static_plans_cost_no_call() {
    let mut governor = Governor::new(load("orderbook", &Value::Null), OnFailure::Deny);
    let ids = [r#"{"markets":["b","A"]}"#, r#"{ "markets": ["a", "b", "B"] }"#, "{}", r#"{"markets":[]}"#]
        .map(|filter| subscribe(&mut governor, "trades", filter).unwrap());
    assert_eq!(ids[0], ids[1]);
    assert_eq!(governor.stats().status().counts.calls["deliver.compile"].0, 3);
    let mut out = Vec::new();
    governor.matches("trades", "trade", b"{}", &ids[2..], &mut out).unwrap();
    assert_eq!(out, [0b01]);
    assert!(!governor.stats().status().counts.calls.contains_key("deliver.matches"));

    // Between others, their bits keep their positions.
    let trade = br#"{"market": "A", "size": "1", "price": "1"}"#;
    governor.matches("trades", "trade", trade, &[ids[3], ids[0], ids[2], ids[1]], &mut out).unwrap();
    assert_eq!(out, [0b1110]);
    for id in ids {
        governor.release(id, "");
    }
    assert_eq!(governor.stats().status().filters, 0);
    governor.matches("trades", "trade", trade, &ids, &mut out).unwrap();
    assert_eq!(out, [0]);
}

#[test]
fn an_invalid_filter_is_the_clients_error() {
    let mut governor = Governor::new(load("orderbook", &Value::Null), OnFailure::Deny);
    let refusal = subscribe(&mut governor, "trades", r#"{"minSize": -1}"#).unwrap_err();
    assert_eq!(refusal.code, RejectionCode::Invalid, "{refusal}");
    assert!(refusal.message.contains("minSize"), "{refusal}");
}

#[test]
fn filters_fail_closed_when_the_plugin_fails() {
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
fn failures_can_be_configured_to_allow() {
    let config = json!({ "connect": "panic", "room": "panic", "subscribe": "panic", "publish": "panic" });
    let mut governor = Governor::new(load("hostile", &config), OnFailure::Allow);
    assert_eq!(governor.connect(&ConnectRequest::new(principal(""), "")), Ok(Default::default()));
    assert_eq!(governor.validate("alice", "bad:a"), Ok(None));
    assert_eq!(check(&mut governor, "alice", "bad:a", "", b"{}"), Ok(Verdict::Pass));
    let grant = governor.authorize(&principal(""), "bad:a", Some("{}"), Counts::default()).unwrap();
    assert_eq!(grant.filter, None);
    assert_eq!(governor.stats().status().counts.failures["panic"], 4);
}

#[test]
fn the_reason_of_a_reject_is_bounded() {
    let mut governor = hostile(json!({ "connect": "huge", "publish": "refuse" }));
    // Larger than the host copies out of the plugin: a failure, with a message of the host.
    let refusal = governor.connect(&ConnectRequest::new(principal(""), "")).unwrap_err();
    assert_eq!(refusal.message, "plugin 'test' failed");
    let refusal = check(&mut governor, "alice", "bad:a", "", b"{}").unwrap_err();
    assert_eq!(refusal, Rejection { code: RejectionCode::Denied, message: "refused as asked".into() });
}

#[test]
fn verdicts_on_room_names_are_cached() {
    let config = json!({ "protocols": ["uniswap-v3"], "chains": ["ethereum"] });
    let mut governor = Governor::new(load("protocol_rooms", &config), OnFailure::Deny);
    for _ in 0..3 {
        assert_eq!(governor.validate("alice", "Uniswap-v3:Ethereum"), Ok(Some("uniswap-v3:ethereum".into())));
    }
    assert_eq!(governor.stats().status().counts.calls["room.validate"].0, 1);
    for _ in 0..2 {
        assert_eq!(governor.validate("alice", "nonsense").unwrap_err().code, RejectionCode::Invalid);
    }
    assert_eq!(governor.stats().status().counts.calls["room.validate"].0, 3);
    let refusal = governor.authorize(&principal(""), "uniswap-v3:ethereum", Some("{}"), Counts::default());
    assert_eq!(refusal.unwrap_err().code, RejectionCode::Invalid);
}

#[test]
fn a_swap_moves_all_filters_or_fails() {
    let mut governor = hostile(Value::Null);
    let ids = ["{}", r#"{"a":1}"#].map(|filter| subscribe(&mut governor, "bad:a", filter).unwrap());
    let mut out = Vec::new();

    for (config, says) in [
        (json!({ "compile": "refuse" }), "it rejects a filter in use, {}: refused as asked"),
        (json!({ "compile": "panic" }), "failed in deliver.compile (panic)"),
        (json!({ "compile": "loop" }), "failed in deliver.compile (deadline)"),
    ] {
        let error = governor.swap(load("hostile", &config), OnFailure::Deny).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
        governor.matches("bad:a", "", b"{}", &ids, &mut out).unwrap();
        assert_eq!(out, [0b11]);
    }
    let config = json!({ "protocols": ["a"], "chains": ["b"] });
    let error = governor.swap(load("protocol_rooms", &config), OnFailure::Deny).unwrap_err().to_string();
    assert!(error.contains("no deliver hook"), "{error}");
    assert!(governor.stats().status().counts.failures.is_empty(), "the active version has not failed");

    governor.swap(load("hostile", &json!({ "matches": "refuse" })), OnFailure::Deny).unwrap();
    governor.matches("bad:a", "", b"{}", &ids, &mut out).unwrap();
    assert_eq!(out, [0b00]);

    // The other version has other plans, so the answers are known without a call.
    governor.swap(load("orderbook", &Value::Null), OnFailure::Deny).unwrap_err();
    governor.release(ids[1], "");
    governor.swap(load("orderbook", &Value::Null), OnFailure::Deny).unwrap();
    governor.matches("bad:a", "", b"{}", &ids, &mut out).unwrap();
    assert_eq!(out, [0b01]);
}

#[test]
fn a_swap_ends_a_quarantine() {
    let mut governor = hostile(json!({ "publish": "panic" }));
    fail(&mut governor);
    check(&mut governor, "dora", "bad:a", "", b"{}").unwrap_err();
    governor.swap(load("hostile", &Value::Null), OnFailure::Deny).unwrap();
    assert_eq!(check(&mut governor, "alice", "bad:a", "", b"{}"), Ok(Verdict::Pass));
    assert_eq!(governor.stats().status().state, State::Active);
}

#[test]
fn an_instance_whose_memory_has_grown_is_replaced() {
    let budget = Budget { memory: 1 << 20, ..Budget::default() };
    let plugin = Plugin::load(engine(), "test", &guest("orderbook"), &Value::Null, budget).unwrap();
    let mut governor = Governor::new(Arc::new(plugin), OnFailure::Deny);
    let id = subscribe(&mut governor, "trades", r#"{"minSize": 1}"#).unwrap();
    let data = format!("\"{}\"", "x".repeat(700_000));
    for _ in 0..3 {
        assert_eq!(check(&mut governor, "alice", "trades", "trade", data.as_bytes()), Ok(Verdict::Pass));
        assert_eq!(governor.matches("trades", "trade", br#"{"size": "2"}"#, &[id], &mut Vec::new()), Ok(()));
    }
    let status = governor.stats().status();
    assert_eq!((status.counts.recycled, status.counts.instances), (3, 4), "{status:?}");
    assert!(status.counts.failures.is_empty());

    let tight = Budget { memory: 1 << 16, ..budget };
    let error = Plugin::load(engine(), "test", &guest("orderbook"), &Value::Null, tight).err().unwrap();
    assert!(error.to_string().contains("bytes of memory; at most 65536 are allowed"), "{error}");
}

#[test]
fn an_instance_is_replaced_after_many_calls() {
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
    // Two of the ten calls are the start and the filter.
    assert_eq!((status.counts.recycled, status.counts.failures.len()), (12, 0), "{status:?}");
    assert_eq!((status.counts.filters_asked, status.counts.filters_passed), (100, 100));
}

#[test]
fn the_plugin_counts_its_own_calls() {
    let plugin = load("hostile", &Value::Null);
    let mut governor = Governor::new(plugin.clone(), OnFailure::Deny);
    let before = format!("{:?}", plugin.metrics());
    check(&mut governor, "alice", "bad:a", "", b"{}").unwrap();
    assert_ne!(format!("{:?}", plugin.metrics()), before);
}
