//! Joining and leaving a room while messages arrive continuously.

use serde_json::{Value, json};
use switchyard_tests::{Client, Server};
use tokio_util::sync::CancellationToken;

/// Publishes as fast as the server answers, until told to stop. Returns the last offset.
async fn feed(server: &Server, room: &'static str, stop: CancellationToken) -> tokio::task::JoinHandle<u64> {
    let mut publisher = Client::connect(server).await;
    let mut last = publisher.publish(room, json!(1)).await["offset"].as_u64().expect("an offset");
    tokio::spawn(async move {
        while !stop.is_cancelled() {
            last = publisher.publish(room, json!(last + 1)).await["offset"].as_u64().expect("an offset");
        }
        last
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_between_subscribed_and_leaving_arrives_and_no_other() {
    let server = Server::start("").await;
    let stop = CancellationToken::new();
    let feed = feed(&server, "prices", stop.clone()).await;
    let mut client = Client::connect(&server).await;
    let mut last = None;
    for round in 0..50 {
        let since = |(epoch, offset): &(Value, u64)| json!({"room": "prices", "since": {"epoch": epoch, "offset": offset}});
        // Every second time it returns to its previous position.
        let back = last.take().filter(|_| round % 2 == 1);
        let room = back.as_ref().map_or(json!("prices"), since);
        // Nothing of the room comes before the answer, because `ask` takes the next frame.
        let answer = client.ask(json!({"type": "subscribe", "rooms": [room]})).await;
        let result = &answer["results"][0];
        assert_eq!(result["status"], "subscribed", "{answer}");
        let joined = result["offset"].as_u64().expect("an offset");
        let mut next = match &back {
            Some((_, offset)) => {
                assert_eq!(result["recovered"], true, "{answer}");
                offset + 1
            }
            None => joined + 1,
        };
        for _ in 0..20 {
            let message = client.expect("message").await;
            assert_eq!((&message["offset"], &message["data"]), (&json!(next), &json!(next)));
            next += 1;
        }
        client.send(json!({"type": "unsubscribe", "rooms": ["prices"]})).await;
        loop {
            let frame = client.recv().await;
            if frame["type"] == "unsubscribed" {
                break;
            }
            assert_eq!(frame["offset"], next, "{frame}");
            next += 1;
        }
        client.round_trip().await;
        last = Some((result["epoch"].clone(), next - 1));
    }
    stop.cancel();
    feed.await.expect("a feed");
}

/// Messages that a node buffers for a member that is catching up.
const KEPT_BACK: u64 = 256;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribing_again_neither_skips_nor_repeats() {
    let server = Server::start("").await;
    let stop = CancellationToken::new();
    let mut client = Client::connect(&server).await;
    let answer = client.subscribe(json!(["prices"])).await;
    let mut next = answer["results"][0]["offset"].as_u64().expect("an offset") + 1;
    let feed = feed(&server, "prices", stop.clone()).await;
    for _ in 0..50 {
        client.send(json!({"type": "subscribe", "rooms": ["prices"]})).await;
        loop {
            let frame = client.recv().await;
            if frame["type"] == "subscribed" {
                let joined = frame["results"][0]["offset"].as_u64().expect("an offset");
                // Everything published before the answer counts as stored, unless this client was so slow to
                // ask that the node reads it again from history. Then it follows the answer, as the next
                // frames show.
                let follows = joined - (next - 1);
                assert!(follows == 0 || follows > KEPT_BACK, "{follows} follow an answer of {joined}");
                break;
            }
            assert_eq!(frame["offset"], next, "{frame}");
            next += 1;
        }
    }
    stop.cancel();
    let last = feed.await.expect("a feed");
    while next <= last {
        assert_eq!(client.expect("message").await["offset"], next);
        next += 1;
    }
    client.round_trip().await;
}

/// Requests of one connection are answered in order, however many are in progress.
#[tokio::test]
async fn answers_keep_the_order_of_requests() {
    let server = Server::start("").await;
    let mut client = Client::connect(&server).await;
    for id in 0..200 {
        let frame = match id % 5 {
            0 => json!({"type": "subscribe", "id": id, "rooms": [format!("room{}", id % 7)]}),
            1 => json!({"type": "publish", "id": id, "room": "elsewhere", "data": id}),
            2 => json!({"type": "ping", "id": id}),
            3 => json!({"type": "members", "id": id, "room": "*"}),
            _ => json!({"type": "nonsense", "id": id}),
        };
        client.send(frame).await;
    }
    for id in 0..200 {
        assert_eq!(client.recv().await["id"], id);
    }
}
