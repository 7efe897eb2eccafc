//! Redis does not answer while clients send requests: they are answered in time and stay connected.

use super::two;
use serde_json::json;
use std::time::{Duration, Instant};
use switchyard_tests::{Live, Redis, eventually};

/// The timeout of a request is 2 s; the rest is for a busy machine.
const BOUND: Duration = Duration::from_secs(4);

/// Regression: the node waited for Redis room by room, 45 s for thirty rooms.
#[tokio::test]
async fn a_request_for_thirty_rooms_times_out_as_fast_as_one_for_one_room() {
    let redis = Redis::start().await;
    let (node, _other) = two(&redis, "").await;
    let client = Live::connect(&node.url).await;
    let rooms: Vec<_> = (0..30).map(|n| format!("room-{n}")).collect();
    let others: Vec<_> = (0..30).map(|n| format!("other-{n}")).collect();
    client.subscribe(json!(rooms)).await;
    redis.pause().await;
    for (kind, rooms) in [("unsubscribe", &rooms), ("subscribe", &others)] {
        let asked = Instant::now();
        let answer = client.ask(json!({"type": kind, "rooms": rooms})).await;
        assert!(asked.elapsed() < BOUND, "{kind}: {:?}", asked.elapsed());
        let results = answer["results"].as_array().expect("results");
        assert_eq!(results.len(), 30);
        for result in results {
            assert_eq!(result["error"]["code"], "store_unavailable", "{kind}: {result}");
        }
    }
    redis.resume().await;
    eventually("left", async || {
        let answer = client.ask(json!({"type": "unsubscribe", "rooms": rooms})).await;
        let results = answer["results"].as_array().expect("results").clone();
        results.iter().all(|result| result["error"]["code"] != "store_unavailable").then_some(())
    })
    .await;
    node.has_members("room-0", 0).await;
    node.has_members("room-29", 0).await;
}

/// While a connection's requests wait for Redis, its socket is not read and its pongs are not seen.
/// Regression: it was closed as silent, although it was not.
#[tokio::test]
async fn a_client_that_pongs_stays_connected_while_its_requests_wait_for_redis() {
    let redis = Redis::start().await;
    let extra = "[session]\nheartbeat = { interval = \"1s\", timeout = \"1s\" }";
    let (node, _other) = two(&redis, extra).await;
    let client = Live::connect(&node.url).await;
    client.subscribe(json!(["a", "b", "c", "d"])).await;
    redis.pause().await;
    let began = Instant::now();
    let mut requests = vec![];
    for room in ["a", "b", "c", "d"] {
        requests.push(client.request(json!({"type": "unsubscribe", "rooms": [room]})));
    }
    for (n, request) in (1..).zip(requests) {
        client.answer(request).await;
        assert!(began.elapsed() < BOUND * n, "answer {n}: {:?}", began.elapsed());
    }
    // Longer than a client may be silent.
    while began.elapsed() < Duration::from_secs(5) {
        client.ask(json!({"type": "subscribe", "rooms": ["e"]})).await;
    }
    redis.resume().await;
    client.round_trip().await;
    assert_eq!(client.end(), None, "connections stay");
    eventually("a subscription", async || {
        let answer = client.ask(json!({"type": "subscribe", "rooms": ["e"]})).await;
        (answer["results"][0]["status"] == "subscribed").then_some(())
    })
    .await;
}
