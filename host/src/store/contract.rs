//! What every store keeps, as one suite. Each check has a fresh store; the clock is tokio's and may be driven.

use super::*;
use std::sync::Mutex;

type Log = Arc<Mutex<Vec<Event>>>;

struct Subject {
    store: Arc<dyn Store>,
    events: Log,
}

const TTL: Duration = Duration::from_secs(120);

/// Runs every check on stores that `make` makes.
pub async fn suite<F, Made>(make: F)
where
    F: Fn(HistoryConfig, Duration, Feed) -> Made,
    Made: Future<Output = Arc<dyn Store>>,
{
    let subject = async |messages, age| {
        let events = Log::default();
        let log = events.clone();
        let feed: Feed = Arc::new(move |event| log.lock().unwrap().push(event));
        let history = HistoryConfig { messages, age: Duration::from_secs(age) };
        Subject { store: make(history, TTL, feed).await, events }
    };
    offsets_rise_and_a_watched_room_is_heard(subject(10, 600).await).await;
    a_key_makes_a_retry_safe_for_its_principal_and_room(subject(10, 600).await).await;
    history_is_trimmed_by_count(subject(3, 600).await).await;
    history_is_trimmed_by_age(subject(10, 5).await).await;
    without_history_offsets_still_rise(subject(0, 600).await).await;
    a_session_comes_back_with_its_rooms(subject(10, 600).await).await;
    a_session_is_its_principals_and_ends(subject(10, 600).await).await;
    a_takeover_leaves_nothing_to_the_old_connection(subject(10, 600).await).await;
    receipts_count_sessions(subject(10, 600).await).await;
}

fn room(name: &str) -> RoomName {
    RoomName::parse(name).unwrap()
}

impl Subject {
    async fn publish(&self, name: &str, data: &str) -> Stored {
        let room = room(name);
        self.store.publish(Message { room: &room, event: Some("e"), data, key: None }).await.unwrap()
    }

    async fn offsets(&self, name: &str, after: Option<&Position>, limit: usize) -> (Vec<u64>, bool, bool) {
        let history = self.store.history(&room(name), after, limit).await.unwrap();
        (history.messages.iter().map(|m| m.offset).collect(), history.more, history.whole)
    }

    fn heard(&self) -> Vec<String> {
        let show = |event: Event| match event {
            Event::Watched { room, position } => format!("{room} from {}", position.offset),
            Event::Published(message) => format!("{} {} {}", message.room, message.offset, message.data()),
        };
        self.events.lock().unwrap().drain(..).map(show).collect()
    }

    async fn member(
        &self,
        principal: &str,
        name: &str,
        filter: Option<&str>,
    ) -> (SessionToken, ConnectionId) {
        let connection = ConnectionId::random();
        let token = self.store.create_session(&principal.into(), connection).await.unwrap();
        let position = self.store.history(&room(name), None, 0).await.unwrap().newest;
        let membership = Membership { filter: filter.map(Into::into), position };
        self.store.join(token, &room(name), membership);
        (token, connection)
    }
}

async fn offsets_rise_and_a_watched_room_is_heard(s: Subject) {
    let first = s.publish("a", "1").await;
    assert_eq!((first.position.offset, first.duplicate), (1, false));
    s.store.watch(&room("a"));
    let second = s.publish("a", "{ }").await;
    assert_eq!((second.position.epoch.clone(), second.position.offset), (first.position.epoch, 2));
    s.publish("b", "0").await;
    s.store.unwatch(&room("a"));
    s.publish("a", "3").await;
    assert_eq!(s.heard(), ["a from 1", "a 2 { }"]);
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
        let message = Message { room: &room, event: None, data, key: Some((principal, "k")) };
        let stored = s.store.publish(message).await.unwrap();
        (stored.position.offset, stored.duplicate)
    };
    s.store.watch(&room("a"));
    assert_eq!(publish("a", "p", "1").await, (1, false));
    assert_eq!(publish("a", "p", "other data").await, (1, true));
    assert_eq!(publish("a", "q", "2").await, (2, false));
    assert_eq!(publish("b", "p", "1").await, (1, false));
    assert_eq!(s.heard(), ["a from 0", "a 1 1", "a 2 2"]);
    tokio::time::sleep(KEY_TTL).await;
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

async fn history_is_trimmed_by_age(s: Subject) {
    let first = s.publish("a", "1").await.position;
    tokio::time::sleep(Duration::from_secs(3)).await;
    s.publish("a", "2").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(s.offsets("a", None, 10).await, (vec![2], false, true));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(s.offsets("a", Some(&first), 10).await, (vec![], false, false));
    assert_eq!(s.publish("a", "3").await.position, Position { offset: 3, ..first });
}

async fn without_history_offsets_still_rise(s: Subject) {
    s.store.watch(&room("a"));
    let first = s.publish("a", "1").await.position;
    let second = s.publish("a", "2").await.position;
    assert_eq!(s.heard(), ["a from 0", "a 1 1", "a 2 2"]);
    assert_eq!(s.offsets("a", Some(&second), 10).await, (vec![], false, true));
    assert_eq!(s.offsets("a", Some(&first), 10).await, (vec![], false, false));
}

async fn a_session_comes_back_with_its_rooms(s: Subject) {
    let joined = s.publish("a", "1").await.position;
    let (token, connection) = s.member("acme", "a", Some(r#"{"x":1}"#)).await;
    s.store.join(token, &room("b"), Membership { filter: None, position: joined.clone() });
    s.store.join(token, &room("gone"), Membership { filter: None, position: joined.clone() });
    s.store.leave(token, "gone");
    s.store.detach(token, connection);
    tokio::time::sleep(TTL - Duration::from_secs(5)).await;
    assert_eq!(s.store.members("a", 5).await.unwrap().count, 1, "resumable is a member");

    let again = ConnectionId::random();
    let resumed =
        s.store.resume_session(token, "acme", again).await.unwrap().expect("within its time to live");
    assert_eq!(resumed.previous, None);
    let names: Vec<&str> = resumed.rooms.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    let membership = Membership { filter: Some(r#"{"x":1}"#.into()), position: joined.clone() };
    assert_eq!(resumed.rooms[0].1, membership, "nothing acknowledged: from where it joined");

    s.publish("a", "2").await;
    s.publish("a", "3").await;
    s.store.acknowledge(token, "a", 3);
    s.store.acknowledge(token, "a", 2);
    s.store.join(token, &room("a"), Membership { filter: None, position: joined.clone() });
    s.store.detach(token, again);
    let resumed = s.store.resume_session(token, "acme", connection).await.unwrap().unwrap();
    let membership = Membership { filter: None, position: Position { offset: 3, ..joined } };
    assert_eq!(resumed.rooms[0].1, membership, "acknowledging is cumulative and survives a new filter");
}

async fn a_session_is_its_principals_and_ends(s: Subject) {
    let (token, connection) = s.member("acme", "a", None).await;
    assert!(s.store.resume_session(token, "zed", ConnectionId::random()).await.unwrap().is_none());
    assert!(s.store.resume_session(SessionToken::random(), "acme", connection).await.unwrap().is_none());
    s.store.detach(token, connection);
    tokio::time::sleep(TTL + Duration::from_secs(2)).await;
    assert_eq!(s.store.members("a", 5).await.unwrap().count, 0);
    assert!(s.store.resume_session(token, "acme", connection).await.unwrap().is_none());

    let (token, connection) = s.member("acme", "a", None).await;
    s.store.end_session(token, connection);
    assert_eq!(s.store.members("a", 5).await.unwrap().count, 0);
    assert!(s.store.resume_session(token, "acme", connection).await.unwrap().is_none());
}

async fn a_takeover_leaves_nothing_to_the_old_connection(s: Subject) {
    let (token, old) = s.member("acme", "a", None).await;
    let new = ConnectionId::random();
    let resumed = s.store.resume_session(token, "acme", new).await.unwrap().unwrap();
    assert_eq!(resumed.previous, Some(old));
    s.store.detach(token, old);
    s.store.end_session(token, old);
    tokio::time::sleep(TTL * 2).await;
    assert_eq!(s.store.members("a", 5).await.unwrap().count, 1);
}

async fn receipts_count_sessions(s: Subject) {
    let (one, _) = s.member("acme", "a", None).await;
    let (two, _) = s.member("acme", "a", None).await;
    s.member("zed", "a", None).await;
    let offset = s.publish("a", "1").await.position.offset;
    let receipt = async || s.store.receipt("a", offset).await.unwrap();
    assert_eq!(receipt().await, Some(Receipt { members: 3, acknowledged: 0 }));
    s.store.acknowledge(one, "a", offset);
    s.store.acknowledge(two, "a", offset);
    assert_eq!(receipt().await, Some(Receipt { members: 3, acknowledged: 2 }));
    assert_eq!(s.store.receipt("a", offset + 1).await.unwrap(), None);
    let members = s.store.members("a", 1).await.unwrap();
    assert_eq!(members, Members { count: 3, principals: vec!["acme".into()], more: true });
    let rooms = s.store.rooms("", 10).await.unwrap();
    assert_eq!(rooms.len(), 1);
    assert_eq!((&*rooms[0].room, rooms[0].offset, rooms[0].members, rooms[0].messages), ("a", 1, 3, 1));
    assert_eq!(s.store.rooms("a", 10).await.unwrap(), []);
}
