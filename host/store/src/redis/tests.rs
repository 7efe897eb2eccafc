//! Tests on real servers, the contract among them. They need `redis-server`; `cargo xtask test` installs it
//! where it can.

mod cluster;
mod denials;
mod ended;
mod offsets;
mod room_index;
mod shared_values;
mod syncing;
mod turns;
mod usage;

use crate::{
    Broker, ConnectionId, EventFeed, HistoryConfig, IDEMPOTENCY_KEY_TTL, Join, KeyRegistry, Membership,
    Message, PendingPublish, Reader, RemoteStore, Retention, RoomDirectory, SessionHandle, SessionStore,
    Store, StoreMetrics, Stored, StoredKeys,
    contract::TEN,
    key::{Digest, KeyConfig, PrincipalName},
    redis::{
        Keyring, RedisStore, RedisUrl, Replication, Site, context::lease_expiry::LEASE_DURATION,
        names::Names, open_error::OpenError,
    },
    registry::REVOCATION_TTL,
};
use std::{
    process::{Child, Command, Stdio},
    sync::Arc,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};
use switchyard_process::{memory::MemoryAccount, vital::VitalTasks};
use switchyard_protocol::{Position, room::RoomName};
use tokio::net::TcpSocket;

/// A server that ends with the test.
struct Server {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
    ports: Vec<TcpSocket>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A free port, and the socket that keeps it from others, such as the connections of tests beside this one.
fn hold_port() -> (TcpSocket, u16) {
    let socket = TcpSocket::new_v4().unwrap();
    // Redis sets this option too. Two sockets with it may share a port as long as only one listens.
    socket.set_reuseaddr(true).unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let ((held, port), folder) = (hold_port(), tempfile::tempdir().unwrap());
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
            .arg(folder.path())
            .args(arguments)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed: apt-get install redis-server");
        Self { child, port, _folder: folder, ports: vec![held] }
    }

    fn site(&self) -> Site {
        let url = RedisUrl::parse(&format!("redis://127.0.0.1:{}", self.port)).unwrap();
        Site { url, prefix: "s".into() }
    }

    fn ask(&self, arguments: &[&str]) -> String {
        let port = self.port.to_string();
        let output = Command::new("redis-cli").args(["-p", &port]).args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..500 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{what} did not happen");
}

/// Each store has keys of its own on the same server.
async fn passes_the_contract(url: &str) {
    let stores = AtomicU32::new(0);
    crate::contract::suite(Duration::from_millis(100), |retention, feed| {
        let prefix = format!("store{}", stores.fetch_add(1, Ordering::Relaxed));
        let site = Site { url: RedisUrl::parse(url).unwrap(), prefix };
        async move { Store::from(connect_with(&site, retention, feed, &VitalTasks::default()).await.unwrap()) }
    })
    .await;
}

#[tokio::test]
async fn the_store_passes_the_contract_on_a_standalone_server() {
    let server = Server::start(&[]);
    passes_the_contract(&format!("redis://127.0.0.1:{}/0", server.port)).await;
    let immortal = server.ask(&[
        "EVAL",
        "local bad = {} for _, key in ipairs(redis.call('KEYS', '*')) do \
        if redis.call('PTTL', key) < 0 then bad[#bad + 1] = key end end return bad",
        "0",
    ]);
    // Only keys whose number is bounded may have no time to live: one per store or per stored version of a
    // plugin, and those of a node, which other nodes delete when it dies.
    let lasting = [":schema", "{/nodes}", "{/rooms}", "{/plugins}", "{/denials}", "}:estate"];
    let other: Vec<_> = immortal
        .lines()
        .filter(|key| !key.is_empty() && !lasting.iter().any(|name| key.contains(name)))
        .collect();
    assert!(other.is_empty(), "without a time to live: {other:?}");
}

/// Starts a Cluster of three servers.
async fn start_cluster(arguments: &[&str]) -> Vec<Server> {
    let nodes: Vec<_> = (0..3)
        .map(|_| {
            let (held, bus) = hold_port();
            let bus = bus.to_string();
            let cluster =
                ["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", "2000"];
            let mut server = Server::start(&[&cluster, arguments].concat());
            server.ports.push(held);
            server
        })
        .collect();
    for (n, node) in nodes.iter().enumerate() {
        until("an answer", || node.ask(&["PING"]) == "PONG").await;
        let (from, to) = (n * 5462, (n * 5462 + 5461).min(16383));
        assert_eq!(node.ask(&["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()]), "OK");
    }
    for node in &nodes[1..] {
        let bus = node.ask(&["CONFIG", "GET", "cluster-port"]);
        let bus = bus.lines().last().unwrap();
        nodes[0].ask(&["CLUSTER", "MEET", "127.0.0.1", &node.port.to_string(), bus]);
    }
    for node in &nodes {
        let complete = || {
            let info = node.ask(&["CLUSTER", "INFO"]);
            info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
        };
        until("a cluster", complete).await;
    }
    nodes
}

/// The URL of a Cluster.
fn cluster_url(nodes: &[Server]) -> String {
    let [a, b, c] = [0, 1, 2].map(|n: usize| nodes[n].port);
    format!("redis-cluster://127.0.0.1:{a}?node=127.0.0.1:{b}&node=127.0.0.1:{c}")
}

#[tokio::test]
async fn the_store_passes_the_contract_on_a_cluster() {
    passes_the_contract(&cluster_url(&start_cluster(&[]).await)).await;
}

/// How often a command was sent, according to the metrics.
fn count(metrics: &StoreMetrics, command: &str) -> u64 {
    let mut registry = prometheus_client::registry::Registry::default();
    metrics.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let line = format!("store_command_seconds_count{{command=\"{command}\"}} ");
    text.lines().find_map(|found| found.strip_prefix(&line)?.parse().ok()).unwrap_or(0)
}

fn retention() -> Retention {
    let history = HistoryConfig::default();
    Retention {
        history: history.into(),
        session_ttl: Duration::from_secs(120),
        idempotency_key_ttl: IDEMPOTENCY_KEY_TTL,
    }
}

async fn connect(site: &Site) -> Result<Arc<RedisStore>, OpenError> {
    connect_with(site, retention(), Arc::new(|_| true), &VitalTasks::default()).await
}

async fn connect_with(
    site: &Site,
    retention: Retention,
    feed: EventFeed,
    vitals: &VitalTasks,
) -> Result<Arc<RedisStore>, OpenError> {
    let metrics = crate::StoreMetrics::default();
    RedisStore::connect(site, retention, metrics, feed, &MemoryAccount::unlimited(), |_| {}, vitals).await
}

/// Regression: `FLUSHALL` revoked every key. A new registry then had the same version as the lost one, and
/// was mistaken for it.
#[tokio::test]
async fn lost_keys_are_restored_and_revoked_keys_stay_revoked() {
    let server = Server::start(&[]);
    let site = server.site();
    let (one, two) = (connect(&site).await.unwrap(), connect(&site).await.unwrap());
    let keyring = Keyring::open(&site).await.unwrap();
    let key = |name: &str| {
        KeyConfig::new(Digest::of(name), PrincipalName::try_from(name.to_owned()).unwrap(), vec![])
    };
    let names = |stored: &StoredKeys| -> Vec<String> {
        let mut names: Vec<_> = stored.keys.iter().map(|key| key.principal.0.to_string()).collect();
        names.sort();
        names
    };
    let listed = async || {
        let keys = keyring.list().await.unwrap();
        keys.iter().map(|key| key.principal.0.to_string()).collect::<Vec<_>>()
    };
    for name in ["a", "b", "c"] {
        assert_eq!(keyring.add(&key(name)).await.unwrap(), Replication::default());
    }
    assert!(keyring.revoke(&key("b").digest).await.unwrap().0);
    assert!(!keyring.revoke(&key("b").digest).await.unwrap().0, "it was revoked before");
    let known = KeyRegistry::read(&*one, &StoredKeys::default()).await.unwrap().expect("three keys");
    let behind = KeyRegistry::read(&*two, &StoredKeys::default()).await.unwrap().expect("three keys");
    assert_eq!((names(&known), names(&behind)), (vec!["a".into(), "c".into()], vec!["a".into(), "c".into()]));
    assert!(KeyRegistry::read(&*one, &known).await.unwrap().is_none(), "nothing changed");
    keyring.revoke(&key("c").digest).await.unwrap();
    let known = KeyRegistry::read(&*one, &known).await.unwrap().expect("one key less");
    assert_eq!(names(&known), ["a"]);

    server.ask(&["FLUSHALL"]);
    keyring.add(&key("d")).await.unwrap();
    // The node that does not know the last revocation reads first.
    let first = KeyRegistry::read(&*two, &behind).await.unwrap().expect("a key more");
    assert_eq!(names(&first), ["a", "c", "d"]);
    let second = KeyRegistry::read(&*one, &known).await.unwrap().expect("a key more");
    assert_eq!(names(&second), ["a", "d"]);
    let third = KeyRegistry::read(&*two, &first).await.unwrap().expect("a key less");
    assert_eq!((names(&third), listed().await), (vec!["a".into(), "d".into()], vec!["a".into(), "d".into()]));
    let fourth = KeyRegistry::read(&*one, &second).await.unwrap().expect("what it wrote itself");
    assert!(KeyRegistry::read(&*one, &fourth).await.unwrap().is_none(), "nothing changes any more");

    // The registry is empty and cannot be written: the node keeps what it knows, and reports that.
    server.ask(&["FLUSHALL"]);
    server.ask(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    assert_eq!(names(&KeyRegistry::read(&*one, &fourth).await.unwrap().expect("what is known")), ["a", "d"]);
    let error = one.check().await.expect_err("an outage").to_string();
    assert!(error.contains("lost 4 of its API keys") && error.contains("NOREPLICAS"), "{error}");
    server.ask(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    assert_eq!(names(&KeyRegistry::read(&*one, &fourth).await.unwrap().expect("what is known")), ["a", "d"]);
    assert_eq!(listed().await, ["a", "d"]);
    until("ready", || server.ask(&["HLEN", "s:{/keys}:all"]) == "5").await;

    // The registry is not empty: the node tries again until the lost key is written.
    let known = KeyRegistry::read(&*one, &StoredKeys::default()).await.unwrap().expect("what is there");
    server.ask(&["HDEL", "s:{/keys}:all", &key("a").digest.to_string()]);
    server.ask(&["HSET", "s:{/keys}:all", "/revision", "other 1"]);
    server.ask(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    let known = KeyRegistry::read(&*one, &known).await.unwrap().expect("what is known");
    assert!(one.check().await.is_err());
    server.ask(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    let known = KeyRegistry::read(&*one, &known).await.unwrap().expect("what was written");
    assert_eq!((names(&known), listed().await), (vec!["a".into(), "d".into()], vec!["a".into(), "d".into()]));
    one.check().await.expect("the outage is over");

    // A node that was away for longer than revocations are remembered does not restore a revoked key.
    server.ask(&["HDEL", "s:{/keys}:all", &key("a").digest.to_string()]);
    server.ask(&["HSET", "s:{/keys}:all", "/revision", "other 2"]);
    let long_ago = StoredKeys { read_at: known.read_at - REVOCATION_TTL.as_millis() as u64 - 1000, ..known };
    let now = KeyRegistry::read(&*one, &long_ago).await.unwrap().expect("what is there");
    assert_eq!((names(&now), listed().await), (vec!["d".into()], vec!["d".into()]));
}

#[tokio::test]
async fn keys_of_another_schema_are_refused() {
    let server = Server::start(&[]);
    let site = server.site();
    drop(connect(&site).await.unwrap());
    server.ask(&["SET", "s:schema", "99"]);
    let error = connect(&site).await.err().expect("another schema");
    assert!(error.to_string().contains("of schema 99"), "{error}");
}

/// A node that stops cleans up after connections that did not end in time, before its lease expires.
#[tokio::test]
async fn a_node_that_stops_releases_the_sessions_of_its_connections() {
    let server = Server::start(&[]);
    let site = server.site();
    let (one, _two) = (connect(&site).await.unwrap(), connect(&site).await.unwrap());
    one.create(&"acme".into(), ConnectionId::random(), vec![]).await.unwrap();
    one.close().await;
    let began = std::time::Instant::now();
    until("a session that can be resumed", || server.ask(&["ZCARD", "s:{/nodes}:ends"]) == "1").await;
    assert!(began.elapsed() < LEASE_DURATION / 2, "{:?}", began.elapsed());
}

/// The feed is called by the task of the lease for takeovers, and by that of the listener for rooms.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_vital_task_is_a_failure_of_the_node() {
    let server = Server::start(&[]);
    let url = format!("redis://127.0.0.1:{}/0", server.port);
    let site = Site { url: RedisUrl::parse(&url).unwrap(), prefix: "vital".to_owned() };
    let connect = async || {
        let vitals = VitalTasks::default();
        let feed: EventFeed = Arc::new(|event| panic!("received {event:?}"));
        (connect_with(&site, retention(), feed, &vitals).await.unwrap(), vitals)
    };
    let (store, lease) = connect().await;
    let (_, listener) = connect().await;
    let node = store.leased.context.node.get();
    server.ask(&["RPUSH", &Names::new("vital").takeovers(&node), &ConnectionId(7).to_string()]);
    until("a failure of the lease", || lease.failure().is_some()).await;
    assert!(
        lease.failure().unwrap().starts_with("the lease panicked: received TakenOver"),
        "{:?}",
        lease.failure()
    );
    assert_eq!(listener.failure(), None, "the other node lives");

    let (store, listener) = connect().await;
    store.subscribe(&RoomName::parse("prices").unwrap());
    until("a failure of the listener", || listener.failure().is_some()).await;
    assert!(listener.failure().unwrap().contains("the listener of the Redis store panicked"));
}
