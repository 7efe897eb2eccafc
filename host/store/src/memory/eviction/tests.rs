use super::*;
use crate::{Broker, HistoryConfig, Message, PageLimit, Reader, Retention};
use std::sync::Arc;
use switchyard_process::{
    memory::{MemoryAccount, MemoryKind},
    vital::VitalTasks,
};
use switchyard_protocol::{Position, room::RoomName};

const LIMIT: usize = 1 << 20;

fn store(messages: usize) -> (Arc<MemoryStore>, Arc<MemoryAccount>) {
    let account = MemoryAccount::new(LIMIT);
    let history = HistoryConfig { messages, ..HistoryConfig::default() };
    let retention = Retention {
        history: history.into(),
        session_ttl: Duration::from_secs(120),
        idempotency_key_ttl: IDEMPOTENCY_KEY_TTL,
    };
    (MemoryStore::new(retention, Arc::new(|_| true), &account, &VitalTasks::default()), account)
}

fn room(n: u32) -> RoomName {
    RoomName::parse(&format!("room:{n}")).unwrap()
}

async fn publish(store: &MemoryStore, n: u32, data: &str, key: Option<&str>) -> (Position, bool) {
    let message = Message {
        room: &room(n),
        event: None,
        data,
        principal: &"p".into(),
        idempotency_key: key,
        needs_member: false,
        names_publisher: false,
        shows_sender: false,
    };
    let stored = store.publish(message).await.unwrap().unwrap();
    (stored.position, stored.duplicate)
}

#[tokio::test(start_paused = true)]
async fn histories_of_the_longest_idle_rooms_are_evicted_first() {
    let (store, account) = store(1000);
    let data = format!("\"{}\"", "x".repeat(10_000));
    let mut first = vec![];
    for n in 0..1000 {
        first.push(publish(&store, n, &data, None).await.0);
        // One room is used all the time.
        publish(&store, 5000, "1", None).await;
        assert!(!account.is_full(), "{} after {n}", account.total());
        tokio::time::advance(Duration::from_millis(200)).await;
    }
    let whole = async |n: u32| {
        let after = Position { offset: 0, ..first[n as usize].clone() };
        store.history(&room(n), Some(&after), PageLimit::NONE, Reader::Other).await.unwrap().whole
    };
    assert!(!whole(500).await && whole(999).await && whole(990).await, "the newest are kept");
    assert_eq!(
        store
            .history(&room(5000), None, PageLimit { messages: 1000, bytes: usize::MAX }, Reader::Other)
            .await
            .unwrap()
            .messages
            .len(),
        1000
    );
    assert!(account.used(MemoryKind::History) > LIMIT / 3, "no more is evicted than necessary");
}

#[tokio::test(start_paused = true)]
async fn keys_that_expire_first_are_evicted_first() {
    let (store, account) = store(0);
    for n in 0..10_000 {
        assert!(!publish(&store, n % 7, "1", Some(&format!("key {n}"))).await.1);
        assert!(!account.is_full(), "{} after {n}", account.total());
        tokio::time::advance(Duration::from_millis(20)).await;
    }
    assert!(publish(&store, 9_999 % 7, "1", Some("key 9999")).await.1, "the newest is kept");
    assert!(publish(&store, 9_000 % 7, "1", Some("key 9000")).await.1);
    assert!(!publish(&store, 3, "1", Some("key 3")).await.1, "the oldest is evicted");
    tokio::time::sleep(IDEMPOTENCY_KEY_TTL + Duration::from_secs(60)).await;
    assert_eq!(
        (account.used(MemoryKind::Keys), account.used(MemoryKind::Rooms)),
        (0, 0),
        "everything expires"
    );
}

#[tokio::test(start_paused = true)]
async fn a_principal_may_not_grow_when_nothing_is_left_to_evict() {
    let (store, account) = store(10);
    publish(&store, 1, "1", None).await;
    let publisher = account.share(&"p".into());
    let others = account.charge(MemoryKind::Sessions, LIMIT);
    store.evict();
    assert!(!publisher.may_grow(), "nothing is left to evict");
    drop(others);
    assert!(publisher.may_grow());
}

#[tokio::test(start_paused = true)]
async fn a_room_with_more_keys_than_a_page_is_evicted_to_the_last_page() {
    let account = MemoryAccount::new(16 * LIMIT);
    let history = HistoryConfig { messages: 0, ..HistoryConfig::default() };
    let retention = Retention {
        history: history.into(),
        session_ttl: Duration::from_secs(120),
        idempotency_key_ttl: IDEMPOTENCY_KEY_TTL,
    };
    let store = MemoryStore::new(retention, Arc::new(|_| true), &account, &VitalTasks::default());
    let count = 3 * PAGE_ITEMS;
    for n in 0..count {
        publish(&store, 1, "1", Some(&format!("key {n}"))).await;
    }
    let keys = account.used(MemoryKind::Keys);
    // All keys expire at the same moment, and far more than they take has to go.
    let others = account.charge(MemoryKind::Sessions, 15 * LIMIT);
    assert!(account.excess() > keys);
    store.evict();
    assert_eq!(account.used(MemoryKind::Keys), 0, "of {keys} bytes");
    drop(others);
}
