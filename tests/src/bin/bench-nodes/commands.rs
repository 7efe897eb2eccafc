//! Counts the Redis commands per message while members on two nodes acknowledge every message.

use crate::redis_counters::{self, Calls};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use switchyard_tests::{
    Client, EVENT_TIMEOUT, Node, Redis,
    report::{Section, figure, rounded},
};
use tokio::time::{sleep, sleep_until, timeout};

const MEMBERS: [usize; 2] = [10, 1000];
const MESSAGES: u64 = 50;
/// Longer than a node collects acknowledgements, so that each message is acknowledged separately.
const MESSAGE_INTERVAL: Duration = Duration::from_millis(200);
const IDLE_TIME: Duration = Duration::from_secs(4);
/// The wait after the last message, until its acknowledgements are written.
const WRITE_WAIT: Duration = Duration::from_millis(500);
const ROOM: &str = "prices";
const TIER: &str = "[tier.default]\nconnections = 5000";

pub async fn measure() -> Section {
    let mut runs = vec![];
    for members in MEMBERS {
        runs.push(Run::of(members).await);
    }
    let mut remarks = vec![
        "One script is the publishing, one the acknowledgements of at most 500 members of a node. Other commands are sent at \
         fixed times, whatever is published: leases, API keys, looks at rooms in which nothing was heard."
            .to_owned(),
    ];
    remarks.extend(runs.iter().map(Run::check));
    Section {
        name: "commands",
        title: "Redis commands per message",
        how: format!(
            "Half of the members are on each of two nodes and acknowledge each of {MESSAGES} messages, which are \
             published on one node every {} ms, so that no two share a command. Redis (INFO commandstats) counts \
             commands called by scripts like those sent by clients, so the commands sent by nodes are told apart \
             by the nodes' own metrics. Processor time is from INFO cpu, less that of {} s in which nothing was \
             published.",
            MESSAGE_INTERVAL.as_millis(),
            IDLE_TIME.as_secs(),
        ),
        columns: vec![
            "members",
            "publish scripts a message",
            "ack scripts a message",
            "commands a message",
            "commands a delivery",
            "called in scripts, a message",
            "Redis CPU µs a message",
            "Redis CPU µs a delivery",
            "other commands a second",
            "idle: Redis CPU µs a second",
        ],
        rows: runs.iter().map(Run::row).collect(),
        remarks,
        figures: runs.iter().map(Run::figures).collect(),
        wrong: runs.iter().map(|run| run.wrong).sum(),
    }
}

struct Run {
    members: usize,
    elapsed: f64,
    /// The commands that nodes sent, according to their metrics.
    node_calls: Calls,
    /// The calls that Redis counted, including those from scripts.
    calls: Calls,
    /// Processor seconds of Redis while messages were published, and in an idle second.
    cpu: f64,
    idle: f64,
    wrong: u64,
}

impl Run {
    async fn of(members: usize) -> Self {
        let redis = Redis::start().await;
        let url = redis.url();
        let (one, two) = tokio::join!(Node::start(&url, TIER), Node::start(&url, TIER));
        let joining = stream::iter(0..members).map(|n| joined(if n % 2 == 0 { &one } else { &two }));
        let clients: Vec<Client> = joining.buffer_unordered(32).collect().await;
        one.has_members(ROOM, members as u64).await;
        let following: Vec<_> = clients.into_iter().map(|client| tokio::spawn(follow(client))).collect();
        let mut publisher = one.client().await;

        let (began, before) = (Instant::now(), redis_counters::redis_cpu(&redis).await);
        sleep(IDLE_TIME).await;
        let idle = (redis_counters::redis_cpu(&redis).await - before) / began.elapsed().as_secs_f64();

        let nodes = [&one, &two];
        let (calls, node_calls) =
            (redis_counters::calls(&redis).await, redis_counters::node_commands(&nodes).await);
        let (began, before) = (Instant::now(), redis_counters::redis_cpu(&redis).await);
        for n in 1..=MESSAGES {
            sleep_until((began + MESSAGE_INTERVAL * n as u32).into()).await;
            publisher.publish(ROOM, json!(n)).await;
        }
        let (mut wrong, mut followed) = (0, vec![]);
        for member in following {
            // A client that panics has waited for a frame in vain, and reported it.
            let (client, missing) = member.await.map_or((None, MESSAGES), |(client, n)| (Some(client), n));
            wrong += missing;
            followed.push(client);
        }
        sleep(WRITE_WAIT).await;
        let (elapsed, cpu) =
            (began.elapsed().as_secs_f64(), redis_counters::redis_cpu(&redis).await - before);
        let calls = redis_counters::since(&calls, redis_counters::calls(&redis).await);
        let node_calls = redis_counters::since(&node_calls, redis_counters::node_commands(&nodes).await);
        let receipt = one.get(&format!("/v1/rooms/{ROOM}/messages/{MESSAGES}/receipt")).await;
        wrong += (members as u64).abs_diff(receipt["acknowledged"].as_u64().unwrap_or(0));
        Self { members, elapsed, node_calls, calls, cpu, idle, wrong }
    }

    fn calls_of(&self, name: &str) -> u64 {
        self.node_calls.get(name).copied().unwrap_or(0)
    }

    /// Scripts have their own names in the metrics, like other commands.
    fn sent(&self, scripts: bool) -> u64 {
        let is_script = |name: &str| name.starts_with(|c: char| c.is_ascii_lowercase());
        self.node_calls.iter().filter(|(name, _)| is_script(name) == scripts).map(|(_, count)| count).sum()
    }

    fn counted(&self, name: &str) -> u64 {
        self.calls.get(name).copied().unwrap_or(0)
    }

    /// Checks that both counts agree.
    fn check(&self) -> String {
        format!(
            "With {} members Redis counted {} EVALSHA, which only clients call, while the nodes sent {} publishes and {} \
             other scripts.",
            self.members,
            self.counted("evalsha"),
            self.calls_of("publish"),
            self.sent(true) - self.calls_of("publish"),
        )
    }

    fn publishes(&self) -> f64 {
        self.calls_of("publish") as f64 / MESSAGES as f64
    }

    fn acks(&self) -> f64 {
        self.calls_of("ack") as f64 / MESSAGES as f64
    }

    fn others(&self) -> f64 {
        let all: u64 = self.node_calls.values().sum();
        (all - self.calls_of("publish") - self.calls_of("ack")) as f64 / self.elapsed
    }

    /// Calls that no client sent. This program itself sends INFO.
    fn inside(&self) -> f64 {
        let clients = ["evalsha", "eval", "info"].map(|name| self.counted(name));
        let sent = clients.iter().sum::<u64>() + self.sent(false);
        self.calls.values().sum::<u64>().saturating_sub(sent) as f64 / MESSAGES as f64
    }

    /// Microseconds per message.
    fn cpu(&self) -> f64 {
        (self.cpu - self.idle * self.elapsed) * 1e6 / MESSAGES as f64
    }

    fn row(&self) -> Vec<String> {
        let (commands, members) = (self.publishes() + self.acks(), self.members as f64);
        let mut row = vec![self.members.to_string()];
        row.extend([self.publishes(), self.acks(), commands].map(figure));
        row.push(format!("{:.4}", commands / members));
        row.extend([self.inside(), self.cpu(), self.cpu() / members, self.others()].map(figure));
        row.push(figure(self.idle * 1e6));
        row
    }

    fn figures(&self) -> Value {
        let (commands, members) = (self.publishes() + self.acks(), self.members as f64);
        json!({
            "members": self.members,
            "messages": MESSAGES,
            "publishes_a_message": rounded(self.publishes()),
            "acks_a_message": rounded(self.acks()),
            "commands_a_message": rounded(commands),
            "commands_a_delivery": commands / members,
            "calls_in_scripts_a_message": rounded(self.inside()),
            "redis_cpu_us_a_message": rounded(self.cpu()),
            "redis_cpu_us_a_delivery": rounded(self.cpu() / members),
            "other_commands_a_second": rounded(self.others()),
            "idle_redis_cpu_us_a_second": rounded(self.idle * 1e6),
            "sent_by_nodes": self.node_calls,
            "counted_by_redis": self.calls,
            "wrong": self.wrong,
        })
    }
}

async fn joined(node: &Node) -> Client {
    let mut client = node.client().await;
    client.subscribe(json!([ROOM])).await;
    client
}

/// Acknowledges every message. Returns the client, to keep its session, and how many messages were missing or
/// out of order.
async fn follow(mut client: Client) -> (Client, u64) {
    let mut right = 0;
    let following = async {
        for n in 1..=MESSAGES {
            let frame = client.recv().await;
            let is_next = frame["type"] == "message" && frame["offset"] == n && frame["data"] == n;
            right += u64::from(is_next);
            client.send(json!({"type": "ack", "room": ROOM, "offset": n})).await;
        }
    };
    timeout(IDLE_TIME + MESSAGE_INTERVAL * MESSAGES as u32 + EVENT_TIMEOUT, following).await.ok();
    (client, MESSAGES - right)
}
