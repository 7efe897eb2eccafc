//! A published contract is a promise: plugins built against it keep working, and its text does not change.

use super::{check, load, principal};
use serde_json::{Value, json};
use std::{fs, path::Path};
use switchyard_plugin::{ConnectRequest, Counts, Governor, MetricValue, OnFailure, Verdict};

#[test]
fn a_plugin_built_for_the_first_contract_version_runs() {
    let plugin = load("first_contract", &json!({}));
    let mut governor = Governor::new(plugin.clone(), OnFailure::Deny);
    let hooks = plugin.info().hooks;
    assert!(hooks.connect && hooks.room && hooks.subscribe && hooks.publish && hooks.deliver);
    let connecting = |id: &str| ConnectRequest::new(principal(id), "127.0.0.1:1");
    assert_eq!(governor.connect(&connecting("acme")).unwrap().rooms, Some(7));
    assert_eq!(governor.connect(&connecting("mallory")).unwrap_err().message, "not you");
    assert_eq!(governor.validate("alice", "Prices").unwrap().as_deref(), Some("prices"));

    let mut subscribe = |filter: &str| {
        let grant = governor.authorize(&principal("acme"), "prices", Some(filter), Counts::default());
        grant.unwrap().filter.expect("a filter")
    };
    let ids =
        [r#"{"has":"eth"}"#, r#"{ "has": "eth" }"#, r#"{"has":"btc"}"#, r#"{"has":""}"#].map(&mut subscribe);
    assert_eq!(ids[0], ids[1]);
    let mut bits = vec![];
    governor.matches("prices", "", br#"{"eth":1}"#, &[ids[0], ids[2], ids[3]], &mut bits).unwrap();
    assert_eq!(bits, [0b101]);
    ids.into_iter().for_each(|id| governor.release(id, "acme"));

    assert_eq!(check(&mut governor, "acme", "prices", "", b"1"), Ok(Verdict::Pass));
    assert_eq!(check(&mut governor, "acme", "prices", "noise", b"1"), Ok(Verdict::Discard));
    let Ok(Verdict::Replace(stamp)) = check(&mut governor, "acme", "prices", "stamp", b"1") else {
        panic!("not replaced")
    };
    let stamp: Value = serde_json::from_slice(&stamp).expect("JSON");
    assert!(stamp["time"].as_u64() > Some(1_700_000_000_000), "{stamp}");
    assert_eq!(plugin.metrics()[1], ("checked", MetricValue::Counter(3)));
    assert!(governor.stats().status().counts.failures.is_empty());
}

/// The contract without comments and white space, and its version.
fn contract(file: &str) -> (String, String) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    let words: Vec<_> = code.flat_map(str::split_whitespace).collect();
    let version = words.iter().find_map(|word| word.strip_prefix("switchyard:plugin@")).expect("a package");
    (words.join(" "), version.to_owned())
}

#[test]
fn a_changed_contract_has_a_new_version() {
    let (published, first) = contract("guests/first-contract/wit/plugin.wit");
    let (present, version) = contract("../sdk/wit/plugin.wit");
    assert!(version != first || present == published, "0.1.0 is published: what differs is another version");
    let (supported, _) = contract("../host/plugin/wit/v0.1/plugin.wit");
    assert_eq!(supported, published, "the host's bindings of 0.1 are made from another text");
}
