//! Whose messages wait for whose.

use super::*;
use futures_util::FutureExt;

const MANY: usize = 2000;

/// Begins to publish for a principal.
fn begin(store: &RedisStore, who: &str, room: &str) -> PendingPublish {
    let room = RoomName::parse(room).unwrap();
    let message = Message {
        room: &room,
        event: None,
        data: "1",
        principal: &who.into(),
        idempotency_key: None,
        needs_member: false,
    };
    store.publish(message)
}

/// All that somebody publishes to a room was in front of what others publish there, however much it was.
#[tokio::test]
async fn who_publishes_little_to_a_room_does_not_wait_for_who_publishes_much() {
    let server = Server::start(&[]);
    let store = connect(&server.site()).await.unwrap();
    let flood: Vec<_> = (0..MANY).map(|_| begin(&store, "mallory", "a")).collect();
    let offset = begin(&store, "acme", "a").await.unwrap().unwrap().position.offset;
    assert!(offset <= 3, "behind the first, which is on its way, and one more: {offset}");
    let mut newest = 0;
    for message in flood {
        let stored = message.await.unwrap().unwrap().position.offset;
        assert!(stored > newest, "its own come in order");
        newest = stored;
    }
    assert_eq!(newest as usize, MANY + 1);
}

/// Each room had a script of its own on its way at once, and whatever else Redis was asked waited behind them all.
#[tokio::test]
async fn who_publishes_to_one_room_does_not_wait_for_who_publishes_to_many() {
    let server = Server::start(&[]);
    let store = connect(&server.site()).await.unwrap();
    let mut flood: Vec<_> = (0..MANY).map(|n| begin(&store, "mallory", &format!("room-{n}"))).collect();
    begin(&store, "acme", "a").await.unwrap().unwrap();
    flood.retain_mut(|message| message.now_or_never().is_none());
    let done = MANY - flood.len();
    assert!(done <= 100, "{done} of {MANY} came before it");
    for message in flood {
        message.await.unwrap().unwrap();
    }
}
