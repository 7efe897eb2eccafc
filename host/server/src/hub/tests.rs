//! The shards of a plugin together: activating versions on all of them or none, and changing their number.

pub(crate) mod guest;

use super::*;
use guest::{Connect, guest};
use std::{collections::BTreeSet, time::Duration};
use switchyard_plugin::{Budget, Engine, OnFailure, Plugin};
use switchyard_process::vital::VitalTasks;
use switchyard_protocol::room::RoomPattern;
use switchyard_store::{HistoryConfig, MemoryStore, Retention};

/// A hub with the store in memory, as on a machine with this many cores.
pub(super) async fn hub(cores: usize) -> Arc<Hub> {
    hub_with_memory(cores, MemoryAccount::unlimited()).await
}

pub(super) async fn hub_with_memory(cores: usize, memory: Arc<MemoryAccount>) -> Arc<Hub> {
    let config = HubConfig {
        ungoverned: Ungoverned::Open,
        message_bytes: 1000,
        cores,
        memory: memory.clone(),
        vitals: VitalTasks::default(),
        policies: Default::default(),
        audit: Default::default(),
    };
    let retention = Retention {
        history: HistoryConfig::default().into(),
        session_ttl: Duration::from_secs(60),
        idempotency_key_ttl: Duration::from_secs(60),
    };
    let store = async move |feed| {
        Ok::<_, ()>(Store::from(MemoryStore::new(retention, feed, &memory, &VitalTasks::default())))
    };
    Hub::start(config, Metrics::default(), store).await.unwrap()
}

/// Gives the hub a `[[room]]` entry, and no other.
pub(super) fn set_room_policy(hub: &Hub, entry: &str) {
    let entry: room_policy::RoomConfig = toml::from_str(entry).unwrap();
    hub.policies.replace(room_policy::RoomPolicy::default().table(&[entry]));
}

/// Lets slots govern the rooms `NAME:*`.
pub(super) async fn govern(hub: &Hub, slots: &[(SlotId, &str)]) {
    let rooms = |(slot, name): &(SlotId, &str)| {
        let patterns = [RoomPattern::try_from(format!("{name}:*")).unwrap()].into();
        SlotRooms { slot: *slot, patterns }
    };
    hub.close_changing_rooms(slots.iter().map(rooms).collect()).await;
    hub.hand_rooms_over().await;
}

/// A version of a plugin without hooks for rooms, with this many instances.
pub(super) fn version(number: u32, instances: usize) -> CompiledVersion {
    let code = guest(&format!("0.{number}.0"), Connect::LimitRooms(number));
    let (engine, budget) = (Engine::new().unwrap(), Budget { instances, ..Budget::default() });
    let plugin = Plugin::load(&engine, "g", &code, &serde_json::Value::Null, budget).unwrap();
    CompiledVersion { plugin: Arc::new(plugin), on_failure: OnFailure::Deny }
}

/// The shards of the rooms `g:0` to `g:99`.
fn owners(hub: &Hub) -> BTreeSet<router::ShardId> {
    (0..100).map(|n| hub.router.owner(&format!("g:{n}"))).collect()
}

#[tokio::test]
async fn a_plugin_has_a_shard_for_each_core_and_at_most_as_many_as_its_budget_allows() {
    let hub = hub(4).await;
    let slot = hub.add_slot("g");
    govern(&hub, &[(slot, "g")]).await;
    assert_eq!(owners(&hub).len(), 1);
    for (number, instances, expected) in [(1, 8, 4), (2, 3, 3), (3, 1, 1), (4, 4, 4)] {
        hub.swap(slot, version(number, instances)).await.unwrap();
        assert_eq!(owners(&hub).len(), expected, "{instances} instances");
        let before: Vec<_> = (0..100).map(|n| hub.router.owner(&format!("g:{n}"))).collect();
        hub.swap(slot, version(number + 10, instances)).await.unwrap();
        let after: Vec<_> = (0..100).map(|n| hub.router.owner(&format!("g:{n}"))).collect();
        assert_eq!(before, after, "a room stays where it is while the number of shards does");
    }
}

#[tokio::test]
async fn a_swap_whose_caller_goes_away_keeps_no_shard_waiting() {
    let hub = hub(4).await;
    let slot = hub.add_slot("g");
    govern(&hub, &[(slot, "g")]).await;
    hub.swap(slot, version(1, 4)).await.unwrap();
    let (_, shards) = hub.router.slot_shards(slot).unwrap();
    // Two of the shards prepare, and then nobody tells them to go on.
    let mut abandoned = vec![];
    for shard in &shards[..2] {
        let (prepared, answer) = oneshot::channel();
        let (commit, decision) = oneshot::channel::<oneshot::Sender<()>>();
        let preparation = command::SwapPreparation { version: version(2, 4), prepared, commit: decision };
        hub.router.send_to(*shard, ShardCommand::PrepareSwap(preparation));
        answer.await.unwrap().unwrap();
        abandoned.push(commit);
    }
    let next = hub.swap(slot, version(3, 4));
    tokio::pin!(next);
    assert!(futures_util::poll!(&mut next).is_pending());
    drop(abandoned);
    tokio::time::timeout(Duration::from_secs(10), next).await.expect("no shard waits").unwrap();
}

#[tokio::test]
async fn a_shard_that_does_nothing_has_no_thread() {
    let hub = hub(4).await;
    let slot = hub.add_slot("idle-slot");
    hub.swap(slot, version(1, 4)).await.unwrap();
    hub.swap(slot, version(2, 4)).await.unwrap();
    let names = std::fs::read_dir("/proc/self/task")
        .expect("Linux")
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    assert!(!names.into_iter().any(|name| name.starts_with("plugin idle-slo")));
}

#[tokio::test]
async fn a_slot_beyond_the_pool_of_instances_is_a_conflict() {
    let hub = hub(64).await;
    let version = version(1, 64);
    let mut slots = vec![];
    let refusal = loop {
        let slot = hub.add_slot(&format!("g{}", slots.len()));
        match hub.swap(slot, version.clone()).await {
            Ok(()) => slots.push(slot),
            Err(refusal) => break refusal,
        }
    };
    assert_eq!((slots.len(), refusal.code), (7, ErrorCode::Conflict));
    let expected = "plugin 'g7' may need 132 instances, and the other plugins of this node leave 84 of 1008: lower \
                    budget.instances of some of them, or remove one";
    assert_eq!(refusal.message, expected);
    hub.remove_slot(slots[0]).await;
    let slot = hub.add_slot("later");
    hub.swap(slot, version).await.unwrap();
}
