//! The model can fail: with a piece of a script left out, its schedules find something wrong.

use super::{
    engine::{Engine, Patch},
    search,
    step::Kind,
};
use std::rc::Rc;

/// Seeds in which it must be found.
const SEEDS: u64 = 2500;

const NEVER: &str = "false";

const MUTATIONS: [(&str, &[Patch]); 12] = [
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
            ("amend", "tonumber(is[1]) > tonumber(ARGV[2])", NEVER),
            ("amend", "is[1] ~= ARGV[2] or is[3] ~= ARGV[1] or is[4] or", ""),
        ],
    ),
    ("amend without a number", &[("amend", "or tonumber(is[2]) >= tonumber(ARGV[3])", "")]),
    ("take without a deadline", &[("take", "time > tonumber(ARGV[4])", NEVER)]),
    ("take without an order", &[("take", "asked > exact or (asked < taken and taken <= exact)", NEVER)]),
    ("take of what is over", &[("take", "or (is[5] and tonumber(is[5]) <= time)", "")]),
    ("claim without a deadline", &[("claim", "time > tonumber(ARGV[3])", NEVER)]),
    ("put without a generation", &[("put", "is[1] and tonumber(is[1]) > tonumber(ARGV[3])", NEVER)]),
    ("put without a number", &[("put", "is[1] == ARGV[3] and tonumber(is[2]) >= tonumber(ARGV[4])", NEVER)]),
    ("put that keeps rooms", &[("put", "replace(KEYS[1], 8, { 'ok', int(time) })", "{ 'ok', int(time) }")]),
    ("let go by anybody", &[("letgo", "(ARGV[1] ~= '' and is[3] ~= ARGV[1]) or", "")]),
];

#[test]
fn each_piece_of_the_protocol_is_needed() {
    let missed: Vec<_> = std::thread::scope(|threads| {
        let half = MUTATIONS.len().div_ceil(2);
        let searches: Vec<_> = MUTATIONS.chunks(half).map(|some| threads.spawn(|| missed(some))).collect();
        searches.into_iter().flat_map(|search| search.join().expect("no panic")).collect()
    });
    assert!(missed.is_empty(), "nothing is wrong with: {missed:?}");
}

fn missed(mutations: &'static [(&str, &[Patch])]) -> Vec<&'static str> {
    let is_missed = |(_, patches): &&(&str, &[Patch])| {
        let engine = Rc::new(Engine::new(patches));
        let found = search(&engine, 0..SEEDS, Kind::Kept);
        found.is_none()
    };
    mutations.iter().filter(is_missed).map(|(name, _)| *name).collect()
}
