//! Tests of sessions: who can resume one, for how long, and with which rooms.

use super::*;

pub(super) async fn a_resumed_session_has_its_rooms(s: Subject) {
    let joined = s.publish("a", "1").await.position;
    let mut handle = s.member("acme", "a", Some(r#"{"x":1}"#)).await;
    for name in ["b", "gone"] {
        s.join(handle, name, None, &joined).await;
    }
    s.store.sessions.leave(handle, vec![room("gone")]).await.unwrap();
    assert_eq!((s.count("a").await, s.count("gone").await), (1, 0));
    s.store.sessions.detach(handle);
    s.units(SESSION_TTL_UNITS / 2).await;
    assert_eq!(s.count("a").await, 1, "a resumable session is a member");

    handle.connection = ConnectionId::random();
    let resumed = s.resume(handle.token, "acme", handle.connection).await.expect("within its time to live");
    assert_eq!(resumed.previous, None);
    let names: Vec<&str> = resumed.rooms.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    let membership = Membership { filter: Some(r#"{"x":1}"#.into()), position: joined.clone() };
    assert_eq!(resumed.rooms[0].1, membership, "nothing is acknowledged, so it is where it joined");

    s.publish("a", "2").await;
    s.publish("a", "3").await;
    let at = |offset| Position { offset, ..joined.clone() };
    s.store.sessions.acknowledge(handle, &room("a"), &at(3));
    s.store.sessions.acknowledge(handle, &room("a"), &at(2));
    s.join(handle, "a", None, &joined).await;
    s.store.sessions.detach(handle);
    // The acknowledgement may not be written yet, but this node knows it.
    handle.connection = ConnectionId::random();
    let resumed = s.resume(handle.token, "acme", handle.connection).await.unwrap();
    assert_eq!(resumed.rooms[0].1, Membership { filter: None, position: at(3) });

    let membership = Membership { filter: None, position: at(2) };
    let join = Join { room: room("a"), membership: membership.clone(), anew: true };
    s.store.sessions.join(handle, vec![join]).await.unwrap();
    handle.connection = ConnectionId::random();
    let resumed = s.resume(handle.token, "acme", handle.connection).await.unwrap();
    assert_eq!(resumed.rooms[0].1.filter, None);
    s.store.sessions.detach(handle);
}

/// Changing a filter offers the room's position, which counts only if there is no membership to keep: it may be
/// gone, or was never written.
pub(super) async fn a_join_keeps_the_position_of_a_member_and_gives_one_to_others(s: Subject) {
    let joined = s.publish("a", "1").await.position;
    let mut handle = s.member("acme", "a", None).await;
    let newer = s.publish("a", "2").await.position;
    let resumed_at = async |handle: &mut SessionHandle| {
        handle.connection = ConnectionId::random();
        s.resume(handle.token, "acme", handle.connection).await.unwrap().rooms[0].1.position.clone()
    };
    s.join(handle, "a", Some("{}"), &newer).await;
    assert_eq!(resumed_at(&mut handle).await, joined, "the member keeps its position");
    s.join(handle, "a", Some("{}"), &Position { epoch: "other".into(), offset: 1 }).await;
    assert_eq!(resumed_at(&mut handle).await, joined, "in its epoch, too");
    s.store.sessions.leave(handle, vec![room("a")]).await.unwrap();
    s.join(handle, "a", Some("{}"), &newer).await;
    assert_eq!(resumed_at(&mut handle).await, newer, "there is nothing to keep");
}

pub(super) async fn only_its_principal_can_resume_a_session_until_it_ends(s: Subject) {
    let handle = s.member("acme", "a", None).await;
    let SessionHandle { token, connection } = handle;
    assert!(s.resume(token, "zed", ConnectionId::random()).await.is_none());
    assert!(s.resume(SessionToken::random(), "acme", ConnectionId::random()).await.is_none());
    s.store.sessions.detach(handle);
    s.units(SESSION_TTL_UNITS + 2).await;
    s.eventually(async || s.count("a").await == 0).await;
    assert!(s.resume(token, "acme", connection).await.is_none());

    let handle = s.member("acme", "a", None).await;
    s.store.sessions.end(handle);
    s.eventually(async || s.count("a").await == 0).await;
    assert!(s.resume(handle.token, "acme", ConnectionId::random()).await.is_none());
}

pub(super) async fn the_old_connection_can_do_nothing_after_a_takeover(s: Subject) {
    let old = s.member("acme", "a", None).await;
    let new = SessionHandle { connection: ConnectionId::random(), ..old };
    let resumed = s.resume(old.token, "acme", new.connection).await.unwrap();
    assert_eq!(resumed.previous, Some(old.connection));
    let position = s.position_on_joining("b").await;
    let join = |name| {
        let membership = Membership { filter: None, position: position.clone() };
        vec![Join { room: room(name), membership, anew: false }]
    };
    s.store.sessions.join(old, join("b")).await.expect_err("it no longer holds the session");
    s.store.sessions.leave(old, vec![room("a")]).await.expect_err("it no longer holds the session");
    s.store.sessions.detach(old);
    s.store.sessions.end(old);
    s.units(SESSION_TTL_UNITS + 10).await;
    assert_eq!((s.count("a").await, s.count("b").await), (1, 0));
    s.store.sessions.join(new, join("b")).await.unwrap();
    assert_eq!(s.count("b").await, 1);
}

/// The client gave up waiting and resumed elsewhere. Its first request is carried out last.
pub(super) async fn a_resume_asked_for_before_a_takeover_fails(s: Subject) {
    let handle = s.member("acme", "a", None).await;
    s.units(1).await;
    let asked = Instant::now();
    s.units(1).await;
    let new = ConnectionId::random();
    assert!(s.resume(handle.token, "acme", new).await.is_some());
    let late =
        s.store.sessions.resume(handle.token, &"acme".into(), ConnectionId::random(), asked, None).await;
    assert!(matches!(late, Ok(ResumeResult::Retry)), "{late:?}");
    let position = s.position_on_joining("b").await;
    s.join(SessionHandle { connection: new, ..handle }, "b", None, &position).await;
}

pub(super) async fn a_session_is_resumed_with_a_connection_slot_or_not_at_all(s: Subject) {
    let acme: Arc<str> = "acme".into();
    let resume = async |token, connection, most| {
        s.units(1).await;
        s.store.sessions.resume(token, &acme, connection, Instant::now(), Some(most)).await.unwrap()
    };
    let take = async |limit| s.acquire_slot(&acme, limit).await;
    let handle = s.member("acme", "a", None).await;
    let first = take(1).await.expect("the only slot");

    // Another connection holds it and is about to go, so no free slot is needed.
    let second = SessionHandle { connection: ConnectionId::random(), ..handle };
    let ResumeResult::Resumed(mut taken) = resume(handle.token, second.connection, 1).await else {
        panic!("held")
    };
    let slot = taken.permit.take().expect("a slot with it");
    assert_eq!(taken.previous, Some(handle.connection));
    drop(first);
    assert_eq!(take(1).await.err(), Some(1));

    // Nobody holds it, and another connection has the only slot: nothing happens to the session.
    s.store.sessions.detach(second);
    s.units(1).await;
    let third = ConnectionId::random();
    let full = resume(handle.token, third, 1).await;
    assert!(matches!(full, ResumeResult::LimitReached(1)), "{full:?}");
    assert!(matches!(resume(SessionToken::random(), third, 1).await, ResumeResult::LimitReached(1)));
    assert_eq!(s.count("a").await, 1);

    // With a free slot it is resumed, and its connection has the slot.
    drop(slot);
    let ResumeResult::Resumed(mut back) = resume(handle.token, third, 1).await else { panic!("held") };
    assert_eq!((back.previous, back.rooms.len()), (None, 1));
    let slot = back.permit.take().expect("a slot with it");
    assert_eq!(take(1).await.err(), Some(1));
    drop(slot);
    // If the session is gone, the slot can be used for a new one.
    let gone = resume(SessionToken::random(), ConnectionId::random(), 1).await;
    assert!(matches!(gone, ResumeResult::NotFound(Some(_))), "{gone:?}");
    assert_eq!(take(1).await.err(), Some(1));
    drop(gone);
    s.eventually(async || take(1).await.is_ok()).await;
    s.store.sessions.detach(SessionHandle { connection: third, ..handle });
}

pub(super) async fn a_check_tells_what_resuming_would_do_and_changes_nothing(s: Subject) {
    let (acme, zed): (Arc<str>, Arc<str>) = ("acme".into(), "zed".into());
    let check = async |token, principal: &Arc<str>, limit| {
        s.store.sessions.check_resume(token, principal, limit).await.unwrap()
    };
    let handle = s.member("acme", "a", None).await;
    let slot = s.acquire_slot(&acme, 1).await.expect("the only slot");
    let unknown = SessionToken::random();

    // A connection holds the session and is about to release its slot.
    for limit in [None, Some(1)] {
        assert_eq!(check(handle.token, &acme, limit).await, ResumeCheck::Allowed);
    }
    assert_eq!(check(handle.token, &zed, Some(1)).await, ResumeCheck::NotFound);
    assert_eq!(check(unknown, &acme, None).await, ResumeCheck::NotFound);
    assert_eq!(check(unknown, &acme, Some(2)).await, ResumeCheck::NotFound);
    assert_eq!(check(unknown, &acme, Some(1)).await, ResumeCheck::LimitReached(1));
    let position = s.position_on_joining("b").await;
    s.join(handle, "b", None, &position).await;

    // Nobody holds it, so a free slot is needed.
    s.store.sessions.detach(handle);
    s.eventually(async || check(handle.token, &acme, Some(1)).await == ResumeCheck::LimitReached(1)).await;
    for limit in [None, Some(2)] {
        assert_eq!(check(handle.token, &acme, limit).await, ResumeCheck::Allowed);
    }
    drop(slot);
    s.eventually(async || check(handle.token, &acme, Some(1)).await == ResumeCheck::Allowed).await;
    assert!(s.acquire_slot(&acme, 1).await.is_ok(), "a check takes no slot");

    s.units(SESSION_TTL_UNITS + 2).await;
    s.eventually(async || check(handle.token, &acme, Some(1)).await == ResumeCheck::NotFound).await;
}
