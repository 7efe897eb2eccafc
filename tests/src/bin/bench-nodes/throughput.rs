//! Measures how many messages per second one node can publish through one Redis, compared with
//! `redis-benchmark` and the same script and arguments.

use crate::{
    latency::at_once,
    load::{Load, Mark},
};
use futures_util::{SinkExt, future::join_all};
use serde_json::json;
use std::{
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use switchyard_tests::{
    Client, Node, Redis, cpu_time,
    report::{Section, figure, median, rounded},
};
use tokio::{process::Command, time::sleep};
use tokio_tungstenite::tungstenite::Message;

const CONNECTIONS: usize = 128;
/// Maximum number of unanswered publishes per connection.
const MAX_UNANSWERED: usize = 4;
const ROOMS: usize = 16;
const DATA_BYTES: usize = 200;
const ROUNDS: usize = 3;
const WARM_UP: Duration = Duration::from_millis(500);
const WINDOW: Duration = Duration::from_secs(4);
const TIER: &str = "[tier.default]\nconnections = 5000";

/// The script that the node runs.
const SCRIPT: &str = concat!(
    include_str!("../../../../host/store/src/redis/lua/prelude.lua"),
    include_str!("../../../../host/store/src/redis/lua/publish.lua")
);

pub async fn measure() -> Section {
    let redis = Redis::start().await;
    let node = Node::start(&redis.url(), TIER).await;
    let command = command(&redis, &node).await;
    let mut publishers = vec![];
    for n in 0..CONNECTIONS {
        publishers.push(Publisher::connect(&node, n % ROOMS).await);
    }
    // As many as fit into a round.
    let trial = benchmark(&redis, &command, 20_000).await;
    let count = ((trial.rate() * WINDOW.as_secs_f64()) as u64).clamp(20_000, 1_000_000);
    let (mut of_node, mut of_redis) = (vec![], vec![]);
    for _ in 0..ROUNDS {
        let (load, back) = publish(&redis, &node, publishers).await;
        publishers = back;
        of_node.push(load);
        of_redis.push(benchmark(&redis, &command, count).await);
    }
    let mut wrong = publishers.iter().map(|publisher| publisher.wrong).sum();
    for n in 0..ROOMS {
        let of_room = publishers.iter().filter(|publisher| publisher.room == n);
        let published: u64 = of_room.map(|publisher| publisher.published).sum();
        let offset = node.get(&format!("/v1/rooms/{}", room(n))).await["offset"].as_u64().unwrap_or(0);
        wrong += published.abs_diff(offset);
    }
    section(&of_node, &of_redis, wrong)
}

fn section(of_node: &[Load], of_redis: &[Load], wrong: u64) -> Section {
    let ratios: Vec<f64> =
        of_node.iter().zip(of_redis).map(|(node, redis)| node.rate() / redis.rate()).collect();
    let rows = [("a node", of_node), ("redis-benchmark", of_redis)];
    Section {
        name: "throughput",
        title: "Publishes a second through one Redis",
        how: format!(
            "{CONNECTIONS} connections, each with {MAX_UNANSWERED} publishes of {DATA_BYTES} bytes in flight, to \
             {ROOMS} rooms of one node, without members and with the default history. For comparison, \
             redis-benchmark -c 50 -P 16 calls the same script with the arguments that the node was seen \
             sending, for one room. Medians of {ROUNDS} rounds of {} s each, in turn; processor time from INFO \
             cpu and /proc, as the number of busy cores.",
            WINDOW.as_secs(),
        ),
        columns: vec![
            "through",
            "publishes a second",
            "slowest to fastest round",
            "Redis CPU µs a publish",
            "node CPU µs a publish",
            "Redis, cores",
            "node, cores",
            "publishers, cores",
            "other programs, cores",
        ],
        rows: rows.iter().map(|(name, loads)| row(name, loads)).collect(),
        remarks: vec![
            format!("The node achieves {:.2} of the throughput of redis-benchmark.", median(ratios.clone())),
            bottleneck(of_node),
        ],
        figures: json!({
            "node": of_node.iter().map(Load::figures).collect::<Vec<_>>(),
            "redis_benchmark": of_redis.iter().map(Load::figures).collect::<Vec<_>>(),
            "ratio": rounded(median(ratios)),
            "bottleneck": bottleneck(of_node),
            "wrong": wrong,
        }),
        wrong,
    }
}

fn of(loads: &[Load], figure: impl Fn(&Load) -> f64) -> f64 {
    median(loads.iter().map(figure).collect())
}

fn row(name: &str, loads: &[Load]) -> Vec<String> {
    let rates = || loads.iter().map(Load::rate);
    let (least, most) = (rates().fold(f64::MAX, f64::min), rates().fold(0.0, f64::max));
    let is_node = loads.iter().any(|load| load.node > 0.0);
    let of_node = |value: f64| if is_node { figure(value) } else { "–".to_owned() };
    vec![
        name.to_owned(),
        figure(of(loads, Load::rate)),
        format!("{} to {}", figure(least), figure(most)),
        figure(of(loads, |load| load.each(load.redis))),
        of_node(of(loads, |load| load.each(load.node))),
        figure(of(loads, |load| load.cores(load.redis))),
        of_node(of(loads, |load| load.cores(load.node))),
        figure(of(loads, |load| load.cores(load.publishers))),
        figure(of(loads, |load| load.cores(load.others()))),
    ]
}

/// Which side was the bottleneck, according to processor time.
fn bottleneck(loads: &[Load]) -> String {
    let cores = cpu_time::cores() as f64;
    let busy = of(loads, |load| load.cores(load.machine));
    let (redis, node) = (of(loads, |load| load.cores(load.redis)), of(loads, |load| load.cores(load.node)));
    let publishers = of(loads, |load| load.cores(load.publishers));
    if redis > 0.9 {
        return format!("Redis was the bottleneck: its one thread was busy for {:.0} %.", redis * 100.0);
    }
    let others = of(loads, |load| load.cores(load.others()));
    let shares = format!(
        "{busy:.1} of {cores} cores were busy, {node:.1} with the node, {publishers:.1} with the publishers, {redis:.1} with \
         Redis, which has one thread, and {others:.1} with programs that have nothing to do with it"
    );
    match busy > 0.9 * cores {
        true => format!("The machine was the bottleneck: {shares}."),
        false => format!(
            "No processor was the bottleneck: {shares}. What limits is waiting, or a task of the node that runs on one core."
        ),
    }
}

fn room(n: usize) -> String {
    format!("bench-{n}")
}

/// A string of this length, including quotes.
fn data() -> String {
    "x".repeat(DATA_BYTES - 2)
}

/// EVALSHA as a node sends it. The command is compared with what the node sent, so that the two cannot
/// diverge unnoticed.
async fn command(redis: &Redis, node: &Node) -> Vec<String> {
    let sha = redis.command(&["SCRIPT", "LOAD", SCRIPT]).await;
    let mut command: Vec<String> = ["EVALSHA", &sha, "3"].map(str::to_owned).to_vec();
    // KEYS: room, log and acks. ARGV: epoch of a new room; maximum number and age of messages; how long the
    // room and an idempotency key are kept; channel; how long an unused room is kept; maximum bytes;
    // deadline; name of the script; names of others. Then the message, which has no key and needs no member.
    let body = format!("- \"{}\"", data());
    command.extend(["room", "log", "acks"].map(|key| format!("switchyard:{{alone}}:{key}")));
    command.extend(["0a1b2c3d", "1000", "600000", "87000000", "300000"].map(str::to_owned));
    command.extend(
        ["switchyard:{alone}:live", "45000", "16777216", "0", "name", "", &body, "0", "0"].map(str::to_owned),
    );
    redis.command(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]).await;
    redis.command(&["SLOWLOG", "RESET"]).await;
    node.client().await.publish("alone", json!(data())).await;
    let log = redis.command(&["SLOWLOG", "GET", "-1"]).await;
    redis.command(&["CONFIG", "SET", "slowlog-log-slower-than", "10000"]).await;
    let lines: Vec<&str> = log.lines().collect();
    let is_it = |at: &usize| lines[*at].eq_ignore_ascii_case("EVALSHA") && lines.get(at + 1) == Some(&&*sha);
    let sent = (0..lines.len()).find(is_it).map(|at| &lines[at..(at + command.len()).min(lines.len())]);
    let sent = sent.unwrap_or_else(|| panic!("the node does not publish with this script:\n{log}"));
    const EPOCH: usize = 6;
    const DEADLINE: usize = 14;
    const NAME: usize = 15;
    for (n, (ours, theirs)) in command.iter().zip(sent).enumerate() {
        // Redis truncates long arguments there.
        let theirs = theirs.split("... (").next().unwrap_or_default();
        let same = if n == 0 { ours.eq_ignore_ascii_case(theirs) } else { ours.starts_with(theirs) };
        let is_its_own = [EPOCH, DEADLINE, NAME].contains(&n);
        assert!(same || is_its_own, "the node publishes with other arguments: {sent:?}, not {command:?}");
    }
    // The same arguments, with a deadline that does not expire.
    let endless = SCRIPT.replace("late(ARGV[9], clock)", "ARGV[9] == '1'");
    assert_ne!(endless, SCRIPT, "the script has a deadline");
    command[1] = redis.command(&["SCRIPT", "LOAD", &endless]).await;
    command
}

async fn benchmark(redis: &Redis, command: &[String], count: u64) -> Load {
    let (port, count_text) = (redis.port().to_string(), count.to_string());
    let before = Mark::now(redis, None).await;
    let output = Command::new("redis-benchmark")
        .args(["-h", "127.0.0.1", "-p", &port, "-n", &count_text, "-c", "50", "-P", "16", "--csv"])
        .args(command)
        .stdin(Stdio::null())
        .output()
        .await
        .expect("redis-benchmark is installed");
    let after = Mark::now(redis, None).await;
    let text = String::from_utf8_lossy(&output.stdout);
    // The command, which comes first, contains quotes and commas.
    let rate =
        text.lines().last().and_then(|line| line.rsplit(',').nth(6)?.trim_matches('"').parse::<f64>().ok());
    let rate = rate.unwrap_or_else(|| panic!("no rate in what redis-benchmark says: {text}"));
    assert!(output.status.success() && !text.contains("Error"), "redis-benchmark: {text}");
    // According to its own clock, which excludes starting and stopping.
    Load { seconds: count as f64 / rate, ..before.until(&after, count) }
}

/// Publishes on all connections at once for one window.
async fn publish(redis: &Redis, node: &Node, publishers: Vec<Publisher>) -> (Load, Vec<Publisher>) {
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let publishing: Vec<_> = publishers
        .into_iter()
        .map(|publisher| tokio::spawn(publisher.publish(stop.clone(), answered.clone())))
        .collect();
    sleep(WARM_UP).await;
    let count = || answered.load(Ordering::Relaxed);
    let (first, before) = (count(), Mark::now(redis, Some(node)).await);
    sleep(WINDOW).await;
    let (last, after) = (count(), Mark::now(redis, Some(node)).await);
    stop.store(true, Ordering::Relaxed);
    let back = join_all(publishing).await.into_iter();
    let back = back.map(|publisher| publisher.expect("a publisher ends without a panic")).collect();
    (before.until(&after, last - first), back)
}

struct Publisher {
    client: Client,
    room: usize,
    frame: String,
    published: u64,
    newest: u64,
    wrong: u64,
}

impl Publisher {
    async fn connect(node: &Node, n: usize) -> Self {
        let client = node.client().await;
        at_once(&client);
        let frame = json!({"type": "publish", "room": room(n), "data": data()}).to_string();
        Self { client, room: n, frame, published: 0, newest: 0, wrong: 0 }
    }

    /// Runs until it is told to stop and everything is answered.
    async fn publish(mut self, stop: Arc<AtomicBool>, answered: Arc<AtomicU64>) -> Self {
        for _ in 0..MAX_UNANSWERED {
            self.send().await;
        }
        let mut waiting = MAX_UNANSWERED;
        while waiting > 0 {
            let answer = self.client.recv().await;
            match (&answer["type"], answer["offset"].as_u64()) {
                (kind, Some(offset)) if kind == "published" => {
                    self.published += 1;
                    self.wrong += u64::from(offset <= self.newest);
                    self.newest = offset;
                }
                _ => self.wrong += 1,
            }
            answered.fetch_add(1, Ordering::Relaxed);
            match stop.load(Ordering::Relaxed) {
                true => waiting -= 1,
                false => self.send().await,
            }
        }
        self
    }

    async fn send(&mut self) {
        let frame = Message::text(self.frame.clone());
        self.client.socket.send(frame).await.expect("a live connection");
    }
}
