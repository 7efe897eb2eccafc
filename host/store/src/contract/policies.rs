//! Tests of rooms with policies of their own: how much history they keep, and whether messages name their sender.

use super::*;
use crate::RoomTable;
use switchyard_protocol::Publication;

/// `short:*` keeps messages for six units, `few:*` two messages, `small:*` some bytes, and `none` nothing.
pub(super) fn by_room(unit: Duration) -> HistoryPolicies {
    HistoryPolicies::new(table(unit, 2))
}

fn table(unit: Duration, few: usize) -> RoomTable<HistoryConfig> {
    let all = HistoryConfig { messages: 100, age: unit * 600, bytes: 1 << 20 };
    let entry = |text: &str, config| (text.to_owned().try_into().unwrap(), config);
    let entries = vec![
        entry("short:*", HistoryConfig { age: unit * 6, ..all }),
        entry("few:*", HistoryConfig { messages: few, ..all }),
        entry("small:*", HistoryConfig { bytes: 5000, ..all }),
        entry("none", HistoryConfig { messages: 0, ..all }),
    ];
    RoomTable::new(all, entries)
}

pub(super) async fn each_room_keeps_as_much_as_its_policy_says(s: Subject, policies: &HistoryPolicies) {
    let mut first = None;
    for _ in 0..10 {
        for name in ["short:a", "few:a", "small:a", "none", "other"] {
            let stored = s.publish(name, &format!("\"{}\"", "x".repeat(1000))).await;
            first = first.or((name == "short:a").then_some(stored.position));
        }
    }
    let first = first.expect("published above");
    let held = async |name: &str| s.offsets(name, None, 100).await.0;
    assert_eq!(held("few:a").await, [9, 10]);
    let small = held("small:a").await.len();
    assert!((2..=4).contains(&small), "{small} messages of 1,000 bytes in 5,000");
    assert_eq!((held("none").await.len(), held("other").await.len()), (0, 10));
    let none = s.store.broker.history(&room("none"), None, TEN, Reader::Other).await.unwrap();
    assert_eq!((none.newest.offset, none.messages.len()), (10, 0), "offsets rise without a history");
    s.units(8).await;
    assert_eq!(s.offsets("short:a", Some(&first), 100).await, (vec![], false, false), "a loss is reported");
    assert_eq!(held("other").await.len(), 10);
    let next = s.publish("short:a", "1").await.position;
    assert_eq!(next, Position { offset: 11, ..first }, "the room goes on");
    // Other policies apply from the next message on.
    policies.replace(table(s.unit, 4));
    for _ in 0..5 {
        s.publish("few:a", "1").await;
    }
    assert_eq!(held("few:a").await, [12, 13, 14, 15]);
    policies.replace(table(s.unit, 1));
    s.publish("few:a", "1").await;
    assert_eq!(held("few:a").await, [16]);
}

/// Regression: the message that was published while nothing was kept left a hole in the log of a room in memory, and
/// what came after it was read as if it had other offsets.
pub(super) async fn a_room_that_kept_nothing_for_a_while_has_no_hole(s: Subject, policies: &HistoryPolicies) {
    let mut positions = vec![];
    for few in [4, 4, 0, 4, 4] {
        policies.replace(table(s.unit, few));
        positions.push(s.publish("few:a", "1").await.position);
    }
    assert_eq!(positions.iter().map(|position| position.offset).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    let after = async |offset: usize| s.offsets("few:a", Some(&positions[offset - 1]), 100).await;
    assert_eq!(s.offsets("few:a", None, 100).await, (vec![4, 5], false, true));
    assert_eq!(after(2).await, (vec![4, 5], false, false), "the third was not kept");
    assert_eq!(after(3).await, (vec![4, 5], false, true));
    assert_eq!(after(4).await, (vec![5], false, true));
    policies.replace(table(s.unit, 0));
    s.publish("few:a", "1").await;
    assert_eq!(after(4).await, (vec![], false, false));
}

pub(super) async fn a_message_names_its_sender_if_it_says_so(s: Subject) {
    s.store.broker.subscribe(&room("a"));
    s.receives(&["a from 0"]).await;
    for (names_publisher, shows_sender) in [(false, false), (true, false), (false, true), (true, true)] {
        let message = Message {
            room: &room("a"),
            event: Some("e"),
            data: "1",
            principal: &"acme".into(),
            idempotency_key: None,
            needs_member: false,
            names_publisher,
            shows_sender,
        };
        s.store.broker.publish(message).await.unwrap().expect("stored");
    }
    s.eventually(async || s.received().len() == 4).await;
    let live: Vec<_> = s.events.lock().unwrap().iter().filter_map(published).collect();
    let history = s.store.broker.history(&room("a"), None, TEN, Reader::Other).await.unwrap();
    for messages in [live, history.messages] {
        let shown: Vec<_> = messages.iter().map(|message| message.shows_sender()).collect();
        assert_eq!(shown, [false, false, true, true]);
        let known: Vec<_> = messages.iter().map(|message| message.publisher.as_deref()).collect();
        assert_eq!(known, [None, Some("acme"), Some("acme"), Some("acme")]);
        let named: Vec<_> =
            messages.iter().map(|m| m.frame().text().contains(r#","from":"acme","#)).collect();
        assert_eq!(named, shown);
    }
}

fn published(event: &Event) -> Option<Arc<Publication>> {
    match event {
        Event::Published(message) => Some(message.clone()),
        _ => None,
    }
}
