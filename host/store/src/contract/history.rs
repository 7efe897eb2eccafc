//! Tests of how much of a room's history is held.

use super::*;

const ALL: PageLimit = PageLimit { messages: 1000, bytes: usize::MAX };

/// A JSON string of so many bytes.
fn text(bytes: usize) -> String {
    format!("\"{}\"", "x".repeat(bytes - 2))
}

impl Subject {
    /// How many messages are held. Checks that their offsets have no hole and end with the newest.
    async fn held(&self) -> usize {
        let history = self.store.broker.history(&room("a"), None, ALL, Reader::Other).await.unwrap();
        let offsets: Vec<_> = history.messages.iter().map(|message| message.offset).collect();
        let first = history.newest.offset + 1 - offsets.len() as u64;
        assert!(offsets.iter().copied().eq(first..=history.newest.offset), "{offsets:?}");
        let at = |offset| Position { offset, ..history.newest.clone() };
        let whole = async |offset| {
            self.store
                .broker
                .history(&room("a"), Some(&at(offset)), PageLimit::NONE, Reader::Other)
                .await
                .unwrap()
                .whole
        };
        assert!(whole(first - 1).await);
        assert!(first == 1 || !whole(first - 2).await, "a loss is reported");
        offsets.len()
    }
}

pub(super) async fn history_is_trimmed_by_bytes_without_a_hole(s: Subject) {
    for n in 1..=60 {
        s.publish("a", &text(1000)).await;
        let held = s.held().await;
        assert!(held <= 9 && held >= 6.min(n), "{held} of {n}");
    }
    for _ in 0..60 {
        s.publish("a", &text(100)).await;
    }
    let held = s.held().await;
    assert!((20..=60).contains(&held), "{held}");
    // It leaves no space for others, and exceeds the limit itself.
    let large = s.publish("a", &text(12_000)).await.position;
    assert_eq!((large.offset, s.held().await), (121, 0));
    s.publish("a", &text(1000)).await;
    assert_eq!(s.held().await, 1);
    assert_eq!(s.offsets("a", Some(&large), 10).await, (vec![122], false, true));
}

pub(super) async fn messages_trimmed_by_count_take_no_bytes(s: Subject) {
    for n in 1..=60 {
        s.publish("a", &text(1000)).await;
        assert_eq!(s.held().await, 5.min(n), "five fit into the bytes");
    }
}

pub(super) async fn history_is_trimmed_by_count(s: Subject) {
    let mut positions = vec![];
    for n in 1..=5 {
        positions.push(s.publish("a", &n.to_string()).await.position);
    }
    assert_eq!(s.offsets("a", None, 10).await, (vec![3, 4, 5], false, true));
    assert_eq!(s.offsets("a", Some(&positions[1]), 10).await, (vec![3, 4, 5], false, true));
    assert_eq!(s.offsets("a", Some(&positions[0]), 10).await, (vec![3, 4, 5], false, false));
}

/// Whatever else the room holds, a page is at most as large as was requested, or has one larger message.
pub(super) async fn a_page_is_bounded_by_bytes(s: Subject) {
    let data = [10, 10, 3000, 10, 10, 900, 10].map(|length| format!("\"{}\"", "x".repeat(length)));
    let mut positions = vec![];
    for data in &data {
        positions.push(s.publish("bytes", data).await.position);
    }
    let page = async |after: usize, bytes: usize| {
        let (room, limit) = (room("bytes"), PageLimit { messages: 10, bytes });
        let history =
            s.store.broker.history(&room, Some(&positions[after]), limit, Reader::Other).await.unwrap();
        (history.messages.iter().map(|m| m.offset).collect::<Vec<_>>(), history.more)
    };
    assert_eq!(page(4, 1 << 20).await, (vec![6, 7], false));
    assert_eq!(page(4, 700).await, (vec![6], true), "the first is always included");
    assert_eq!(page(4, 0).await, (vec![6], true));
    assert_eq!(page(5, 700).await, (vec![7], false));
    let newest = s.store.broker.history(&room("bytes"), None, PageLimit::NONE, Reader::Other).await.unwrap();
    assert_eq!((newest.newest, newest.oldest, newest.messages.len()), (positions[6].clone(), 5, 0));
}

pub(super) async fn history_is_trimmed_by_age(s: Subject) {
    let first = s.publish("a", "1").await.position;
    s.units(6).await;
    s.publish("a", "2").await;
    s.units(6).await;
    assert_eq!(s.offsets("a", None, 10).await, (vec![2], false, true));
    s.units(6).await;
    assert_eq!(s.offsets("a", Some(&first), 10).await, (vec![], false, false));
    assert_eq!(s.publish("a", "3").await.position, Position { offset: 3, ..first });
}

pub(super) async fn without_history_offsets_still_rise(s: Subject) {
    s.store.broker.subscribe(&room("a"));
    s.receives(&["a from 0"]).await;
    let first = s.publish("a", "1").await.position;
    let second = s.publish("a", "2").await.position;
    s.receives(&["a 1 1", "a 2 2"]).await;
    assert_eq!(s.offsets("a", Some(&second), 10).await, (vec![], false, true));
    assert_eq!(s.offsets("a", Some(&first), 10).await, (vec![], false, false));
}

pub(super) async fn a_cleared_history_begins_an_epoch(s: Subject) {
    s.store.broker.clear_history(&room("b"), "e").await.unwrap();
    assert_eq!(s.store.rooms.summary("b").await.unwrap(), None, "this creates no room");
    let has_received = async |message: &str| s.received().iter().any(|received| received == message);
    s.store.broker.subscribe(&room("a"));
    s.eventually(async || has_received("a from 0").await).await;
    s.publish("a", "1").await;
    let before = s.publish("a", "2").await.position;
    s.eventually(async || has_received("a 2 2").await).await;
    s.store.broker.clear_history(&room("a"), "other").await.unwrap();
    assert_eq!(s.offsets("a", None, 10).await.0, [1, 2], "it has another epoch");
    s.store.broker.clear_history(&room("a"), &before.epoch).await.unwrap();
    assert_eq!(s.offsets("a", None, 10).await, (vec![], false, true));
    assert_eq!(s.offsets("a", Some(&before), 10).await, (vec![], false, false), "the epoch is another one");
    let after = s.publish("a", "3").await.position;
    assert_eq!((after.offset, after.epoch == before.epoch), (3, false), "offsets go on");
    s.eventually(async || has_received("a 3 3").await).await;
    let lost = |event: &Event| match event {
        Event::Lost { position, .. } => Some((position.epoch.clone(), position.offset)),
        _ => None,
    };
    let lost: Vec<_> = s.events.lock().unwrap().iter().filter_map(lost).collect();
    assert_eq!(lost, [(after.epoch, 2)], "members are told");
}
