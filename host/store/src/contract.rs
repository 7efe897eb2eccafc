//! The contract of a store, as a suite of tests that every store must pass. Each test gets a new store.
//!
//! Times are given in units. A store whose clock the test drives can have long ones, and one that is waited
//! for short ones.

mod denials;
mod epochs;
mod history;
mod order;
mod plugins;
mod policies;
mod rooms;
mod sessions;

use crate::{
    ConnectionId, Event, EventFeed, HistoryConfig, HistoryPolicies, Join, Members, Membership, Message,
    PageLimit, Permit, Reader, Receipt, ResumeCheck, ResumeResult, ResumedSession, Retention, SessionHandle,
    SessionToken, SlotResult, Store, Stored,
};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use switchyard_protocol::{Position, room::RoomName};
use tokio::time::Instant;

type EventLog = Arc<Mutex<Vec<Event>>>;

/// A new store under test, and what it has told its node.
struct Subject {
    store: Store,
    events: EventLog,
    unit: Duration,
}

/// How long a session can be resumed, in units.
const SESSION_TTL_UNITS: u32 = 20;
/// How long an idempotency key is remembered, in units.
const KEY_TTL_UNITS: u32 = 30;

/// Runs every test on stores that `make` creates.
pub(crate) async fn suite<F, Made>(unit: Duration, make: F)
where
    F: Fn(Retention, EventFeed) -> Made,
    Made: Future<Output = Store>,
{
    let subject_of = async |history: HistoryPolicies| {
        let events = EventLog::default();
        let log = events.clone();
        let feed: EventFeed = Arc::new(move |event| {
            log.lock().unwrap().push(event);
            true
        });
        let retention = Retention {
            history,
            session_ttl: unit * SESSION_TTL_UNITS,
            idempotency_key_ttl: unit * KEY_TTL_UNITS,
        };
        Subject { store: make(retention, feed).await, events, unit }
    };
    let subject_with = async |history: HistoryConfig| subject_of(history.into()).await;
    let subject = async |messages, age| {
        subject_with(HistoryConfig { messages, age: unit * age, ..HistoryConfig::default() }).await
    };
    let of_bytes = |messages, bytes| HistoryConfig { messages, age: unit * 600, bytes };
    history::history_is_trimmed_by_bytes_without_a_hole(subject_with(of_bytes(100, 10_000)).await).await;
    history::messages_trimmed_by_count_take_no_bytes(subject_with(of_bytes(5, 10_000)).await).await;
    offsets_rise_and_subscribers_receive_messages(subject(10, 600).await).await;
    an_idempotency_key_applies_to_one_principal_and_room(subject(10, 600).await).await;
    order::overlapping_publishes_keep_their_order(subject(10, 600).await).await;
    history::history_is_trimmed_by_count(subject(3, 600).await).await;
    history::a_page_is_bounded_by_bytes(subject(3, 600).await).await;
    history::history_is_trimmed_by_age(subject(10, 10).await).await;
    history::without_history_offsets_still_rise(subject(0, 600).await).await;
    history::a_cleared_history_begins_an_epoch(subject(10, 600).await).await;
    let by_room = policies::by_room(unit);
    policies::each_room_keeps_as_much_as_its_policy_says(subject_of(by_room.clone()).await, &by_room).await;
    let by_room = policies::by_room(unit);
    policies::a_room_that_kept_nothing_for_a_while_has_no_hole(subject_of(by_room.clone()).await, &by_room)
        .await;
    policies::a_message_names_its_sender_if_it_says_so(subject(10, 600).await).await;
    data_and_event_names_are_not_changed(subject(10, 600).await).await;
    rooms::reading_creates_no_room(subject(10, 600).await).await;
    rooms::a_room_is_on_the_list_after_a_flush(subject(10, 600).await).await;
    rooms::a_message_that_needs_a_member_is_published_only_while_there_is_one(subject(10, 600).await).await;
    sessions::a_resumed_session_has_its_rooms(subject(10, 600).await).await;
    sessions::a_join_keeps_the_position_of_a_member_and_gives_one_to_others(subject(10, 600).await).await;
    sessions::only_its_principal_can_resume_a_session_until_it_ends(subject(10, 600).await).await;
    sessions::the_old_connection_can_do_nothing_after_a_takeover(subject(10, 600).await).await;
    sessions::a_resume_asked_for_before_a_takeover_fails(subject(10, 600).await).await;
    receipts_count_sessions(subject(10, 600).await).await;
    epochs::a_membership_moves_to_an_epoch_its_client_knows(subject(10, 600).await).await;
    epochs::receipts_count_acknowledgements_of_the_current_epoch(subject(10, 600).await).await;
    connection_slots_are_acquired_and_released(subject(10, 600).await).await;
    sessions::a_session_is_resumed_with_a_connection_slot_or_not_at_all(subject(10, 600).await).await;
    sessions::a_check_tells_what_resuming_would_do_and_changes_nothing(subject(10, 600).await).await;
    plugins::a_plugin_that_was_removed_leaves_no_versions(subject(10, 600).await).await;
    plugins::a_change_of_governance_must_know_the_one_before(subject(10, 600).await).await;
    plugins::a_change_of_a_plugin_must_know_the_one_before(subject(10, 600).await).await;
    denials::bans_are_read_until_they_are_lifted(subject(10, 600).await).await;
    plugins::lost_versions_of_a_plugin_are_restored(subject(10, 600).await).await;
}

/// A page of ten messages.
pub(crate) const TEN: PageLimit = PageLimit { messages: 10, bytes: 1 << 20 };

fn room(name: &str) -> RoomName {
    RoomName::parse(name).unwrap()
}

impl Subject {
    async fn publish(&self, name: &str, data: &str) -> Stored {
        let room = room(name);
        self.store
            .broker
            .publish(Message {
                room: &room,
                event: Some("e"),
                data,
                principal: &"p".into(),
                idempotency_key: None,
                needs_member: false,
                names_publisher: false,
                shows_sender: false,
            })
            .await
            .unwrap()
            .expect("stored")
    }

    async fn offsets(&self, name: &str, after: Option<&Position>, limit: usize) -> (Vec<u64>, bool, bool) {
        let limit = PageLimit { messages: limit, bytes: usize::MAX };
        let history = self.store.broker.history(&room(name), after, limit, Reader::Other).await.unwrap();
        (history.messages.iter().map(|m| m.offset).collect(), history.more, history.whole)
    }

    fn received(&self) -> Vec<String> {
        let show = |event: &Event| match event {
            Event::Subscribed { room, position } => format!("{room} from {}", position.offset),
            Event::Published(message) => format!("{} {} {}", message.room, message.offset, message.data()),
            other => format!("{other:?}"),
        };
        self.events.lock().unwrap().iter().map(show).collect()
    }

    async fn join(&self, handle: SessionHandle, name: &str, filter: Option<&str>, position: &Position) {
        let membership = Membership { filter: filter.map(Into::into), position: position.clone() };
        let join = Join { room: room(name), membership, anew: false };
        self.store.sessions.join(handle, vec![join]).await.unwrap();
    }

    /// Waits until as many events have come as are expected, and compares them.
    async fn receives(&self, expected: &[&str]) {
        self.eventually(async || self.received().len() >= expected.len()).await;
        assert_eq!(self.received(), expected);
        self.events.lock().unwrap().clear();
    }

    /// Waits for something that the store does later by itself.
    async fn eventually(&self, is_so: impl AsyncFn() -> bool) {
        for _ in 0..200 {
            if is_so().await {
                return;
            }
            tokio::time::sleep(self.unit / 4).await;
        }
        panic!("it did not happen within {:?}", self.unit * 50);
    }

    async fn count(&self, name: &str) -> usize {
        self.store.rooms.members(name, 5).await.unwrap().count
    }

    async fn units(&self, count: u32) {
        tokio::time::sleep(self.unit * count).await;
    }

    async fn member(&self, principal: &str, name: &str, filter: Option<&str>) -> SessionHandle {
        let connection = ConnectionId::random();
        let token = self.store.sessions.create(&principal.into(), connection, vec![]).await.unwrap();
        let position = self.position_on_joining(name).await;
        let handle = SessionHandle { token, connection };
        self.join(handle, name, filter, &position).await;
        handle
    }

    /// The room's position, as a client that joins sees it.
    async fn position_on_joining(&self, name: &str) -> Position {
        self.store.broker.subscribe(&room(name));
        self.eventually(async || self.subscribed(name).is_some()).await;
        self.store.broker.unsubscribe(&room(name));
        let position = self.subscribed(name).expect("seen above");
        self.events.lock().unwrap().clear();
        position
    }

    fn subscribed(&self, name: &str) -> Option<Position> {
        self.events.lock().unwrap().iter().find_map(|event| match event {
            Event::Subscribed { room, position } if **room == *name => Some(position.clone()),
            _ => None,
        })
    }

    /// A connection slot. The error is how many connections the principal has.
    async fn acquire_slot(&self, principal: &Arc<str>, limit: u32) -> Result<Permit, u32> {
        match self.store.sessions.acquire_connection_slot(principal, limit).await.unwrap() {
            SlotResult::Acquired(permit) => Ok(permit),
            SlotResult::LimitReached(count) => Err(count),
        }
    }

    /// Resumes a session as a client that asks now, a moment after everything before.
    async fn resume(
        &self,
        token: SessionToken,
        principal: &str,
        connection: ConnectionId,
    ) -> Option<ResumedSession> {
        self.units(1).await;
        let asked = Instant::now();
        match self.store.sessions.resume(token, &principal.into(), connection, asked, None).await.unwrap() {
            ResumeResult::Resumed(resumed) => Some(resumed),
            ResumeResult::NotFound(None) => None,
            other => panic!("nobody else resumed it, and no slot was requested: {other:?}"),
        }
    }
}

async fn offsets_rise_and_subscribers_receive_messages(s: Subject) {
    let first = s.publish("a", "1").await;
    assert_eq!((first.position.offset, first.duplicate), (1, false));
    s.store.broker.subscribe(&room("a"));
    s.receives(&["a from 1"]).await;
    let second = s.publish("a", "{ }").await;
    assert_eq!((second.position.epoch.clone(), second.position.offset), (first.position.epoch, 2));
    s.publish("b", "0").await;
    s.receives(&["a 2 { }"]).await;
    s.store.broker.unsubscribe(&room("a"));
    s.publish("a", "3").await;
    s.store.broker.subscribe(&room("a"));
    // In a store outside of the process, the third may still have been on its way.
    let caught_up = [vec!["a from 3"], vec!["a from 2", "a 3 3"]];
    s.eventually(async || caught_up.iter().any(|events| s.received() == *events)).await;
    assert_eq!(s.offsets("a", None, 10).await, (vec![1, 2, 3], false, true));
    assert_eq!(s.offsets("a", Some(&second.position), 10).await, (vec![3], false, true));
    assert_eq!(s.offsets("a", None, 2).await, (vec![1, 2], true, true));
    let ahead = Position { offset: 9, ..second.position.clone() };
    assert!(!s.offsets("a", Some(&ahead), 10).await.2, "a position ahead of the newest is unknown");
    let foreign = Position { epoch: "elsewhere".into(), offset: 2 };
    assert_eq!(s.offsets("a", Some(&foreign), 10).await, (vec![1, 2, 3], false, false));
}

async fn an_idempotency_key_applies_to_one_principal_and_room(s: Subject) {
    let publish = async |name: &str, principal: &str, data: &str| {
        let room = room(name);
        let message = Message {
            room: &room,
            event: None,
            data,
            principal: &principal.into(),
            idempotency_key: Some("k"),
            needs_member: false,
            names_publisher: false,
            shows_sender: false,
        };
        let stored = s.store.broker.publish(message).await.unwrap().expect("stored");
        (stored.position.offset, stored.duplicate)
    };
    s.store.broker.subscribe(&room("a"));
    s.receives(&["a from 0"]).await;
    assert_eq!(publish("a", "p", "1").await, (1, false));
    assert_eq!(publish("a", "p", "other data").await, (1, true));
    assert_eq!(publish("a", "q", "2").await, (2, false));
    assert_eq!(publish("b", "p", "1").await, (1, false));
    s.receives(&["a 1 1", "a 2 2"]).await;
    s.units(KEY_TTL_UNITS).await;
    assert_eq!(publish("a", "p", "1").await, (3, false));
}

async fn data_and_event_names_are_not_changed(s: Subject) {
    let room = room("a");
    s.store.broker.subscribe(&room);
    s.eventually(async || !s.received().is_empty()).await;
    let messages = [
        (None, "{\"b\" : 1.10,\t\"a\":[ \"\\u00e9 é\",1e3] }"),
        (Some(""), "null"),
        (Some("a b\n1"), "\"\""),
    ];
    for (event, data) in messages {
        s.store
            .broker
            .publish(Message {
                room: &room,
                event,
                data,
                principal: &"p".into(),
                idempotency_key: None,
                needs_member: false,
                names_publisher: false,
                shows_sender: false,
            })
            .await
            .unwrap();
    }
    s.eventually(async || s.received().len() == 4).await;
    let heard: Vec<_> = s.events.lock().unwrap().drain(..).collect();
    let held = s.store.broker.history(&room, None, TEN, Reader::Other).await.unwrap().messages;
    for (n, (event, data)) in messages.into_iter().enumerate() {
        let Event::Published(heard) = &heard[n + 1] else { panic!("{heard:?}") };
        for message in [heard, &held[n]] {
            assert_eq!((message.event.as_deref(), message.data()), (event, data));
        }
        assert_eq!(heard.frame(), held[n].frame());
    }
}

async fn receipts_count_sessions(s: Subject) {
    let one = s.member("acme", "a", None).await;
    let two = s.member("acme", "a", None).await;
    s.member("zed", "a", None).await;
    let position = s.publish("a", "1").await.position;
    let receipt = async || s.store.rooms.receipt("a", position.offset).await.unwrap();
    assert_eq!(receipt().await, Some(Receipt { members: 3, acknowledged: 0 }));
    s.store.sessions.acknowledge(one, &room("a"), &position);
    s.store.sessions.acknowledge(two, &room("a"), &position);
    s.eventually(async || receipt().await == Some(Receipt { members: 3, acknowledged: 2 })).await;
    assert_eq!(s.store.rooms.receipt("a", position.offset + 1).await.unwrap(), None);
    let members = s.store.rooms.members("a", 1).await.unwrap();
    assert_eq!(members, Members { count: 3, principals: vec!["acme".into()], more: true });
    let rooms = s.store.rooms.list("", 10).await.unwrap();
    assert_eq!(rooms.len(), 1);
    assert_eq!((&*rooms[0].room, rooms[0].offset, rooms[0].members, rooms[0].messages), ("a", 1, 3, 1));
    assert_eq!(s.store.rooms.list("a", 10).await.unwrap(), []);
}

async fn connection_slots_are_acquired_and_released(s: Subject) {
    let acme: Arc<str> = "acme".into();
    let take = async |limit| s.acquire_slot(&acme, limit).await;
    let (one, two) = (take(2).await.expect("a slot"), take(2).await.expect("another"));
    assert_eq!(take(2).await.err(), Some(2));
    let more = take(u32::MAX).await.expect("a takeover needs no free slot");
    assert!(s.acquire_slot(&"zed".into(), 1).await.is_ok());
    drop(one);
    assert_eq!(take(2).await.err(), Some(2));
    drop(two);
    let two = take(2).await.expect("a slot");
    drop((two, more));
    // What was refused or released leaves nothing behind.
    s.eventually(async || take(1).await.is_ok()).await;
}
