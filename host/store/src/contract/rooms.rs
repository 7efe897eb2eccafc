//! Tests of which rooms exist.

use super::*;

pub(super) async fn reading_creates_no_room(s: Subject) {
    let newest = async || s.store.broker.history(&room("a"), None, TEN, Reader::Other).await.unwrap();
    let (first, second) = (newest().await, newest().await);
    assert!(first.messages.is_empty() && first.newest.offset == 0);
    assert_ne!(first.newest.epoch, second.newest.epoch, "of a room that does not exist");
    let after = s.store.broker.history(&room("a"), Some(&first.newest), TEN, Reader::Other).await.unwrap();
    assert!(after.messages.is_empty() && !after.whole);
    assert_eq!(s.store.rooms.members("a", 10).await.unwrap().count, 0);
    assert_eq!(s.store.rooms.receipt("a", 1).await.unwrap(), None);
    assert_eq!(s.store.rooms.summary("a").await.unwrap(), None);
    assert_eq!(s.store.rooms.list("", 10).await.unwrap(), []);
    // Somebody who joins is told an epoch that stays.
    let opened = s.position_on_joining("a").await;
    assert_eq!(newest().await.newest, opened);
    let first = Position { offset: 1, ..opened };
    assert_eq!(s.publish("a", "1").await.position, first);
    assert!(s.store.broker.history(&room("a"), Some(&first), TEN, Reader::Other).await.unwrap().whole);
}

/// Once, clearing the history of all rooms missed those that were created a moment before.
pub(super) async fn a_room_is_on_the_list_after_a_flush(s: Subject) {
    for n in 1..=3 {
        s.publish(&format!("room-{n}"), "1").await;
        s.store.rooms.flush().await.unwrap();
        let listed = s.store.rooms.list("", 10).await.unwrap();
        assert_eq!((listed.len(), listed[n - 1].messages), (n, 1));
    }
}

pub(super) async fn a_message_that_needs_a_member_is_published_only_while_there_is_one(s: Subject) {
    let (acme, inbox) = (Arc::<str>::from("acme"), room("@acme"));
    let publish = async |key| {
        let message = Message {
            room: &inbox,
            event: None,
            data: "1",
            principal: &"zed".into(),
            idempotency_key: key,
            needs_member: true,
            names_publisher: false,
            shows_sender: false,
        };
        s.store
            .broker
            .publish(message)
            .await
            .unwrap()
            .map(|stored| (stored.position.offset, stored.duplicate))
    };
    assert_eq!(publish(None).await, None, "nobody has a session");
    assert_eq!(s.store.rooms.list("", 10).await.unwrap(), [], "and no room was created");
    let position = s.position_on_joining("@acme").await;
    assert_eq!(publish(None).await, None, "there is a subscription, but no member");
    let connection = ConnectionId::random();
    let membership = Membership { filter: None, position };
    let joins = vec![Join { room: inbox.clone(), membership, anew: true }];
    let token = s.store.sessions.create(&acme, connection, joins).await.unwrap();
    let first = Instant::now();
    assert_eq!(publish(Some("k")).await, Some((1, false)));
    s.store.sessions.detach(SessionHandle { token, connection });
    assert_eq!(publish(None).await, Some((2, false)), "it can be resumed");
    s.units(SESSION_TTL_UNITS + 2).await;
    s.eventually(async || s.count("@acme").await == 0).await;
    assert_eq!(publish(None).await, None, "the session has ended");
    let again = publish(Some("k")).await;
    // A store with a clock of its own may have taken longer than the key is remembered.
    if first.elapsed() < s.unit * KEY_TTL_UNITS {
        assert_eq!(again, Some((1, true)), "it was published before");
    }
}
