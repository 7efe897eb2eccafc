//! Every short schedule of some steps, after a client has connected. A step that nothing comes of is not followed up.

use super::{
    engine::Engine,
    play, report,
    step::Step::{self, *},
};
use std::rc::Rc;

/// A client that moves and changes its rooms while commands are late or lost.
const MOVES: [Step; 9] = [
    Open { client: 0, node: 1, clean: false, waits: false },
    Open { client: 0, node: 0, clean: true, waits: false },
    Leave { client: 0, room: 0 },
    Join { client: 0, room: 1, filter: 1 },
    Deliver(0),
    Deliver(1),
    Unanswered(0),
    Cut(0),
    Late(0),
];

/// A node that is taken for dead, or dies, in the middle of a change.
const DIES: [Step; 9] = [
    Join { client: 0, room: 1, filter: 1 },
    Leave { client: 0, room: 0 },
    Open { client: 0, node: 1, clean: false, waits: false },
    Deliver(0),
    Cut(0),
    Late(0),
    Isolate { node: 0 },
    Kill { node: 0 },
    Pass(12_000),
];

/// A session that ends.
const ENDS: [Step; 8] = [
    End { client: 0 },
    Hang { client: 0 },
    Open { client: 0, node: 1, clean: false, waits: false },
    Deliver(0),
    Unanswered(0),
    Cut(0),
    Late(0),
    Live(23_000),
];

/// How many steps, where nobody says another number in `SWITCHYARD_MODEL_LENGTH`.
const LENGTH: usize = 4;

fn every(steps: &[Step]) -> usize {
    let engine = Rc::new(Engine::new(&[]));
    let begin = [Open { client: 0, node: 0, clean: true, waits: false }, Flow];
    let length = std::env::var("SWITCHYARD_MODEL_LENGTH")
        .ok()
        .and_then(|length| length.parse().ok())
        .unwrap_or(LENGTH);
    let (mut digits, mut played) = (vec![0; length], 0);
    loop {
        let schedule: Vec<Step> = begin.into_iter().chain(digits.iter().map(|digit| steps[*digit])).collect();
        let outcome = play(&engine, &schedule, false);
        played += 1;
        if outcome.wrong.is_some() {
            report(&engine, Some((0, schedule)));
        }
        // The next one, which differs in the step that came to nothing at the latest.
        let mut at = outcome.idle.map_or(length - 1, |idle| idle - begin.len());
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
fn every_short_schedule_keeps_its_promises() {
    std::thread::scope(|threads| {
        let kinds = [&MOVES[..], &DIES, &ENDS];
        let searches: Vec<_> = kinds.into_iter().map(|steps| threads.spawn(move || every(steps))).collect();
        let played: Vec<_> = searches.into_iter().map(|search| search.join()).collect();
        assert!(played.into_iter().all(|played| played.is_ok_and(|count| count > 700)));
    });
}
