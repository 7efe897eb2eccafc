//! The cost of distinct filters in one room, from ten to the maximum of a plugin.

use crate::{
    governed::{calls, node, stamp, status},
    steady::set_nodelay,
};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use switchyard_tests::{
    Client, EVENT_TIMEOUT, Node, cpu_time,
    report::{Section, figure, median, rounded},
};
use tokio::time::sleep;
use tokio_tungstenite::tungstenite::Message;

const SIZES: [usize; 5] = [0, 10, 100, 1000, 10_000];
/// The number of members with equal filters.
const EQUAL_MEMBERS: usize = 1000;
const ROOM: &str = "many";
const MAX_UNANSWERED: usize = 8;
const WARM_UP: Duration = Duration::from_millis(250);
const WINDOW: Duration = Duration::from_secs(1);
const ROUNDS: usize = 3;

struct Run {
    name: String,
    /// The number of filters according to the node.
    filters: u64,
    instances: u64,
    messages: u64,
    /// Processor microseconds per message, of the node and of its plugin in `deliver`.
    cpu: f64,
    asked: f64,
    /// Resident memory in bytes, and the bytes per subscription of the last ones.
    memory: usize,
    each: Option<f64>,
    wrong: u64,
}

/// Processor seconds for some messages, of the node and of its plugin in `deliver`.
struct Round {
    messages: u64,
    cpu: f64,
    asked: f64,
    wrong: u64,
}

pub async fn measure() -> Section {
    let mut equal = node(&[stamp(ROOM)]).await;
    let mut room = Crowd::new(&equal);
    // Written in two different ways.
    let spelled = |n: usize| if n.is_multiple_of(2) { r#"{"g":7}"# } else { r#"{ "g" : 7 }"# };
    let each = room.grow(EQUAL_MEMBERS, spelled).await;
    let mut same = room.run(format!("{EQUAL_MEMBERS}, all equal"), each, |_| None).await;
    // Equal filters count as one, however they are written.
    same.wrong += same.filters.abs_diff(1);
    equal.process.kill().await;

    let mut runs = vec![];
    let mut distinct = node(&[stamp(ROOM)]).await;
    let mut room = Crowd::new(&distinct);
    for size in SIZES {
        let each = room.grow(size, |n| format!(r#"{{"g":{n}}}"#)).await;
        let mut run = room.run(size.to_string(), each, |n| n.checked_rem(size as u64)).await;
        run.wrong += run.filters.abs_diff(size as u64);
        runs.push(run);
    }
    runs.push(same);
    distinct.process.kill().await;
    section(&runs)
}

/// The members of one room.
struct Crowd<'a> {
    node: &'a Node,
    members: usize,
    received: Arc<AtomicU64>,
    unexpected: Arc<AtomicU64>,
}

impl<'a> Crowd<'a> {
    fn new(node: &'a Node) -> Self {
        Self { node, members: 0, received: Arc::default(), unexpected: Arc::default() }
    }

    /// Grows to `count` members. Returns the resident bytes per new subscription, without the connections.
    async fn grow<T: AsRef<str>>(&mut self, size: usize, filter: impl Fn(usize) -> T) -> Option<f64> {
        let (first, node) = (self.members, self.node);
        let connecting = stream::iter(first..size).map(|_| node.client());
        let clients: Vec<Client> = connecting.buffered(16).collect().await;
        let before = node.process.memory();
        let joining = stream::iter(clients.into_iter().zip(first..)).map(async |(mut client, n)| {
            let filter: Value = serde_json::from_str(filter(n).as_ref()).expect("JSON");
            client.subscribe(json!([{"room": ROOM, "filter": filter}])).await;
            client
        });
        let clients: Vec<Client> = joining.buffered(16).collect().await;
        let took = node.process.memory().saturating_sub(before);
        for (client, n) in clients.into_iter().zip(first..) {
            tokio::spawn(listen(client, n, self.received.clone(), self.unexpected.clone()));
        }
        self.members = size;
        (size > first).then(|| took as f64 / (size - first) as f64)
    }

    async fn run(&mut self, name: String, each: Option<f64>, to: impl Fn(u64) -> Option<u64>) -> Run {
        let (mut cpu, mut asked, mut messages, mut wrong) = (vec![], vec![], 0, 0);
        for _ in 0..ROUNDS {
            let round = self.round(&to).await;
            cpu.push(round.cpu * 1e6 / round.messages as f64);
            asked.push(round.asked * 1e6 / round.messages as f64);
            messages += round.messages;
            wrong += round.wrong;
        }
        let shown = status(self.node, "stamp").await;
        Run {
            name,
            filters: shown["filters"].as_u64().unwrap_or(0),
            instances: shown["instances"].as_u64().unwrap_or(0),
            messages,
            cpu: median(cpu),
            asked: median(asked),
            memory: self.node.process.memory(),
            each,
            wrong,
        }
    }

    /// Publishes as many messages as possible for a while. `to` names the group of each, which has one member
    /// or none.
    async fn round(&self, to: impl Fn(u64) -> Option<u64>) -> Round {
        let mut publisher = self.node.client().await;
        set_nodelay(&publisher);
        let (received, unexpected) = (self.received.load(Relaxed), self.unexpected.load(Relaxed));
        let (mut n, mut waiting, mut refused, mut expected) = (0, 0, 0, 0);
        let (mut began, mut mark) = (Instant::now(), None);
        loop {
            let is_over = mark.is_some() && began.elapsed() >= WINDOW;
            while waiting < MAX_UNANSWERED && !is_over {
                let group = to(n);
                expected += u64::from(group.is_some());
                let data = json!({"n": n, "to": group.unwrap_or(u64::MAX)});
                publisher.send(json!({"type": "publish", "room": ROOM, "data": data})).await;
                (n, waiting) = (n + 1, waiting + 1);
            }
            if waiting == 0 {
                break;
            }
            refused += u64::from(publisher.recv().await["type"] != "published");
            waiting -= 1;
            if mark.is_none() && began.elapsed() >= WARM_UP {
                mark = Some((n, self.spent().await));
                began = Instant::now();
            }
        }
        let (received, end) = (|| self.received.load(Relaxed) - received, Instant::now() + EVENT_TIMEOUT);
        while received() < expected && Instant::now() < end {
            sleep(Duration::from_millis(10)).await;
        }
        let (first, (cpu, asked)) = mark.expect("a window");
        let (cpu_now, asked_now) = self.spent().await;
        Round {
            messages: n - first,
            cpu: cpu_now - cpu,
            asked: asked_now - asked,
            wrong: refused + expected.abs_diff(received()) + self.unexpected.load(Relaxed) - unexpected,
        }
    }

    /// Processor seconds of the node, and of its plugin in `deliver`.
    async fn spent(&self) -> (f64, f64) {
        let shown = status(self.node, "stamp").await;
        (cpu_time::cpu(self.node.process.id()), calls(&shown, "deliver.matches").1 as f64 / 1e9)
    }
}

/// Each received message must be for this member's group.
async fn listen(mut client: Client, group: usize, received: Arc<AtomicU64>, unexpected: Arc<AtomicU64>) {
    while let Some(Ok(message)) = client.socket.next().await {
        let Message::Text(text) = message else { continue };
        let frame: Value = serde_json::from_str(&text).unwrap_or_default();
        let count = if frame["data"]["to"] == group { &received } else { &unexpected };
        count.fetch_add(1, Relaxed);
    }
}

impl Run {
    /// Processor nanoseconds of the node per message for each filter beyond ten.
    fn each_further(&self, ten: &Run) -> f64 {
        (self.cpu - ten.cpu) * 1e3 / (self.filters - ten.filters) as f64
    }
}

fn section(runs: &[Run]) -> Section {
    let ten = runs.iter().find(|run| run.filters == 10).expect("a room with ten members");
    let further = |run: &Run| match run.filters > ten.filters {
        true => figure(run.each_further(ten)),
        false => "–".to_owned(),
    };
    let row = |run: &Run| {
        let of_filters = |value: f64| if run.filters == 0 { "–".to_owned() } else { figure(value) };
        vec![
            run.name.clone(),
            run.filters.to_string(),
            run.instances.to_string(),
            figure(run.messages as f64),
            figure(run.cpu),
            format!("{:.2}", run.cpu / ten.cpu),
            of_filters(run.asked),
            further(run),
            of_filters(run.asked * 1e3 / run.filters as f64),
            run.each.map_or("–".to_owned(), |bytes| figure(bytes / 1024.0)),
            figure(run.memory as f64 / f64::from(1 << 20)),
        ]
    };
    let figures = |run: &Run| {
        json!({
            "members": run.name,
            "filters": run.filters,
            "instances_started": run.instances,
            "messages": run.messages,
            "node_cpu_us_a_message": rounded(run.cpu),
            "deliver_us_a_message": rounded(run.asked),
            "bytes_a_subscription": run.each.map(rounded),
            "memory": run.memory,
            "wrong": run.wrong,
        })
    };
    Section {
        name: "filters",
        title: "Distinct filters in one room",
        how: format!(
            "A room with one member for each filter, and one publisher with {MAX_UNANSWERED} publishes in \
             flight. Each message passes the filter of one member, in turn, or of none if all filters are equal, \
             so that the cost is that of evaluating filters. The node's processor time is from /proc and \
             includes publishing; the time of deliver alone is counted by the node. Both are medians of {ROUNDS} \
             rounds of {} s. Memory per subscription is the growth of the process while connected members join.",
            WINDOW.as_secs(),
        ),
        columns: vec![
            "members",
            "filters in use",
            "instances started",
            "messages",
            "node CPU µs a message",
            "ratio to 10",
            "deliver µs a message",
            "node CPU ns each further filter",
            "deliver ns a filter",
            "KiB a subscription",
            "memory, MiB",
        ],
        rows: runs.iter().map(row).collect(),
        remarks: vec![],
        figures: runs.iter().map(figures).collect(),
        wrong: runs.iter().map(|run| run.wrong).sum(),
    }
}
