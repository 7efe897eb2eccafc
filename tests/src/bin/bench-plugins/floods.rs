//! What a principal that floods a plugin costs another principal, which publishes through the same plugin.

use crate::governed::{Plugin, node_with};
use futures_util::future::join_all;
use serde_json::json;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use switchyard_tests::{
    Client, KEY, MORE_KEYS, Node, Server,
    report::{Section, figure, percentiles, rounded},
};
use tokio::{task::JoinHandle, time::sleep};

/// The number of messages of the quiet principal, and the delay between them.
const MESSAGES: usize = 300;
const MESSAGE_INTERVAL: Duration = Duration::from_millis(5);
/// The number of connections of the flooding principal.
const CLIENTS: usize = 4;
/// The number of filters per request, and of messages in the history.
const FILTERS: usize = 90;
const HISTORY_MESSAGES: usize = 1000;

#[derive(Clone, Copy, PartialEq)]
enum Flood {
    Nothing,
    History,
    Subscribes,
    Publishes,
}

const FLOODS: [(&str, Flood); 4] = [
    ("nobody floods", Flood::Nothing),
    ("filtered history of 1,000 messages", Flood::History),
    ("subscribes of 90 new filters", Flood::Subscribes),
    ("publishes", Flood::Publishes),
];

pub async fn measure() -> Section {
    let plugin = Plugin { name: "orderbook", file: "orderbook", rooms: "trades:**", config: "{}" };
    let node = node_with(&[plugin], &Server::more_keys()).await;
    let mut quiet = Client::connect_at(&node.url, json!({"auth": {"apiKey": MORE_KEYS[0]}})).await;
    fill(&node).await;
    publish(&mut quiet, MESSAGES / 10).await;
    let (mut rows, mut figures, mut first) = (vec![], vec![], 0.0);
    for (name, flood) in FLOODS {
        let attack = Attack::start(&node, flood).await;
        let times = publish(&mut quiet, MESSAGES).await;
        let requests = attack.end().await;
        let [p50, p99] = percentiles([0.50, 0.99], times.into_iter());
        if flood == Flood::Nothing {
            first = p50;
        }
        rows.push(vec![
            name.to_owned(),
            requests.to_string(),
            figure(p50 / 1e3),
            figure(p99 / 1e3),
            format!("{:.2}", p50 / first),
        ]);
        figures.push(json!({
            "flood": name, "requests": requests, "p50_us": rounded(p50), "p99_us": rounded(p99), "ratio_p50": rounded(p50 / first),
        }));
    }
    Section {
        name: "floods",
        title: "One principal floods",
        how: format!(
            "One principal calls a plugin without pause over {CLIENTS} connections, each of which sends its next \
             request when the last one is answered. Another principal publishes {MESSAGES} messages through the \
             same plugin, {} ms apart; the times are until each is answered.",
            MESSAGE_INTERVAL.as_millis()
        ),
        columns: vec!["flood", "its requests", "publish p50 ms", "publish p99 ms", "p50, ratio to no flood"],
        rows,
        remarks: vec![],
        figures: figures.into(),
        wrong: 0,
    }
}

async fn fill(node: &Node) {
    let mut client = node.client().await;
    for n in 0..HISTORY_MESSAGES {
        client.publish("trades:held", trade(n)).await;
    }
}

fn trade(n: usize) -> serde_json::Value {
    json!({"market": "ETH-USD", "side": "BUY", "size": n.to_string(), "price": "3150.25", "at": "2026-01-01T12:00:00.000Z"})
}

async fn publish(client: &mut Client, count: usize) -> Vec<Duration> {
    let mut times = vec![];
    for n in 0..count {
        let began = Instant::now();
        client.publish("trades:quiet", trade(n)).await;
        times.push(began.elapsed());
        sleep(MESSAGE_INTERVAL).await;
    }
    times
}

struct Attack {
    stop: Arc<AtomicBool>,
    requests: Arc<AtomicU64>,
    clients: Vec<JoinHandle<()>>,
}

impl Attack {
    async fn start(node: &Node, flood: Flood) -> Self {
        let (stop, requests) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut clients = vec![];
        let count = if flood == Flood::Nothing { 0 } else { CLIENTS };
        for number in 0..count {
            let mut client = Client::connect_at(&node.url, json!({"auth": {"apiKey": KEY}})).await;
            let filter = json!({"minSize": 1e9 + number as f64});
            client.subscribe(json!([{"room": "trades:held", "filter": filter}])).await;
            let (stop, requests) = (stop.clone(), requests.clone());
            clients.push(tokio::spawn(async move {
                while !stop.load(Relaxed) {
                    let n = requests.fetch_add(1, Relaxed) as usize;
                    client.ask(request(flood, number, n)).await;
                }
            }));
        }
        Self { stop, requests, clients }
    }

    async fn end(self) -> u64 {
        self.stop.store(true, Relaxed);
        for client in join_all(self.clients).await {
            client.expect("a client ends without a panic");
        }
        self.requests.load(Relaxed)
    }
}

fn request(flood: Flood, number: usize, n: usize) -> serde_json::Value {
    match flood {
        Flood::History => json!({"type": "history", "room": "trades:held", "limit": HISTORY_MESSAGES}),
        Flood::Publishes => json!({"type": "publish", "room": "trades:flood", "data": trade(n)}),
        Flood::Subscribes | Flood::Nothing => {
            let filter = |room: usize| json!({"minSize": (n * FILTERS + room) as f64});
            let entry =
                |room: usize| json!({"room": format!("trades:{number}-{room}"), "filter": filter(room)});
            json!({"type": "subscribe", "rooms": (0..FILTERS).map(entry).collect::<Vec<_>>()})
        }
    }
}
