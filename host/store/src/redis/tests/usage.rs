//! How much memory of Redis is counted for the memberships of a session.

use super::*;
use crate::{ResumeResult, redis::stored_rooms::MEMBERSHIP_BYTES};
use tokio::time::Instant;

fn join(room: &str, filter: &str) -> Join {
    let membership =
        Membership { filter: Some(filter.into()), position: Position { epoch: "e".into(), offset: 0 } };
    Join { room: RoomName::parse(room).unwrap(), membership, anew: false }
}

/// Regression: each join counted the whole membership again, also of a room that the session was in, and a room
/// that was named twice was subtracted twice when the session left it.
#[tokio::test]
async fn exactly_what_a_session_has_in_redis_is_counted() {
    let server = Server::start(&[]);
    let store = connect(&server.site()).await.unwrap();
    let (acme, connection): (Arc<str>, _) = ("acme".into(), ConnectionId::random());
    let counted = || store.leased.context.usage.used_by(&acme);

    let token = store.create(&acme, connection, vec![join("a", "1234"), join("b", "12")]).await.unwrap();
    assert_eq!(counted(), 2 * MEMBERSHIP_BYTES + 6);
    let handle = SessionHandle { token, connection };
    store.join(handle, vec![join("a", "1234")]).await.unwrap();
    assert_eq!(counted(), 2 * MEMBERSHIP_BYTES + 6, "it is in the room already");
    store.join(handle, vec![join("a", "1"), join("a", "12345678")]).await.unwrap();
    assert_eq!(counted(), 2 * MEMBERSHIP_BYTES + 10, "a longer filter");
    store.join(handle, vec![join("a", "1"), join("c", "")]).await.unwrap();
    assert_eq!(counted(), 3 * MEMBERSHIP_BYTES + 3, "a shorter filter, and a new room");

    let leave = |rooms: &[&str]| rooms.iter().map(|room| RoomName::parse(room).unwrap()).collect();
    store.leave(handle, leave(&["a", "a", "elsewhere"])).await.unwrap();
    // Redis keeps a room that was left for a while, but not its filter.
    assert_eq!(counted(), 3 * MEMBERSHIP_BYTES + 2);

    let next = ConnectionId::random();
    let resumed = store.resume(token, &acme, next, Instant::now(), None).await.unwrap();
    assert!(matches!(resumed, ResumeResult::Resumed(_)), "{resumed:?}");
    assert_eq!(counted(), 3 * MEMBERSHIP_BYTES + 2, "the same session");
    store.detach(handle);
    store.leave(SessionHandle { token, connection: next }, leave(&["b"])).await.unwrap();
    assert_eq!(counted(), 3 * MEMBERSHIP_BYTES, "the new connection has the session");
}
