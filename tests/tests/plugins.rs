//! The plugin host against real guests: good ones, and one that misbehaves on demand.

use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use std::{env, fs, thread};
use switchyard::plugin::{
    Budget, Call, Connecting, Counts, Engine, Failure, FailureKind, FilterId, Governor, Instance, LoadError,
    LoadFault, OnFailure, Plugin, Principal, Refusal, RefusalCode, State, Verdict,
};

const LIFECYCLE: &str = "switchyard:plugin/lifecycle@0.1.0";

fn guest(name: &str) -> Vec<u8> {
    let built = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/wasm32-unknown-unknown/release");
    let dir = env::var_os("SWITCHYARD_GUESTS").map_or_else(|| PathBuf::from(built), PathBuf::from);
    let path = dir.join(name).with_extension("wasm");
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; build the guests first", path.display()))
}

fn component(name: &str) -> Vec<u8> {
    wit_component::ComponentEncoder::default().module(&guest(name)).unwrap().encode().unwrap()
}

fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| Engine::new().unwrap())
}

fn try_load(bytes: &[u8], config: &Value) -> Result<Plugin, LoadError> {
    Plugin::load(engine(), "test", bytes, config, Budget::default())
}

fn load(name: &str, config: &Value) -> Arc<Plugin> {
    Arc::new(try_load(&guest(name), config).unwrap())
}

fn fault(bytes: &[u8], config: &Value) -> (LoadFault, String) {
    let error = try_load(bytes, config).err().expect("not a good plugin");
    let text = error.to_string();
    (error.fault, text)
}

fn hostile(config: Value) -> Governor {
    Governor::new(load("hostile", &config), OnFailure::Deny)
}

fn subscribe(governor: &mut Governor, room: &str, filter: &str) -> Result<FilterId, Refusal> {
    let grant = governor.authorize(&Principal::default(), room, Some(filter), Counts::default())?;
    Ok(grant.filter.expect("a filter"))
}

fn replace(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = bytes.to_vec();
    for at in 0..bytes.len() - from.len() {
        if bytes[at..].starts_with(from.as_bytes()) {
            bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        }
    }
    bytes
}

/// A core module that imports one function.
fn importing(module: &str, name: &str) -> Vec<u8> {
    let named = |name: &str| [&[name.len() as u8], name.as_bytes()].concat();
    let import = [&[1], &*named(module), &named(name), &[0, 0]].concat();
    [b"\0asm\x01\0\0\0", &[1, 4, 1, 0x60, 0, 0][..], &[2, import.len() as u8], &import].concat()
}

/// With time enough that only what never ends runs out of it, on a busy machine too.
fn patiently(config: &Value) -> Instance {
    let budget = Budget { call: Duration::from_millis(500), ..Budget::default() };
    Plugin::load(engine(), "test", &guest("hostile"), config, budget).unwrap().instantiate().unwrap()
}

fn publish_failure(mode: &str) -> Box<Failure> {
    patiently(&json!({ "publish": mode })).publish("alice", "bad:a", "trade", b"{}").unwrap_err()
}

#[test]
fn every_misdeed_is_stopped_and_named() {
    let kinds = [
        ("loop", FailureKind::Deadline),
        ("allocate", FailureKind::Memory),
        ("recurse", FailureKind::Stack),
        ("panic", FailureKind::Panic),
        ("nonsense", FailureKind::Nonsense),
        ("other", FailureKind::Nonsense),
        ("short", FailureKind::Nonsense),
    ];
    for (mode, kind) in kinds {
        let failure = publish_failure(mode);
        assert_eq!(failure.kind, kind, "{mode}: {failure}");
        assert_eq!((failure.call, failure.room.as_deref()), (Call::Publish, Some("bad:a")), "{mode}");
        assert_eq!((&*failure.plugin, &*failure.version), ("test", "0.1.0"), "{mode}");
        if kind != FailureKind::Nonsense {
            assert!(failure.backtrace.iter().any(|name| name.contains("hostile")), "{mode}: {failure}");
        }
    }
}

#[test]
fn an_answer_too_large_to_take_is_nonsense() {
    let failure = patiently(&json!({ "room": "huge" })).room("bad:a").unwrap_err();
    assert_eq!(failure.kind, FailureKind::Nonsense, "{failure}");
    assert!(failure.detail.contains("4194304 bytes"), "{failure}");
}

#[test]
fn a_panic_tells_its_text_and_its_place() {
    let failure = publish_failure("panic");
    let said = failure.said.as_deref().unwrap();
    assert!(said.contains("told to panic") && said.contains("misdeed.rs:"), "{said}");
    assert!(
        failure.to_string().contains("plugin 'test' 0.1.0 failed in publish.check for room 'bad:a' (panic)")
    );
}

#[test]
fn a_loop_ends_with_its_budget() {
    let plugin = load("hostile", &json!({ "publish": "loop" }));
    let mut instance = plugin.instantiate().unwrap();
    let started = Instant::now();
    instance.publish("alice", "bad:a", "", b"{}").unwrap_err();
    let took = started.elapsed();
    // The upper bound leaves room for a machine with other things to do.
    assert!(took >= Duration::from_millis(9) && took < Duration::from_millis(100), "{took:?}");
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
fn files_that_are_no_plugins_are_refused_clearly() {
    let good = guest("hostile");
    let says = |bytes: &[u8], words: &[&str]| {
        let (_, text) = fault(bytes, &Value::Null);
        for word in words {
            assert!(text.contains(word), "{word:?} is not in: {text}");
        }
    };
    says(b"", &["plugin 'test' is not WebAssembly"]);
    says(b"#!/bin/sh", &["is not WebAssembly"]);
    says(b"\0asm\x01\0\0\0", &["exports no switchyard:plugin/lifecycle@0.1.0", "SDK"]);
    for length in [9, good.len() / 3, good.len() / 2, good.len() - 1] {
        says(&good[..length], &["is damaged or truncated"]);
    }
    let component = component("hostile");
    says(&component[..component.len() / 2], &["is damaged or truncated"]);
    says(
        &importing("wasi_snapshot_preview1", "fd_write"),
        &["imports wasi_snapshot_preview1#fd_write,", "WASI"],
    );
    says(
        &importing("switchyard:plugin/files@0.1.0", "open"),
        &["imports switchyard:plugin/files@0.1.0#open,"],
    );
    says(
        &replace(&good, "@0.1.0", "@0.2.0"),
        &["was built for switchyard:plugin@0.2.0", "speaks switchyard:plugin@0.1.0"],
    );
}

#[test]
fn another_patch_of_the_contract_is_spoken() {
    let plugin = try_load(&replace(&guest("hostile"), "@0.1.0", "@0.1.7"), &Value::Null).unwrap();
    assert_eq!(plugin.instantiate().unwrap().publish("a", "r", "", b"1").unwrap(), Ok(Verdict::Pass));
}

#[test]
fn a_component_is_taken_as_it_is() {
    let bytes = component("orderbook");
    let plugin = try_load(&bytes, &Value::Null).unwrap();
    let info = plugin.info();
    assert_eq!((&*info.name, &*info.package, &*info.version), ("test", "orderbook", "0.1.0"));
    assert!(info.hooks.publish && info.hooks.subscribe && info.hooks.deliver);
    assert!(!info.hooks.room && !info.hooks.connect);
    assert_eq!((info.size, info.sha256.len()), (bytes.len(), 64));
    assert_eq!(
        plugin.metrics().iter().map(|(name, _)| *name).collect::<Vec<_>>(),
        ["books_refused", "levels_cut"]
    );
    assert!(String::from_utf8_lossy(&bytes).contains(LIFECYCLE));
}

#[test]
fn a_config_is_tried_at_load() {
    let (fault_, text) = fault(&guest("orderbook"), &json!({ "max_depth": 0 }));
    assert!(matches!(fault_, LoadFault::Config(_)) && text.contains("config.max_depth is 0"), "{text}");
    let (fault_, text) = fault(&guest("hostile"), &json!({ "init": "panic" }));
    assert!(matches!(fault_, LoadFault::Failed(_)) && text.contains("told to panic"), "{text}");
    let (fault_, text) = fault(&guest("hostile"), &json!({ "init": "loop" }));
    assert!(matches!(fault_, LoadFault::Failed(_)) && text.contains("ran longer than 100ms"), "{text}");
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
        let error = governor.swap(load("hostile", &config)).unwrap_err();
        assert!(error.contains(says), "{error}");
        governor.matches("bad:a", "", b"{}", &ids, &mut out).unwrap();
        assert_eq!(out, [0b11]);
    }
    let config = json!({ "protocols": ["a"], "chains": ["b"] });
    let error = governor.swap(load("protocol_rooms", &config)).unwrap_err();
    assert!(error.contains("no deliver hook"), "{error}");
    assert!(governor.stats().status().failures.is_empty(), "the one in charge has not failed");

    governor.swap(load("hostile", &json!({ "matches": "refuse" }))).unwrap();
    governor.matches("bad:a", "", b"{}", &ids, &mut out).unwrap();
    assert_eq!(out, [0b00]);

    // Other plans under another version: what was asked for is now known without asking.
    governor.swap(load("orderbook", &Value::Null)).unwrap_err();
    governor.release(ids[1]);
    governor.swap(load("orderbook", &Value::Null)).unwrap();
    governor.matches("bad:a", "", b"{}", &ids, &mut out).unwrap();
    assert_eq!(out, [0b01]);
}

#[test]
fn a_quarantined_plugin_is_cured_by_a_swap() {
    let mut governor = hostile(json!({ "publish": "panic" }));
    for _ in 0..6 {
        governor.check("alice", "bad:a", "", b"{}").unwrap_err();
    }
    governor.swap(load("hostile", &Value::Null)).unwrap();
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
fn a_flood_of_log_lines_is_harmless() {
    let budget = Budget { call: Duration::from_secs(2), ..Budget::default() };
    let plugin =
        Plugin::load(engine(), "test", &guest("hostile"), &json!({ "publish": "flood" }), budget).unwrap();
    assert_eq!(
        plugin.instantiate().unwrap().publish("alice", "bad:a", "", b"{}").unwrap(),
        Ok(Verdict::Pass)
    );
}

#[test]
fn calls_are_counted_by_the_plugin_itself() {
    let plugin = load("hostile", &Value::Null);
    let mut governor = Governor::new(plugin.clone(), OnFailure::Deny);
    let before = format!("{:?}", plugin.metrics());
    governor.check("alice", "bad:a", "", b"{}").unwrap();
    assert_ne!(format!("{:?}", plugin.metrics()), before);
}
