//! Publishing is fair: a principal with few messages does not wait for one with many.

use super::*;
use futures_util::FutureExt;

const FLOOD_MESSAGES: usize = 2000;

/// Starts publishing a message of a principal.
fn begin(store: &RedisStore, who: &str, room: &str) -> PendingPublish {
    let room = RoomName::parse(room).unwrap();
    let message = Message {
        room: &room,
        event: None,
        data: "1",
        principal: &who.into(),
        idempotency_key: None,
        needs_member: false,
        names_publisher: false,
        shows_sender: false,
    };
    store.publish(message)
}

/// Regression: all messages of one principal in a room, however many, came before those of others.
#[tokio::test]
async fn principals_take_turns_within_a_room() {
    let server = Server::start(&[]);
    let store = connect(&server.site()).await.unwrap();
    let flood: Vec<_> = (0..FLOOD_MESSAGES).map(|_| begin(&store, "mallory", "a")).collect();
    let offset = begin(&store, "acme", "a").await.unwrap().unwrap().position.offset;
    assert!(offset <= 3, "at most two messages of the other principal come first: {offset}");
    let mut newest = 0;
    for message in flood {
        let stored = message.await.unwrap().unwrap().position.offset;
        assert!(stored > newest, "the messages of one principal keep their order");
        newest = stored;
    }
    assert_eq!(newest as usize, FLOOD_MESSAGES + 1);
}

/// Regression: each room had a script of its own under way at the same time, and all other commands waited
/// behind them.
#[tokio::test]
async fn principals_take_turns_among_rooms() {
    let server = Server::start(&[]);
    let store = connect(&server.site()).await.unwrap();
    let mut flood: Vec<_> =
        (0..FLOOD_MESSAGES).map(|n| begin(&store, "mallory", &format!("room-{n}"))).collect();
    begin(&store, "acme", "a").await.unwrap().unwrap();
    flood.retain_mut(|message| message.now_or_never().is_none());
    let done = FLOOD_MESSAGES - flood.len();
    assert!(done <= 100, "{done} of {FLOOD_MESSAGES} messages came first");
    for message in flood {
        message.await.unwrap().unwrap();
    }
}
