//! The rooms of one plugin on one core and on two: how much of the load the busiest thread of the plugin has, and so
//! how much more the plugin's rooms can be sent. Members have filters, because without them the plugin is not called
//! and its threads have nothing to do.

use crate::{
    crowd::Crowd,
    filters,
    load::{Steady, Window},
    peer::Peer,
    rooms::{GOVERNED, name_of, random_rooms},
};
use serde_json::json;
use std::io;
use switchyard_tests::{
    cpu_time,
    report::{Section, figure, median, rounded},
};

const ROOMS: usize = 1000;
const MEMBERS: usize = 1000;
/// The rooms of each member, so each room has 10 members.
const ROOMS_EACH: usize = 10;
/// How many distinct filters the members of each room have.
const FILTERS: usize = 10;
/// Messages a second.
const RATE: f64 = 2000.0;
const SECONDS: f64 = 1.5;
const ROUNDS: usize = 3;

struct Run {
    instances: usize,
    windows: Vec<Window>,
    /// Processor microseconds of the busiest thread of the plugin per delivery, in each round.
    busiest: Vec<f64>,
    threads: usize,
}

impl Run {
    fn new(instances: usize) -> Self {
        Self { instances, windows: vec![], busiest: vec![], threads: 0 }
    }

    async fn round(&mut self) -> io::Result<()> {
        let plugin = filters::table(GOVERNED) + &format!("budget = {{ instances = {} }}\n", self.instances);
        let peer = Peer::node_on_all_cores(&plugin).await;
        let rooms = |n: usize| (0..ROOMS_EACH).map(|i| name_of((n * ROOMS_EACH + i) % ROOMS)).collect();
        // Every message passes.
        let filter = |n: usize| Some(format!(r#"{{"minValue":-{}}}"#, 1 + n * FILTERS / MEMBERS));
        let crowd = Crowd::gather(&peer, MEMBERS, |n| (rooms(n), filter(n))).await;
        let next = random_rooms(ROOMS);
        let next = |_| (name_of(next()), (MEMBERS * ROOMS_EACH / ROOMS) as u64);
        let steady = Steady { peer: &peer, crowd: &crowd, rate: RATE, seconds: SECONDS, next: &next };
        let before = cpu_time::of_threads(peer.id(), "plugin size");
        let window = steady.once().await?;
        let after = cpu_time::of_threads(peer.id(), "plugin size");
        let spent = after.iter().map(|(thread, time)| time - before.get(thread).copied().unwrap_or(0.0));
        self.threads = after.len();
        self.busiest.push(spent.fold(0.0, f64::max) * 1e6 / window.received as f64);
        self.windows.push(window);
        Ok(())
    }

    fn busiest(&self) -> f64 {
        median(self.busiest.clone())
    }

    fn each(&self) -> f64 {
        median(self.windows.iter().map(|window| window.each).collect())
    }

    fn wrong(&self) -> u64 {
        self.windows.iter().map(|window| window.wrong).sum()
    }
}

pub async fn measure() -> io::Result<Section> {
    let mut runs = [Run::new(1), Run::new(2)];
    for _ in 0..ROUNDS {
        for run in &mut runs {
            run.round().await?;
        }
    }
    let one = runs[0].busiest();
    let row = |run: &Run| {
        vec![
            run.instances.to_string(),
            run.threads.to_string(),
            figure(run.each()),
            figure(run.busiest()),
            format!("{:.2}", one / run.busiest()),
            run.wrong().to_string(),
        ]
    };
    let figures = runs.iter().map(|run| {
        json!({
            "instances": run.instances, "threads": run.threads, "cpu_us_a_delivery": rounded(run.each()),
            "busiest_thread_us_a_delivery": rounded(run.busiest()), "ratio": rounded(one / run.busiest()),
            "wrong": run.wrong(),
        })
    });
    Ok(Section {
        name: "cores",
        title: "One plugin on several cores",
        how: format!(
            "{} rooms of {} members with filters, governed by a plugin, with {} messages a second. The node may use all cores, \
             which it shares with the clients, so it cannot be driven to its limit here. That limit is reached when \
             the busiest thread of the plugin has a whole core; the ratio says how many times as many deliveries that \
             takes as with one instance.",
            figure(ROOMS as f64),
            MEMBERS * ROOMS_EACH / ROOMS,
            figure(RATE)
        ),
        columns: vec![
            "budget.instances",
            "threads",
            "node, CPU µs a delivery",
            "busiest thread, CPU µs a delivery",
            "deliveries to one instance",
            "lost, repeated, out of order",
        ],
        rows: runs.iter().map(row).collect(),
        remarks: vec![],
        figures: figures.collect(),
        wrong: runs.iter().map(Run::wrong).sum(),
    })
}
