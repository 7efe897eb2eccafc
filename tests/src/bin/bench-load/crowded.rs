//! Everything at once: many connections, steady deliveries, new clients, clients that lose their connection
//! repeatedly, and one that never reads.

use crate::{
    crowd::{Crowd, Received},
    line::{Line, micros},
    load::{Publisher, Steady, Window, shares},
    peer::Peer,
};
use serde_json::json;
use std::{
    cell::Cell,
    io,
    time::{Duration, Instant},
};
use switchyard_tests::report::{Section, figure, rounded};
use tokio::time::{sleep, timeout};

const MEMBERS: usize = 10_000;
const ROOMS: usize = 100;
const RATE: f64 = 200.0;
const SECONDS: f64 = 6.0;
const WINDOW: f64 = 2.0;
const NEWCOMERS: usize = 200;
/// The number of clients that come and go, how long they stay, and how long they are away.
const RECONNECTING_CLIENTS: usize = 50;
const CONNECTED_TIME: Duration = Duration::from_millis(400);
const DISCONNECTED_TIME: Duration = Duration::from_millis(100);
/// The data that is published to the client that never reads. A few seconds of it fill every buffer.
const FLOOD_BYTES: usize = 8000;
const FLOOD_RATE: f64 = 500.0;

pub async fn measure() -> io::Result<Section> {
    let floor = Peer::floor(None).await;
    let crowd = Crowd::gather(&floor, MEMBERS, member).await;
    let (least, [floor_p50, floor_p95]) = tokio::join!(steady(&floor, &crowd), newcomers(&floor));
    let (least, mut wrong) = (least?, crowd.refused);
    drop((crowd, floor));

    let node = Peer::node("").await;
    let crowd = Crowd::gather(&node, MEMBERS, member).await;
    wrong += crowd.refused;
    let busy = Cell::new(true);
    let (window, [node_p50, node_p95], reconnecting, slow) = tokio::join!(
        async {
            let window = steady(&node, &crowd).await;
            busy.set(false);
            window
        },
        newcomers(&node),
        async {
            let all = (0..RECONNECTING_CLIENTS).map(|n| reconnecting(&node, n, &busy));
            futures_util::future::try_join_all(all).await
        },
        flooded(&node),
    );
    let (window, reconnecting, slow) = (window?, reconnecting?, slow?);
    let returns: u64 = reconnecting.iter().map(|(returns, _)| returns).sum();
    let recovered: u64 = reconnecting.iter().map(|(_, received)| received.messages).sum();
    // Only clients that reconnect may receive duplicates.
    let unrecovered: u64 =
        reconnecting.iter().map(|(_, received)| received.missing + received.unexpected).sum();
    wrong += window.wrong + least.wrong + unrecovered + u64::from(slow != 4508);
    let row = |name: &str, window: &Window, [p50, p95]: [f64; 2]| {
        vec![
            name.to_owned(),
            figure(window.deliveries()),
            figure(window.each),
            figure(window.p50),
            figure(window.p99),
            figure(p50),
            figure(p95),
            window.wrong.to_string(),
        ]
    };
    Ok(Section {
        name: "crowded",
        title: "Everything at once",
        how: format!(
            "{MEMBERS} members of {ROOMS} rooms, {RATE} messages a second, while {NEWCOMERS} other clients \
             connect. Only at the node, {RECONNECTING_CLIENTS} clients also keep losing their connection and \
             resume, and one is sent {FLOOD_RATE} messages of {FLOOD_BYTES} bytes a second and reads none."
        ),
        columns: vec![
            "",
            "deliveries a second",
            "CPU µs per delivery, everything included",
            "p50 ms",
            "p99 ms",
            "connecting, p50 ms",
            "p95 ms",
            "lost, repeated, out of order",
        ],
        rows: vec![row("floor", &least, [floor_p50, floor_p95]), row("node", &window, [node_p50, node_p95])],
        remarks: vec![format!(
            "{returns} connections were lost and resumed. Of the {recovered} messages due to them, {unrecovered} \
             were missing. The client that never read was closed with {slow}."
        )],
        figures: json!({
            "floor": least.figures(), "node": window.figures(),
            "connecting_p95_ms": { "floor": rounded(floor_p95), "node": rounded(node_p95) },
            "returns": returns, "unrecovered": unrecovered, "slow_closed": slow,
        }),
        wrong,
    })
}

fn room(n: usize) -> String {
    format!("pool:{}", n % ROOMS)
}

fn member(n: usize) -> (Vec<String>, Option<String>) {
    (vec![room(n)], None)
}

async fn steady(peer: &Peer, crowd: &Crowd) -> io::Result<Window> {
    let next = |n: u64| (room(n as usize), (MEMBERS / ROOMS) as u64);
    Steady { peer, crowd, rate: RATE, seconds: WINDOW, next: &next }.measure().await
}

/// p50 and p95 of the time to connect, in milliseconds.
async fn newcomers(peer: &Peer) -> [f64; 2] {
    let apart = Duration::from_secs_f64(SECONDS / NEWCOMERS as f64);
    let (mut took, mut stay) = (vec![], vec![]);
    for _ in 0..NEWCOMERS {
        let next = Instant::now() + apart;
        if let Ok(joined) = peer.join(&["lobby".to_owned()], None).await {
            took.push(joined.took as u32);
            stay.push(joined.line);
        }
        sleep(next.saturating_duration_since(Instant::now())).await;
    }
    // A client that could not connect counts as late.
    took.resize(NEWCOMERS, u32::MAX);
    shares(took, [0.50, 0.95])
}

/// Connects and disconnects during the load, then receives the rest. Returns how often it reconnected, and
/// what it received.
async fn reconnecting(node: &Peer, n: usize, busy: &Cell<bool>) -> io::Result<(u64, Received)> {
    let mut received = Received::default();
    let joined = node.join(&[room(n)], None).await?;
    let (mut line, session, mut returns) = (joined.line, joined.session, 0);
    loop {
        let goes_on = busy.get();
        let listening = async {
            loop {
                line.fill().await?;
                line.texts(|text| received.record(text, micros(), true)).await?;
            }
        };
        if let Ok(end) = timeout(CONNECTED_TIME, listening).await {
            return end;
        }
        if !goes_on {
            return Ok((returns, received));
        }
        if let Some(offset) = received.last(&room(n)) {
            line.send(&format!(r#"{{"type":"ack","room":"{}","offset":{offset}}}"#, room(n))).await?;
        }
        drop(line);
        sleep(DISCONNECTED_TIME).await;
        line = Line::connect(node, Some(&session)).await?.0;
        returns += 1;
    }
}

/// The close code of a member that never reads.
async fn flooded(node: &Peer) -> io::Result<u16> {
    let lazy = node.join(&["flood".to_owned()], None).await?;
    let mut publisher = Publisher::open(node).await?;
    publisher.flood("flood", FLOOD_BYTES, FLOOD_RATE, SECONDS).await?;
    lazy.line.closed().await
}
