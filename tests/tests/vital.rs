//! A node that has lost a task that it needs.

use serde_json::json;
use switchyard_tests::{Client, Server, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_vital_task_panics_stops_cleanly_and_says_why() {
    let (server, other) = tokio::join!(Server::start(""), Server::start(""));
    let (mut client, mut elsewhere) = (Client::connect(&server).await, Client::connect(&other).await);
    client.subscribe(json!(["prices"])).await;
    assert_eq!(server.call("GET", "/readyz", None, "").await.0, 200);

    server.vitals.spawn("the task of this test", async { panic!("on purpose") });
    // The client has not read its close frame yet, so the node is still running.
    let body = eventually("a node that is not ready", async || {
        let (status, body) = server.call("GET", "/readyz", None, "").await;
        (status == 503).then_some(body)
    })
    .await;
    assert!(body.contains("the task of this test panicked: on purpose"), "{body}");
    assert_eq!(client.closed().await.code, 4600, "it comes back elsewhere");
    let why = server.ended().await.unwrap_err();
    assert!(why.starts_with("the task of this test panicked: on purpose"), "{why}");

    elsewhere.publish("prices", json!(1)).await;
    other.stop().await;
}
