//! Tests of memberships and acknowledgements when a room begins a new epoch.

use super::*;

pub(super) async fn a_membership_moves_to_an_epoch_its_client_knows(s: Subject) {
    let joined = s.publish("a", "1").await.position;
    let mut handle = s.member("acme", "a", Some("{}")).await;
    let at = |epoch: &str, offset| Position { epoch: epoch.into(), offset };
    let resumes_at = async |handle: &mut SessionHandle, position: Position| {
        handle.connection = ConnectionId::random();
        let resumed = s.resume(handle.token, "acme", handle.connection).await.unwrap();
        assert_eq!(resumed.rooms[0].1, Membership { filter: Some("{}".into()), position });
    };
    s.store.sessions.advance(handle, &room("a"), &Position { offset: 9, ..joined.clone() });
    s.store.sessions.advance(handle, &room("a"), &Position { offset: 8, ..joined.clone() });
    resumes_at(&mut handle, Position { offset: 9, ..joined.clone() }).await;
    s.store.sessions.acknowledge(handle, &room("a"), &Position { offset: 15, ..joined.clone() });
    s.store.sessions.advance(handle, &room("a"), &at("next", 2));
    resumes_at(&mut handle, at("next", 2)).await;
    s.store.sessions.acknowledge(handle, &room("a"), &at("next", 4));
    s.store.sessions.acknowledge(handle, &room("a"), &at("next", 3));
    resumes_at(&mut handle, at("next", 4)).await;
    s.store.sessions.acknowledge(handle, &room("a"), &at("last", 1));
    resumes_at(&mut handle, at("last", 1)).await;
    s.store.sessions.advance(handle, &room("elsewhere"), &at("last", 1));
    s.store.sessions.acknowledge(handle, &room("elsewhere"), &at("last", 1));
    assert_eq!(s.count("elsewhere").await, 0, "neither creates a membership");
}

pub(super) async fn receipts_count_acknowledgements_of_the_current_epoch(s: Subject) {
    let mut handle = s.member("acme", "a", None).await;
    let first = s.publish("a", "1").await.position;
    let second = s.publish("a", "2").await.position;
    let acknowledged = async |offset| s.store.rooms.receipt("a", offset).await.unwrap().unwrap().acknowledged;
    let other = Position { epoch: "other".into(), offset: 2 };
    s.store.sessions.acknowledge(handle, &room("a"), &other);
    handle.connection = ConnectionId::random();
    let resumed = s.resume(handle.token, "acme", handle.connection).await.unwrap();
    assert_eq!(resumed.rooms[0].1.position, other);
    assert_eq!((acknowledged(1).await, acknowledged(2).await), (0, 0));
    s.store.sessions.acknowledge(handle, &room("a"), &first);
    s.eventually(async || acknowledged(first.offset).await == 1).await;
    assert_eq!(acknowledged(second.offset).await, 0);
}
