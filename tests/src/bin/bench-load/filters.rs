//! The cost that filters in a plugin add to a delivery.

use crate::{
    crowd::Crowd,
    load::{Steady, Window},
    peer::Peer,
};
use serde_json::json;
use std::io;
use switchyard_tests::{
    guest,
    report::{Section, figure, rounded},
};

const MEMBERS: usize = 1000;
const SECONDS: f64 = 2.0;
/// Few enough that every message is written immediately.
const DELIVERIES: f64 = 8000.0;
const ROOM: &str = "shares";

struct Run {
    name: String,
    window: Window,
}

impl Run {
    /// The number of distinct filters, or 0. Each message passes half of them.
    async fn of(name: &str, governed: bool, filters: usize) -> io::Result<Self> {
        let peer = Peer::node(&if governed { table(ROOM) } else { String::new() }).await;
        let choose_rooms = |n: usize| {
            let filter = n
                .checked_rem(filters)
                .map(|n| format!(r#"{{"minValue":{}}}"#, 100.0 * (n + 1) as f64 / filters as f64));
            (vec![ROOM.to_owned()], filter)
        };
        let crowd = Crowd::gather(&peer, MEMBERS, choose_rooms).await;
        let each = if filters == 0 { MEMBERS } else { MEMBERS / 2 };
        let next = |_| (ROOM.to_owned(), each as u64);
        let rate = DELIVERIES / each as f64;
        let window =
            Steady { peer: &peer, crowd: &crowd, rate, seconds: SECONDS, next: &next }.measure().await?;
        Ok(Self { name: name.to_owned(), window })
    }
}

/// A plugin that governs rooms without a hook for publishing.
pub fn table(rooms: &str) -> String {
    let file = guest("threshold_filter");
    format!("[[plugin]]\nname = \"size\"\nfile = \"{}\"\nrooms = [\"{rooms}\"]\n", file.display())
}

pub async fn measure() -> io::Result<Section> {
    let runs = [
        Run::of("no plugin", false, 0).await?,
        Run::of("a plugin, no filters", true, 0).await?,
        Run::of("10 distinct filters", true, 10).await?,
        Run::of("100 distinct filters", true, 100).await?,
        Run::of("1,000 distinct filters", true, 1000).await?,
    ];
    let plain = runs[0].window.each;
    let row = |run: &Run| {
        vec![
            run.name.clone(),
            figure(run.window.messages as f64),
            figure(run.window.deliveries()),
            figure(run.window.each),
            figure(run.window.each / plain),
            figure(run.window.p50),
            figure(run.window.p99),
            run.window.wrong.to_string(),
        ]
    };
    let figures = runs.iter().map(|run| {
        json!({
            "what": run.name, "node": run.window.figures(), "to_no_plugin": rounded(run.window.each / plain),
        })
    });
    Ok(Section {
        name: "filters",
        title: "Filters in a plugin",
        how: format!(
            "{MEMBERS} members of one room, {DELIVERIES} deliveries a second. With filters, half of the members \
             receive each message, so twice as many messages are published; the total cost is divided by the \
             deliveries."
        ),
        columns: vec![
            "",
            "messages",
            "deliveries a second",
            "node, CPU µs a delivery",
            "ratio to no plugin",
            "p50 ms",
            "p99 ms",
            "lost, repeated, out of order",
        ],
        rows: runs.iter().map(row).collect(),
        remarks: vec![],
        figures: figures.collect(),
        wrong: runs.iter().map(|run| run.window.wrong).sum(),
    })
}
