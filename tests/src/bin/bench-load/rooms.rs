//! Many rooms: the cost of a delivery when each message has few receivers, and when there are more and more
//! rooms.

use crate::{
    crowd::Crowd,
    filters,
    load::{Steady, Window},
    peer::Peer,
};
use serde_json::json;
use std::{cell::Cell, io};
use switchyard_tests::report::{Section, figure, rounded};

const SECONDS: f64 = 1.5;
const MEMBERS: usize = 10;

/// How members, and messages, are distributed over the rooms.
#[derive(Clone, Copy, PartialEq)]
enum Choice {
    Uniform,
    /// The n-th room has 1/n as many members as the first; messages are distributed evenly.
    Zipf,
    /// Each room has the same number of members.
    Even,
    /// The same, and a plugin governs the rooms.
    Governed,
}

/// Rooms, members, rooms per member, messages per second.
const LOADS: [(Choice, usize, usize, usize, f64); 8] = [
    (Choice::Uniform, 1000, 1000, 10, 500.0),
    (Choice::Uniform, 1000, 1000, 10, 2000.0),
    (Choice::Uniform, 1000, 1000, 10, 5000.0),
    (Choice::Zipf, 1000, 1000, 10, 2000.0),
    (Choice::Even, 10, 100, 1, 2000.0),
    (Choice::Even, 1000, 1000, 10, 2000.0),
    (Choice::Even, 100_000, 5000, 200, 2000.0),
    (Choice::Governed, 1000, 1000, 10, 2000.0),
];

struct Pair {
    name: String,
    rate: f64,
    node: Window,
    floor: Window,
}

/// Pseudo-random numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize * sides) >> 31
    }

    fn chance(&mut self) -> f64 {
        self.roll(1 << 30) as f64 / (1u64 << 30) as f64
    }
}

/// The rooms that a plugin governs.
pub const GOVERNED: &str = "pool:*";

pub fn name_of(room: usize) -> String {
    format!("pool:{room}")
}

/// Chooses one of so many rooms at random, in the same sequence in every run.
pub fn random_rooms(rooms: usize) -> impl Fn() -> usize {
    let dice = Cell::new(11);
    move || {
        let mut rolling = Dice(dice.get());
        let room = rolling.roll(rooms);
        dice.set(rolling.0);
        room
    }
}

/// The rooms of each member, without duplicates.
fn memberships(choice: Choice, rooms: usize, members: usize, each: usize) -> Vec<Vec<usize>> {
    let mut dice = Dice(7);
    let weights: Vec<f64> = (1..=rooms)
        .scan(0.0, |sum, n| {
            *sum += 1.0 / n as f64;
            Some(*sum)
        })
        .collect();
    let total = weights[rooms - 1];
    let of = |member: usize| {
        let mut held: Vec<usize> = vec![];
        while held.len() < each {
            let room = match choice {
                Choice::Even | Choice::Governed => (member * each + held.len()) % rooms,
                Choice::Uniform => dice.roll(rooms),
                Choice::Zipf => {
                    let at = dice.chance() * total;
                    weights.partition_point(|sum| *sum < at).min(rooms - 1)
                }
            };
            if !held.contains(&room) {
                held.push(room);
            }
        }
        held
    };
    (0..members).map(of).collect()
}

impl Pair {
    async fn measure(
        choice: Choice,
        rooms: usize,
        members: usize,
        each: usize,
        rate: f64,
    ) -> io::Result<Self> {
        let held = memberships(choice, rooms, members, each);
        let mut sizes = vec![0; rooms];
        held.iter().flatten().for_each(|room| sizes[*room] += 1);
        let named: Vec<Vec<String>> =
            held.iter().map(|rooms| rooms.iter().map(|n| name_of(*n)).collect()).collect();
        let (named, sizes) = (&named, &sizes);
        let plugin = if choice == Choice::Governed { filters::table(GOVERNED) } else { String::new() };
        let [node, floor] = [Peer::node(&plugin).await, Peer::floor(None).await].map(|peer| async move {
            let crowd = Crowd::gather(&peer, members, |n| (named[n].clone(), None)).await;
            let random = random_rooms(rooms);
            let next = |_| {
                let room = random();
                (name_of(room), sizes[room])
            };
            Steady { peer: &peer, crowd: &crowd, rate, seconds: SECONDS, next: &next }.measure().await
        });
        let name = match choice {
            Choice::Uniform => format!(
                "{} members in {each} of {} rooms, uniform",
                figure(members as f64),
                figure(rooms as f64)
            ),
            Choice::Zipf => format!(
                "{} members in {each} of {} rooms, Zipf",
                figure(members as f64),
                figure(rooms as f64)
            ),
            Choice::Governed => format!("{} rooms of {MEMBERS} in a plugin", figure(rooms as f64)),
            Choice::Even => format!("{} rooms of {MEMBERS}", figure(rooms as f64).trim_end_matches(".0")),
        };
        Ok(Self { name, rate, node: node.await?, floor: floor.await? })
    }
}

pub async fn measure() -> io::Result<Section> {
    let mut pairs = vec![];
    for (choice, rooms, members, each, rate) in LOADS {
        pairs.push(Pair::measure(choice, rooms, members, each, rate).await?);
    }
    let row = |pair: &Pair| {
        vec![
            pair.name.clone(),
            figure(pair.rate),
            figure(pair.node.deliveries()),
            figure(pair.node.each),
            figure(pair.floor.each),
            figure(pair.node.each / pair.floor.each),
            figure(pair.node.p50),
            figure(pair.floor.p50),
            figure(pair.node.p99),
            figure(pair.floor.p99),
            (pair.node.wrong + pair.floor.wrong).to_string(),
        ]
    };
    let figures = pairs.iter().map(|pair| {
        json!({
            "what": pair.name, "messages_a_second": pair.rate, "node": pair.node.figures(), "floor": pair.floor.figures(),
            "ratio": rounded(pair.node.each / pair.floor.each),
        })
    });
    Ok(Section {
        name: "rooms",
        title: "Many rooms",
        how: "Each message goes to a room chosen at random, in the same sequence for node and floor. The cost of \
              a publish is included in the cost of its few deliveries."
            .to_owned(),
        columns: vec![
            "",
            "messages a second",
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
    })
}
