//! A replica is promoted without the last writes of its master. Nodes write again what they told their
//! clients.

use serde_json::{Value, json};
use std::time::Duration;
use switchyard_tests::{Live, Node, Sentinel, eventually, eventually_within, plugin};

/// Regression: memberships, filters and acknowledgements went back to what the replica knew, for hours.
#[tokio::test]
async fn session_writes_that_a_new_master_lacks_are_written_again() {
    let mut sentinel = Sentinel::start().await;
    let (url, extra) = (sentinel.url(), plugin("threshold_filter", "[\"filtered\"]", "{}"));
    let (one, other) = tokio::join!(Node::start(&url, &extra), Node::start(&url, &extra));
    for room in ["left", "joined", "read"] {
        for n in 1..=3 {
            let message = json!({"room": room, "data": n}).to_string();
            assert_eq!(one.call("POST", "/v1/publish", &message).await.0, 200);
        }
    }
    let client = Live::connect(&one.url).await;
    let start = one.get("/v1/rooms/read").await["epoch"].clone();
    let read = json!({"room": "read", "since": {"epoch": start, "offset": 0}});
    client.subscribe(json!(["left", read, {"room": "filtered", "filter": {"minChange": 0.5}}])).await;
    client.message("read", 3).await;
    sentinel.servers[0].command(&["SET", "last", "written"]).await;
    eventually("a replica that has all of it", async || {
        (sentinel.servers[1].command(&["GET", "last"]).await == "written").then_some(())
    })
    .await;

    // From here on the replica receives nothing, and the master continues.
    sentinel.servers[1].pause().await;
    sentinel.servers[0].command(&["CLIENT", "KILL", "TYPE", "replica"]).await;
    client.subscribe(json!(["joined", {"room": "filtered", "filter": {"minChange": 0.1}}])).await;
    let left = client.ask(json!({"type": "unsubscribe", "rooms": ["left"]})).await;
    assert_eq!(left["results"][0]["status"], "unsubscribed");
    client.send(json!({"type": "ack", "room": "read", "offset": 3}));
    let all = json!({"members": 1, "acknowledged": 1});
    is_so(&one, &all).await;
    sentinel.servers[0].kill().await;
    sentinel.servers[1].resume().await;
    let replica = sentinel.servers[1].port();
    eventually_within(Duration::from_secs(40), "a failover", async || {
        let role = sentinel.servers[1].try_command(&["ROLE"]).await.ok()?;
        (role.starts_with("master") && sentinel.master().await == replica).then_some(())
    })
    .await;

    eventually_within(Duration::from_secs(20), "ready", async || one.is_ready().await.then_some(())).await;
    for (room, members) in [("joined", 1), ("left", 0), ("read", 1)] {
        eventually_within(Duration::from_secs(20), &format!("{members} members of {room}"), async || {
            let (status, body) = other.call("GET", &format!("/v1/rooms/{room}"), "").await;
            let found: Value = serde_json::from_str(&body).ok()?;
            (status == 200 && found["members"] == members).then_some(())
        })
        .await;
    }
    is_so(&other, &all).await;
    assert_eq!(client.end(), None, "connections stay");
    let token = client.token();
    client.cut();
    let back = Live::resume(&other.url, &token).await;
    let rooms = back.connected["rooms"].as_array().expect("rooms");
    let names: Vec<_> = rooms.iter().filter_map(|room| room["room"].as_str()).collect();
    assert_eq!(names, ["*", "@acme", "filtered", "joined", "read"]);
    assert!(rooms.iter().all(|room| room["recovered"] == true), "{rooms:?}");
    assert_eq!(back.resumed("filtered").expect("seen above")["filter"], json!({"minChange": 0.1}));
    other.call("POST", "/v1/publish", r#"{"room":"filtered","data":{"change":0.2}}"#).await;
    back.message("filtered", 1).await;
    assert_eq!(back.offsets("read"), [0_u64; 0], "acknowledged before, and again");
}

/// The receipt of the last message that was read.
async fn is_so(node: &Node, receipt: &Value) {
    eventually("a receipt", async || {
        let (status, body) = node.call("GET", "/v1/rooms/read/messages/3/receipt", "").await;
        (status == 200 && serde_json::from_str::<Value>(&body).ok()? == *receipt).then_some(())
    })
    .await;
}
