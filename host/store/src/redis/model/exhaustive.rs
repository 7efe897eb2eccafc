//! Runs all short schedules of some steps, after a client has connected. Schedules that only differ after a
//! step without an effect are skipped.

use super::{
    play, report,
    script_engine::ScriptEngine,
    step::ModelStep::{self, *},
};
use std::rc::Rc;

/// A client moves between nodes and changes its rooms, while commands are late or lost.
const MOVING_CLIENT: [ModelStep; 9] = [
    Connect { client: 0, node: 1, replaces: false, unread: false },
    Connect { client: 0, node: 0, replaces: true, unread: false },
    Leave { client: 0, room: 0 },
    Join { client: 0, room: 1, filter: 1 },
    Deliver(0),
    Deliver(1),
    LoseAnswer(0),
    GiveUp(0),
    DeliverLate(0),
];

/// A node dies, or is considered dead, in the middle of a change.
const DYING_NODE: [ModelStep; 9] = [
    Join { client: 0, room: 1, filter: 1 },
    Leave { client: 0, room: 0 },
    Connect { client: 0, node: 1, replaces: false, unread: false },
    Deliver(0),
    GiveUp(0),
    DeliverLate(0),
    Isolate { node: 0 },
    Kill { node: 0 },
    RunLeasesOnly(12_000),
];

/// A session ends.
const ENDING_SESSION: [ModelStep; 8] = [
    EndSession { client: 0 },
    Disconnect { client: 0 },
    Connect { client: 0, node: 1, replaces: false, unread: false },
    Deliver(0),
    LoseAnswer(0),
    GiveUp(0),
    DeliverLate(0),
    Run(23_000),
];

/// How many steps a schedule has, unless `SWITCHYARD_MODEL_LENGTH` says otherwise.
const DEFAULT_LENGTH: usize = 4;

/// Runs all schedules of these steps, and returns how many.
fn run_all(steps: &[ModelStep]) -> usize {
    let engine = Rc::new(ScriptEngine::new(&[]));
    let begin = [Connect { client: 0, node: 0, replaces: true, unread: false }, DeliverAll];
    let length = std::env::var("SWITCHYARD_MODEL_LENGTH")
        .ok()
        .and_then(|length| length.parse().ok())
        .unwrap_or(DEFAULT_LENGTH);
    let (mut digits, mut played) = (vec![0; length], 0);
    loop {
        let schedule: Vec<ModelStep> =
            begin.into_iter().chain(digits.iter().map(|digit| steps[*digit])).collect();
        let outcome = play(&engine, &schedule, false);
        played += 1;
        if outcome.failure.is_some() {
            report(&engine, Some((0, schedule)));
        }
        // The next schedule differs in the first step that had no effect, or before it.
        let mut at = outcome.first_idle_step.map_or(length - 1, |idle| idle - begin.len());
        digits[at + 1..].fill(0);
        loop {
            digits[at] += 1;
            if digits[at] < steps.len() {
                break;
            }
            digits[at] = 0;
            match at.checked_sub(1) {
                Some(before) => at = before,
                None => return played,
            }
        }
    }
}

#[test]
fn all_short_schedules_pass() {
    std::thread::scope(|threads| {
        let kinds = [&MOVING_CLIENT[..], &DYING_NODE, &ENDING_SESSION];
        let searches: Vec<_> = kinds.into_iter().map(|steps| threads.spawn(move || run_all(steps))).collect();
        let played: Vec<_> = searches.into_iter().map(|search| search.join()).collect();
        assert!(played.into_iter().all(|played| played.is_ok_and(|count| count > 700)));
    });
}
