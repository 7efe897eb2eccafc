//! One room: the cost of a delivery with more messages and more members.

use crate::{
    crowd::Crowd,
    load::{Steady, Window},
    peer::Peer,
};
use serde_json::json;
use std::io;
use switchyard_tests::report::{Section, figure, rounded};

const ROOM: &str = "prices:eth";
const SECONDS: f64 = 2.0;
/// How long the minimal server collects messages, like the node, in milliseconds.
const FLUSH_DELAY_MS: u64 = 20;

/// Members, messages per second, and whether the minimal server collects messages.
const LOADS: [(usize, f64, bool); 12] = [
    (1000, 5.0, false),
    (1000, 20.0, false),
    (1000, 40.0, false),
    (1000, 60.0, true),
    (1000, 100.0, true),
    (1000, 200.0, true),
    (1000, 400.0, true),
    (1000, 600.0, true),
    (5000, 4.0, false),
    (5000, 20.0, false),
    (5000, 60.0, true),
    (5000, 80.0, true),
];

/// The same number of deliveries per second, to more and more members.
const SIZES: [(usize, f64); 3] = [(100, 80.0), (1000, 8.0), (10_000, 0.8)];

pub struct Pair {
    pub members: usize,
    pub rate: f64,
    pub gathers: bool,
    pub node: Window,
    pub floor: Window,
}

impl Pair {
    async fn measure(members: usize, rate: f64, gathers: bool, seconds: f64) -> io::Result<Self> {
        let [node, floor] = [Peer::node("").await, Peer::floor(gathers.then_some(FLUSH_DELAY_MS)).await].map(
            |peer| async move {
                let crowd = Crowd::gather(&peer, members, |_| (vec![ROOM.to_owned()], None)).await;
                let next = |_| (ROOM.to_owned(), members as u64);
                Steady { peer: &peer, crowd: &crowd, rate, seconds, next: &next }.measure().await
            },
        );
        Ok(Self { members, rate, gathers, node: node.await?, floor: floor.await? })
    }

    pub fn ratio(&self) -> f64 {
        self.node.each / self.floor.each
    }
}

pub async fn measure() -> io::Result<(Vec<Section>, Vec<Pair>)> {
    let (mut loads, mut sizes) = (vec![], vec![]);
    for (members, rate, gathers) in LOADS {
        loads.push(Pair::measure(members, rate, gathers, SECONDS).await?);
    }
    for (members, rate) in SIZES {
        sizes.push(Pair::measure(members, rate, false, 4.0).await?);
    }
    let how = format!(
        "One room, one publisher, and members that only listen. Messages have 200 bytes of data. Latency is the \
         time from when a message was due until a member has read it. The floor writes each message at once or, \
         in rows that say so, lets messages wait {FLUSH_DELAY_MS} ms and then writes everything that is waiting."
    );
    let sections = vec![
        section("fanout", "One room, by message rate", how, &loads),
        section(
            "sizes",
            "One room, by number of members",
            "The same at 8,000 deliveries a second, whatever the size of the room.".to_owned(),
            &sizes,
        ),
    ];
    Ok((sections, loads))
}

fn section(name: &'static str, title: &'static str, how: String, pairs: &[Pair]) -> Section {
    let row = |pair: &Pair| {
        let Pair { members, rate, gathers, node, floor } = pair;
        vec![
            format!("{}, {rate}/s", figure(*members as f64)),
            figure(node.deliveries()),
            figure(node.each),
            format!("{}{}", figure(floor.each), if *gathers { " gathering" } else { "" }),
            figure(pair.ratio()),
            figure(node.p50),
            figure(floor.p50),
            figure(node.p99),
            figure(floor.p99),
            (node.wrong + floor.wrong).to_string(),
        ]
    };
    let figures = pairs.iter().map(|pair| {
        json!({
            "members": pair.members, "messages_a_second": pair.rate, "floor_gathers": pair.gathers,
            "node": pair.node.figures(), "floor": pair.floor.figures(), "ratio": rounded(pair.ratio()),
        })
    });
    Section {
        name,
        title,
        how,
        columns: vec![
            "members, messages",
            "deliveries a second",
            "node, CPU µs a delivery",
            "floor",
            "node to floor",
            "node, p50 ms",
            "floor",
            "node, p99 ms",
            "floor",
            "lost, repeated, out of order",
        ],
        rows: pairs.iter().map(row).collect(),
        remarks: vec![],
        figures: figures.collect(),
        wrong: pairs.iter().map(|pair| pair.node.wrong + pair.floor.wrong).sum(),
    }
}
