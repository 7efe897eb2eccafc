//! The plugin host against real plugins: well-behaved ones, and one that misbehaves on demand.

mod contract;
mod governor;
mod state;

use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use std::{env, fs};
use switchyard_plugin::{
    Budget, CallFailure, Engine, FailureKind, Governor, Instance, LoadError, LoadErrorKind, Plugin,
    PluginFunction, Principal, PublishRequest, Rejection, Verdict,
};

const LIFECYCLE: &str = "switchyard:plugin/lifecycle@0.2.0";

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

fn fault(bytes: &[u8], config: &Value) -> (LoadErrorKind, String) {
    let error = try_load(bytes, config).err().expect("not a good plugin");
    let text = error.to_string();
    (error.kind, text)
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

fn principal(id: &str) -> Principal {
    Principal::new(id, "0123456789abcdef", "default")
}

fn check(
    governor: &mut Governor,
    who: &str,
    room: &str,
    event: &str,
    data: &[u8],
) -> Result<Verdict, Rejection> {
    governor.check(&PublishRequest::new(&principal(who), room, event, data))
}

fn publish(
    instance: &mut Instance,
    who: &str,
    room: &str,
    event: &str,
    data: &[u8],
) -> Result<Result<Verdict, Rejection>, Box<CallFailure>> {
    instance.publish(&PublishRequest::new(&principal(who), room, event, data))
}

/// A budget that only endless calls exceed, even on a busy machine.
fn with_long_budget(config: &Value) -> Instance {
    let budget = Budget { call: Duration::from_millis(500), ..Budget::default() };
    Plugin::load(engine(), "test", &guest("hostile"), config, budget).unwrap().instantiate().unwrap()
}

fn publish_failure(mode: &str) -> Box<CallFailure> {
    let mut instance = with_long_budget(&json!({ "publish": mode }));
    publish(&mut instance, "alice", "bad:a", "trade", b"{}").unwrap_err()
}

#[test]
fn every_way_to_misbehave_is_stopped_and_named() {
    let kinds = [
        ("loop", FailureKind::Deadline),
        ("allocate", FailureKind::Memory),
        ("recurse", FailureKind::Stack),
        ("panic", FailureKind::Panic),
        ("nonsense", FailureKind::InvalidAnswer),
        ("other", FailureKind::InvalidAnswer),
        ("short", FailureKind::InvalidAnswer),
    ];
    for (mode, kind) in kinds {
        let failure = publish_failure(mode);
        assert_eq!(failure.kind, kind, "{mode}: {failure}");
        assert_eq!(
            (failure.function, failure.room.as_deref()),
            (PluginFunction::Publish, Some("bad:a")),
            "{mode}"
        );
        assert_eq!((&*failure.plugin, &*failure.version), ("test", "0.1.0"), "{mode}");
        if kind != FailureKind::InvalidAnswer {
            assert!(failure.backtrace.iter().any(|name| name.contains("hostile")), "{mode}: {failure}");
        }
    }
}

#[test]
fn an_answer_that_is_too_large_is_invalid() {
    let failure = with_long_budget(&json!({ "room": "huge" })).room("alice", "bad:a").unwrap_err();
    assert_eq!(failure.kind, FailureKind::InvalidAnswer, "{failure}");
    assert!(failure.detail.contains("4194304 bytes"), "{failure}");
}

#[test]
fn a_panic_is_reported_with_its_message_and_location() {
    let failure = publish_failure("panic");
    let line = failure.last_error_line.as_deref().unwrap();
    assert!(line.contains("told to panic") && line.contains("misdeed.rs:"), "{line}");
    assert!(
        failure.to_string().contains("plugin 'test' 0.1.0 failed in publish.check for room 'bad:a' (panic)")
    );
}

#[test]
fn an_endless_loop_ends_with_its_budget() {
    let plugin = load("hostile", &json!({ "publish": "loop" }));
    let mut instance = plugin.instantiate().unwrap();
    let started = Instant::now();
    publish(&mut instance, "alice", "bad:a", "", b"{}").unwrap_err();
    let took = started.elapsed();
    // The upper bound allows for a busy machine.
    assert!(took >= Duration::from_millis(9) && took < Duration::from_millis(100), "{took:?}");
}

#[test]
fn files_that_are_not_plugins_are_rejected_with_a_reason() {
    let good = guest("hostile");
    let says = |bytes: &[u8], words: &[&str]| {
        let (_, text) = fault(bytes, &Value::Null);
        for word in words {
            assert!(text.contains(word), "{word:?} is not in: {text}");
        }
    };
    says(b"", &["plugin 'test' is not WebAssembly"]);
    says(b"#!/bin/sh", &["is not WebAssembly"]);
    says(b"\0asm\x01\0\0\0", &["exports no switchyard:plugin/lifecycle@0.2.0", "SDK"]);
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
        &replace(&good, "@0.2.0", "@0.3.0"),
        &["was built for switchyard:plugin@0.3.0", "supports versions up to switchyard:plugin@0.2.0"],
    );
}

#[test]
fn another_patch_version_of_the_contract_is_supported() {
    let plugin = try_load(&replace(&guest("hostile"), "@0.2.0", "@0.2.7"), &Value::Null).unwrap();
    assert_eq!(publish(&mut plugin.instantiate().unwrap(), "a", "r", "", b"1").unwrap(), Ok(Verdict::Pass));
}

#[test]
fn a_component_is_loaded_as_it_is() {
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
fn the_config_is_validated_at_load() {
    let (kind, text) = fault(&guest("orderbook"), &json!({ "max_depth": 0 }));
    assert!(
        matches!(kind, LoadErrorKind::ConfigRejected(_))
            && text.contains("config.max_depth must be at least 1"),
        "{text}"
    );
    let (kind, text) = fault(&guest("hostile"), &json!({ "init": "panic" }));
    assert!(matches!(kind, LoadErrorKind::CallFailed(_)) && text.contains("told to panic"), "{text}");
    let (kind, text) = fault(&guest("hostile"), &json!({ "init": "loop" }));
    assert!(matches!(kind, LoadErrorKind::CallFailed(_)) && text.contains("ran longer than 100ms"), "{text}");
}

#[test]
fn a_flood_of_log_lines_is_harmless() {
    let budget = Budget { call: Duration::from_secs(2), ..Budget::default() };
    let plugin =
        Plugin::load(engine(), "test", &guest("hostile"), &json!({ "publish": "flood" }), budget).unwrap();
    assert_eq!(
        publish(&mut plugin.instantiate().unwrap(), "alice", "bad:a", "", b"{}").unwrap(),
        Ok(Verdict::Pass)
    );
}
