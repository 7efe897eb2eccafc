//! A steady load on one room: a publisher with a constant rate, and members that record what they receive.

use crate::tally::{Delivery, Tally};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use switchyard_tests::{Client, EVENT_TIMEOUT, Node, report::percentiles};
use tokio::time::{sleep, sleep_until};
use tokio_tungstenite::{MaybeTlsStream, tungstenite::Message};

pub struct Steady {
    room: &'static str,
    /// Whether each member has a filter of its own.
    governed: bool,
    publisher: Client,
    members: Vec<Arc<Mutex<Vec<Delivery>>>>,
    deliveries: Arc<AtomicU64>,
    unexpected: Arc<AtomicU64>,
    sent: u64,
}

/// What happened to some messages.
#[derive(Default)]
pub struct Phase {
    pub tally: Tally,
    pub deliveries: u64,
    /// The latency, from when a message was due until a member had it.
    pub times: Vec<Duration>,
}

impl Phase {
    pub fn add(&mut self, other: Self) {
        self.tally.add(other.tally);
        self.deliveries += other.deliveries;
        self.times.extend(other.times);
    }

    /// p50 and p99 in microseconds.
    pub fn latency(&self) -> [f64; 2] {
        percentiles([0.50, 0.99], self.times.iter().copied())
    }
}

impl Steady {
    pub async fn open(node: &Node, room: &'static str, members: usize, governed: bool) -> Self {
        let publisher = node.client().await;
        set_nodelay(&publisher);
        let (deliveries, unexpected) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let joining = stream::iter(0..members).map(async |n| {
            let mut client = node.client().await;
            let entry = if governed { json!({"room": room, "filter": {"g": n}}) } else { json!(room) };
            client.subscribe(json!([entry])).await;
            client
        });
        let clients: Vec<Client> = joining.buffered(16).collect().await;
        let mut members = vec![];
        for client in clients {
            let received = Arc::new(Mutex::new(vec![]));
            tokio::spawn(listen(client, received.clone(), deliveries.clone(), unexpected.clone()));
            members.push(received);
        }
        Self { room, governed, publisher, members, deliveries, unexpected, sent: 0 }
    }

    /// Publishes messages at this rate, and waits until they have arrived or a timeout has passed.
    pub async fn publish(&mut self, apart: Duration, count: usize) -> Phase {
        let (first, start) = (self.sent, Instant::now() + apart);
        let (delivered, unexpected) = (self.deliveries.load(Relaxed), self.unexpected.load(Relaxed));
        let mut refused = 0;
        for n in 0..count as u32 {
            sleep_until((start + apart * n).into()).await;
            let data = json!({"n": self.sent});
            let answer =
                self.publisher.ask(json!({"type": "publish", "room": self.room, "data": data})).await;
            refused += u64::from(answer["type"] != "published");
            self.sent += 1;
        }
        let each = if self.governed { self.members.len() / 2 } else { self.members.len() };
        let (expected, end) = ((count * each) as u64, Instant::now() + EVENT_TIMEOUT);
        let deliveries = || self.deliveries.load(Relaxed) - delivered;
        while deliveries() < expected && Instant::now() < end {
            sleep(Duration::from_millis(20)).await;
        }
        // Waits a moment for messages that should not arrive.
        sleep(Duration::from_millis(100)).await;
        let received: Vec<Vec<Delivery>> = self
            .members
            .iter()
            .map(|received| std::mem::take(&mut *received.lock().expect("no panic")))
            .collect();
        let mut tally = Tally::of(&received, first, count, self.governed);
        tally.unexpected = refused + self.unexpected.load(Relaxed) - unexpected;
        let due = |n: u64| start + apart * n.saturating_sub(first) as u32;
        let times =
            received.iter().flatten().map(|one| one.at.saturating_duration_since(due(one.n))).collect();
        Phase { tally, deliveries: deliveries(), times }
    }
}

async fn listen(
    mut client: Client,
    received: Arc<Mutex<Vec<Delivery>>>,
    deliveries: Arc<AtomicU64>,
    unexpected: Arc<AtomicU64>,
) {
    while let Some(Ok(message)) = client.socket.next().await {
        let at = Instant::now();
        let Message::Text(text) = message else { continue };
        let frame: Value = serde_json::from_str(&text).unwrap_or_default();
        match (frame["data"]["n"].as_u64(), frame["offset"].as_u64()) {
            (Some(n), Some(offset)) if frame["type"] == "message" => {
                received.lock().expect("no panic").push(Delivery { n, offset, at });
                deliveries.fetch_add(1, Relaxed);
            }
            _ => drop(unexpected.fetch_add(1, Relaxed)),
        }
    }
    // If the node has stopped, all connections have ended; otherwise it has closed this one.
    unexpected.fetch_add(1, Relaxed);
}

/// With TCP_NODELAY, a small frame does not wait for the acknowledgement of the previous one.
pub fn set_nodelay(client: &Client) {
    if let MaybeTlsStream::Plain(tcp) = client.socket.get_ref() {
        tcp.set_nodelay(true).ok();
    }
}
