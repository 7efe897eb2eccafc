//! The model can fail: with a piece of a script left out, its schedules find something wrong.

use super::{
    engine::{Engine, Patch},
    search,
    step::Kind,
};
use std::rc::Rc;

/// Seeds in which it must be found.
const SEEDS: u64 = 2500;

type Mutation = (&'static str, &'static [Patch]);

const NEVER: &str = "false";

/// With a clock that stays right.
const MUTATIONS: [Mutation; 12] = [
    ("members without fences", &[("enrol", "elseif older then", "elseif false then")]),
    (
        "members fenced by generation only",
        &[(
            "enrol",
            "or (newest == gen and (w > number or (w == number and removed ~= '' and not goes)))",
            "",
        )],
    ),
    (
        "amend without a generation",
        &[
            ("amend", "tonumber(record[1]) > tonumber(ARGV[2])", NEVER),
            ("amend", "record[1] ~= ARGV[2] or record[3] ~= ARGV[1] or record[4] or", ""),
        ],
    ),
    ("amend without a number", &[("amend", "or tonumber(record[2]) >= tonumber(ARGV[3])", "")]),
    ("take without a deadline", &[("take", "late(ARGV[4], time)", NEVER)]),
    ("take without an order", &[("take", "asked > exact or (asked < taken and taken <= exact)", NEVER)]),
    ("take of what is over", &[("take", "or (record[5] and tonumber(record[5]) <= tonumber(ARGV[6]))", "")]),
    ("claim without a deadline", &[("claim", "late(ARGV[3], time)", NEVER)]),
    ("put without a generation", &[("put", "record[1] and tonumber(record[1]) > tonumber(ARGV[3])", NEVER)]),
    (
        "put without a number",
        &[("put", "record[1] == ARGV[3] and tonumber(record[2]) >= tonumber(ARGV[4])", NEVER)],
    ),
    ("put that keeps rooms", &[("put", "replace(KEYS[1], 8, { 'ok', int(time) })", "{ 'ok', int(time) }")]),
    ("let go by anybody", &[("letgo", "(ARGV[1] ~= '' and record[3] ~= ARGV[1]) or", "")]),
];

/// With a clock that is set now and then: what was by Redis' clock once.
const BY_CLOCK: [Mutation; 4] = [
    ("leases by Redis' clock", &[("tick", "if time == 0 then", "if true then")]),
    ("sessions that end by Redis' clock", &[("letgo", "int(ARGV[3] + ARGV[4])", "int(time + ARGV[4])")]),
    ("sessions that are over by Redis' clock", &[("take", "<= tonumber(ARGV[6])", "<= time")]),
    ("claims of before a clock was set back", &[("claim", "or left > 5000", "")]),
];

#[test]
fn each_piece_of_the_protocol_is_needed() {
    is_each_needed(&MUTATIONS, Kind::Kept);
}

#[test]
fn nothing_may_go_by_redis_clock() {
    is_each_needed(&BY_CLOCK, Kind::Stepped);
}

fn is_each_needed(mutations: &'static [Mutation], kind: Kind) {
    let missed: Vec<_> = std::thread::scope(|threads| {
        let halves = mutations.chunks(mutations.len().div_ceil(2));
        let searches: Vec<_> = halves.map(|some| threads.spawn(move || missed(some, kind))).collect();
        searches.into_iter().flat_map(|search| search.join().expect("no panic")).collect()
    });
    assert!(missed.is_empty(), "nothing is wrong with: {missed:?}");
}

fn missed(mutations: &'static [Mutation], kind: Kind) -> Vec<&'static str> {
    let is_missed = |(_, patches): &&Mutation| {
        let engine = Rc::new(Engine::new(patches));
        let found = search(&engine, 0..SEEDS, kind);
        found.is_none()
    };
    mutations.iter().filter(is_missed).map(|(name, _)| *name).collect()
}
