//! What every store keeps, as one suite. Each check has a fresh store. Times are given in units, so that a store with a
//! clock of its own need not be waited for as long as one whose clock is driven.

mod epochs;
mod history;
mod order;
mod plugins;
mod rooms;
mod sessions;

use crate::{
    ConnectionId, Event, Feed, HistoryConfig, Hold, Join, Members, Membership, Message, PageLimit, Reader,
    Receipt, Resume, Resumed, Retention, SessionToken, Store, Stored,
};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use switchyard_protocol::{Position, room::RoomName};
use tokio::time::Instant;

type Log = Arc<Mutex<Vec<Event>>>;

struct Subject {
    store: Store,
    events: Log,
    unit: Duration,
}

/// In units.
const SESSION: u32 = 20;
const KEY: u32 = 30;

/// Runs every check on stores that `make` makes.
pub(crate) async fn suite<F, Made>(unit: Duration, make: F)
where
    F: Fn(Retention, Feed) -> Made,
    Made: Future<Output = Store>,
{
    let subject_with = async |history: HistoryConfig| {
        let events = Log::default();
        let log = events.clone();
        let feed: Feed = Arc::new(move |event| {
            log.lock().unwrap().push(event);
            true
        });
        let retention = Retention { history, session: unit * SESSION, key: unit * KEY };
        Subject { store: make(retention, feed).await, events, unit }
    };
    let subject = async |messages, age| {
        subject_with(HistoryConfig { messages, age: unit * age, ..HistoryConfig::default() }).await
    };
    let of_bytes = |messages, bytes| HistoryConfig { messages, age: unit * 600, bytes };
    history::it_is_trimmed_by_bytes_and_has_no_hole(subject_with(of_bytes(100, 10_000)).await).await;
    history::what_is_trimmed_by_count_takes_no_bytes(subject_with(of_bytes(5, 10_000)).await).await;
    offsets_rise_and_a_room_subscribed_to_is_heard(subject(10, 600).await).await;
    a_key_makes_a_retry_safe_for_its_principal_and_room(subject(10, 600).await).await;
    order::what_overlaps_is_in_order(subject(10, 600).await).await;
    history_is_trimmed_by_count(subject(3, 600).await).await;
    a_page_is_bounded_by_bytes(subject(3, 600).await).await;
    history_is_trimmed_by_age(subject(10, 10).await).await;
    without_history_offsets_still_rise(subject(0, 600).await).await;
    data_and_events_stay_as_they_were_written(subject(10, 600).await).await;
    rooms::reading_makes_no_room(subject(10, 600).await).await;
    rooms::what_needs_a_member_is_published_while_there_is_one(subject(10, 600).await).await;
    sessions::a_session_comes_back_with_its_rooms(subject(10, 600).await).await;
    sessions::a_session_is_its_principals_and_ends(subject(10, 600).await).await;
    sessions::a_takeover_leaves_nothing_to_the_old_connection(subject(10, 600).await).await;
    sessions::who_asked_before_a_takeover_does_not_take_it_back(subject(10, 600).await).await;
    receipts_count_sessions(subject(10, 600).await).await;
    epochs::a_membership_moves_when_its_client_has_heard(subject(10, 600).await).await;
    epochs::receipts_count_what_is_of_the_rooms_epoch(subject(10, 600).await).await;
    connection_slots_are_taken_and_released(subject(10, 600).await).await;
    sessions::a_session_comes_with_a_connection_slot_or_not_at_all(subject(10, 600).await).await;
    plugins::of_two_changes_of_a_plugin_the_second_has_to_know_the_first(subject(10, 600).await).await;
    plugins::what_was_lost_of_a_plugin_is_restored(subject(10, 600).await).await;
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
                who: &"p".into(),
                key: None,
                needs_member: false,
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

    fn heard(&self) -> Vec<String> {
        let show = |event: &Event| match event {
            Event::Subscribed { room, position } => format!("{room} from {}", position.offset),
            Event::Published(message) => format!("{} {} {}", message.room, message.offset, message.data()),
            other => format!("{other:?}"),
        };
        self.events.lock().unwrap().iter().map(show).collect()
    }

    async fn join(&self, hold: Hold, name: &str, filter: Option<&str>, position: &Position) {
        let membership = Membership { filter: filter.map(Into::into), position: position.clone() };
        let join = Join { room: room(name), membership, anew: false };
        self.store.sessions.join(hold, vec![join]).await.unwrap();
    }

    /// Waits until so many events came, which are these.
    async fn hears(&self, expected: &[&str]) {
        self.becomes(async || self.heard().len() >= expected.len()).await;
        assert_eq!(self.heard(), expected);
        self.events.lock().unwrap().clear();
    }

    /// For what a store does when it can.
    async fn becomes(&self, is_so: impl AsyncFn() -> bool) {
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

    async fn member(&self, principal: &str, name: &str, filter: Option<&str>) -> Hold {
        let connection = ConnectionId::random();
        let token = self.store.sessions.create(&principal.into(), connection, vec![]).await.unwrap();
        let position = self.opened(name).await;
        let hold = Hold { token, connection };
        self.join(hold, name, filter, &position).await;
        hold
    }

    /// Where a room is, as for somebody who comes into it.
    async fn opened(&self, name: &str) -> Position {
        self.store.broker.subscribe(&room(name));
        self.becomes(async || self.subscribed(name).is_some()).await;
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

    /// As somebody who asks now, which is a moment after whatever was before.
    async fn resume(
        &self,
        token: SessionToken,
        principal: &str,
        connection: ConnectionId,
    ) -> Option<Resumed> {
        self.units(1).await;
        let asked = Instant::now();
        match self.store.sessions.resume(token, &principal.into(), connection, asked, None).await.unwrap() {
            Resume::Held(resumed) => Some(resumed),
            Resume::Gone(None) => None,
            other => panic!("nobody else asked, and no slot was wanted: {other:?}"),
        }
    }
}

async fn offsets_rise_and_a_room_subscribed_to_is_heard(s: Subject) {
    let first = s.publish("a", "1").await;
    assert_eq!((first.position.offset, first.duplicate), (1, false));
    s.store.broker.subscribe(&room("a"));
    s.hears(&["a from 1"]).await;
    let second = s.publish("a", "{ }").await;
    assert_eq!((second.position.epoch.clone(), second.position.offset), (first.position.epoch, 2));
    s.publish("b", "0").await;
    s.hears(&["a 2 { }"]).await;
    s.store.broker.unsubscribe(&room("a"));
    s.publish("a", "3").await;
    s.store.broker.subscribe(&room("a"));
    // Where the store is elsewhere, the third may still have been on its way.
    let caught_up = [vec!["a from 3"], vec!["a from 2", "a 3 3"]];
    s.becomes(async || caught_up.iter().any(|events| s.heard() == *events)).await;
    assert_eq!(s.offsets("a", None, 10).await, (vec![1, 2, 3], false, true));
    assert_eq!(s.offsets("a", Some(&second.position), 10).await, (vec![3], false, true));
    assert_eq!(s.offsets("a", None, 2).await, (vec![1, 2], true, true));
    let ahead = Position { offset: 9, ..second.position.clone() };
    assert!(!s.offsets("a", Some(&ahead), 10).await.2, "a position ahead of the newest is not known");
    let foreign = Position { epoch: "elsewhere".into(), offset: 2 };
    assert_eq!(s.offsets("a", Some(&foreign), 10).await, (vec![1, 2, 3], false, false));
}

async fn a_key_makes_a_retry_safe_for_its_principal_and_room(s: Subject) {
    let publish = async |name: &str, principal: &str, data: &str| {
        let room = room(name);
        let message = Message {
            room: &room,
            event: None,
            data,
            who: &principal.into(),
            key: Some("k"),
            needs_member: false,
        };
        let stored = s.store.broker.publish(message).await.unwrap().expect("stored");
        (stored.position.offset, stored.duplicate)
    };
    s.store.broker.subscribe(&room("a"));
    s.hears(&["a from 0"]).await;
    assert_eq!(publish("a", "p", "1").await, (1, false));
    assert_eq!(publish("a", "p", "other data").await, (1, true));
    assert_eq!(publish("a", "q", "2").await, (2, false));
    assert_eq!(publish("b", "p", "1").await, (1, false));
    s.hears(&["a 1 1", "a 2 2"]).await;
    s.units(KEY).await;
    assert_eq!(publish("a", "p", "1").await, (3, false));
}

async fn history_is_trimmed_by_count(s: Subject) {
    let mut positions = vec![];
    for n in 1..=5 {
        positions.push(s.publish("a", &n.to_string()).await.position);
    }
    assert_eq!(s.offsets("a", None, 10).await, (vec![3, 4, 5], false, true));
    assert_eq!(s.offsets("a", Some(&positions[1]), 10).await, (vec![3, 4, 5], false, true));
    assert_eq!(s.offsets("a", Some(&positions[0]), 10).await, (vec![3, 4, 5], false, false));
}

/// Whatever else the room has: a page is as large as was asked, and one message where that is larger.
async fn a_page_is_bounded_by_bytes(s: Subject) {
    let data = [10, 10, 3000, 10, 10, 900, 10].map(|length| format!("\"{}\"", "x".repeat(length)));
    let mut positions = vec![];
    for data in &data {
        positions.push(s.publish("bytes", data).await.position);
    }
    let page = async |after: usize, bytes: usize| {
        let (room, limit) = (room("bytes"), PageLimit { messages: 10, bytes });
        let history =
            s.store.broker.history(&room, Some(&positions[after]), limit, Reader::Other).await.unwrap();
        (history.messages.iter().map(|m| m.offset).collect::<Vec<_>>(), history.more)
    };
    assert_eq!(page(4, 1 << 20).await, (vec![6, 7], false));
    assert_eq!(page(4, 700).await, (vec![6], true), "the first is always given");
    assert_eq!(page(4, 0).await, (vec![6], true));
    assert_eq!(page(5, 700).await, (vec![7], false));
    let newest = s.store.broker.history(&room("bytes"), None, PageLimit::NONE, Reader::Other).await.unwrap();
    assert_eq!((newest.newest, newest.oldest, newest.messages.len()), (positions[6].clone(), 5, 0));
}

async fn history_is_trimmed_by_age(s: Subject) {
    let first = s.publish("a", "1").await.position;
    s.units(6).await;
    s.publish("a", "2").await;
    s.units(6).await;
    assert_eq!(s.offsets("a", None, 10).await, (vec![2], false, true));
    s.units(6).await;
    assert_eq!(s.offsets("a", Some(&first), 10).await, (vec![], false, false));
    assert_eq!(s.publish("a", "3").await.position, Position { offset: 3, ..first });
}

async fn without_history_offsets_still_rise(s: Subject) {
    s.store.broker.subscribe(&room("a"));
    s.hears(&["a from 0"]).await;
    let first = s.publish("a", "1").await.position;
    let second = s.publish("a", "2").await.position;
    s.hears(&["a 1 1", "a 2 2"]).await;
    assert_eq!(s.offsets("a", Some(&second), 10).await, (vec![], false, true));
    assert_eq!(s.offsets("a", Some(&first), 10).await, (vec![], false, false));
}

async fn data_and_events_stay_as_they_were_written(s: Subject) {
    let room = room("a");
    s.store.broker.subscribe(&room);
    s.becomes(async || !s.heard().is_empty()).await;
    let messages = [
        (None, "{\"b\" : 1.10,\t\"a\":[ \"\\u00e9 é\",1e3] }"),
        (Some(""), "null"),
        (Some("a b\n1"), "\"\""),
    ];
    for (event, data) in messages {
        s.store
            .broker
            .publish(Message { room: &room, event, data, who: &"p".into(), key: None, needs_member: false })
            .await
            .unwrap();
    }
    s.becomes(async || s.heard().len() == 4).await;
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
    s.becomes(async || receipt().await == Some(Receipt { members: 3, acknowledged: 2 })).await;
    assert_eq!(s.store.rooms.receipt("a", position.offset + 1).await.unwrap(), None);
    let members = s.store.rooms.members("a", 1).await.unwrap();
    assert_eq!(members, Members { count: 3, principals: vec!["acme".into()], more: true });
    let rooms = s.store.rooms.list("", 10).await.unwrap();
    assert_eq!(rooms.len(), 1);
    assert_eq!((&*rooms[0].room, rooms[0].offset, rooms[0].members, rooms[0].messages), ("a", 1, 3, 1));
    assert_eq!(s.store.rooms.list("a", 10).await.unwrap(), []);
}

async fn connection_slots_are_taken_and_released(s: Subject) {
    let acme: Arc<str> = "acme".into();
    let take = async |most| s.store.sessions.acquire_connection_slot(&acme, most).await.unwrap();
    let (one, two) = (take(2).await.expect("a slot"), take(2).await.expect("another"));
    assert_eq!(take(2).await.err(), Some(2));
    let more = take(u32::MAX).await.expect("a takeover is let in");
    assert!(s.store.sessions.acquire_connection_slot(&"zed".into(), 1).await.unwrap().is_ok());
    drop(one);
    assert_eq!(take(2).await.err(), Some(2));
    drop(two);
    let two = take(2).await.expect("a slot");
    drop((two, more));
    // What was refused or given back leaves nothing behind.
    s.becomes(async || take(1).await.is_ok()).await;
}
