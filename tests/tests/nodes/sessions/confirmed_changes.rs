//! What a client is told is what Redis holds. If Redis is unreachable, the answer is an error and the
//! previous state remains: on this connection at once, and for whoever resumes on another node.

use serde_json::{Value, json};
use switchyard_tests::{Live, Node, Pattern, Proxy, Redis, Rule, eventually, plugin};

/// A node whose session writes can be blocked, another node without such trouble, and a client of the first.
struct Rig {
    proxy: Proxy,
    one: Node,
    other: Node,
    /// In `kept` and `filtered`.
    client: Live,
    /// On the same node, in `new`: when this one receives something, the client could too.
    witness: Live,
    _redis: Redis,
}

impl Rig {
    async fn start() -> Self {
        let redis = Redis::start().await;
        let (proxy, extra) = (Proxy::start(&redis).await, plugin("threshold_filter", "[\"filtered\"]", "{}"));
        let (behind, direct) = (proxy.url(), redis.url());
        let (one, other) = tokio::join!(Node::start(&behind, &extra), Node::start(&direct, &extra));
        let (client, witness) = (Live::connect(&one.url).await, Live::connect(&one.url).await);
        client.subscribe(json!(["kept", {"room": "filtered", "filter": {"minChange": 0.5}}])).await;
        witness.subscribe(json!(["new"])).await;
        Self { proxy, one, other, client, witness, _redis: redis }
    }

    async fn publish(&self, room: &str, data: Value) {
        let message = json!({"room": room, "data": data}).to_string();
        let (status, body) = self.other.call("POST", "/v1/publish", &message).await;
        assert_eq!(status, 200, "{body}");
    }

    /// Leaves a room, changes a filter and joins a room, and each time gets the answer that it failed. Each request waits
    /// 2 s for Redis. With more of them, the node would hold messages at the end, because it could not read for 5 s which
    /// plugin governs which rooms.
    async fn is_refused_everything(&self) {
        let filtered = json!({"room": "filtered", "filter": {"minChange": 0.1}});
        for request in [
            json!({"type": "unsubscribe", "rooms": ["kept"]}),
            json!({"type": "subscribe", "rooms": [filtered, "new"]}),
        ] {
            let answer = self.client.ask(request.clone()).await;
            for result in answer["results"].as_array().expect("results") {
                assert_eq!(result["status"], "rejected", "{request}: {answer}");
                assert_eq!(result["error"]["code"], "store_unavailable", "{request}: {answer}");
            }
        }
    }

    /// Checks that on this connection everything is as before.
    async fn old_state_rules_here(&self) {
        self.publish("kept", json!(1)).await;
        self.client.message("kept", 1).await;
        self.publish("new", json!(1)).await;
        self.witness.message("new", 1).await;
        for change in [0.2, 0.9] {
            self.publish("filtered", json!({"change": change})).await;
        }
        self.client.message("filtered", 2).await;
        self.client.round_trip().await;
        let received = (self.client.offsets("filtered"), self.client.offsets("new"));
        assert_eq!(received, (vec![2], vec![]), "the old filter, and nothing of a room that was refused");
    }

    /// And for the connection that resumes on another node, after `more` further messages.
    async fn old_state_is_resumed(self, more: &[&str]) {
        let token = self.client.token();
        self.client.cut();
        let back = Live::resume(&self.other.url, &token).await;
        let rooms = back.connected["rooms"].as_array().expect("rooms");
        assert!(rooms.iter().all(|room| room["recovered"] == true), "{rooms:?}");
        let mut names: Vec<_> = rooms.iter().filter_map(|room| room["room"].as_str()).collect();
        let mut expected = [&["*", "@acme", "filtered", "kept"], more].concat();
        names.sort_unstable();
        expected.sort_unstable();
        assert_eq!(names, expected);
        let filter = |room: &str| back.resumed(room).expect("seen above").get("filter").cloned();
        assert_eq!(filter("filtered"), Some(json!({"minChange": 0.5})), "{rooms:?}");
        assert_eq!(filter("kept"), None);
        for change in [0.3, 0.8] {
            let message = json!({"room": "filtered", "data": {"change": change}}).to_string();
            self.other.call("POST", "/v1/publish", &message).await;
        }
        back.message("filtered", 4).await;
        back.message("kept", 1).await;
        assert_eq!(back.offsets("filtered"), [2, 4], "nothing that the old filter lets through is withheld");
        assert_eq!(back.offsets("kept"), [1]);
        self.other.has_members("kept", 1).await;
        self.other.has_members("new", 1).await;
    }

    /// When Redis is back, the answered state is restored before anything new happens.
    async fn goes_on(&self) {
        eventually("a subscription", async || {
            let answer = self.client.ask(json!({"type": "subscribe", "rooms": ["again"]})).await;
            (answer["results"][0]["status"] == "subscribed").then_some(())
        })
        .await;
    }

    fn writes(&self) -> Pattern {
        Pattern::command("EVALSHA").containing(":session:")
    }
}

/// Regression: `unsubscribed`, or `subscribed` with another filter, was answered but not stored. On the next
/// node the room was back, or the old filter withheld what the new one passes.
#[tokio::test]
async fn changes_that_redis_rejects_fail_and_the_old_state_remains_everywhere() {
    let rig = Rig::start().await;
    let refused = rig.proxy.fail(rig.writes());
    rig.is_refused_everything().await;
    rig.old_state_rules_here().await;
    // Its node never reaches Redis again, as if it had died.
    rig.old_state_is_resumed(&[]).await;
    refused.release();
}

/// The same for changes that Redis executes long after the node gave up on them.
#[tokio::test]
async fn changes_that_redis_executes_late_are_reverted() {
    outlived(|rig| rig.proxy.hold(rig.writes())).await;
}

/// And for those that it executed at once, while the answer did not arrive.
#[tokio::test]
async fn changes_whose_answer_is_lost_are_reverted() {
    outlived(|rig| rig.proxy.hold_answer(rig.writes())).await;
}

async fn outlived(away: impl FnOnce(&Rig) -> Rule) {
    let rig = Rig::start().await;
    let away = away(&rig);
    rig.is_refused_everything().await;
    rig.old_state_rules_here().await;
    away.release();
    rig.goes_on().await;
    assert!(rig.one.is_ready().await);
    rig.old_state_is_resumed(&["again"]).await;
}

/// Regression: the member was added before the answer was known. The client got `rejected`, and then the
/// messages of that room.
#[tokio::test]
async fn a_rejected_room_delivers_nothing() {
    let rig = Rig::start().await;
    let away = rig.proxy.hold(rig.writes());
    let asked = rig.client.request(json!({"type": "subscribe", "rooms": ["new"]}));
    away.matched().await;
    rig.publish("new", json!("before the answer")).await;
    rig.witness.message("new", 1).await;
    let answer = rig.client.answer(asked).await;
    assert_eq!(answer["results"][0]["error"]["code"], "store_unavailable", "{answer}");
    rig.publish("new", json!("after the answer")).await;
    rig.witness.message("new", 2).await;
    rig.client.round_trip().await;
    assert_eq!(rig.client.offsets("new"), [0_u64; 0], "{:?}", rig.client.frames());
    away.release();
    // The room was not joined, so the client can join it.
    eventually("a place in the room", async || {
        let answer = rig.client.ask(json!({"type": "subscribe", "rooms": ["new"]})).await;
        (answer["results"][0]["status"] == "subscribed").then_some(())
    })
    .await;
    rig.publish("new", json!("at last")).await;
    rig.client.message("new", 3).await;
    assert_eq!(rig.client.offsets("new"), [3]);
    rig.other.has_members("new", 2).await;
}
