//! Measures the Redis commands and memory per client, while it connects, subscribes, acknowledges, loses its
//! connection, resumes and leaves.

use crate::redis_counters::{self, Calls, info};
use serde_json::{Value, json};
use std::time::Duration;
use switchyard_tests::{
    Client, Node, Redis,
    report::{Section, figure, rounded},
};
use tokio::time::sleep;

const CLIENTS: usize = 200;
/// The wait after each step, until background writes are done.
const WRITE_WAIT: Duration = Duration::from_millis(700);
const TIER: &str = "[session]\nttl = \"10m\"\n[tier.default]\nconnections = 5000";
/// A room of each client's own, and one for all clients.
const ROOM: &str = "prices";
/// The commands that nodes send periodically, whatever clients do.
const PERIODIC_COMMANDS: [&str; 7] =
    ["renew_lease", "LPOP", "GET", "PING", "CLUSTER", "session_holders", "read"];

pub async fn measure() -> Section {
    let redis = Redis::start().await;
    let node = Node::start(&redis.url(), TIER).await;
    let mut steps = Steps { redis: &redis, node: &node, rows: vec![], figures: vec![] };
    let mut before = steps.so_far().await;

    let mut clients = vec![];
    for _ in 0..CLIENTS {
        clients.push(node.client().await);
    }
    before = steps.step("connect", before).await;
    for (n, client) in clients.iter_mut().enumerate() {
        client.subscribe(json!([ROOM])).await;
        client.subscribe(json!([format!("room-{n}")])).await;
    }
    steps.step("subscribe to two rooms, one after another", before).await;
    let mut publisher = node.client().await;
    publisher.publish(ROOM, json!(1)).await;
    for client in &mut clients {
        client.expect("message").await;
    }
    before = steps.so_far().await;
    let mut resumed = vec![];
    for mut client in clients {
        client.send(json!({"type": "ack", "room": ROOM, "offset": 1})).await;
        client.round_trip().await;
        resumed.push(client);
    }
    before = steps.step("acknowledge", before).await;
    let mut tokens = vec![];
    for client in resumed {
        tokens.push(client.token());
        client.cut();
    }
    before = steps.step("be cut off", before).await;
    let mut back: Vec<Client> = vec![];
    for token in &tokens {
        back.push(node.resume(token).await);
    }
    steps.step("resume with four rooms", before).await;
    let wrong = back.iter().filter(|client| client.connected["resumed"] != true).count() as u64;
    Section {
        name: "clients",
        title: "Redis commands per client",
        how: format!(
            "{CLIENTS} clients of one principal on one node, one after another. Commands are counted by the \
             node's own metrics, without those sent at fixed intervals. Bytes are from Redis' INFO memory, at \
             the end of each step."
        ),
        columns: vec!["step", "commands per client", "bytes per client, since the previous step"],
        rows: steps.rows,
        remarks: vec![],
        figures: steps.figures.into(),
        wrong,
    }
}

struct Steps<'a> {
    redis: &'a Redis,
    node: &'a Node,
    rows: Vec<Vec<String>>,
    figures: Vec<Value>,
}

impl Steps<'_> {
    async fn so_far(&mut self) -> Calls {
        sleep(WRITE_WAIT).await;
        redis_counters::node_commands(&[self.node]).await
    }

    async fn step(&mut self, name: &str, before: Calls) -> Calls {
        let now = self.so_far().await;
        let sent = redis_counters::since(&before, now.clone());
        let commands: u64 = sent
            .iter()
            .filter(|(name, _)| !PERIODIC_COMMANDS.contains(&&***name))
            .map(|(_, count)| count)
            .sum();
        let commands = commands as f64 / CLIENTS as f64;
        let memory: u64 = info(self.redis, "memory", "used_memory_dataset").await.parse().expect("a number");
        let last = self.figures.last().and_then(|step| step["memory"].as_u64());
        let bytes = last.map(|last| (memory as f64 - last as f64) / CLIENTS as f64);
        let shown = bytes.map_or("".to_owned(), figure);
        self.rows.push(vec![name.to_owned(), figure(commands), shown]);
        self.figures
            .push(json!({"step": name, "commands": rounded(commands), "memory": memory, "sent": sent}));
        now
    }
}
