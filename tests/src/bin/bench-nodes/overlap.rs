//! Measures the throughput of a publisher that does not wait for answers, over a WebSocket and over HTTP, and
//! the latency of another publisher meanwhile.

use crate::{
    latency::at_once,
    load::{Load, Mark},
};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use switchyard_tests::{
    Client, Node, Redis,
    report::{Section, figure, median, percentiles, rounded},
};
use tokio::{task::JoinHandle, time::sleep};
use tokio_tungstenite::tungstenite::Message;

/// Maximum number of unanswered publishes, and how many of them are written at once.
const MAX_UNANSWERED: usize = 256;
const WRITE_BATCH: usize = 64;
/// Messages per list.
const LIST_MESSAGES: usize = 1000;
const DATA_BYTES: usize = 200;
const ROUNDS: usize = 5;
const WARM_UP: Duration = Duration::from_millis(500);
const WINDOW: Duration = Duration::from_secs(3);
/// The delay between two messages of the other publisher.
const MESSAGE_INTERVAL: Duration = Duration::from_millis(5);

const ROUTES: [(&str, &str); 3] = [
    ("nobody", "nobody"),
    ("socket", "a connection with 256 publishes in flight"),
    ("http", "lists of 1,000 over HTTP, one after the other"),
];

struct Round {
    load: Load,
    times: Vec<Duration>,
}

pub async fn measure() -> Section {
    let redis = Redis::start().await;
    let node = Arc::new(Node::start(&redis.url(), "").await);
    let mut rounds: [Vec<Round>; 3] = Default::default();
    let wrong = Arc::new(AtomicU64::new(0));
    for _ in 0..ROUNDS {
        for (n, rounds) in rounds.iter_mut().enumerate() {
            rounds.push(round(&redis, &node, n, &wrong).await);
        }
    }
    let wrong = wrong.load(Ordering::Relaxed);
    let of = |n: usize, figure: fn(&Load) -> f64| {
        median(rounds[n].iter().map(|round| figure(&round.load)).collect())
    };
    let times =
        |n: usize| percentiles([0.50, 0.99], rounds[n].iter().flat_map(|round| round.times.iter().copied()));
    let row = |n: usize| {
        let [p50, p99] = times(n);
        let load = |value: f64| if n == 0 { "–".to_owned() } else { figure(value) };
        vec![
            ROUTES[n].1.to_owned(),
            load(of(n, Load::rate)),
            load(of(n, |load| load.each(load.redis))),
            load(of(n, |load| load.each(load.node))),
            figure(p50),
            figure(p99),
        ]
    };
    let figures = |n: usize| {
        let [p50, p99] = times(n);
        json!({
            "publishes_a_second": rounded(of(n, Load::rate)),
            "redis_cpu_us_a_publish": rounded(of(n, |load| load.each(load.redis))),
            "node_cpu_us_a_publish": rounded(of(n, |load| load.each(load.node))),
            "peer_p50_us": rounded(p50), "peer_p99_us": rounded(p99),
        })
    };
    Section {
        name: "overlap",
        title: "A publisher that does not wait for answers",
        how: format!(
            "Messages of {DATA_BYTES} bytes are published to one room of one node, without members and with the \
             default history. Meanwhile, another connection publishes to a room of its own every {} ms and \
             measures the time until it is answered. Medians of {ROUNDS} rounds of {} s for each publisher, in \
             turn.",
            MESSAGE_INTERVAL.as_millis(),
            WINDOW.as_secs(),
        ),
        columns: vec![
            "publisher",
            "publishes a second",
            "Redis CPU µs a publish",
            "node CPU µs a publish",
            "other connection, p50 µs",
            "other connection, p99 µs",
        ],
        rows: (0..ROUTES.len()).map(row).collect(),
        remarks: vec![],
        figures: json!({
            "nobody": figures(0), "socket": figures(1), "http": figures(2), "wrong": wrong,
        }),
        wrong,
    }
}

async fn round(redis: &Redis, node: &Arc<Node>, way: usize, wrong: &Arc<AtomicU64>) -> Round {
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let run =
        Run { node: node.clone(), stop: stop.clone(), answered: answered.clone(), wrong: wrong.clone() };
    let other = tokio::spawn(another(node.client().await, stop.clone(), wrong.clone()));
    let publishing: Option<JoinHandle<()>> = match ROUTES[way].0 {
        "socket" => Some(tokio::spawn(run.over_a_socket(node.client().await))),
        "http" => Some(tokio::spawn(run.over_http())),
        _ => None,
    };
    sleep(WARM_UP).await;
    let count = || answered.load(Ordering::Relaxed);
    let (first, before) = (count(), Mark::now(redis, Some(node)).await);
    sleep(WINDOW).await;
    let (last, after) = (count(), Mark::now(redis, Some(node)).await);
    stop.store(true, Ordering::Relaxed);
    if let Some(publishing) = publishing {
        publishing.await.expect("a publisher ends without a panic");
    }
    let times = other.await.expect("a publisher ends without a panic");
    Round { load: before.until(&after, (last - first).max(1)), times }
}

/// Publishes occasionally, and returns how long each message took to be answered.
async fn another(mut client: Client, stop: Arc<AtomicBool>, wrong: Arc<AtomicU64>) -> Vec<Duration> {
    at_once(&client);
    let (began, mut times) = (Instant::now(), vec![]);
    while !stop.load(Ordering::Relaxed) {
        let sent = Instant::now();
        client.send(json!({"type": "publish", "room": "another", "data": 1})).await;
        if client.recv().await["type"] != "published" {
            wrong.fetch_add(1, Ordering::Relaxed);
        }
        if began.elapsed() > WARM_UP {
            times.push(sent.elapsed());
        }
        sleep(MESSAGE_INTERVAL).await;
    }
    times
}

struct Run {
    node: Arc<Node>,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    wrong: Arc<AtomicU64>,
}

impl Run {
    fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    async fn over_a_socket(self, client: Client) {
        at_once(&client);
        let (mut sink, mut answers) = client.socket.split();
        let frame =
            json!({"type": "publish", "room": "bench", "data": "x".repeat(DATA_BYTES - 2)}).to_string();
        let (mut waiting, mut newest) = (0, 0);
        loop {
            if !self.stops() && waiting + WRITE_BATCH <= MAX_UNANSWERED {
                for _ in 0..WRITE_BATCH {
                    sink.feed(Message::text(frame.clone())).await.expect("a live connection");
                }
                sink.flush().await.expect("a live connection");
                waiting += WRITE_BATCH;
                continue;
            }
            if waiting == 0 {
                return;
            }
            let Some(Ok(Message::Text(answer))) = answers.next().await else { continue };
            let offset = offset(&answer).unwrap_or_default();
            if !answer.starts_with(r#"{"type":"published""#) || offset <= newest {
                self.wrong.fetch_add(1, Ordering::Relaxed);
            }
            (waiting, newest) = (waiting - 1, offset);
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn over_http(self) {
        let message = json!({"room": "bench", "data": "x".repeat(DATA_BYTES - 2)});
        let list = Value::from(vec![message; LIST_MESSAGES]).to_string();
        let mut newest = 0;
        while !self.stops() {
            let (status, answer) = self.node.call("POST", "/v1/publish", &list).await;
            let offsets: Vec<u64> = answer.split("},{").filter_map(offset).collect();
            let is_right = status == 200
                && offsets.len() == LIST_MESSAGES
                && offsets[0] > newest
                && offsets.is_sorted_by(|one, next| one < next);
            self.wrong.fetch_add(u64::from(!is_right), Ordering::Relaxed);
            newest = offsets.last().copied().unwrap_or_default();
            self.answered.fetch_add(LIST_MESSAGES as u64, Ordering::Relaxed);
        }
    }
}

/// Finds the result in an answer without parsing all of it.
fn offset(answer: &str) -> Option<u64> {
    let (_, rest) = answer.split_once(r#""offset":"#)?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
