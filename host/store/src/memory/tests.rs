use super::*;
use crate::{
    Broker, ConnectionId, HistoryConfig, HistoryPolicies, IDEMPOTENCY_KEY_TTL, Join, Membership, Message,
    PageLimit, Reader, RoomDirectory, RoomTable, SessionHandle, SessionStore,
};
use switchyard_process::memory::MemoryKind;
use switchyard_protocol::Position;

#[tokio::test(start_paused = true)]
async fn the_memory_store_passes_the_contract() {
    crate::contract::suite(Duration::from_secs(1), |retention, feed| async move {
        Store::from(MemoryStore::new(retention, feed, &MemoryAccount::unlimited(), &VitalTasks::default()))
    })
    .await;
}

/// Shorter histories hold as soon as a room is read.
#[tokio::test(start_paused = true)]
async fn a_history_is_read_within_the_policy_of_the_moment() {
    let config = |messages, bytes| HistoryConfig { messages, bytes, ..HistoryConfig::default() };
    let policies = |messages, bytes| RoomTable::new(config(messages, bytes), vec![]);
    let history = HistoryPolicies::new(policies(10, 1 << 20));
    let retention = Retention {
        history: history.clone(),
        session_ttl: Duration::from_secs(120),
        idempotency_key_ttl: IDEMPOTENCY_KEY_TTL,
    };
    let account = MemoryAccount::unlimited();
    let store = MemoryStore::new(retention, Arc::new(|_| true), &account, &VitalTasks::default());
    let room = RoomName::parse("a").unwrap();
    for _ in 0..10 {
        let message = Message {
            room: &room,
            event: None,
            data: "1",
            principal: &"p".into(),
            idempotency_key: None,
            needs_member: false,
            names_publisher: false,
            shows_sender: false,
        };
        store.publish(message).await.unwrap();
    }
    let held = async || {
        let read = store.history(&room, None, crate::contract::TEN, Reader::Other).await.unwrap();
        assert_eq!(read.newest.offset, 10);
        read.messages.len()
    };
    let all = account.used(MemoryKind::History);
    for (messages, bytes, expected) in [(10, 1 << 20, 10), (8, 1 << 20, 8), (8, all / 2 + 1, 5), (0, all, 0)]
    {
        history.replace(policies(messages, bytes));
        assert_eq!(held().await, expected, "{messages} messages and {bytes} bytes");
    }
    assert_eq!(account.used(MemoryKind::History), 0);
}

#[tokio::test(start_paused = true)]
async fn an_unused_room_is_forgotten() {
    let retention = Retention {
        history: HistoryConfig::default().into(),
        session_ttl: Duration::from_secs(120),
        idempotency_key_ttl: IDEMPOTENCY_KEY_TTL,
    };
    let store =
        MemoryStore::new(retention, Arc::new(|_| true), &MemoryAccount::unlimited(), &VitalTasks::default());
    let room = RoomName::parse("fleeting").unwrap();
    store
        .publish(Message {
            room: &room,
            event: None,
            data: "1",
            principal: &"p".into(),
            idempotency_key: None,
            needs_member: false,
            names_publisher: false,
            shows_sender: false,
        })
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(590)).await;
    assert_eq!(store.list("", 10).await.unwrap().len(), 1);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(store.list("", 10).await.unwrap(), []);
}

/// Each such room stayed for ten minutes, even if it was only read.
#[tokio::test(start_paused = true)]
async fn rooms_that_were_only_visited_are_forgotten_within_a_minute() {
    let retention = Retention {
        history: HistoryConfig::default().into(),
        session_ttl: Duration::from_secs(120),
        idempotency_key_ttl: IDEMPOTENCY_KEY_TTL,
    };
    let store =
        MemoryStore::new(retention, Arc::new(|_| true), &MemoryAccount::unlimited(), &VitalTasks::default());
    let names: Vec<_> = (0..1000).map(|n| RoomName::parse(&format!("visited:{n}")).unwrap()).collect();
    for name in &names {
        let (read, again) = (
            store.history(name, None, PageLimit::NONE, Reader::Other).await,
            store.history(name, None, PageLimit::NONE, Reader::Other).await,
        );
        let (read, again) = (read.unwrap(), again.unwrap());
        assert!(read.messages.is_empty() && read.newest.offset == 0 && read.newest != again.newest);
        store.members(name, 10).await.unwrap();
        store.receipt(name, 1).await.unwrap();
    }
    assert_eq!(store.list("", 10).await.unwrap(), [], "reading creates no room");
    let connection = ConnectionId::random();
    let token = store.create(&"acme".into(), connection, vec![]).await.unwrap();
    let handle = SessionHandle { token, connection };
    for name in &names {
        store.subscribe(name);
        let position = store.history(name, None, PageLimit::NONE, Reader::Other).await.unwrap().newest;
        let membership = Membership { filter: None, position: position.clone() };
        store.join(handle, vec![Join { room: name.clone(), membership, anew: true }]).await.unwrap();
        assert_eq!(store.history(name, None, PageLimit::NONE, Reader::Other).await.unwrap().newest, position);
    }
    // A session that can be resumed keeps its rooms, and nothing else does.
    let (kept, left) = names.split_at(10);
    store.leave(handle, left.to_vec()).await.unwrap();
    store.detach(handle);
    names.iter().for_each(|name| store.unsubscribe(name));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(store.list("", 1000).await.unwrap().len(), kept.len());
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(store.list("", 10).await.unwrap(), []);
    let capacity: usize = store.stripes.iter().map(|stripe| stripe.lock().unwrap().capacity()).sum();
    assert!(capacity < 10 * STRIPES, "a capacity of {capacity} for no room");
}

#[tokio::test(start_paused = true)]
async fn a_membership_is_charged_once_with_its_current_filter() {
    let retention = Retention {
        history: HistoryConfig::default().into(),
        session_ttl: Duration::from_secs(120),
        idempotency_key_ttl: IDEMPOTENCY_KEY_TTL,
    };
    let account = MemoryAccount::unlimited();
    let store = MemoryStore::new(retention, Arc::new(|_| true), &account, &VitalTasks::default());
    let connection = ConnectionId::random();
    let token = store.create(&"acme".into(), connection, vec![]).await.unwrap();
    let handle = SessionHandle { token, connection };
    let (room, session) = (RoomName::parse("a").unwrap(), account.used(MemoryKind::Sessions));
    let charged_after_join = async |filter: &str| {
        let position = Position { epoch: "e".into(), offset: 0 };
        let membership = Membership { filter: Some(filter.into()), position };
        store.join(handle, vec![Join { room: room.clone(), membership, anew: false }]).await.unwrap();
        account.used(MemoryKind::Sessions)
    };
    let first = charged_after_join("1234").await;
    assert!(first > session);
    assert_eq!(charged_after_join("1234").await, first);
    assert_eq!(charged_after_join("123456").await, first + 2);
    assert_eq!(charged_after_join("1").await, first - 3);
    store.leave(handle, vec![room.clone(), room.clone()]).await.unwrap();
    assert_eq!(account.used(MemoryKind::Sessions), session);
}
