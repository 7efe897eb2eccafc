//! A shard of a plugin whose queue the tests fill, in any order.

use super::*;
use crate::{
    hub::{
        Connection, Hub,
        policy::ClosedReason,
        publish_pipeline::{CheckOutcome, UncheckedMessage},
        room_policies::Offered,
        router::{ShardHandle, SlotId},
        tests::{govern, hub, set_room_policy, version},
    },
    key::Key,
    outbox::tests::TestPipe,
};
use governed::PendingCommands;
use std::collections::VecDeque;
use switchyard_plugin::{Governor, Via};
use switchyard_process::memory::MemoryAccount;
use switchyard_protocol::ErrorCode;

/// A plugin whose rooms have just moved from its only shard to a new one, which is not running.
struct Moved {
    hub: Arc<Hub>,
    slot: SlotId,
    governed: Arc<GovernedRooms>,
    source: ShardId,
    shard: Shard,
    handle: ShardHandle,
    commands: mpsc::UnboundedReceiver<ShardCommand>,
    done: Vec<oneshot::Receiver<()>>,
}

async fn moved(closed: bool) -> Moved {
    let hub = hub(1).await;
    let slot = hub.add_slot("g");
    govern(&hub, &[(slot, "g")]).await;
    let active = version(1, 1);
    hub.swap(slot, active.clone()).await.unwrap();
    let (governed, shards) = hub.router.slot_shards(slot).unwrap();
    let (queue, commands) = mpsc::unbounded_channel();
    let handle = ShardHandle::new(queue, Some(governed.clone()));
    let id = hub.router.add_shard(handle.clone());
    let policy = match closed {
        true => Policy::Closed { plugin: "g".into(), reason: ClosedReason::NoThread },
        false => {
            let group = governed.governors.clone();
            Policy::Governed(Box::new(Governor::in_group(active.plugin, active.on_failure, group)))
        }
    };
    let shard = hub.new_shard(id, &handle, policy);
    let done = hub.router.set_shards(slot, [id].into());
    Moved { hub, slot, governed, source: shards[0], shard, handle, commands, done }
}

fn room_name() -> RoomName {
    RoomName::parse("g:r").unwrap()
}

fn message(hub: &Hub, room: &str) -> UncheckedMessage {
    UncheckedMessage {
        room: RoomName::parse(room).unwrap(),
        key: Key::detached("acme"),
        via: Via::Http,
        event: None,
        data: "1".to_owned(),
        idempotency_key: None,
        charge: hub.memory.share(&"acme".into()).charge(MemoryKind::Publishes, 0),
    }
}

fn at(offset: u64) -> Position {
    Position { epoch: "e".into(), offset }
}

fn offsets(member: &Connection) -> Vec<u64> {
    let offset = |text: &String| {
        let frame: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(frame["type"], "message", "{text}");
        frame["offset"].as_u64().unwrap()
    };
    member.outbox.take_texts().iter().map(offset).collect()
}

/// Regression: commands that had waited for their room were put behind those that came after them, so a message was
/// taken for one that had been delivered already, and its members never got it.
#[tokio::test]
async fn messages_keep_their_order_when_a_room_arrives_between_them() {
    let Moved { hub, source, shard, handle, mut commands, done, .. } = moved(false).await;
    let member = Connection::detached(TestPipe::new(0));
    let mut room = Room::new(room_name(), at(0));
    room.join(member.clone(), None, None, false);
    let charge = MemoryAccount::unlimited().share(&"acme".into()).charge(MemoryKind::Rooms, 0);
    let rooms = vec![HandedRoom { name: room_name(), room: Box::new(room), charge }];
    let published = |offset| {
        handle.backlog.fetch_add(1, Ordering::Relaxed);
        let message = Publication::new(room_name().shared(), "e".into(), offset, 0, None, "1");
        ShardCommand::Store(Event::Published(Arc::new(message)))
    };
    let hand_over = commands.recv().await.expect("the rooms have moved");
    assert!(matches!(hand_over, ShardCommand::HandOver { .. }));
    let adopted = commands.recv().await.expect("the other shard has no rooms");
    assert!(matches!(adopted, ShardCommand::Adopt { from, .. } if from == source));
    let first = VecDeque::from([
        hand_over,
        published(1),
        published(2),
        ShardCommand::Adopt { from: source, rooms },
        published(3),
        published(4),
    ]);
    // The shard ends when nobody can send it anything.
    hub.router.remove_shards(&[shard.id]);
    drop(handle);
    let mut pending = PendingCommands::default();
    let ended = shard.run_in_turns(commands, first, &mut pending);
    let ended = tokio::time::timeout(Duration::from_secs(10), ended).await.expect("the shard ends");
    assert!(ended.is_none());
    assert_eq!(offsets(&member), [1, 2, 3, 4]);
    for done in done {
        done.await.unwrap();
    }
}

/// Regression: a repetition was refused when the rate of its room was used up, although it stores nothing.
#[tokio::test]
async fn a_repetition_of_a_stored_message_is_a_duplicate_beyond_the_rate() {
    let Moved { hub, mut shard, .. } = moved(false).await;
    set_room_policy(&hub, "match = 'g:*'\npublishes = '1/m'");
    let (room, principal) = (room_name(), "acme".into());
    let stored = switchyard_store::Message {
        room: &room,
        event: None,
        data: "1",
        principal: &principal,
        idempotency_key: Some("k"),
        needs_member: false,
        names_publisher: true,
        shows_sender: false,
    };
    let stored = hub.store.broker.publish(stored).await.unwrap().expect("stored").position;
    let offered = Offered { room: &room, principal: &principal, bytes: 1 };
    hub.policies.take_rate(&hub.policies.of(&room), &offered, &hub.metrics, Instant::now()).unwrap();
    let mut check = |key: &str| {
        let message = UncheckedMessage { idempotency_key: Some(key.to_owned()), ..message(&hub, "g:r") };
        shard.check(message, None)
    };
    let repeated = check("k").map_err(|refusal| refusal.message).expect("a duplicate").outcome;
    assert!(matches!(repeated, CheckOutcome::Repeated(position) if position == stored));
    assert_eq!(check("another").err().expect("it is refused").code, ErrorCode::RateLimited);
}

/// Regression: when a policy was switched off, messages that were read later still named their senders: of another node,
/// or of a gap on Redis that was filled.
#[tokio::test]
async fn a_sender_is_hidden_from_members_once_the_policy_is_switched_off() {
    let Moved { hub, mut shard, .. } = moved(false).await;
    let member = Connection::detached(TestPipe::new(0));
    let mut room = Room::new(room_name(), at(0));
    room.join(member.clone(), None, None, false);
    let charge = MemoryAccount::unlimited().share(&"acme".into()).charge(MemoryKind::Rooms, 0);
    shard.rooms.insert(room_name(), RoomEntry::Open(Box::new(room), charge));
    let mut senders = vec![];
    for (offset, entry) in
        [(1, "match = 'g:*'\nsender = true"), (2, "match = 'g:*'"), (3, "match = 'g:*'\nsender = true")]
    {
        set_room_policy(&hub, entry);
        let (room, epoch) = (room_name().shared(), "e".into());
        shard.deliver(&Arc::new(Publication::from_sender(room, epoch, offset, 0, None, "1", "bob".into())));
        shard.flush.write_all();
        for text in member.outbox.take_texts() {
            let frame: serde_json::Value = serde_json::from_str(&text).unwrap();
            senders.push((frame["offset"].as_u64().unwrap(), frame["from"].as_str().map(str::to_owned)));
        }
    }
    let bob = || Some("bob".to_owned());
    assert_eq!(senders, [(1, bob()), (2, None), (3, bob())]);
}

/// Regression: a shard for which no thread could be started accepted a message whose canonical room was known, without
/// asking its plugin.
#[tokio::test]
async fn a_closed_shard_refuses_messages_whose_canonical_room_is_known() {
    let Moved { hub, slot, governed, mut shard, .. } = moved(true).await;
    let message = message(&hub, "g:alias");
    let generation = governed.governors.generation();
    let canonical = Some(CanonicalRoom { name: room_name(), slot, generation });
    let (reply, answer) = oneshot::channel();
    shard.handle_in_order(ShardCommand::Request(PolicyRequest::Check { message, canonical, reply }));
    let refusal = answer.await.unwrap().err().expect("it is refused");
    assert_eq!(refusal.code, ErrorCode::PluginFailed);
    assert_eq!(refusal.message, "room 'g:alias' is closed: no thread can be started for its plugin 'g'");
}

/// Regression: a principal whose calls were slow was told that the node was stopping, when its rooms had got another
/// shard.
#[tokio::test]
async fn a_shard_without_rooms_passes_requests_on_although_their_principal_pauses() {
    let Moved { hub, slot, source, mut shard, handle, mut commands, .. } = moved(false).await;
    let hand_over = commands.recv().await.expect("the rooms have moved");
    let adopted = commands.recv().await.expect("the other shard has no rooms");
    shard.handle_in_order(hand_over);
    shard.handle_in_order(adopted);
    let moved_back = hub.router.set_shards(slot, [source].into());
    for _ in 0..2 {
        shard.handle_in_order(commands.recv().await.expect("the rooms move back"));
    }
    for moved in moved_back {
        moved.await.unwrap();
    }
    let mut pending = PendingCommands::default();
    pending.pause("acme".into(), Instant::now() + Duration::from_secs(3600));
    let (reply, answer) = oneshot::channel();
    let message = message(&hub, "g:r");
    let first = [ShardCommand::Request(PolicyRequest::Check { message, canonical: None, reply })].into();
    hub.router.remove_shards(&[shard.id]);
    drop(handle);
    let ended = shard.run_in_turns(commands, first, &mut pending);
    assert!(tokio::time::timeout(Duration::from_secs(10), ended).await.expect("the shard ends").is_none());
    assert!(answer.await.expect("an answer").is_ok());
}
