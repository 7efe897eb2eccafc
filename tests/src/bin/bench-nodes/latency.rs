//! Measures the time from when a message is due until a subscriber has it, on three routes.

use futures_util::{SinkExt, StreamExt, stream::SplitSink};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use switchyard_tests::{
    Client, EVENT_TIMEOUT, Node, Redis,
    report::{self, Section, figure, rounded},
};
use tokio::{net::TcpStream, runtime::Handle, sync::mpsc, time::timeout};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, tungstenite::Message};

const MESSAGE_INTERVAL: Duration = Duration::from_millis(5);
/// The messages of a round. Those for warming up come first and are not counted.
const WARM_UP_MESSAGES: u64 = 50;
const COUNTED_MESSAGES: u64 = 400;
/// Each round uses all three routes, in a different order.
const ROUNDS: usize = 9;
/// How much earlier than the message is due a sleep should end, because it ends late. The rest is busy waiting.
const BUSY_WAIT: Duration = Duration::from_micros(200);
const PERCENTS: [f64; 3] = [0.50, 0.95, 0.99];

type Sink = SplitSink<WebSocketStream<MaybeTlsStream<TcpStream>>, Message>;

pub async fn measure() -> Section {
    let redis = Redis::start().await;
    let url = redis.url();
    let (memory, one, two) =
        tokio::join!(Node::start("memory", ""), Node::start(&url, ""), Node::start(&url, ""));
    let mut ways = [
        Way::open("one node, memory", &memory, &memory, "near").await,
        Way::open("one node, Redis", &one, &one, "near").await,
        Way::open("two nodes, Redis", &one, &two, "far").await,
    ];
    for round in 0..ROUNDS {
        for n in 0..ways.len() {
            let count = ways.len();
            ways[(round + n) % count].travel().await;
        }
    }
    section(&ways)
}

fn section(ways: &[Way]) -> Section {
    let all: Vec<_> = ways.iter().map(|way| percentiles(way.rounds.iter().flatten().copied())).collect();
    let rounds = |way: &Way| -> Vec<f64> {
        way.rounds.iter().map(|round| percentiles(round.iter().copied())[0]).collect()
    };
    let (first, (mut rows, mut figures)) = (rounds(&ways[0]), (vec![], vec![]));
    for (way, times) in ways.iter().zip(&all) {
        let ratios = [0, 1, 2].map(|n| times[n] / all[0][n]);
        let of_rounds: Vec<f64> = rounds(way).iter().zip(&first).map(|(time, first)| time / first).collect();
        let (least, most) = of_rounds
            .iter()
            .fold((f64::MAX, 0.0), |(least, most): (f64, f64), ratio| (least.min(*ratio), most.max(*ratio)));
        let mut row = vec![way.name.to_owned()];
        row.extend(times.map(figure));
        row.extend(ratios.map(|ratio| format!("{ratio:.2}")));
        row.push(format!("{least:.2} to {most:.2}"));
        rows.push(row);
        figures.push(json!({
            "way": way.name,
            "messages": way.rounds.iter().map(Vec::len).sum::<usize>(),
            "p50_us": rounded(times[0]), "p95_us": rounded(times[1]), "p99_us": rounded(times[2]),
            "ratio_p50": rounded(ratios[0]), "ratio_p95": rounded(ratios[1]), "ratio_p99": rounded(ratios[2]),
            "ratio_p50_of_rounds": of_rounds.iter().copied().map(rounded).collect::<Vec<_>>(),
            "wrong": way.wrong(),
        }));
    }
    let late = percentiles(ways.iter().flat_map(|way| way.late.iter().copied()));
    Section {
        name: "latency",
        title: "From publishing to delivery",
        how: format!(
            "One publisher sends {} messages a second to a room with one subscriber, both in this process. Times \
             run from when a message was due, not from when it was sent, until the subscriber has it. {ROUNDS} \
             rounds of {COUNTED_MESSAGES} messages over each path, after {WARM_UP_MESSAGES} that are not \
             counted; each round begins with another path.",
            Duration::from_secs(1).div_duration_f64(MESSAGE_INTERVAL),
        ),
        columns: vec![
            "path",
            "p50 µs",
            "p95 µs",
            "p99 µs",
            "p50, ratio to the first",
            "p95, ratio to the first",
            "p99, ratio to the first",
            "p50 to the first, by round",
        ],
        rows,
        remarks: vec![format!(
            "The publisher itself was late by {} µs (p50) and {} µs (p99); all of these times include that.",
            figure(late[0]),
            figure(late[2]),
        )],
        figures: json!({
            "messages_a_second": Duration::from_secs(1).div_duration_f64(MESSAGE_INTERVAL),
            "rounds": ROUNDS,
            "publisher_late_us": {"p50": rounded(late[0]), "p99": rounded(late[2])},
            "ways": figures,
        }),
        wrong: ways.iter().map(Way::wrong).sum(),
    }
}

fn percentiles(times: impl Iterator<Item = Duration>) -> [f64; 3] {
    report::percentiles(PERCENTS, times)
}

/// A route from a publisher on a node to a subscriber on the same or another node.
struct Way {
    name: &'static str,
    room: &'static str,
    /// `None` while a round is running.
    sink: Option<Sink>,
    arrivals: mpsc::UnboundedReceiver<(Value, Instant)>,
    sent: u64,
    rounds: Vec<Vec<Duration>>,
    late: Vec<Duration>,
    lost: u64,
    refused: Arc<AtomicU64>,
}

impl Way {
    async fn open(name: &'static str, from: &Node, to: &Node, room: &'static str) -> Self {
        let (publisher, mut subscriber) = (from.client().await, to.client().await);
        at_once(&publisher);
        subscriber.subscribe(json!([room])).await;
        let (arrived, arrivals) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = subscriber.socket.next().await {
                let now = Instant::now();
                if let Message::Text(text) = message {
                    arrived.send((serde_json::from_str(&text).unwrap_or_default(), now)).ok();
                }
            }
        });
        let (sink, mut answers) = publisher.socket.split();
        let refused = Arc::new(AtomicU64::new(0));
        let counted = refused.clone();
        tokio::spawn(async move {
            while let Some(Ok(message)) = answers.next().await {
                if let Message::Text(text) = message
                    && serde_json::from_str::<Value>(&text).unwrap_or_default()["type"] != "published"
                {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self {
            name,
            room,
            sink: Some(sink),
            arrivals,
            sent: 0,
            rounds: vec![],
            late: vec![],
            lost: 0,
            refused,
        }
    }

    /// Runs one round.
    async fn travel(&mut self) {
        let (room, first, total) = (self.room, self.sent, WARM_UP_MESSAGES + COUNTED_MESSAGES);
        let (mut sink, runtime) = (self.sink.take().expect("no other round is on"), Handle::current());
        let start = Instant::now() + MESSAGE_INTERVAL;
        // On its own thread, because the timers of the runtime have a resolution of a millisecond.
        let publishing = tokio::task::spawn_blocking(move || {
            let mut late = vec![];
            for n in 0..total {
                let frame = json!({"type": "publish", "room": room, "data": first + n}).to_string();
                let due = start + MESSAGE_INTERVAL * n as u32;
                thread::sleep((due - BUSY_WAIT).saturating_duration_since(Instant::now()));
                while Instant::now() < due {
                    std::hint::spin_loop();
                }
                late.push(due.elapsed());
                runtime.block_on(sink.send(Message::text(frame))).expect("a live connection");
            }
            (sink, late)
        });
        let mut times = vec![];
        for n in 0..total {
            let Ok(Some((frame, at))) = timeout(EVENT_TIMEOUT, self.arrivals.recv()).await else {
                self.lost += total - n;
                break;
            };
            // Nothing else is published to the room, so its offsets are the numbers of the messages.
            let is_next = frame["data"] == first + n && frame["offset"] == first + n + 1;
            self.lost += u64::from(!is_next);
            if n >= WARM_UP_MESSAGES {
                times.push(at.saturating_duration_since(start + MESSAGE_INTERVAL * n as u32));
            }
        }
        let (sink, late) = publishing.await.expect("a publisher ends without a panic");
        self.sink = Some(sink);
        self.late.extend(late.into_iter().skip(WARM_UP_MESSAGES as usize));
        self.rounds.push(times);
        self.sent += total;
    }

    fn wrong(&self) -> u64 {
        self.lost + self.refused.load(Ordering::Relaxed)
    }
}

/// With TCP_NODELAY, a small frame does not wait for the acknowledgement of the previous one.
pub fn at_once(client: &Client) {
    if let MaybeTlsStream::Plain(tcp) = client.socket.get_ref() {
        tcp.set_nodelay(true).ok();
    }
}
