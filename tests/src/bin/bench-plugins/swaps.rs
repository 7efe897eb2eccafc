//! Replaces a plugin repeatedly under load, and compares with the same load on a single version.

use crate::{
    governed::{node, stamp},
    steady::{Phase, Steady},
    wakeups::Punctual,
};
use serde_json::{Value, json};
use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};
use switchyard_tests::{
    Answer, KEY, Node, cpu_time, guest,
    report::{Section, figure, percentiles, rounded},
};
use tokio::time::{MissedTickBehavior, interval};

const MEMBERS: usize = 500;
/// Each goes to half of the members.
const MESSAGE_INTERVAL: Duration = Duration::from_millis(50);
const MESSAGES: usize = 200;
const ROUNDS: usize = 4;
/// A little more than a thousand in all rounds together.
const SWAP_INTERVAL: Duration = Duration::from_millis(38);

/// How another version is activated.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    None,
    /// By uploading one of two files, which are compiled already.
    Kept,
    /// By uploading a new file, which the node has to compile.
    New,
}

struct Run {
    way: Way,
    name: &'static str,
    load: Phase,
    swaps: Vec<Duration>,
    refused: u64,
    seconds: f64,
    cpu: f64,
    /// How late this process was woken meanwhile.
    late: Vec<Duration>,
}

pub async fn measure() -> Section {
    let mut node = node(&[stamp("governed")]).await;
    let versions = versions();
    let mut load = Steady::open(&node, "governed", MEMBERS, true).await;
    // Compiles both versions. The first messages warm up both sides and are not counted.
    let refused = u64::from(!swap(&node, &versions[1]).await);
    load.publish(MESSAGE_INTERVAL, MESSAGES / 10).await;
    let mut runs = [
        Run::new(Way::None, "none"),
        Run::new(Way::Kept, "a file that is compiled already"),
        Run::new(Way::New, "a new file, one after the other"),
    ];
    for _ in 0..ROUNDS {
        runs[0].round(&node, &mut load, &versions).await;
        runs[1].round(&node, &mut load, &versions).await;
    }
    runs[2].round(&node, &mut load, &versions).await;
    node.process.kill().await;
    section(&runs, refused)
}

/// The two files. They differ in one byte, on which the plugin's verdicts depend.
fn versions() -> [Vec<u8>; 2] {
    let a = std::fs::read(guest("stamp")).expect("a guest");
    let places: Vec<usize> = (0..a.len()).filter(|at| a[*at..].starts_with(b"stamp=A")).collect();
    let [place] = places[..] else { panic!("the stamp is in the file at {places:?}") };
    let mut b = a.clone();
    b[place + 6] = b'B';
    [a, b]
}

/// Whether another version is active.
async fn swap(node: &Node, file: &[u8]) -> bool {
    let path = "/v1/plugins/stamp";
    let (status, body) = Answer::called(&node.process.admin, "PUT", path, Some(KEY), file).await;
    if status != 200 {
        eprintln!("bench-plugins: a swap was refused: {status} {body}");
    }
    status == 200
}

impl Run {
    fn new(way: Way, name: &'static str) -> Self {
        let load = Phase::default();
        Self { way, name, load, swaps: vec![], refused: 0, seconds: 0.0, cpu: 0.0, late: vec![] }
    }

    async fn round(&mut self, node: &Node, load: &mut Steady, versions: &[Vec<u8>; 2]) {
        let (began, before) = (Instant::now(), cpu_time::cpu(node.process.id()));
        let (is_over, clock) = (AtomicBool::new(false), Punctual::start());
        let loading = async {
            let phase = load.publish(MESSAGE_INTERVAL, MESSAGES).await;
            is_over.store(true, Relaxed);
            phase
        };
        let swapping = async {
            let mut pace = interval(SWAP_INTERVAL);
            pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
            while self.way != Way::None && !is_over.load(Relaxed) {
                // The last one that was uploaded is B, so A is next.
                let mut next = versions[self.swaps.len() % 2].clone();
                if self.way == Way::New {
                    // A custom section, which makes it a different file.
                    next.extend([0, 6, 1, b'n']);
                    next.extend((self.swaps.len() as u32).to_le_bytes());
                }
                let began = Instant::now();
                match swap(node, &next).await {
                    true => self.swaps.push(began.elapsed()),
                    false => self.refused += 1,
                }
                if self.way == Way::Kept {
                    pace.tick().await;
                }
            }
        };
        let (phase, ()) = tokio::join!(loading, swapping);
        self.load.add(phase);
        self.late.extend(clock.stop());
        self.seconds += began.elapsed().as_secs_f64();
        self.cpu += cpu_time::cpu(node.process.id()) - before;
    }

    /// p50 and p99 of the upload, in milliseconds.
    fn swap_times(&self) -> [f64; 2] {
        percentiles([0.50, 0.99], self.swaps.iter().copied()).map(|time| time / 1e3)
    }

    /// p99 of this process's own lateness, in microseconds.
    fn late(&self) -> f64 {
        percentiles([0.99], self.late.iter().copied())[0]
    }

    fn wrong(&self) -> u64 {
        self.load.tally.faults() + self.refused
    }

    fn row(&self, first: &Run) -> Vec<String> {
        let (tally, times, swaps) = (&self.load.tally, self.load.latency(), self.swap_times());
        let of_swaps = |value: f64| if self.swaps.is_empty() { "–".to_owned() } else { figure(value) };
        let ratios = [0, 1].map(|n| format!("{:.2}", times[n] / first.load.latency()[n]));
        let mut row = vec![self.name.to_owned(), self.swaps.len().to_string()];
        row.push(figure(self.load.deliveries as f64 / self.seconds));
        row.push(format!("{} / {}", tally.a, tally.b));
        let faults =
            [tally.lost, tally.repeated, tally.out_of_order, tally.wrong, tally.unexpected + self.refused];
        row.push(faults.map(|count| count.to_string()).join(" / "));
        row.extend(times.map(|time| figure(time / 1e3)));
        row.extend(ratios);
        row.extend(swaps.map(of_swaps));
        row.push(figure(self.cpu / self.seconds));
        row.push(figure(self.late() / 1e3));
        row
    }

    fn figures(&self, first: &Run) -> Value {
        let (tally, times, swaps) = (&self.load.tally, self.load.latency(), self.swap_times());
        json!({
            "swaps_by": self.name,
            "swaps": self.swaps.len(),
            "deliveries": self.load.deliveries,
            "deliveries_a_second": rounded(self.load.deliveries as f64 / self.seconds),
            "messages_by_a": tally.a, "messages_by_b": tally.b,
            "lost": tally.lost, "repeated": tally.repeated, "out_of_order": tally.out_of_order,
            "wrong_verdicts": tally.wrong, "errors": tally.unexpected, "swaps_refused": self.refused,
            "p50_us": rounded(times[0]), "p99_us": rounded(times[1]),
            "ratio_p50": rounded(times[0] / first.load.latency()[0]),
            "ratio_p99": rounded(times[1] / first.load.latency()[1]),
            "swap_p50_ms": rounded(swaps[0]), "swap_p99_ms": rounded(swaps[1]),
            "node_cores": rounded(self.cpu / self.seconds), "woken_late_p99_us": rounded(self.late()),
        })
    }
}

fn section(runs: &[Run; 3], refused: u64) -> Section {
    let first = &runs[0];
    Section {
        name: "swaps",
        title: "Changing a plugin under load",
        how: format!(
            "{} messages a second to a governed room of {MEMBERS} members, each with a filter of its own. Each \
             version of the plugin passes a message to another half of the members, so a message decided by two \
             versions would show. {ROUNDS} rounds of {} s, without and with swaps in turn, one swap every {} ms; \
             a swap compiles all {MEMBERS} filters on a new instance before it becomes active. The last row \
             uploads files that must be compiled. Times run from when a message was due until a member has it. A \
             sleeping thread of this process was woken late by the time in the last column.",
            1.0 / MESSAGE_INTERVAL.as_secs_f64(),
            (MESSAGE_INTERVAL * MESSAGES as u32).as_secs(),
            SWAP_INTERVAL.as_millis(),
        ),
        columns: vec![
            "swapped by",
            "swaps",
            "deliveries a second",
            "messages of A / of B",
            "lost / repeated / out of order / wrong verdicts / errors",
            "p50 ms",
            "p99 ms",
            "p50 to the first",
            "p99 to the first",
            "swap p50 ms",
            "swap p99 ms",
            "node, cores",
            "woken late, p99 ms",
        ],
        rows: runs.iter().map(|run| run.row(first)).collect(),
        remarks: vec![],
        figures: runs.iter().map(|run| run.figures(first)).collect(),
        wrong: runs.iter().map(Run::wrong).sum::<u64>() + refused,
    }
}
