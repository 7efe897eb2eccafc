//! A model test of sessions in Redis. Several nodes run unchanged, with the real scripts in Lua 5.1, against
//! a Redis in memory.
//!
//! A schedule of steps decides what happens to each command and its answer, what clients do, which nodes die,
//! and how time passes. After each step, the model checks that only the holder of a session writes it, and
//! that Redis has what clients were told. After the schedule, it waits until everything has settled and
//! checks the state as a whole. docs/nodes.md says who owns a session at each moment.
//!
//! Schedules are random (`only_the_holder_writes…` below), all short ones (`exhaustive`), or written by hand
//! (`scenarios`, `regressions`). `mutations` checks that the model notices when a part of a script is left
//! out.

mod checker;
mod client;
mod delivery;
mod execution;
mod exhaustive;
mod fake_redis;
mod invariants;
mod model_event;
mod mutations;
mod network;
mod quiescence;
mod regressions;
mod rng;
mod scenario;
mod scenarios;
mod script_engine;
mod step;
mod world;

pub(crate) use network::NetworkEnd;
pub(crate) use rng::fill_random;

use rng::Rng;
use script_engine::ScriptEngine;
use std::{
    panic,
    rc::Rc,
    sync::atomic::{AtomicUsize, Ordering},
};
use step::{Faults, ModelStep};
use world::World;

/// What came of a schedule.
struct Playback {
    failure: Option<String>,
    first_idle_step: Option<usize>,
    trace: Vec<String>,
}

/// Runs a schedule from the beginning, and records a trace if it is `traced`.
fn play(engine: &Rc<ScriptEngine>, schedule: &[ModelStep], traced: bool) -> Playback {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    // Every task that can run does so before the model continues.
    runtime.enable_time().start_paused(true).event_interval(1_000_000);
    runtime.build().expect("a runtime").block_on(async {
        let clustered = schedule.len() % 2 == 1;
        let mut world = World::new(engine, clustered, traced).await;
        let mut idle = None;
        for (n, step) in schedule.iter().enumerate() {
            if !world.step(*step).await {
                idle = idle.or(Some(n));
            }
            if world.failure.is_some() {
                break;
            }
        }
        if world.failure.is_none() {
            world.quiesce().await;
        }
        if world.failure.is_none() && schedule.len().is_multiple_of(4) {
            world.end_all_sessions().await;
        }
        Playback {
            failure: world.failure.take(),
            first_idle_step: idle,
            trace: world.trace_lines.take().unwrap_or_default(),
        }
    })
}

/// Removes the steps that are not needed for the failure.
fn shrink(engine: &Rc<ScriptEngine>, mut schedule: Vec<ModelStep>) -> Vec<ModelStep> {
    let mut size = schedule.len() / 2;
    while size > 0 {
        let mut from = 0;
        while from < schedule.len() {
            let mut shorter = schedule.clone();
            shorter.drain(from..(from + size).min(schedule.len()));
            match play(engine, &shorter, false).failure {
                Some(_) => schedule = shorter,
                None => from += size,
            }
        }
        size /= 2;
    }
    schedule
}

/// The first of these seeds whose schedule fails, and that schedule.
fn search(
    engine: &Rc<ScriptEngine>,
    seeds: impl IntoIterator<Item = u64>,
    kind: Faults,
) -> Option<(u64, Vec<ModelStep>)> {
    seeds.into_iter().find_map(|seed| {
        let schedule = ModelStep::schedule(&mut Rng(seed), kind);
        play(engine, &schedule, false).failure.map(|_| (seed, schedule))
    })
}

/// Panics with the trace of a failed schedule.
fn report(engine: &Rc<ScriptEngine>, found: Option<(u64, Vec<ModelStep>)>) {
    let Some((seed, schedule)) = found else { return };
    let short = shrink(engine, schedule);
    let Playback { failure, trace, .. } = play(engine, &short, true);
    panic!("seed {seed}: {}\n{short:?}\n{}", failure.unwrap_or_default(), trace.join("\n"));
}

/// Runs the schedules of these seeds on all cores.
fn play_random(seeds: std::ops::Range<u64>, kind: Faults) {
    let (next, cores) = (AtomicUsize::new(0), std::thread::available_parallelism().map_or(1, usize::from));
    std::thread::scope(|threads| {
        let threads: Vec<_> = (0..cores)
            .map(|_| {
                threads.spawn(|| {
                    let engine = Rc::new(ScriptEngine::new(&[]));
                    let mine = std::iter::from_fn(|| {
                        let seed = seeds.start + next.fetch_add(1, Ordering::Relaxed) as u64;
                        (seed < seeds.end).then_some(seed)
                    });
                    report(&engine, search(&engine, mine, kind));
                })
            })
            .collect();
        for thread in threads {
            if let Err(why) = thread.join() {
                panic::resume_unwind(why);
            }
        }
    });
}

/// How many random schedules to run, unless `SWITCHYARD_MODEL_SCHEDULES` says otherwise.
const DEFAULT_SCHEDULES: u64 = 1500;

fn schedules() -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|count| count.parse().ok());
    let from = number("SWITCHYARD_MODEL_FROM").unwrap_or(0);
    from..from + number("SWITCHYARD_MODEL_SCHEDULES").unwrap_or(DEFAULT_SCHEDULES)
}

#[test]
fn only_the_holder_writes_and_clients_are_told_the_truth() {
    play_random(schedules(), Faults::None);
}

#[test]
fn setting_the_clock_of_redis_neither_ends_nor_prolongs_anything() {
    play_random(schedules(), Faults::ClockSteps);
}

#[test]
fn live_sessions_survive_a_redis_that_loses_data() {
    play_random(schedules(), Faults::DataLoss);
}
