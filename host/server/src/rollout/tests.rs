//! Rollouts on nodes that share a registry, without sockets. Which version is active shows in the limits that
//! it sets.

mod node;
mod registry;

use super::*;
use crate::hub::tests::guest::{Connect, guest};
use bytes::Bytes;
use node::{NAME, TestNode, by};
use registry::TestRegistry;
use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};
use switchyard_plugin::{Trust, digest};
use switchyard_store::VersionHistory;
use tokio::sync::Barrier;

/// A version that limits the rooms of a connection to `rooms`.
fn version(rooms: u32) -> Bytes {
    guest(&format!("0.{rooms}.0"), Connect::LimitRooms(rooms))
}

fn failing_version() -> Bytes {
    guest("6.6.6", Connect::Panic)
}

async fn history(registry: &TestRegistry) -> VersionHistory {
    registry.history(NAME).await.unwrap()
}

/// Waits for what other tasks and threads do.
async fn eventually(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !is().await {
        assert!(start.elapsed() < Duration::from_secs(30), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_are_closed_until_a_stored_version_is_loaded_at_the_start() {
    let registry = TestRegistry::new();
    TestNode::started(&registry, Some(version(1))).await;
    let node = TestNode::new(&registry, None).await;
    let gate = registry.hold_code();
    let meanwhile = async {
        registry.code_asked.acquire().await.unwrap().forget();
        let refusal = node.publish().await.unwrap_err();
        assert_eq!(refusal.code, ErrorCode::PluginFailed, "{}", refusal.message);
        assert_eq!(node.slot().plugin_state(), PluginState::Loading);
        gate.add_permits(10);
    };
    let (may_be_loadable_later, ()) = tokio::join!(node.rollout.start(|_| ()), meanwhile);
    assert!(!may_be_loadable_later, "the stored version replaces the missing file");
    node.publish().await.unwrap();
    assert_eq!(node.limit().await, Some(1));
    assert_eq!(history(&registry).await.generation, 1, "it is not deployed a second time");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_file_and_a_stored_version_rooms_stay_closed_until_one_is_loaded() {
    let registry = TestRegistry::new();
    let node = TestNode::started(&registry, None).await;
    assert!(matches!(node.slot().plugin_state(), PluginState::Failed { .. }));
    assert_eq!(node.publish().await.unwrap_err().code, ErrorCode::PluginFailed);
    node.load(version(2)).await.unwrap();
    node.publish().await.unwrap();
    assert_eq!((node.limit().await, node.slot().plugin_state()), (Some(2), PluginState::Active));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_deployed_at_the_start_only_if_no_node_has_run_it() {
    let registry = TestRegistry::new();
    let one = TestNode::started(&registry, Some(version(1))).await;
    one.load(version(2)).await.unwrap();
    let returning = TestNode::started(&registry, Some(version(1))).await;
    assert_eq!(returning.limit().await, Some(2));
    let upgraded = TestNode::started(&registry, Some(version(3))).await;
    assert_eq!(upgraded.limit().await, Some(3));
    one.follow().await.unwrap();
    assert_eq!(one.limit().await, Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_that_deploy_at_the_same_time_end_in_one_version() {
    let registry = TestRegistry::new();
    let one = TestNode::started(&registry, Some(version(1))).await;
    let two = TestNode::started(&registry, None).await;
    // Both have read the same history when they change it.
    *registry.changes_meet.lock().unwrap() = Some(Arc::new(Barrier::new(2)));
    let (loaded_by_one, loaded_by_two) = tokio::join!(one.load(version(2)), two.load(version(3)));
    loaded_by_one.unwrap();
    loaded_by_two.unwrap();
    let history = history(&registry).await;
    assert_eq!(history.generation, 3, "neither change overwrote the other");
    let stored: Vec<_> = history.versions.iter().map(|release| &release.sha256).collect();
    assert!([2, 3].iter().all(|rooms| stored.contains(&&digest(&version(*rooms)))), "{stored:?}");
    let winner = if history.current == digest(&version(2)) { 2 } else { 3 };
    for node in [&one, &two] {
        node.follow().await.unwrap();
        assert_eq!(node.limit().await, Some(winner));
        assert_eq!(node.slot().report().sha256, Some(history.current.clone()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_fails_on_probation_is_rolled_back_on_all_nodes() {
    let registry = TestRegistry::new();
    let one = TestNode::started(&registry, Some(version(1))).await;
    let two = TestNode::started(&registry, None).await;
    one.load(failing_version()).await.unwrap();
    two.follow().await.unwrap();
    assert!(matches!(one.slot().plugin_state(), PluginState::Probation { .. }));
    for who in ["alice", "bob", "carol", "alice", "bob"] {
        assert_eq!(one.connect(who).await.unwrap_err().code, ErrorCode::PluginFailed);
    }
    eventually("the rollback", async || history(&registry).await.current == digest(&version(1))).await;
    assert_eq!(one.limit().await, Some(1));
    two.follow().await.unwrap();
    assert_eq!(two.limit().await, Some(1));
    assert_eq!(one.slot().plugin_state(), PluginState::Active, "a rollback is not on probation");
    let withdrawn = digest(&failing_version());
    for node in [&one, &two] {
        let versions = node.versions();
        let state = versions.iter().find(|(sha256, ..)| *sha256 == withdrawn).map(|(_, state, _)| &**state);
        assert_eq!(state, Some("failed"), "{versions:?}");
    }
    let refusal = one.rollout.rollback(NAME, None, by("acme")).await.err().unwrap();
    assert_eq!(refusal.code, ErrorCode::Conflict, "a withdrawn version is not rolled back to");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_version_without_probation_stays_active() {
    let registry = TestRegistry::new();
    let node = TestNode::started(&registry, Some(version(1))).await;
    let config = PluginConfig { probation: Duration::ZERO, ..node.config() };
    node.rollout.reload(&node.slot(), config).await.unwrap();
    node.load(failing_version()).await.unwrap();
    assert_eq!(node.slot().plugin_state(), PluginState::Active);
    for who in ["alice", "bob", "carol", "alice", "bob"] {
        node.connect(who).await.unwrap_err();
    }
    assert!(matches!(node.slot().plugin_state(), PluginState::Quarantined { .. }));
    assert_eq!(history(&registry).await.current, digest(&failing_version()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_sees_the_traffic_without_effect_and_can_be_promoted() {
    let registry = TestRegistry::new();
    let node = TestNode::started(&registry, Some(version(1))).await;
    let no_candidate = node.rollout.promote(NAME, &by("acme")).await.err().unwrap();
    assert_eq!(no_candidate.code, ErrorCode::Conflict);
    node.rollout.start_shadow(NAME, version(2), None, &by("ann")).await.unwrap();
    assert_eq!(node.limit().await, Some(1), "the active version answers");
    assert_eq!(history(&registry).await.generation, 1, "other nodes know nothing of it");
    eventually("the comparison", async || {
        let view = serde_json::to_value(node.slot().view()).unwrap();
        view["shadow"]["hooks"]["connect"]["different"] == 1
    })
    .await;
    node.rollout.promote(NAME, &by("acme")).await.unwrap();
    assert_eq!(node.limit().await, Some(2));
    assert_eq!(node.versions()[0], (digest(&version(2)), "probation".to_owned(), "promotion".into()));
    assert!(node.slot().view().shadow.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_candidate_sees_nothing_more() {
    let node = TestNode::started(&TestRegistry::new(), Some(version(1))).await;
    node.rollout.start_shadow(NAME, version(2), None, &by("ann")).await.unwrap();
    let plugin = node.slot().state().candidate.as_ref().unwrap().shadow.plugin().clone();
    node.limit().await;
    eventually("a call", async || plugin.stats().status().counts.calls.contains_key("connect.authorize"))
        .await;
    let calls = || plugin.stats().status().counts.calls["connect.authorize"].0;
    assert_eq!(calls(), 1);
    node.rollout.stop_shadow(NAME, &by("ann")).await.unwrap();
    node.limit().await;
    // The candidate's thread keeps the plugin until it has ended.
    eventually("the end of its thread", async || Arc::strong_count(&plugin) == 1).await;
    assert_eq!(calls(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_compilation_never_replaces_a_newer_version() {
    let registry = TestRegistry::new();
    let one = TestNode::started(&registry, Some(version(1))).await;
    let two = TestNode::started(&registry, None).await;
    one.load(version(2)).await.unwrap();
    registry.code_asked.forget_permits(usize::MAX >> 4);
    let gate = registry.hold_code();
    // Node two begins to follow, but its code takes long to arrive. Meanwhile an operator loads a newer
    // version there.
    let following = two.follow();
    let loading = async {
        registry.code_asked.acquire().await.unwrap().forget();
        two.load(version(3)).await.unwrap();
        gate.add_permits(1);
    };
    let (followed, ()) = tokio::join!(following, loading);
    followed.unwrap();
    assert_eq!(two.limit().await, Some(3));
    assert_eq!(history(&registry).await.current, digest(&version(3)));
    assert_eq!(two.slot().report().generation, 3);
}

/// Regression: a version that was verified before a key was revoked was activated after that, and brought the
/// old keys back with its configuration.
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_during_a_deployment_stops_it_and_stays_in_effect() {
    let registry = TestRegistry::new();
    let node = TestNode::started(&registry, Some(version(1))).await;
    let slot = node.slot();
    let activating = slot.rollout_lock.lock().await;
    let revoking = async {
        eventually("it is being loaded", async || slot.state().loading.is_some()).await;
        slot.set_trust(&Arc::new(Trust { keys: vec![], require: true }));
        drop(activating);
    };
    let (loaded, ()) = tokio::join!(node.load(version(2)), revoking);
    assert_eq!(loaded.err().unwrap().code, ErrorCode::InvalidRequest);
    assert_eq!(node.limit().await, Some(1));
    assert!(slot.config.load().trust.require, "the revocation is undone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_that_another_version_overtakes_changes_nothing() {
    let registry = TestRegistry::new();
    let one = TestNode::started(&registry, Some(version(1))).await;
    one.load(version(2)).await.unwrap();
    // This node has never compiled version 1.
    let two = TestNode::started(&registry, None).await;
    registry.code_asked.forget_permits(usize::MAX >> 4);
    let gate = registry.hold_code();
    let rolling_back = two.rollout.rollback(NAME, None, by("acme"));
    let loading = async {
        registry.code_asked.acquire().await.unwrap().forget();
        two.load(version(3)).await.unwrap();
        gate.add_permits(1);
    };
    let (rolled_back, ()) = tokio::join!(rolling_back, loading);
    assert_eq!(rolled_back.err().unwrap().code, ErrorCode::Conflict);
    assert_eq!(two.limit().await, Some(3));
    assert_eq!(history(&registry).await.current, digest(&version(3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_activates_the_version_before_on_all_nodes() {
    let registry = TestRegistry::new();
    let one = TestNode::started(&registry, Some(version(1))).await;
    one.load(version(2)).await.unwrap();
    one.load(version(3)).await.unwrap();
    let two = TestNode::started(&registry, None).await;
    one.rollout.rollback(NAME, None, by("acme")).await.unwrap();
    two.follow().await.unwrap();
    assert_eq!((one.limit().await, two.limit().await), (Some(2), Some(2)));
    one.rollout.rollback(NAME, None, by("acme")).await.unwrap();
    assert_eq!(one.limit().await, Some(1), "a second rollback goes further back");
    let unknown = one.rollout.rollback(NAME, Some("f00d".to_owned()), by("acme")).await.err().unwrap();
    assert_eq!(unknown.code, ErrorCode::Conflict);
    one.rollout.rollback(NAME, Some(digest(&version(3))), by("acme")).await.unwrap();
    two.follow().await.unwrap();
    assert_eq!((one.limit().await, two.limit().await), (Some(3), Some(3)));
    // Regression: nodes that followed put the version on probation, because it is the newest that was loaded.
    let states = [&one, &two].map(|node| node.slot().plugin_state());
    assert_eq!(states, [PluginState::Active, PluginState::Active]);
}

/// Regression: a plugin that was removed and added again at once followed what had been read of the removed one, and wrote
/// that to the store, without its code. After a restart, nothing was active.
#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_follows_nothing_that_was_read_before_it_was_there() {
    let registry = TestRegistry::new();
    let removed = TestNode::started(&registry, Some(version(1))).await;
    removed.load(version(2)).await.unwrap();
    let read_at = Instant::now();
    let stale = registry.read(None).await.unwrap().expect("unknown so far");
    registry.forget(NAME).await.unwrap();
    let added = TestNode::started(&registry, Some(version(3))).await;
    added.follow_read(&stale, read_at).await.unwrap();
    added.follow().await.unwrap();
    assert_eq!(added.limit().await, Some(3));
    let stored = history(&registry).await;
    assert_eq!((stored.generation, stored.current), (1, digest(&version(3))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_cannot_be_recorded_is_reverted() {
    let registry = TestRegistry::new();
    let node = TestNode::started(&registry, Some(version(1))).await;
    registry.refuses_changes.store(true, Relaxed);
    let refusal = node.load(version(2)).await.unwrap_err();
    assert_eq!(refusal.code, ErrorCode::StoreUnavailable);
    assert_eq!((node.limit().await, history(&registry).await.generation), (Some(1), 1));
    // Regression: it was shown as failed, as if something were wrong with it.
    let versions = node.versions();
    assert!(versions.iter().all(|(_, state, _)| state != "failed"), "{versions:?}");
    registry.refuses_changes.store(false, Relaxed);
    node.load(version(2)).await.unwrap();
    assert_eq!((node.limit().await, history(&registry).await.generation), (Some(2), 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_does_not_load_changes_nothing() {
    let registry = TestRegistry::new();
    let node = TestNode::started(&registry, Some(version(1))).await;
    let refusal = node.load(Bytes::from_static(b"\0asm nothing")).await.unwrap_err();
    assert_eq!(refusal.code, ErrorCode::InvalidRequest, "{}", refusal.message);
    assert_eq!((node.limit().await, history(&registry).await.generation), (Some(1), 1));
    assert_eq!(node.slot().plugin_state(), PluginState::Active);
    let failed = &node.versions()[0];
    assert_eq!(failed.1, "failed", "{failed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_the_store_has_lost_is_restored_with_its_code() {
    let registry = TestRegistry::new();
    let node = TestNode::started(&registry, Some(version(1))).await;
    node.load(version(2)).await.unwrap();
    let before = history(&registry).await;
    registry.lose_all();
    node.follow().await.unwrap();
    assert_eq!(history(&registry).await, before);
    let new = TestNode::started(&registry, None).await;
    assert_eq!(new.limit().await, Some(2));
    new.rollout.rollback(NAME, None, by("acme")).await.unwrap();
    assert_eq!(new.limit().await, Some(1), "the code of the earlier version is there, too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_deployed_and_an_unchanged_one_leaves_a_newer_version_active() {
    let registry = TestRegistry::new();
    let node = TestNode::started(&registry, Some(version(1))).await;
    node.load(version(2)).await.unwrap();
    node.rollout.reload(&node.slot(), node.config()).await.unwrap();
    assert_eq!(node.limit().await, Some(2));
    std::fs::write(node.config().file.unwrap(), version(3)).unwrap();
    node.rollout.reload(&node.slot(), node.config()).await.unwrap();
    assert_eq!(node.limit().await, Some(3));
    assert_eq!(node.versions()[0].2, "file");
}
