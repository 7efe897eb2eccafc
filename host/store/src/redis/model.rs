//! A model of sessions in the store: nodes run as they are, with the real scripts in Lua 5.1 and a Redis in memory, while a schedule decides what
//! becomes of each command and its answer, what clients do, which nodes die, and how time goes by. After each step it looks whether only who holds
//! a session writes it, and whether what was told is what is held; in the calm after a schedule, whether everything is as it must be.
//! docs/nodes.md says who owns a session at each moment.

mod calm;
mod client;
mod delivery;
mod dice;
mod engine;
mod every;
mod found;
mod hear;
mod look;
mod mutations;
mod play;
mod server;
mod step;
mod stories;
mod story;
mod watch;
mod wire;
mod world;

pub(crate) use dice::draw;
pub(crate) use wire::Wire;

use dice::Dice;
use engine::Engine;
use std::{
    panic,
    rc::Rc,
    sync::atomic::{AtomicUsize, Ordering},
};
use step::{Kind, Step};
use world::World;

/// Steps that nothing came of are counted from the first.
struct Played {
    wrong: Option<String>,
    idle: Option<usize>,
    story: Vec<String>,
}

/// Plays a schedule from the beginning.
fn play(engine: &Rc<Engine>, schedule: &[Step], tells: bool) -> Played {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    // All that can run runs before the model goes on.
    runtime.enable_time().start_paused(true).event_interval(1_000_000);
    runtime.build().expect("a runtime").block_on(async {
        let clustered = schedule.len() % 2 == 1;
        let mut world = World::new(engine, clustered, tells).await;
        let mut idle = None;
        for (n, step) in schedule.iter().enumerate() {
            if !world.step(*step).await {
                idle = idle.or(Some(n));
            }
            if world.wrong.is_some() {
                break;
            }
        }
        if world.wrong.is_none() {
            world.calm_down().await;
        }
        if world.wrong.is_none() && schedule.len().is_multiple_of(4) {
            world.empty().await;
        }
        Played { wrong: world.wrong.take(), idle, story: world.story.take().unwrap_or_default() }
    })
}

/// Leaves out what is not needed for something to go wrong.
fn shrink(engine: &Rc<Engine>, mut schedule: Vec<Step>) -> Vec<Step> {
    let mut size = schedule.len() / 2;
    while size > 0 {
        let mut from = 0;
        while from < schedule.len() {
            let mut shorter = schedule.clone();
            shorter.drain(from..(from + size).min(schedule.len()));
            match play(engine, &shorter, false).wrong {
                Some(_) => schedule = shorter,
                None => from += size,
            }
        }
        size /= 2;
    }
    schedule
}

/// The first of these seeds whose schedule goes wrong.
fn search(engine: &Rc<Engine>, seeds: impl IntoIterator<Item = u64>, kind: Kind) -> Option<(u64, Vec<Step>)> {
    seeds.into_iter().find_map(|seed| {
        let schedule = Step::schedule(&mut Dice(seed), kind);
        play(engine, &schedule, false).wrong.map(|_| (seed, schedule))
    })
}

/// Fails with all that happened, if something goes wrong.
fn report(engine: &Rc<Engine>, found: Option<(u64, Vec<Step>)>) {
    let Some((seed, schedule)) = found else { return };
    let short = shrink(engine, schedule);
    let Played { wrong, story, .. } = play(engine, &short, true);
    panic!("seed {seed}: {}\n{short:?}\n{}", wrong.unwrap_or_default(), story.join("\n"));
}

/// Plays schedules of these seeds on all cores.
fn play_random(seeds: std::ops::Range<u64>, kind: Kind) {
    let (next, cores) = (AtomicUsize::new(0), std::thread::available_parallelism().map_or(1, usize::from));
    std::thread::scope(|threads| {
        let threads: Vec<_> = (0..cores)
            .map(|_| {
                threads.spawn(|| {
                    let engine = Rc::new(Engine::new(&[]));
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

/// How many, where nobody says another number in `SWITCHYARD_MODEL_SCHEDULES`.
const SCHEDULES: u64 = 1500;

fn schedules() -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|count| count.parse().ok());
    let from = number("SWITCHYARD_MODEL_FROM").unwrap_or(0);
    from..from + number("SWITCHYARD_MODEL_SCHEDULES").unwrap_or(SCHEDULES)
}

#[test]
fn only_the_holder_writes_and_what_was_told_is_held() {
    play_random(schedules(), Kind::Kept);
}

#[test]
fn a_clock_that_is_set_ends_and_prolongs_nothing() {
    play_random(schedules(), Kind::Stepped);
}

#[test]
fn a_redis_that_loses_data_costs_nothing_that_lives() {
    play_random(schedules(), Kind::Lost);
}
