//! The shared values of plugins, of two nodes and of one that comes later.

use super::*;
use crate::{RemovedValues, SharedValueStore, ValueChange, ValueExchange, ValuePosition};
use bytes::Bytes;

const LIMIT: u64 = 1 << 20;

fn set(key: &str, data: &str) -> ValueChange {
    let data = Some(Bytes::copy_from_slice(data.as_bytes()));
    ValueChange { key: Bytes::copy_from_slice(key.as_bytes()), principal: "acme".into(), data, ttl_ms: 0 }
}

fn deleted(key: &str) -> ValueChange {
    ValueChange { data: None, principal: "".into(), ..set(key, "") }
}

/// A node with its position.
struct Reader {
    store: Arc<RedisStore>,
    position: ValuePosition,
}

impl Reader {
    async fn new(server: &Server) -> Self {
        Self { store: connect(&server.site()).await.unwrap(), position: ValuePosition::default() }
    }

    async fn exchange(&mut self, changes: &[ValueChange], max_bytes: u64) -> ValueExchange {
        let store: &dyn SharedValueStore = &*self.store;
        let answer = store.exchange("p", &self.position, changes, max_bytes).await.unwrap();
        self.position = answer.position.clone();
        answer
    }

    /// Everything that is new, in pages.
    async fn read(&mut self) -> Vec<ValueChange> {
        let mut all = vec![];
        loop {
            let answer = self.exchange(&[], LIMIT).await;
            assert!(!answer.restart);
            all.extend(answer.changes);
            if !answer.has_more {
                return all;
            }
        }
    }
}

#[tokio::test]
async fn a_node_learns_what_others_have_changed_in_the_order_of_redis_and_not_its_own_changes() {
    let server = Server::start(&[]);
    let (mut one, mut two) = (Reader::new(&server).await, Reader::new(&server).await);
    assert_eq!(one.exchange(&[set("a", "1"), set("b", "1")], LIMIT).await.changes, []);
    assert_eq!(two.exchange(&[set("b", "2"), set("c", "2")], LIMIT).await.changes, [set("a", "1")]);
    assert_eq!(one.exchange(&[deleted("a")], LIMIT).await.changes, [set("b", "2"), set("c", "2")]);
    assert_eq!(two.read().await, [deleted("a")]);
    assert_eq!((one.read().await, two.read().await), (vec![], vec![]));
    // Bytes that are no text, and one that comes later.
    let binary = ValueChange {
        key: Bytes::from_static(b"v\xff\0 \n"),
        data: Some(Bytes::from_static(b"\0 \xfe\n ")),
        ..set("", "")
    };
    let empty = ValueChange { principal: "".into(), ..set("e", "") };
    two.exchange(&[binary.clone(), empty.clone()], LIMIT).await;
    let mut late = Reader::new(&server).await;
    assert_eq!(late.read().await, [set("b", "2"), set("c", "2"), deleted("a"), binary, empty]);
    let removed = (&*late.store as &dyn SharedValueStore).remove("p").await.unwrap();
    assert_eq!(removed.values, 4);
    assert!(removed.bytes > 4 * 300, "{removed:?}");
    let again = (&*late.store as &dyn SharedValueStore).remove("p").await.unwrap();
    assert_eq!(again, RemovedValues::default());
    // Nodes keep what they have when the store has lost it.
    assert_eq!(one.read().await, []);
}

#[tokio::test]
async fn a_value_that_has_expired_is_deleted_everywhere() {
    let server = Server::start(&[]);
    let (mut one, mut two) = (Reader::new(&server).await, Reader::new(&server).await);
    one.exchange(&[ValueChange { ttl_ms: 60_000, ..set("a", "1") }], LIMIT).await;
    let [value] = &two.read().await[..] else { panic!() };
    assert!((50_000..=60_000).contains(&value.ttl_ms), "{value:?}");
    // Longer than anybody can count.
    one.exchange(&[ValueChange { ttl_ms: u64::MAX, ..set("a", "2") }], LIMIT).await;
    assert_eq!(two.read().await, [set("a", "2")]);
    one.exchange(&[ValueChange { ttl_ms: 1, ..set("a", "3") }], LIMIT).await;
    let mut seen = vec![];
    while seen.last() != Some(&deleted("a")) {
        seen.extend(two.read().await.into_iter().map(|change| ValueChange { ttl_ms: 0, ..change }));
    }
    assert!(seen.len() <= 2, "{seen:?}");
}

#[tokio::test]
async fn many_values_are_read_in_pages_and_the_first_written_are_removed_beyond_the_limit() {
    let server = Server::start(&[]);
    let (mut one, mut two) = (Reader::new(&server).await, Reader::new(&server).await);
    let many: Vec<_> = (0..500).map(|n| set(&format!("k{n}"), &"x".repeat(10))).collect();
    one.exchange(&many, LIMIT).await;
    let first = two.exchange(&[], LIMIT).await;
    assert!(first.has_more && first.changes.len() < 500, "{}", first.changes.len());
    let mut all = first.changes;
    all.extend(two.read().await);
    assert_eq!(all, many);
    let mut large: Vec<_> = (0..40).map(|n| set(&format!("l{n}"), &"x".repeat(64 << 10))).collect();
    one.exchange(&large.split_off(20), 8 << 20).await;
    assert!(two.exchange(&[], 8 << 20).await.has_more, "a page has half a MiB");
    // Room for about ten of the values.
    let mut late = Reader::new(&server).await;
    one.exchange(&[set("last", "")], 10 * 66_000).await;
    let kept = late.read().await;
    assert!((9..=11).contains(&kept.len()), "{}", kept.len());
    assert_eq!(kept.last().unwrap(), &set("last", ""));
}

/// A node that was away for so long that deletions were forgotten must not keep what was deleted.
#[tokio::test]
async fn a_node_that_missed_forgotten_deletions_starts_over() {
    let server = Server::start(&[]);
    let (mut one, mut two) = (Reader::new(&server).await, Reader::new(&server).await);
    one.exchange(&[set("a", "1"), set("kept", "1")], LIMIT).await;
    assert_eq!(two.read().await.len(), 2);
    one.exchange(&[deleted("a")], LIMIT).await;
    for round in 0..10 {
        let deletions: Vec<_> = (0..500).map(|n| deleted(&format!("{round} {n}"))).collect();
        one.exchange(&deletions, LIMIT).await;
    }
    let answer = two.exchange(&[], LIMIT).await;
    assert!(answer.restart);
    let mut changes = answer.changes;
    changes.extend(two.read().await);
    assert!(changes.contains(&set("kept", "1")) && !changes.iter().any(|change| change.key == "a"));
    assert!(!one.exchange(&[], LIMIT).await.restart, "it knows all of them");
}
