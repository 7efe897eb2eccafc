//! A node that starts while its Redis is away or does not answer waits for it, and reports that.

use serde_json::{Value, json};
use std::time::{Duration, Instant};
use switchyard_tests::{Answer, Client, KEY, Node, Process, Redis, Starting, eventually};
use tokio::net::TcpStream;

fn start(folder: &tempfile::TempDir) -> Starting {
    Starting::serve(folder.path(), &["--config", "switchyard.toml"], &[])
}

async fn get(admin: &str, path: &str) -> (u16, String) {
    Answer::called(admin, "GET", path, Some(KEY), "").await
}

/// Polls until the node is not ready for this reason.
async fn waits(admin: &str, reason: &str) -> String {
    eventually(reason, async || {
        let (status, body) = get(admin, "/readyz").await;
        assert_eq!(status, 503, "{body}");
        let readiness: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(readiness["ready"], false);
        assert_eq!(readiness["plugins"], json!({}));
        let shown = readiness["reasons"][0].as_str().unwrap_or_else(|| panic!("{body}")).to_owned();
        shown.contains(reason).then_some(shown)
    })
    .await
}

async fn ends_at_once(mut starting: Starting) {
    let began = Instant::now();
    starting.signal("TERM").await;
    let status = tokio::time::timeout(Duration::from_secs(5), starting.child.wait()).await;
    let status = status.expect("an end").expect("a status");
    assert_eq!(status.code(), Some(0), "{}", starting.log());
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

async fn until_serving(process: &Process) {
    let mut client = Client::connect_at(&process.url, json!({"auth": {"apiKey": KEY}})).await;
    client.publish("prices", json!(1)).await;
    assert_eq!(get(&process.admin, "/readyz").await.0, 200);
}

#[tokio::test]
async fn a_node_without_redis_says_what_it_waits_for_and_stops_on_request() {
    let mut redis = Redis::start().await;
    redis.kill().await;
    let folder = Node::create_folder(&redis.url(), "");
    let starting = start(&folder);
    let admin = starting.admin().await;
    assert_eq!(get(&admin, "/livez").await, (200, "live\n".into()));
    let reason = waits(&admin, "waiting for the store redis://127.0.0.1:").await;
    assert!(reason.to_lowercase().contains("refused"), "{reason}");
    assert_eq!(get(&admin, "/openapi.json").await.0, 200);
    let (status, metrics) = get(&admin, "/metrics").await;
    assert!(status == 200 && metrics.contains("switchyard_start_time_seconds "), "{metrics}");
    for path in ["/v1/rooms", "/v1/plugins", "/nothing"] {
        let (status, body) = get(&admin, path).await;
        let error: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{body}"));
        assert_eq!((status, &error["error"]["code"]), (503, &json!("store_unavailable")), "{path}: {body}");
    }
    // SIGHUP is no reason to exit.
    starting.signal("HUP").await;
    assert_eq!(get(&admin, "/livez").await.0, 200);
    ends_at_once(starting).await;

    // Another node, whose Redis starts: the same listener keeps serving, even on an existing connection.
    let starting = start(&folder);
    let admin = starting.admin().await;
    waits(&admin, "waiting for the store").await;
    let asked = async {
        // Every request is answered, at any time.
        loop {
            let (status, body) = get(&admin, "/readyz").await;
            if status == 200 {
                break;
            }
            assert_eq!(status, 503, "{body}");
        }
    };
    let (_, _, process) = tokio::join!(asked, redis.restart(), starting.until_serving());
    assert_eq!(process.admin, admin);
    until_serving(&process).await;
}

/// As during a failover: connections are accepted, and nothing is answered.
#[tokio::test]
async fn a_node_whose_redis_does_not_answer_waits_until_it_does() {
    let redis = Redis::start().await;
    redis.pause().await;
    let folder = Node::create_folder(&redis.url(), "");
    let starting = start(&folder);
    let admin = starting.admin().await;
    assert_eq!(get(&admin, "/livez").await.0, 200);
    waits(&admin, "waiting for the store redis://127.0.0.1:").await;
    ends_at_once(starting).await;
    let mut starting = start(&folder);
    let admin = starting.admin().await;
    waits(&admin, "waiting for the store redis://127.0.0.1:").await;
    let still = tokio::time::timeout(Duration::from_secs(4), starting.child.wait()).await;
    assert!(still.is_err(), "it ended: {}", starting.log());
    redis.resume().await;
    until_serving(&starting.until_serving().await).await;
}

/// A port that is in use is reported at once. The node's own listener accepts no client before the node can
/// answer.
#[tokio::test]
async fn clients_are_rejected_until_the_node_serves() {
    let mut redis = Redis::start().await;
    redis.kill().await;
    let folder = Node::create_folder(&redis.url(), "");
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let environment = [("SWITCHYARD_SERVER__LISTEN", &*address)];
    let arguments = ["--config", "switchyard.toml"];
    let serve = [&["serve"], &arguments[..]].concat();
    let output = switchyard_tests::run(folder.path(), &serve, &environment).await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && error.contains("server.listen: cannot listen on"), "{error}");

    drop(taken);
    let starting = Starting::serve(folder.path(), &arguments, &environment);
    waits(&starting.admin().await, "waiting for the store").await;
    let refused = TcpStream::connect(&address).await.expect_err("nobody listens");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    redis.restart().await;
    let process = starting.until_serving().await;
    assert_eq!(process.address(), address);
    until_serving(&process).await;
}
