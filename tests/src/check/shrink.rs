//! Searches for a shorter schedule that breaks the same rule. Processes are not deterministic, so it may find
//! none.

use super::{run, schedule::Options, step::Step};
use std::time::{Duration, Instant};

/// Leaves out parts of the schedule, halves first, for at most `bound`.
pub async fn shrink(
    seed: u64,
    steps: Vec<Step>,
    options: &Options,
    rule: &'static str,
    bound: Duration,
) -> Vec<Step> {
    let (end, mut steps, mut parts) = (Instant::now() + bound, steps, 2);
    while parts <= steps.len() && Instant::now() < end {
        let size = steps.len().div_ceil(parts);
        let mut found = None;
        for part in 0..parts {
            if Instant::now() > end {
                break;
            }
            let (from, to) = (part * size, ((part + 1) * size).min(steps.len()));
            let shorter: Vec<_> = [&steps[..from.min(to)], &steps[to..]].concat();
            if run(seed, &shorter, options).await.rules().contains(rule) {
                found = Some(shorter);
                break;
            }
        }
        match found {
            Some(shorter) => steps = shorter,
            None => parts *= 2,
        }
    }
    steps
}
