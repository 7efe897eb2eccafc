//! After every kind of disturbance of a node's files, its store and its connections, the node holds the same
//! resources as before.

use serde_json::json;
use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};
use switchyard_tests::{Follower, Node, Proxy, Redis, Server, eventually_within};
use tokio::time::sleep;

/// The time within which everything must return to its previous state.
const CALM: Duration = Duration::from_secs(30);
/// The time over which commands are counted.
const SPAN: Duration = Duration::from_secs(5);

/// What a node holds of its machine and of Redis.
async fn held(node: &Node, redis: &Redis) -> BTreeMap<&'static str, usize> {
    let folder = format!("/proc/{}", node.process.id());
    let entries = |name: &str| fs::read_dir(format!("{folder}/{name}")).expect("Linux").count();
    let clients = redis.command(&["CLIENT", "LIST"]).await.lines().count();
    let keys = redis.command(&["DBSIZE"]).await.parse().expect("a number");
    BTreeMap::from([
        ("files", entries("fd")),
        ("threads", entries("task")),
        ("connections to Redis", clients),
        ("keys", keys),
    ])
}

/// Its threads by name.
fn threads(node: &Node) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", node.process.id())).expect("Linux");
    let name = |task: std::io::Result<fs::DirEntry>| fs::read_to_string(task.ok()?.path().join("comm")).ok();
    let mut names: Vec<_> = tasks.filter_map(name).map(|name| name.trim().to_owned()).collect();
    names.sort();
    names
}

/// The commands that a node sends in this time, by name.
async fn commands(proxy: &Proxy) -> BTreeMap<String, u64> {
    let before = proxy.passed();
    sleep(SPAN).await;
    let mut passed = proxy.passed();
    passed.iter_mut().for_each(|(name, count)| *count -= before.get(name).copied().unwrap_or(0));
    passed.retain(|_, count| *count > 0);
    passed
}

#[tokio::test]
async fn a_nodes_resources_return_to_their_previous_level() {
    let redis = Redis::start().await;
    let proxy = Proxy::start(&redis).await;
    let node = Node::start(&proxy.url(), "").await;
    let file = node.folder().join("switchyard.toml");
    let configuration = fs::read_to_string(&file).expect("its configuration");
    let mut followers = vec![];
    for _ in 0..10 {
        followers.push(Follower::start(vec![node.url.clone()], "prices").await);
    }
    node.has_members("prices", 10).await;
    let publish = async || {
        let body = json!({"room": "prices", "data": 1}).to_string();
        node.call("POST", "/v1/publish", &body).await.0 == 200
    };
    assert!(publish().await);
    // Work that starts when a client connects and ends soon.
    sleep(SPAN).await;
    let (before, rate, memory) = (held(&node, &redis).await, commands(&proxy).await, node.process.memory());

    let served = async || eventually_within(CALM, "publishing", async || publish().await.then_some(())).await;
    for round in 0..3 {
        proxy.silence();
        served().await;
        redis.command(&["FLUSHALL"]).await;
        served().await;
        for _ in 0..5 {
            proxy.cut();
            served().await;
        }
        proxy.refuse();
        sleep(Duration::from_secs(2)).await;
        proxy.accept();
        served().await;
        redis.command(&["CLIENT", "PAUSE", "3000", "ALL"]).await;
        let key = Server::key(&format!("sk_{round}"), "other", r#"["subscribe"]"#, "");
        for n in 0..10 {
            let text = if n % 2 == 0 { configuration.clone() + &key } else { String::new() };
            fs::write(&file, text).expect("a configuration");
            node.process.signal("HUP").await;
        }
        fs::write(&file, &configuration).expect("a configuration");
        served().await;
    }
    let end = Instant::now() + CALM;
    let mut now = held(&node, &redis).await;
    let is_calm = |now: &BTreeMap<&str, usize>| {
        let more = |name| match name {
            // For a minute or two, two keys per room record that a member was removed.
            "keys" => 6,
            // DNS lookups use up to four threads. One exists from the start; others start when needed and
            // stay.
            "threads" => 3,
            _ => 0,
        };
        now.iter().all(|(name, count)| *count <= before[name] + more(*name))
    };
    while !is_calm(&now) && Instant::now() < end {
        sleep(Duration::from_millis(200)).await;
        now = held(&node, &redis).await;
    }
    assert!(is_calm(&now), "{now:?}, before {before:?}; threads {:?}", threads(&node));
    node.has_members("prices", 10).await;
    assert!(node.is_ready().await);
    // For a while a node looks for what is left under its previous names.
    let sum = |commands: &BTreeMap<String, u64>| commands.values().sum::<u64>();
    let mut after = commands(&proxy).await;
    while sum(&after) > sum(&rate) * 5 / 4 + 5 {
        assert!(Instant::now() < end, "in {SPAN:?} {after:?}, before {rate:?}");
        after = commands(&proxy).await;
    }
    let grown = node.process.memory().saturating_sub(memory);
    assert!(grown < 24 << 20, "{grown} bytes more");
    for follower in &followers {
        assert_eq!(follower.received().connections, 1, "clients stay");
    }
}
