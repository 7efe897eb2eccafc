//! Credentials of Redis: everything that a URL can contain works, and nobody sees it.

use serde_json::json;
use std::fs;
use switchyard_tests::{Cluster, Node, Process, Redis, Sentinel, run};

/// Everything with a special meaning in a URL, in a shell or in quotes; in plain form and as a URL encodes
/// it.
const USER: (&str, &str) = ("o\"d'd:n@me/#?%\\", "o%22d%27d%3An%40me%2F%23%3F%25%5C");
const PASSWORD: (&str, &str) = (
    "p a\ts\"s'w\\o\r\nr:d@/#?%&=+\u{e4}\u{1f511}",
    "p%20a%09s%22s%27w%5Co%0D%0Ar%3Ad%40%2F%23%3F%25%26%3D%2B%C3%A4%F0%9F%94%91",
);

async fn add_user(redis: &Redis, name: &str, password: &str) {
    let password = format!(">{password}");
    redis.command(&["ACL", "SETUSER", name, "on", &password, "~*", "&*", "+@all"]).await;
}

/// A server's connections under that name, as it lists them.
async fn connections(redis: &Redis, user: &str) -> usize {
    let clients = redis.command(&["CLIENT", "LIST"]).await;
    clients.lines().filter(|line| line.contains(&format!(" user={user} "))).count()
}

async fn until_serving(node: &Node) {
    let (mut client, mut publisher) = (node.client().await, node.client().await);
    client.subscribe(json!(["prices"])).await;
    publisher.publish("prices", json!(1)).await;
    assert_eq!(client.expect("message").await["data"], 1);
    assert!(node.is_ready().await);
    let log = node.log();
    for secret in [PASSWORD.0, PASSWORD.1, "p%20a", "p a", "\\x70\\x20"] {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
}

#[tokio::test]
async fn any_user_and_password_works_on_one_server() {
    let redis = Redis::start().await;
    add_user(&redis, USER.0, PASSWORD.0).await;
    let url = format!("redis://{}:{}@127.0.0.1:{}/0", USER.1, PASSWORD.1, redis.port());
    // Includes everything that a client library may log.
    let folder = Node::create_folder(&url, "");
    let log = fs::File::create(folder.path().join("stderr")).expect("a file for what it logs");
    let libraries = "trace,fred=trace,tungstenite=trace,tokio_tungstenite=trace,hyper=trace,rustls=trace";
    let environment = [("RUST_LOG", libraries)];
    let process =
        Process::serve_with(folder.path(), &["--config", "switchyard.toml"], &environment, |command| {
            command.stderr(log);
        })
        .await;
    let node = Node { url: process.url.clone(), process, folder };
    until_serving(&node).await;
    assert!(connections(&redis, USER.0).await >= 2, "both connections");
    // The same after a connection was lost.
    redis.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
    until_serving(&node).await;

    redis.command(&["CONFIG", "SET", "requirepass", "two words"]).await;
    let list = ["key", "list"];
    let url = format!("redis://:two%20words@127.0.0.1:{}", redis.port());
    let listed = run(node.folder(), &list, &[("SWITCHYARD_STORE__URL", &url)]).await;
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
}

#[tokio::test]
async fn any_user_and_password_works_on_a_cluster() {
    let cluster = Cluster::start().await;
    for node in &cluster.nodes {
        add_user(node, USER.0, PASSWORD.0).await;
    }
    let url = cluster.url().replace("://", &format!("://{}:{}@", USER.1, PASSWORD.1));
    let node = Node::start(&url, "").await;
    until_serving(&node).await;
    for node in &cluster.nodes {
        assert!(connections(node, USER.0).await >= 1);
    }
}

#[tokio::test]
async fn sentinels_have_their_own_user_and_password() {
    let sentinel = Sentinel::start().await;
    for server in &sentinel.servers {
        add_user(server, USER.0, PASSWORD.0).await;
    }
    for watcher in &sentinel.sentinels {
        add_user(watcher, "watcher", PASSWORD.0).await;
        watcher.command(&["ACL", "SETUSER", "default", "off"]).await;
    }
    let url = sentinel.url().replace("://", &format!("://{}:{}@", USER.1, PASSWORD.1));
    let url = format!("{url}&sentinelUsername=watcher&sentinelPassword={}", PASSWORD.1);
    let node = Node::start(&url, "").await;
    until_serving(&node).await;
    assert!(connections(&sentinel.servers[0], USER.0).await >= 2);
}

/// With any command, from a file or from the environment.
#[tokio::test]
async fn an_invalid_url_is_rejected_without_being_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("s.toml");
    for url in [
        "redis://:s3cret/more@127.0.0.1:6379",
        "redis://user:s3cret@127.0.0.1:port",
        "redis://user:s3cret",
        "redis://:s3cret@",
        "redis://:s3c#ret@127.0.0.1",
        "mongo://:s3cret@127.0.0.1",
        "redis-sentinel://127.0.0.1?sentinelPassword=s3cret",
        "redis-cluster://127.0.0.1?node=:s3cret@127.0.0.1:1",
    ] {
        fs::write(&config, format!("[store]\nurl = \"{url}\"\n")).expect("a file");
        let in_environment = [("SWITCHYARD_STORE__URL", url)];
        for (arguments, environment) in [
            (&["check", "--config", "s.toml"][..], &[][..]),
            (&["serve", "--config", "s.toml"], &[]),
            (&["key", "list", "--config", "s.toml"], &[]),
            (&["check"], &in_environment[..]),
        ] {
            let output = run(folder.path(), arguments, environment).await;
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success() && error.contains("store.url"), "{url}: {error}");
            assert!(!error.contains("s3c") && !error.contains("ret@"), "{url}: {error}");
        }
    }
    // Text that is not TOML is not shown either.
    fs::write(&config, "[store]\nurl = redis://:s3cret@127.0.0.1\n").expect("a file");
    let output = run(folder.path(), &["check", "--config", "s.toml"], &[]).await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("s.toml:2") && !error.contains("s3cret"), "{error}");
    // A store that is unreachable is named without its credentials.
    let url = [("SWITCHYARD_STORE__URL", "redis://user:s3cret@127.0.0.1:1")];
    let output = run(folder.path(), &["key", "list"], &url).await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("redis://…@127.0.0.1:1") && !error.contains("s3cret"), "{error}");
}
