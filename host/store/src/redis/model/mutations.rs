//! Checks that the model can fail: if a piece of a script is left out, some schedule finds a failure.

use super::{
    script_engine::{Patch, ScriptEngine},
    search,
    step::Faults,
};
use std::rc::Rc;

/// How many seeds are tried.
const MAX_SEEDS: u64 = 2500;

type Mutation = (&'static str, &'static [Patch]);

const FALSE: &str = "false";

/// Mutations that are found while the clock of Redis is right.
const MUTATIONS: [Mutation; 12] = [
    ("members without fences", &[("write_members", "elseif older then", "elseif false then")]),
    (
        "members fenced by generation only",
        &[(
            "write_members",
            "or (newest == gen and (w > number or (w == number and removed ~= '' and not goes)))",
            "",
        )],
    ),
    (
        "an update without a generation",
        &[
            ("update_session", "tonumber(record[1]) > tonumber(ARGV[2])", FALSE),
            ("update_session", "record[1] ~= ARGV[2] or record[3] ~= ARGV[1] or record[4] or", ""),
        ],
    ),
    ("an update without a number", &[("update_session", "or tonumber(record[2]) >= tonumber(ARGV[3])", "")]),
    ("a resume without a deadline", &[("resume_session", "late(ARGV[4], time)", FALSE)]),
    (
        "a resume without an order",
        &[("resume_session", "asked > exact or (asked < taken and taken <= exact)", FALSE)],
    ),
    (
        "a resume of an ended session",
        &[("resume_session", "or (record[5] and tonumber(record[5]) <= tonumber(ARGV[6]))", "")],
    ),
    ("a creation without a deadline", &[("create_session", "late(ARGV[3], time)", FALSE)]),
    (
        "a replacement without a generation",
        &[("replace_session", "record[1] and tonumber(record[1]) > tonumber(ARGV[3])", FALSE)],
    ),
    (
        "a replacement without a number",
        &[("replace_session", "record[1] == ARGV[3] and tonumber(record[2]) >= tonumber(ARGV[4])", FALSE)],
    ),
    (
        "a replacement that keeps rooms",
        &[("replace_session", "replace(KEYS[1], 8, { 'ok', int(time) })", "{ 'ok', int(time) }")],
    ),
    ("a release by anybody", &[("release_session", "(ARGV[1] ~= '' and record[3] ~= ARGV[1]) or", "")]),
];

/// Mutations that are found when the clock of Redis is set: what once used that clock.
const CLOCK_MUTATIONS: [Mutation; 4] = [
    ("leases by the clock of Redis", &[("renew_lease", "if time == 0 then", "if true then")]),
    (
        "ends of sessions by the clock of Redis",
        &[("release_session", "int(ARGV[3] + ARGV[4])", "int(time + ARGV[4])")],
    ),
    ("ended sessions by the clock of Redis", &[("resume_session", "<= tonumber(ARGV[6])", "<= time")]),
    ("creations from before the clock was set back", &[("create_session", "or left > 5000", "")]),
];

#[test]
fn each_part_of_the_protocol_is_needed() {
    is_each_needed(&MUTATIONS, Faults::None);
}

#[test]
fn the_clock_of_redis_must_not_be_used() {
    is_each_needed(&CLOCK_MUTATIONS, Faults::ClockSteps);
}

fn is_each_needed(mutations: &'static [Mutation], kind: Faults) {
    let missed: Vec<_> = std::thread::scope(|threads| {
        let halves = mutations.chunks(mutations.len().div_ceil(2));
        let searches: Vec<_> = halves.map(|some| threads.spawn(move || missed(some, kind))).collect();
        searches.into_iter().flat_map(|search| search.join().expect("no panic")).collect()
    });
    assert!(missed.is_empty(), "no schedule fails with: {missed:?}");
}

fn missed(mutations: &'static [Mutation], kind: Faults) -> Vec<&'static str> {
    let is_missed = |(_, patches): &&Mutation| {
        let engine = Rc::new(ScriptEngine::new(patches));
        let found = search(&engine, 0..MAX_SEEDS, kind);
        found.is_none()
    };
    mutations.iter().filter(is_missed).map(|(name, _)| *name).collect()
}
