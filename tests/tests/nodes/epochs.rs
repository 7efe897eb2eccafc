//! Clients whose positions are ahead of their node, and rooms that Redis forgets. What a client is told
//! matches the log, and an offset is valid only for its own epoch.

use serde_json::{Value, json};
use std::time::Instant;
use switchyard_tests::{Client, EVENT_TIMEOUT, KEY, Node, Pattern, Proxy, Raw, Redis, eventually};

async fn publish(node: &Node, room: &str, data: Value) -> (Value, u64) {
    let body = json!({"room": room, "data": data}).to_string();
    let (status, body) = node.call("POST", "/v1/publish", &body).await;
    assert_eq!(status, 200, "{body}");
    let published: Value = serde_json::from_str(&body).expect("JSON");
    (published["epoch"].clone(), published["offset"].as_u64().expect("an offset"))
}

/// A room that `connected` or `subscribed` lists.
fn room<'a>(rooms: &'a Value, name: &str) -> &'a Value {
    let found = rooms.as_array().and_then(|rooms| rooms.iter().find(|room| room["room"] == name));
    found.unwrap_or_else(|| panic!("no {name} in {rooms}"))
}

async fn since(client: &mut Client, epoch: &Value, offset: u64) -> Value {
    let since = json!([{"room": "prices", "since": {"epoch": epoch, "offset": offset}}]);
    client.subscribe(since).await["results"][0].take()
}

async fn expect_messages(client: &mut Client, offsets: std::ops::RangeInclusive<u64>) {
    for offset in offsets {
        assert_eq!(client.expect("message").await["offset"], offset);
    }
}

/// Waits until this many members have acknowledged a message of the room.
async fn acknowledged(node: &Node, offset: u64, count: u64) {
    let path = format!("/v1/rooms/prices/messages/{offset}/receipt");
    eventually("an acknowledgement", async || (node.get(&path).await["acknowledged"] == count).then_some(()))
        .await;
}

/// Regression: after its subscription was cut, a node mistook what it had received for the whole log. Clients
/// that were ahead of it had lost nothing, but were told that they had, and received again what they had
/// acknowledged.
#[tokio::test]
async fn a_client_ahead_of_its_node_is_recovered_without_duplicates() {
    let redis = Redis::start().await;
    let proxy = Proxy::start(&redis).await;
    let (url, behind) = (redis.url(), proxy.url());
    let (one, two) = tokio::join!(Node::start(&url, ""), Node::start(&behind, ""));
    let (mut watching, mut client) = (two.client().await, one.client().await);
    watching.subscribe(json!(["prices"])).await;
    client.subscribe(json!(["prices"])).await;
    let deaf = proxy.hold(Pattern::command("SSUBSCRIBE"));
    redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    deaf.matched().await;
    let mut epoch = Value::Null;
    for n in 1..=5 {
        epoch = publish(&one, "prices", json!(n)).await.0;
    }
    expect_messages(&mut client, 1..=5).await;
    client.send(json!({"type": "ack", "room": "prices", "offset": 4})).await;
    acknowledged(&one, 4, 1).await;
    let token = client.token();
    client.cut();

    let mut client = two.resume(&token).await;
    let resumed = room(&client.connected["rooms"], "prices");
    assert_eq!((&resumed["recovered"], &resumed["offset"]), (&json!(true), &json!(5)), "{resumed}");
    expect_messages(&mut client, 5..=5).await;
    let (mut known, mut impossible) = (two.client().await, two.client().await);
    let joined = since(&mut known, &epoch, 5).await;
    assert_eq!((&joined["recovered"], &joined["offset"]), (&json!(true), &json!(5)), "{joined}");
    let joined = since(&mut impossible, &epoch, 9).await;
    assert_eq!((&joined["recovered"], &joined["offset"]), (&json!(false), &json!(5)), "{joined}");
    watching.round_trip().await;

    deaf.release();
    publish(&one, "prices", json!(6)).await;
    expect_messages(&mut watching, 1..=6).await;
    for client in [&mut client, &mut known, &mut impossible] {
        expect_messages(client, 6..=6).await;
    }
    for client in [&mut watching, &mut client, &mut known, &mut impossible] {
        client.round_trip().await;
    }
}

/// The same on a node that was suspended, that Redis disconnected meanwhile, and that has a long log to read
/// when it resumes.
#[tokio::test]
async fn a_client_of_a_node_that_was_just_suspended_is_recovered() {
    let redis = Redis::start_with(&["--client-output-buffer-limit", "pubsub 64kb 64kb 1"]).await;
    let (url, extra) = (redis.url(), "[rooms]\nhistory = { messages = 20000, age = \"10m\" }");
    let (one, two) = tokio::join!(Node::start(&url, extra), Node::start(&url, extra));
    let (mut watching, mut client) = (two.client().await, one.client().await);
    watching.subscribe(json!(["prices"])).await;
    client.subscribe(json!(["prices"])).await;
    two.process.signal("STOP").await;
    let filling = "x".repeat(10_000);
    for batch in 0..10 {
        let list: Vec<_> =
            (1..=100).map(|n| json!({"room": "prices", "data": [batch * 100 + n, filling]})).collect();
        let (status, body) = one.call("POST", "/v1/publish", &json!(list).to_string()).await;
        assert_eq!(status, 200, "{body}");
        expect_messages(&mut client, batch * 100 + 1..=batch * 100 + 100).await;
    }
    client.send(json!({"type": "ack", "room": "prices", "offset": 1000})).await;
    acknowledged(&one, 1000, 1).await;
    let token = client.token();
    client.cut();
    two.process.signal("CONT").await;
    let mut client = two.resume(&token).await;
    let resumed = room(&client.connected["rooms"], "prices");
    assert_eq!((&resumed["recovered"], &resumed["offset"]), (&json!(true), &json!(1000)), "{resumed}");
    expect_messages(&mut watching, 1..=1000).await;
    publish(&one, "prices", json!(1001)).await;
    expect_messages(&mut client, 1001..=1001).await;
    expect_messages(&mut watching, 1001..=1001).await;
    client.round_trip().await;
}

/// More messages than sockets and outbox buffer, so that their replay waits for the client to read.
const MANY: u64 = 5000;
const LONG: &str = "[rooms]\nhistory = { messages = 10000, age = \"10m\" }\n[session]\noutbox = \"256KiB\"";

/// Redis forgets, by `forget`, while a long replay waits for its reader.
async fn a_replay_ends_with_its_epoch(forget: &[&str]) {
    let redis = Redis::start().await;
    let node = Node::start(&redis.url(), LONG).await;
    let filling = "x".repeat(2000);
    let list: Vec<_> = (1..=MANY).map(|n| json!({"room": "prices", "data": [n, filling]})).collect();
    let mut old = Value::Null;
    for list in list.chunks(250) {
        let (status, body) = node.call("POST", "/v1/publish", &json!(list).to_string()).await;
        assert_eq!(status, 200, "{body}");
        old = serde_json::from_str::<Value>(&body).expect("JSON")[0]["epoch"].take();
    }
    let (mut live, mut slow) = (node.client().await, node.client().await);
    live.subscribe(json!(["prices"])).await;
    assert_eq!(since(&mut slow, &old, 0).await["recovered"], true);
    expect_messages(&mut slow, 1..=10).await;
    redis.command(forget).await;
    let (new, first) = publish(&node, "prices", json!("first")).await;
    assert!(new != old && first == 1, "{new} {first}");
    // A live member shows that the room has noticed.
    while live.recv().await["data"] != "first" {}

    let (mut gaps, mut next) = (vec![], 11);
    loop {
        let frame = slow.recv().await;
        if frame["room"] != "prices" {
            continue;
        }
        assert!(next <= MANY + 1, "{frame}: more than there was");
        match (&frame["type"], gaps.is_empty()) {
            (kind, true) if kind == "message" => {
                assert_eq!((&frame["offset"], &frame["data"][0]), (&json!(next), &json!(next)));
                next += 1;
            }
            (kind, _) if kind == "gap" => gaps.push((frame["epoch"].clone(), frame["offset"].clone())),
            _ => {
                assert!(
                    frame["data"] == "first",
                    "behind the gap came {} {}",
                    frame["type"],
                    frame["offset"]
                );
                break;
            }
        }
    }
    assert_eq!(gaps, [(new.clone(), json!(1))], "one, to the new epoch");
    assert!(next < MANY, "the replay was not at its end");
    publish(&node, "prices", json!("second")).await;
    loop {
        let frame = slow.recv().await;
        if frame["room"] == "prices" {
            assert_eq!((&frame["type"], &frame["offset"]), (&json!("message"), &json!(2)), "{frame}");
            break;
        }
    }
}

#[tokio::test]
async fn a_replay_ends_when_redis_loses_its_data() {
    a_replay_ends_with_its_epoch(&["FLUSHALL"]).await;
}

#[tokio::test]
async fn a_replay_ends_when_its_room_is_deleted() {
    a_replay_ends_with_its_epoch(&["DEL", "switchyard:{prices}:room", "switchyard:{prices}:log"]).await;
}

/// A client of `acme` that is in the room, has acknowledged three messages, and then neither reads nor
/// answers pings.
async fn half_open(node: &Node) -> (Raw, Value) {
    let mut raw = Raw::upgraded(&node.url).await;
    raw.send(json!({"type": "connect", "auth": {"apiKey": KEY}})).await;
    let token = raw.json().await["session"].take();
    raw.send(json!({"type": "subscribe", "rooms": ["prices"]})).await;
    assert_eq!(raw.json().await["type"], "subscribed");
    for n in 1..=3 {
        publish(node, "prices", json!(n)).await;
        assert_eq!(raw.json().await["offset"], n);
    }
    raw.send(json!({"type": "ack", "room": "prices", "offset": 3})).await;
    acknowledged(node, 3, 1).await;
    (raw, token)
}

/// Regression: the node had sent the new epoch and assumed that the client received it. On resuming, the
/// client was told `recovered:true` and a new epoch, and was never told what it had missed.
#[tokio::test]
async fn a_client_that_missed_a_new_epoch_is_told_on_resuming() {
    let redis = Redis::start().await;
    let url = redis.url();
    let (one, two) = tokio::join!(Node::start(&url, ""), Node::start(&url, ""));
    let (_half_open, token) = half_open(&one).await;
    let mut live = one.client().await;
    live.subscribe(json!(["prices"])).await;
    redis.command(&["DEL", "switchyard:{prices}:room", "switchyard:{prices}:log"]).await;
    for n in 1..=5 {
        publish(&two, "prices", json!(n)).await;
    }
    // A live member shows that the node has noticed. The other one was told at the same time.
    while live.recv().await["offset"] != 5 {}
    live.send(json!({"type": "ack", "room": "prices", "offset": 5})).await;
    acknowledged(&two, 5, 1).await;
    let mut client = two.resume(token.as_str().expect("a token")).await;
    let resumed = room(&client.connected["rooms"], "prices");
    assert_eq!((&resumed["recovered"], &resumed["offset"]), (&json!(false), &json!(5)), "{resumed}");
    let epoch = resumed["epoch"].as_str().expect("an epoch").to_owned();
    client.round_trip().await;
    // From here on it uses the new epoch, like the live member.
    eventually("sessions of the new epoch", async || {
        let keys = redis.command(&["KEYS", "switchyard:{@acme}:session:*"]).await;
        let mut places = vec![];
        for key in keys.lines() {
            places.push(redis.command(&["HGET", key, "/prices"]).await);
        }
        places.iter().all(|place| place.starts_with(&epoch)).then_some(())
    })
    .await;
    let token = client.token();
    client.cut();
    publish(&one, "prices", json!(6)).await;
    let mut client = one.resume(&token).await;
    assert_eq!(room(&client.connected["rooms"], "prices")["recovered"], true);
    expect_messages(&mut client, 6..=6).await;
}

/// The same if the sessions are forgotten as well.
#[tokio::test]
async fn a_client_that_missed_a_total_loss_is_told_on_resuming() {
    let redis = Redis::start().await;
    let url = redis.url();
    let (one, two) = tokio::join!(Node::start(&url, ""), Node::start(&url, ""));
    let (_half_open, token) = half_open(&one).await;
    let mut live = one.client().await;
    live.subscribe(json!(["prices"])).await;
    redis.command(&["FLUSHALL"]).await;
    for n in 1..=5 {
        publish(&two, "prices", json!(n)).await;
    }
    while live.recv().await["offset"] != 5 {}
    live.send(json!({"type": "ack", "room": "prices", "offset": 5})).await;
    let began = Instant::now();
    // The node restores it as soon as it answers a ping, for which it has to read.
    while two.get("/v1/rooms/prices/messages/5/receipt").await["acknowledged"] != 1 {
        live.drain_frames().await;
        assert!(began.elapsed() < EVENT_TIMEOUT, "no acknowledgement");
    }
    let client = two.resume(token.as_str().expect("a token")).await;
    let connected = &client.connected;
    let is_reported =
        connected["resumed"] == false || room(&connected["rooms"], "prices")["recovered"] == false;
    assert!(is_reported, "{connected}");
}

/// Regression: an acknowledgement in the old epoch skipped messages of the new one, and receipts counted it.
#[tokio::test]
async fn a_client_in_a_new_epoch_starts_without_acknowledgements() {
    let redis = Redis::start().await;
    let url = redis.url();
    let (one, two) = tokio::join!(Node::start(&url, ""), Node::start(&url, ""));
    let mut client = one.client().await;
    client.subscribe(json!(["prices"])).await;
    let mut old = Value::Null;
    for n in 1..=3 {
        old = publish(&one, "prices", json!(n)).await.0;
    }
    expect_messages(&mut client, 1..=3).await;
    client.send(json!({"type": "ack", "room": "prices", "offset": 3})).await;
    acknowledged(&one, 3, 1).await;
    redis.command(&["DEL", "switchyard:{prices}:room", "switchyard:{prices}:log"]).await;
    let (new, _) = publish(&one, "prices", json!(1)).await;
    let gap = client.expect("gap").await;
    assert_eq!((&gap["epoch"], &gap["offset"]), (&new, &json!(1)));
    for n in 2..=5 {
        publish(&one, "prices", json!(n)).await;
    }
    expect_messages(&mut client, 1..=5).await;
    let late = json!({"type": "ack", "id": 1, "room": "prices", "epoch": old, "offset": 3});
    assert_eq!(client.refused(late).await, "invalid_request");
    // By now it has answered the ping behind the gap. Its session says so once that is recorded.
    client.round_trip().await;
    let epoch = new.as_str().expect("an epoch");
    eventually("a session of the new epoch", async || {
        let keys = redis.command(&["KEYS", "switchyard:{@acme}:session:*"]).await;
        let place = redis.command(&["HGET", keys.trim(), "/prices"]).await;
        place.starts_with(epoch).then_some(())
    })
    .await;
    let receipt = two.get("/v1/rooms/prices/messages/1/receipt").await;
    assert_eq!(receipt, json!({"members": 1, "acknowledged": 0}));
    let token = client.token();
    client.cut();

    let mut client = two.resume(&token).await;
    assert_eq!(room(&client.connected["rooms"], "prices")["recovered"], true);
    expect_messages(&mut client, 1..=5).await;
    client.send(json!({"type": "ack", "room": "prices", "epoch": new, "offset": 2})).await;
    acknowledged(&one, 2, 1).await;
    let receipt = one.get("/v1/rooms/prices/messages/3/receipt").await;
    assert_eq!(receipt["acknowledged"], 0);
}

/// Redis starts twice from the same file. Regression: the second time, an ended epoch returned whose offsets
/// then meant other messages, and the client did not receive what it had acknowledged under them.
#[tokio::test]
async fn a_restored_epoch_is_not_mistaken_for_the_current_one() {
    let mut redis = Redis::start().await;
    let node = Node::start(&redis.url(), "").await;
    let (mut witness, mut client) = (node.client().await, node.client().await);
    for client in [&mut witness, &mut client] {
        client.subscribe(json!(["prices"])).await;
    }
    for n in 1..=5 {
        publish(&node, "prices", json!(n)).await;
    }
    redis.command(&["SAVE"]).await;
    let mut seen = vec![];
    for n in 6..=8 {
        seen.push(publish(&node, "prices", json!(n)).await.0);
    }
    expect_messages(&mut client, 1..=8).await;
    expect_messages(&mut witness, 1..=8).await;
    client.send(json!({"type": "ack", "room": "prices", "offset": 8})).await;
    acknowledged(&node, 8, 1).await;
    let token = client.token();
    client.cut();
    let first = seen[0].clone();
    for _ in ["once", "again"] {
        redis.restart().await;
        let gap = witness.expect("gap").await;
        assert!(!seen.contains(&gap["epoch"]), "{gap}");
        seen.push(gap["epoch"].clone());
        for n in 9..=12 {
            let body = json!({"room": "prices", "data": n}).to_string();
            eventually("a publish", async || {
                (node.call("POST", "/v1/publish", &body).await.0 == 200).then_some(())
            })
            .await;
            witness.expect("message").await;
        }
    }
    let client = node.resume(&token).await;
    let resumed = room(&client.connected["rooms"], "prices");
    assert_ne!(resumed["epoch"], first, "{resumed}");
    assert_eq!(resumed["recovered"], false, "{resumed}");
}
