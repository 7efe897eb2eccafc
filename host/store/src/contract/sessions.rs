//! Whose a session is, for how long, and with which rooms.

use super::*;

pub(super) async fn a_session_comes_back_with_its_rooms(s: Subject) {
    let joined = s.publish("a", "1").await.position;
    let mut hold = s.member("acme", "a", Some(r#"{"x":1}"#)).await;
    for name in ["b", "gone"] {
        s.join(hold, name, None, &joined).await;
    }
    s.store.sessions.leave(hold, vec![room("gone")]).await.unwrap();
    assert_eq!((s.count("a").await, s.count("gone").await), (1, 0));
    s.store.sessions.detach(hold);
    s.units(SESSION / 2).await;
    assert_eq!(s.count("a").await, 1, "resumable is a member");

    hold.connection = ConnectionId::random();
    let resumed = s.resume(hold.token, "acme", hold.connection).await.expect("within its time to live");
    assert_eq!(resumed.previous, None);
    let names: Vec<&str> = resumed.rooms.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    let membership = Membership { filter: Some(r#"{"x":1}"#.into()), position: joined.clone() };
    assert_eq!(resumed.rooms[0].1, membership, "nothing acknowledged: from where it joined");

    s.publish("a", "2").await;
    s.publish("a", "3").await;
    let at = |offset| Position { offset, ..joined.clone() };
    s.store.sessions.acknowledge(hold, &room("a"), &at(3));
    s.store.sessions.acknowledge(hold, &room("a"), &at(2));
    s.join(hold, "a", None, &joined).await;
    s.store.sessions.detach(hold);
    // What was acknowledged may not be written yet, but it is known here.
    hold.connection = ConnectionId::random();
    let resumed = s.resume(hold.token, "acme", hold.connection).await.unwrap();
    assert_eq!(resumed.rooms[0].1, Membership { filter: None, position: at(3) });

    let membership = Membership { filter: None, position: at(2) };
    let join = Join { room: room("a"), membership: membership.clone(), anew: true };
    s.store.sessions.join(hold, vec![join]).await.unwrap();
    hold.connection = ConnectionId::random();
    let resumed = s.resume(hold.token, "acme", hold.connection).await.unwrap();
    assert_eq!(resumed.rooms[0].1.filter, None);
    s.store.sessions.detach(hold);
}

pub(super) async fn a_session_is_its_principals_and_ends(s: Subject) {
    let hold = s.member("acme", "a", None).await;
    let Hold { token, connection } = hold;
    assert!(s.resume(token, "zed", ConnectionId::random()).await.is_none());
    assert!(s.resume(SessionToken::random(), "acme", ConnectionId::random()).await.is_none());
    s.store.sessions.detach(hold);
    s.units(SESSION + 2).await;
    s.becomes(async || s.count("a").await == 0).await;
    assert!(s.resume(token, "acme", connection).await.is_none());

    let hold = s.member("acme", "a", None).await;
    s.store.sessions.end(hold);
    s.becomes(async || s.count("a").await == 0).await;
    assert!(s.resume(hold.token, "acme", ConnectionId::random()).await.is_none());
}

pub(super) async fn a_takeover_leaves_nothing_to_the_old_connection(s: Subject) {
    let old = s.member("acme", "a", None).await;
    let new = Hold { connection: ConnectionId::random(), ..old };
    let resumed = s.resume(old.token, "acme", new.connection).await.unwrap();
    assert_eq!(resumed.previous, Some(old.connection));
    let position = s.opened("b").await;
    let join = |name| {
        let membership = Membership { filter: None, position: position.clone() };
        vec![Join { room: room(name), membership, anew: false }]
    };
    s.store.sessions.join(old, join("b")).await.expect_err("it is not its session any more");
    s.store.sessions.leave(old, vec![room("a")]).await.expect_err("it is not its session any more");
    s.store.sessions.detach(old);
    s.store.sessions.end(old);
    s.units(SESSION + 10).await;
    assert_eq!((s.count("a").await, s.count("b").await), (1, 0));
    s.store.sessions.join(new, join("b")).await.unwrap();
    assert_eq!(s.count("b").await, 1);
}

/// A client gave up waiting and came back elsewhere; what it asked first is carried out last.
pub(super) async fn who_asked_before_a_takeover_does_not_take_it_back(s: Subject) {
    let hold = s.member("acme", "a", None).await;
    s.units(1).await;
    let asked = Instant::now();
    s.units(1).await;
    let new = ConnectionId::random();
    assert!(s.resume(hold.token, "acme", new).await.is_some());
    let late = s.store.sessions.resume(hold.token, &"acme".into(), ConnectionId::random(), asked, None).await;
    assert!(matches!(late, Ok(Resume::Again)), "{late:?}");
    let position = s.opened("b").await;
    s.join(Hold { connection: new, ..hold }, "b", None, &position).await;
}

pub(super) async fn a_session_comes_with_a_connection_slot_or_not_at_all(s: Subject) {
    let acme: Arc<str> = "acme".into();
    let resume = async |token, connection, most| {
        s.units(1).await;
        s.store.sessions.resume(token, &acme, connection, Instant::now(), Some(most)).await.unwrap()
    };
    let take = async |most| s.store.sessions.acquire_connection_slot(&acme, most).await.unwrap();
    let hold = s.member("acme", "a", None).await;
    let first = take(1).await.expect("the only slot");

    // Another connection has it: that one is to go, so this one comes in.
    let second = Hold { connection: ConnectionId::random(), ..hold };
    let Resume::Held(mut taken) = resume(hold.token, second.connection, 1).await else { panic!("held") };
    let slot = taken.permit.take().expect("a slot with it");
    assert_eq!(taken.previous, Some(hold.connection));
    drop(first);
    assert_eq!(take(1).await.err(), Some(1));

    // Nobody has it, and another connection has the only slot: nothing happens to the session.
    s.store.sessions.detach(second);
    s.units(1).await;
    let third = ConnectionId::random();
    let full = resume(hold.token, third, 1).await;
    assert!(matches!(full, Resume::Full(1)), "{full:?}");
    assert!(matches!(resume(SessionToken::random(), third, 1).await, Resume::Full(1)));
    assert_eq!(s.count("a").await, 1);

    // With a free slot it comes back, and the slot is its connection's.
    drop(slot);
    let Resume::Held(mut back) = resume(hold.token, third, 1).await else { panic!("held") };
    assert_eq!((back.previous, back.rooms.len()), (None, 1));
    let slot = back.permit.take().expect("a slot with it");
    assert_eq!(take(1).await.err(), Some(1));
    drop(slot);
    // One that is gone leaves the slot for a new one.
    let gone = resume(SessionToken::random(), ConnectionId::random(), 1).await;
    assert!(matches!(gone, Resume::Gone(Some(_))), "{gone:?}");
    assert_eq!(take(1).await.err(), Some(1));
    drop(gone);
    s.becomes(async || take(1).await.is_ok()).await;
    s.store.sessions.detach(Hold { connection: third, ..hold });
}
