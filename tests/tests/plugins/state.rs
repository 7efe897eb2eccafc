//! A plugin's state outlives its instances and versions, and its memory is what the accounts say.

use super::{check, engine, guest, principal};
use allocation_counter::measure;
use serde_json::{Value, json};
use std::sync::Arc;
use switchyard_plugin::{
    Budget, CopyBudget, Governor, OnFailure, Plugin, PluginClock, PublishRequest, Shadow, StateTable,
    Verdict, Via,
};
use switchyard_process::memory::MemoryAccount;
use switchyard_tests::eventually;

const ROOM: &str = "room";

fn keeper(state: &Arc<StateTable>) -> Arc<Plugin> {
    let plugin = Plugin::load(engine(), "keeper", &guest("keeper"), &Value::Null, Budget::default());
    Arc::new(plugin.unwrap().with_state(state.clone()))
}

fn state(budget: usize) -> (Arc<StateTable>, PluginClock) {
    let clock = PluginClock::driven(1_000_000);
    (Arc::new(StateTable::new(budget).with_clock(clock.clone())), clock)
}

fn answer(verdict: Verdict) -> Value {
    let Verdict::Replace(data) = verdict else { panic!("{verdict:?}") };
    serde_json::from_slice(&data).unwrap()
}

fn order(governor: &mut Governor, who: &str, order: &Value) -> Value {
    answer(check(governor, who, ROOM, "", order.to_string().as_bytes()).unwrap())
}

#[test]
fn state_outlives_failures_and_versions() {
    let (state, clock) = state(4 << 20);
    let mut governor = Governor::new(keeper(&state), OnFailure::Deny);
    let once = json!({"take": "wallet", "burst": 1, "perMinute": 6});
    assert_eq!(order(&mut governor, "acme", &once)["wait"], Value::Null);
    assert_eq!(order(&mut governor, "acme", &once)["wait"], 10_000);
    let failing = json!({"set": "last", "value": "1850.5", "panic": true});
    check(&mut governor, "acme", ROOM, "", failing.to_string().as_bytes()).unwrap_err();
    assert_eq!(order(&mut governor, "acme", &once)["wait"], 10_000);
    governor.swap(keeper(&state), OnFailure::Deny).unwrap();
    clock.set(1_004_000);
    assert_eq!(order(&mut governor, "zed", &once)["wait"], 6000, "it is one bucket for all principals");
    assert_eq!(order(&mut governor, "zed", &json!({"get": "last"}))["value"], "1850.5");
    clock.set(1_010_000);
    assert_eq!(order(&mut governor, "zed", &once)["wait"], Value::Null);
    let huge =
        json!({"take": "k".repeat(10_000), "amount": u32::MAX, "burst": u32::MAX, "perMinute": u32::MAX});
    assert_eq!(order(&mut governor, "acme", &huge)["wait"], Value::Null);
    assert_eq!(order(&mut governor, "acme", &huge)["wait"], 60_000);
    let large = json!({"set": "large", "value": "v".repeat(65_537)});
    let error = order(&mut governor, "acme", &large);
    assert_eq!(error["error"], "the value has 65537 bytes, at most 65536 are allowed");
}

#[test]
fn the_publish_hook_is_told_who_publishes_what_and_how() {
    let mut governor = Governor::new(keeper(&state(0).0), OnFailure::Deny);
    let who = principal("acme");
    let mut request = PublishRequest::new(&who, ROOM, "", b"{}");
    let told = answer(governor.check(&request).unwrap());
    assert_eq!(told["who"], json!(["acme", "0123456789abcdef", "default"]));
    assert_eq!((&told["via"], &told["key"]), (&json!("websocket"), &Value::Null));
    (request.via, request.idempotency_key) = (Via::Http, Some("k1"));
    let told = answer(governor.check(&request).unwrap());
    assert_eq!((&told["via"], &told["key"]), (&json!("http"), &json!("k1")));
    assert_eq!(governor.plugin().info().filter_schema, None, "it has no filters");
}

/// What a candidate takes and sets must not count for the active version.
#[tokio::test]
async fn a_candidate_changes_nothing() {
    let (state, _) = state(4 << 20);
    let mut governor = Governor::new(keeper(&state), OnFailure::Deny);
    let budget = CopyBudget::new(MemoryAccount::unlimited());
    let shadow = Shadow::start(keeper(&state), budget).unwrap();
    governor.set_mirror(Some(shadow.mirror()));
    let once = json!({"take": "wallet", "burst": 3, "set": "last", "value": "x"});
    for _ in 0..2 {
        order(&mut governor, "acme", &once);
    }
    eventually("two comparisons", async || {
        let (report, _) = shadow.report();
        report.hooks.get("publish").filter(|hook| hook.same + hook.different == 2).map(|_| ())
    })
    .await;
    assert_eq!(order(&mut governor, "acme", &once)["wait"], Value::Null, "it is the third of three");
    assert_eq!(order(&mut governor, "acme", &once)["wait"], -1);
}

/// Takes the numbers from an allocator that counts: the budget bounds memory, not an estimate of it.
#[test]
fn the_budget_covers_the_memory_that_the_state_takes() {
    for entry in ["take", "set"] {
        let (state, _) = state(64 << 20);
        let mut governor = Governor::new(keeper(&state), OnFailure::Deny);
        let mut fill = |from: u32, to: u32| {
            for n in from..to {
                let principal = format!("p{}", n % 10);
                let mut asked = json!({"burst": 1, "value": "v", "ttlMs": 1000});
                asked[entry] = format!("wallet:{n:010}").into();
                order(&mut governor, &principal, &asked);
            }
        };
        fill(0, 100);
        let before = state.usage().bytes;
        let measured = measure(|| fill(100, 10_100)).bytes_current as usize;
        let counted = state.usage().bytes - before;
        assert_eq!(state.usage().entries, 10_100);
        assert!(measured <= counted, "{entry}: {measured} bytes are allocated, {counted} are counted");
        assert!(measured * 2 >= counted, "{entry}: {measured} bytes are allocated, {counted} are counted");
    }
}
