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
