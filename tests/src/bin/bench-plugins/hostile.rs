//! What misbehaving plugins cost the rooms of other plugins, and the process.

use crate::{
    governed::{Plugin, calls, node, stamp, status},
    steady::{Phase, Steady},
    wakeups::Punctual,
};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use switchyard_tests::{
    Client, Node, cpu_time,
    report::{Section, figure, median, percentiles, rounded},
};
use tokio::{task::JoinHandle, time::sleep};

const MEMBERS: usize = 20;
const MESSAGE_INTERVAL: Duration = Duration::from_millis(10);
const MESSAGES: usize = 400;
/// Each round runs on a new node, where nothing is quarantined yet.
const ROUNDS: usize = 3;
/// The delay between an answer and the next request to a hostile room. The slow plugin gets no delay.
const REQUEST_DELAY: Duration = Duration::from_millis(50);
const QUIET_TIME: Duration = Duration::from_secs(4);
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Plugins that fail or flood. Each does so in every call.
const MISDEEDS: [(&str, &str); 13] = [
    ("loop", r#"{ publish = "loop" }"#),
    ("memory", r#"{ publish = "allocate" }"#),
    ("recursion", r#"{ publish = "recurse" }"#),
    ("panic", r#"{ publish = "panic" }"#),
    ("no-JSON", r#"{ publish = "nonsense" }"#),
    ("huge-message", r#"{ publish = "huge" }"#),
    ("huge-verdict", r#"{ matches = "huge" }"#),
    ("endless-filter", r#"{ matches = "loop" }"#),
    ("endless-compile", r#"{ compile = "loop" }"#),
    ("endless-start", r#"{ init = "busy-90", publish = "panic" }"#),
    ("log-flood", r#"{ publish = "flood" }"#),
    ("metric-flood", r#"{ publish = "count" }"#),
    ("name-flood", r#"{ room = "huge" }"#),
];
/// Uses half of its budget and never fails, so that nothing stops it.
const SLOW: (&str, &str) = ("slow", r#"{ publish = "busy-5", subscribe = "busy-5" }"#);

/// The rooms of the other plugins, and the load on them.
struct Others {
    governed: Steady,
    free: Steady,
}

/// The latencies of the other rooms, by round.
struct Run {
    name: &'static str,
    rounds: Vec<Round>,
}

struct Round {
    governed: Phase,
    free: Phase,
    /// The memory of the process: its maximum, and at the end.
    memory: [usize; 2],
    cores: f64,
    /// How late this process was woken meanwhile.
    late: Vec<Duration>,
}

pub async fn measure() -> [Section; 2] {
    let names = ["nobody", "all but the slow one", "nobody, after that", "the slow one"];
    let mut runs = names.map(|name| Run { name, rounds: vec![] });
    let mut met = vec![];
    for _ in 0..ROUNDS {
        met = round(&mut runs).await;
    }
    [section(&runs), done(&met)]
}

/// Runs everything on a new node. Returns the number of requests to each hostile plugin, and the plugin's
/// status.
async fn round(runs: &mut [Run; 4]) -> Vec<(&'static str, u64, Value)> {
    let all = || MISDEEDS.iter().chain([&SLOW]);
    let rooms: Vec<String> = all().map(|(name, _)| format!("bad:{}", name.to_lowercase())).collect();
    let hostile = all().zip(&rooms);
    let mut plugins: Vec<Plugin> =
        hostile.map(|((name, config), rooms)| Plugin { name, file: "hostile", rooms, config }).collect();
    plugins.push(stamp("governed"));
    let mut node = node(&plugins).await;
    let governed = Steady::open(&node, "governed", MEMBERS, true).await;
    let free = Steady::open(&node, "free", MEMBERS, false).await;
    let mut others = Others { governed, free };
    others.round(&node, MESSAGES / 10).await;

    let (bad, slow) = rooms.split_at(MISDEEDS.len());
    let [nobody, most, after, one] = runs;
    nobody.rounds.push(others.round(&node, MESSAGES).await);
    let attack = Attack::start(&node, bad, REQUEST_DELAY).await;
    most.rounds.push(others.round(&node, MESSAGES).await);
    let mut requests = attack.end().await;
    sleep(QUIET_TIME).await;
    after.rounds.push(others.round(&node, MESSAGES).await);
    let attack = Attack::start(&node, slow, Duration::ZERO).await;
    one.rounds.push(others.round(&node, MESSAGES).await);
    requests.extend(attack.end().await);

    let mut met = vec![];
    for ((name, _), requests) in all().zip(requests) {
        met.push((*name, requests, status(&node, name).await));
    }
    node.process.kill().await;
    met
}

impl Others {
    async fn round(&mut self, node: &Node, messages: usize) -> Round {
        let (began, before) = (Instant::now(), cpu_time::cpu(node.process.id()));
        let (is_over, clock) = (AtomicBool::new(false), Punctual::start());
        let loading = async {
            let both = tokio::join!(
                self.governed.publish(MESSAGE_INTERVAL, messages),
                self.free.publish(MESSAGE_INTERVAL, messages)
            );
            is_over.store(true, Relaxed);
            both
        };
        let looking = async {
            let mut most = 0;
            while !is_over.load(Relaxed) {
                most = most.max(node.process.memory());
                sleep(POLL_INTERVAL).await;
            }
            most
        };
        let ((governed, free), most) = tokio::join!(loading, looking);
        let cores = (cpu_time::cpu(node.process.id()) - before) / began.elapsed().as_secs_f64();
        let last = node.process.memory();
        Round { governed, free, memory: [most.max(last), last], cores, late: clock.stop() }
    }
}

/// Clients that send requests to hostile rooms all the time.
struct Attack {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<u64>>,
}

impl Attack {
    async fn start(node: &Node, rooms: &[String], pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = vec![];
        for room in rooms {
            // A member with a filter, so that the plugin has to evaluate one.
            let mut member = node.client().await;
            member.send(json!({"type": "subscribe", "rooms": [{"room": room, "filter": {"a": 1}}]})).await;
            let client = node.client().await;
            clients.push(tokio::spawn(ask(client, member, room.clone(), pause, stop.clone())));
        }
        Self { stop, clients }
    }

    /// The number of requests to each room.
    async fn end(self) -> Vec<u64> {
        self.stop.store(true, Relaxed);
        let mut requests = vec![];
        for client in self.clients {
            requests.push(client.await.expect("a client ends without a panic"));
        }
        requests
    }
}

/// Publishes, and joins with a new filter each time. The answers do not matter.
async fn ask(
    mut client: Client,
    member: Client,
    room: String,
    pause: Duration,
    stop: Arc<AtomicBool>,
) -> u64 {
    let count = AtomicU64::new(0);
    while !stop.load(Relaxed) {
        let n = count.fetch_add(1, Relaxed);
        let filter = json!({"a": n});
        let frame = match n % 2 {
            0 => json!({"type": "publish", "room": room, "data": {"n": n}}),
            _ => json!({"type": "subscribe", "rooms": [{"room": room, "filter": filter}]}),
        };
        client.send(frame).await;
        let mut answered = false;
        while !answered {
            let kind = client.recv().await["type"].clone();
            answered = ["published", "subscribed", "error"].iter().any(|answer| kind == *answer);
        }
        sleep(pause).await;
    }
    drop(member);
    count.into_inner()
}

impl Run {
    /// p50 and p99 of all rounds together, in microseconds.
    fn latency(&self, of: impl Fn(&Round) -> &Phase) -> [f64; 2] {
        percentiles([0.50, 0.99], self.rounds.iter().flat_map(|round| of(round).times.iter().copied()))
    }

    /// The ratio of p99 to that of another run, by round.
    fn ratios(&self, first: &Run, of: impl Fn(&Round) -> &Phase) -> Vec<f64> {
        let both = self.rounds.iter().zip(&first.rounds);
        both.map(|(round, first)| of(round).latency()[1] / of(first).latency()[1]).collect()
    }

    fn late(&self) -> f64 {
        percentiles([0.99], self.rounds.iter().flat_map(|round| round.late.iter().copied()))[0]
    }

    /// The maximum of all rounds, of the maximum and of the end.
    fn memory(&self) -> [usize; 2] {
        [0, 1].map(|n| self.rounds.iter().map(|round| round.memory[n]).max().unwrap_or(0))
    }

    fn cores(&self) -> f64 {
        median(self.rounds.iter().map(|round| round.cores).collect())
    }

    fn faults(&self) -> u64 {
        self.rounds.iter().map(|round| round.governed.tally.faults() + round.free.tally.faults()).sum()
    }

    fn row(&self, first: &Run) -> Vec<String> {
        let mut row = vec![self.name.to_owned(), self.faults().to_string()];
        for of in [governed, free] {
            row.extend(self.latency(of).map(|time| figure(time / 1e3)));
            let ratios = self.ratios(first, of);
            row.push(format!("{:.2}", median(ratios.clone())));
            row.push(ratios.iter().map(|ratio| format!("{ratio:.2}")).collect::<Vec<_>>().join(", "));
        }
        row.push(figure(self.late() / 1e3));
        row.extend(self.memory().map(|bytes| figure(bytes as f64 / f64::from(1 << 20))));
        row.push(figure(self.cores()));
        row
    }

    fn figures(&self, first: &Run) -> Value {
        let of = |of: fn(&Round) -> &Phase| {
            let (times, ratios) = (self.latency(of), self.ratios(first, of));
            json!({
                "p50_us": rounded(times[0]), "p99_us": rounded(times[1]), "ratio_p99": rounded(median(ratios.clone())),
                "ratio_p99_of_rounds": ratios.into_iter().map(rounded).collect::<Vec<_>>(),
            })
        };
        json!({
            "misbehaves": self.name, "faults": self.faults(), "governed": of(governed), "free": of(free),
            "woken_late_p99_us": rounded(self.late()),
            "memory_most": self.memory()[0], "memory_last": self.memory()[1], "node_cores": rounded(self.cores()),
        })
    }
}

fn governed(round: &Round) -> &Phase {
    &round.governed
}

fn free(round: &Round) -> &Phase {
    &round.free
}

fn section(runs: &[Run]) -> Section {
    let first = &runs[0];
    Section {
        name: "hostile",
        title: "Plugins that misbehave",
        how: format!(
            "{} plugins that misbehave, each with a room of its own, whose client sends its next request {} ms \
             after each answer, publishing and joining in turn; the slow plugin uses half of its budget and is \
             called again at once. Meanwhile, {} messages a second go to each of a governed and an ungoverned \
             room of {MEMBERS} members; the times are those of these messages, from when one was due until a \
             member has it. {ROUNDS} rounds, each on a new node: {} s for each row, with {} s of silence after \
             an attack. A sleeping thread of this process was woken late by the time given. Memory is the \
             resident size of the process.",
            MISDEEDS.len() + 1,
            REQUEST_DELAY.as_millis(),
            1.0 / MESSAGE_INTERVAL.as_secs_f64(),
            (MESSAGE_INTERVAL * MESSAGES as u32).as_secs(),
            QUIET_TIME.as_secs(),
        ),
        columns: vec![
            "plugin",
            "faults of other plugins",
            "governed p50 ms",
            "governed p99 ms",
            "p99 to the first",
            "by round",
            "ungoverned p50 ms",
            "ungoverned p99 ms",
            "p99 to the first",
            "by round",
            "woken late, p99 ms",
            "memory at most, MiB",
            "memory in the end, MiB",
            "node, cores",
        ],
        rows: runs.iter().map(|run| run.row(first)).collect(),
        remarks: vec![],
        figures: runs.iter().map(|run| run.figures(first)).collect(),
        wrong: runs.iter().map(Run::faults).sum(),
    }
}

/// What each plugin did, and how the node reacted.
fn done(met: &[(&str, u64, Value)]) -> Section {
    let starts = |status: &Value| calls(status, "lifecycle.init").0;
    let busy = |status: &Value| -> f64 {
        let functions = status["calls"].as_object().into_iter().flatten();
        functions.map(|(name, _)| calls(status, name).1 as f64 / 1e9).sum()
    };
    let row = |(name, requests, status): &(&str, u64, Value)| {
        let failures = status["failures"].as_object().into_iter().flatten();
        let failures: Vec<String> = failures.map(|(kind, count)| format!("{count} {kind}")).collect();
        let failures = if failures.is_empty() { "–".to_owned() } else { failures.join(", ") };
        let counts =
            [requests.to_string(), failures, starts(status).to_string(), status["refused"].to_string()];
        let mut row = vec![(*name).to_owned()];
        row.extend(counts);
        row.push(figure(busy(status)));
        row
    };
    let figures = |(name, requests, status): &(&str, u64, Value)| {
        json!({
            "plugin": name, "requests": requests, "failures": status["failures"], "starts": starts(status),
            "refused": status["refused"], "busy_seconds": rounded(busy(status)),
        })
    };
    Section {
        name: "hostile_reactions",
        title: "How the node reacted",
        how: "As counted by the node in the last of these rounds. Five failures within 10 s stop a plugin for a \
              second, another one after that for two, and so on; meanwhile requests are refused without calling \
              it."
            .to_owned(),
        columns: vec!["plugin", "requests", "failures", "instances started", "refused without a call", "seconds busy"],
        rows: met.iter().map(row).collect(),
        remarks: vec![],
        figures: met.iter().map(figures).collect(),
        wrong: 0,
    }
}
