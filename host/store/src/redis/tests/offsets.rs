//! Offsets and idempotency keys of a room.

use super::*;

fn message<'a>(room: &'a RoomName, who: &'a Arc<str>, key: Option<&'a str>) -> Message<'a> {
    Message {
        room,
        event: None,
        data: "1",
        principal: who,
        idempotency_key: key,
        needs_member: false,
        names_publisher: false,
        shows_sender: false,
    }
}

#[tokio::test]
async fn offsets_are_exact_up_to_53_bits() {
    let server = Server::start(&[]);
    let site = server.site();
    let store = connect(&site).await.unwrap();
    let room = RoomName::parse("far").unwrap();
    let acme = "acme".into();
    let publish = async || {
        store.publish(message(&room, &acme, Some("k"))).await.unwrap().unwrap();
        store.publish(message(&room, &acme, None)).await.unwrap().unwrap().position
    };
    let first = publish().await;
    let most = (1u64 << 53) - 1;
    server.ask(&["DEL", "s:{far}:log"]);
    server.ask(&["HSET", "s:{far}:room", "offset", &(most - 2).to_string()]);
    for offset in [most - 1, most] {
        assert_eq!(publish().await, Position { epoch: first.epoch.clone(), offset });
    }
    let after = Position { offset: most - 2, ..first };
    let history = store.history(&room, Some(&after), TEN, Reader::Other).await.unwrap();
    let offsets: Vec<_> = history.messages.iter().map(|message| message.offset).collect();
    assert_eq!((offsets, history.whole, history.more), (vec![most - 1, most], true, false));
    assert!(store.receipt("far", most).await.unwrap().is_some());
}

/// Regression: a key outlived its room's epoch, and the answer was `duplicate` for a message that nobody
/// could read any more.
#[tokio::test]
async fn an_idempotency_key_ends_with_the_epoch_of_its_room() {
    let server = Server::start(&[]);
    let site = server.site();
    let store = connect(&site).await.unwrap();
    let room = RoomName::parse("far").unwrap();
    let acme = "acme".into();
    let message = message(&room, &acme, Some("k"));
    let first = store.publish(message).await.unwrap().unwrap();
    assert_eq!(store.publish(message).await.unwrap().unwrap(), Stored { duplicate: true, ..first.clone() });
    server.ask(&["DEL", "s:{far}:room", "s:{far}:log"]);
    let second = store.publish(message).await.unwrap().unwrap();
    assert!(!second.duplicate && second.position.epoch != first.position.epoch, "{second:?}");
    assert_eq!(store.publish(message).await.unwrap().unwrap(), Stored { duplicate: true, ..second.clone() });
    assert_eq!(store.history(&room, None, TEN, Reader::Other).await.unwrap().messages.len(), 1);
}
