//! A feed like that of an exchange, to fifty listeners in random rooms: each receives every message, in
//! order, with data byte for byte. Some listeners are disconnected again and again.

use serde_json::{Value, json};
use std::{collections::HashMap, sync::Arc};
use switchyard_tests::{Client, Server};
use tokio::task::JoinSet;

const ROOMS: usize = 30;
const MESSAGES: usize = 4000;
const LISTENERS: usize = 50;
const CUTS: usize = 20;

/// A small random generator with a seed, so that a failure can be reproduced.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % limit
    }
}

/// Room and data. The data is as an exchange writes it, and sometimes as nobody should.
fn feed() -> Vec<(String, String)> {
    let mut random = Random(7);
    let mut message = |n: usize| {
        let room = format!("dydx:m{}-usd", random.below(ROOMS));
        let level = |random: &mut Random| {
            format!(r#"["{}.{}0","{}"]"#, 4000 + random.below(300), random.below(99), random.below(9999))
        };
        let levels: Vec<_> = (0..random.below(6)).map(|_| level(&mut random)).collect();
        let data = match random.below(4) {
            0 => format!(r#"{{ "offset" : "{n}", "bids":[{}],"asks":[ ] }}"#, levels.join(", ")),
            1 => format!(r#"{{"text":"\u0041é\"\\","n":1.{n}0e+2,"n":{n}}}"#),
            _ => format!(r#"{{"offset":"{n}","bids":[],"asks":[{}]}}"#, levels.join(",")),
        };
        (room, data)
    };
    (0..MESSAGES).map(&mut message).collect()
}

/// What a listener received: by room, offset and data, while offsets increase.
#[derive(Default)]
struct ReceivedMessages(HashMap<String, Vec<(u64, String)>>);

impl ReceivedMessages {
    /// Records a delivery and drops duplicates.
    fn take(&mut self, text: &str) {
        let frame: Value = serde_json::from_str(text).unwrap();
        assert_eq!(frame["type"], "message", "{frame}");
        let room = self.0.entry(frame["room"].as_str().unwrap().to_owned()).or_default();
        let offset = frame["offset"].as_u64().unwrap();
        let last = room.last().map_or(0, |(last, _)| *last);
        if offset <= last {
            return;
        }
        assert_eq!(offset, last + 1, "a hole in {}", frame["room"]);
        let start = text.find(r#","data":"#).unwrap() + r#","data":"#.len();
        room.push((offset, text[start..text.len() - 1].to_owned()));
    }

    fn count(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }
}

async fn listen(server: &Server, rooms: Vec<String>, expected: usize, cuts: usize) -> ReceivedMessages {
    let mut client = Client::connect(server).await;
    client.subscribe(json!(rooms)).await;
    let (mut received, mut cut) = (ReceivedMessages::default(), 0);
    while received.count() < expected {
        received.take(&client.text().await);
        if received.count() % 16 == 0 {
            let offsets: HashMap<_, _> =
                received.0.iter().map(|(room, seen)| (room, seen.last().unwrap().0)).collect();
            client.send(json!({"type": "ack", "offsets": offsets})).await;
        }
        if cut < cuts && received.count() >= (cut + 1) * expected / (cuts + 1) {
            cut += 1;
            let token = client.token();
            client.cut();
            client = Client::resume(server, &token).await;
            assert_eq!(client.connected["resumed"], true);
            for room in client.connected["rooms"].as_array().unwrap() {
                assert_eq!(room["recovered"], true, "{}", client.connected);
            }
        }
    }
    assert_eq!(cut, cuts);
    received
}

#[tokio::test(flavor = "multi_thread")]
async fn every_listener_receives_everything_in_order_byte_for_byte() {
    let server = Arc::new(Server::start("").await);
    let feed = feed();
    let mut expected: HashMap<String, Vec<(u64, String)>> = HashMap::new();
    for (room, data) in &feed {
        let room = expected.entry(room.clone()).or_default();
        room.push((room.len() as u64 + 1, data.clone()));
    }
    let (mut random, mut listeners) = (Random(11), JoinSet::new());
    for n in 0..LISTENERS {
        let mut rooms: Vec<_> =
            (0..1 + random.below(8)).map(|_| format!("dydx:m{}-usd", random.below(ROOMS))).collect();
        rooms.sort();
        rooms.dedup();
        let wanted: HashMap<_, _> = rooms.iter().map(|room| (room.clone(), expected[room].clone())).collect();
        let count = wanted.values().map(Vec::len).sum();
        let (server, cuts) = (server.clone(), if n == 0 { CUTS } else { 0 });
        listeners.spawn(async move { (listen(&server, rooms, count, cuts).await, wanted) });
    }
    // All of them join before the first message.
    let mut publisher = Client::connect(&server).await;
    loop {
        let members = server.get("/v1/rooms/*").await["members"].as_u64();
        let joined = server.get("/v1/connections?limit=100").await;
        let rooms = |connection: &Value| connection["rooms"].as_u64() > Some(0);
        let ready = joined["connections"].as_array().unwrap().iter().filter(|one| rooms(one)).count();
        if members == Some(LISTENERS as u64 + 1) && ready == LISTENERS {
            break;
        }
        tokio::task::yield_now().await;
    }
    for (n, (room, data)) in feed.iter().enumerate() {
        publisher
            .send_text(&format!(
                r#"{{"type":"publish","id":{n},"room":"{room}","event":"orderbook","data":{data}}}"#
            ))
            .await;
        assert_eq!(publisher.recv().await["id"], n);
    }
    while let Some(listened) = listeners.join_next().await {
        let (received, wanted) = listened.unwrap();
        assert!(received.0 == wanted, "a listener received something else");
    }
}
