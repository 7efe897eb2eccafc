//! A resume that does not complete changes nothing: the next one finds the session as it was.

use serde_json::{Value, json};
use switchyard_tests::{KEY, Live, Node, Pattern, Proxy, READER, Redis, eventually, plugin};

struct Rig {
    proxy: Proxy,
    /// Behind the proxy.
    one: Node,
    other: Node,
    _redis: Redis,
}

impl Rig {
    async fn start() -> Self {
        let redis = Redis::start().await;
        let proxy = Proxy::start(&redis).await;
        let extra = plugin("threshold_filter", "[\"filtered\"]", "{}");
        let (behind, direct) = (proxy.url(), redis.url());
        let (one, other) = tokio::join!(Node::start(&behind, &extra), Node::start(&direct, &extra));
        Self { proxy, one, other, _redis: redis }
    }

    async fn publish(&self, room: &str, data: Value) {
        let message = json!({"room": room, "data": data}).to_string();
        let (status, body) = self.other.call("POST", "/v1/publish", &message).await;
        assert_eq!(status, 200, "{body}");
    }

    /// A session in this room and in a filtered one, whose client is away. It has acknowledged the first of
    /// three messages.
    async fn session(&self, key: &str, room: &str) -> String {
        let client = Live::connect_with(&self.other.url, json!({"auth": {"apiKey": key}})).await;
        client.subscribe(json!([room, {"room": "filtered", "filter": {"minChange": 0.5}}])).await;
        for n in 1..=3 {
            self.publish(room, json!(n)).await;
        }
        client.message(room, 3).await;
        client.send(json!({"type": "ack", "room": room, "offset": 1}));
        client.round_trip().await;
        // What was acknowledged in the last tenth of a second before a resume on another node may be
        // delivered again.
        let path = format!("/v1/rooms/{room}/messages/1/receipt");
        eventually("a receipt", async || (self.other.get(&path).await["acknowledged"] == 1).then_some(()))
            .await;
        let token = client.token();
        client.cut();
        token
    }

    /// Checks that the session is as it was: every room, its filter, and what was acknowledged.
    async fn finds_everything(&self, key: &str, token: &str, room: &str) {
        let back =
            Live::connect_with(&self.one.url, json!({"auth": {"apiKey": key}, "session": token})).await;
        let inbox = format!("@{}", back.connected["principal"]["id"].as_str().expect("a principal"));
        for room in ["*", &inbox, "filtered", room] {
            let found = back.resumed(room).is_some_and(|found| found["recovered"] == true);
            assert!(found, "{room} is not as it was: {}", back.connected);
        }
        back.message(room, 3).await;
        assert_eq!(back.offsets(room), [2, 3]);
        let before = self.newest("filtered").await;
        for change in [0.1, 0.9] {
            self.publish("filtered", json!({"change": change})).await;
        }
        back.message("filtered", before + 2).await;
        assert_eq!(back.offsets("filtered").last(), Some(&(before + 2)));
        assert!(!back.offsets("filtered").contains(&(before + 1)), "its filter is gone");
        self.publish("*", json!("to all")).await;
        self.publish(&inbox, json!("to one")).await;
        for data in ["to all", "to one"] {
            back.wait_for_frame(data, |frame| frame["data"] == data).await;
        }
        self.other.has_members(room, 1).await;
    }

    async fn newest(&self, room: &str) -> u64 {
        match self.other.call("GET", &format!("/v1/rooms/{room}"), "").await {
            (200, body) => {
                serde_json::from_str::<Value>(&body).expect("JSON")["offset"].as_u64().expect("an offset")
            }
            _ => 0,
        }
    }

    /// Either told to come back later, or accepted with every room.
    async fn loses_nothing(&self, key: &str, token: &str) {
        let connect = json!({"auth": {"apiKey": key}, "session": token});
        match Live::try_connect(&self.one.url, connect).await {
            Err(refused) => assert_eq!(refused["error"]["code"], "store_unavailable", "{refused}"),
            Ok(client) => {
                let rooms = client.connected["rooms"].as_array().expect("rooms");
                let are_there = rooms.len() == 4 && rooms.iter().all(|room| room["recovered"] == true);
                assert!(are_there, "a room was lost to an error that passes: {rooms:?}");
            }
        }
    }
}

/// Redis stalls after the session is taken over and before its rooms are joined. Regression: the client was
/// told 4503, and the next `connected` said `resumed: true` without the rooms.
#[tokio::test]
async fn a_resume_that_stalls_on_a_room_removes_no_room() {
    let rig = Rig::start().await;
    // First the broadcast, to which nobody on that node listens yet, then an inbox, and then rooms.
    for (key, stalled, room) in
        [(KEY, "{*}:live", "a"), (READER, "{@zed}:log", "b"), (KEY, "{c}:live", "c"), (KEY, "{d}:log", "d")]
    {
        let token = rig.session(key, room).await;
        let stall = rig.proxy.hold(Pattern::any().containing(stalled));
        let ((), ()) = tokio::join!(rig.loses_nothing(key, &token), stall.matched());
        stall.release();
        rig.finds_everything(key, &token, room).await;
    }
}

/// A temporary error does not remove a room either, whether it occurs on opening the room or on becoming a
/// member.
#[tokio::test]
async fn a_resume_that_fails_on_a_room_removes_no_room() {
    let rig = Rig::start().await;
    for (key, failing, room) in [(KEY, "{*}:log", "a"), (READER, "{b}:log", "b"), (KEY, "{c}:members", "c")] {
        let token = rig.session(key, room).await;
        let failing = rig.proxy.fail(Pattern::any().containing(failing));
        let ((), ()) = tokio::join!(rig.loses_nothing(key, &token), failing.matched());
        failing.release();
        rig.finds_everything(key, &token, room).await;
    }
}

/// The client gives up on one node and resumes on another, before the first one's request reaches Redis.
/// Whether the first node is still waiting for the answer or has given up too, it can no longer take the
/// session over.
#[tokio::test]
async fn a_resume_that_reaches_redis_late_does_not_take_the_session_from_its_client() {
    let rig = Rig::start().await;
    for (room, gives_up) in [("a", false), ("b", true)] {
        let token = rig.session(KEY, room).await;
        let late = rig.proxy.hold(Pattern::command("EVALSHA").containing(":session:"));
        let connect = json!({"auth": {"apiKey": KEY}, "session": token});
        let url = rig.one.url.clone();
        let waiting = tokio::spawn(async move { Live::try_connect(&url, connect).await });
        late.matched().await;
        let back = Live::resume(&rig.other.url, &token).await;
        assert_eq!(back.connected["resumed"], true);
        let outcome = match gives_up {
            true => {
                let outcome = waiting.await.expect("no panic");
                late.release();
                outcome
            }
            false => {
                late.release();
                waiting.await.expect("no panic")
            }
        };
        // What that node requests now comes after the late request.
        Live::connect(&rig.one.url).await.cut();
        back.subscribe(json!(["trades"])).await;
        assert_eq!(back.end(), None, "4409 to the only client");
        assert!(outcome.is_err(), "two connections of one session");
        rig.publish(room, json!(4)).await;
        back.message(room, 4).await;
        assert_eq!(rig.other.members(room).await, 1);
    }
}
