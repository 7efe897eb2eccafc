//! Draws schedules from seeds, runs them, and reports which rules were broken. `cargo xtask help` describes
//! the options.

use futures_util::{StreamExt, stream};
use std::{
    collections::BTreeMap,
    process::ExitCode,
    time::{Duration, Instant},
};
use switchyard_tests::check::{Options, Outcome, draw, run, shrink};

const USAGE: &str = "\
Usage: check [--seeds A..B] [--for SECONDS] [--steps N] [--jobs N] [--no-faults] [--forget] [--restart] [--durable]
             [--print] [--shrink SECONDS]";
/// How many seconds to search for a shorter schedule for the first seed that fails, by default.
const DEFAULT_SHRINK_SECONDS: u64 = 0;

struct Arguments {
    seeds: std::ops::Range<u64>,
    bound: Option<Duration>,
    jobs: usize,
    shrink: Duration,
    print: bool,
    options: Options,
}

/// The error is the option that is unknown or has an invalid value.
fn parse_arguments() -> Result<Arguments, String> {
    let mut arguments = Arguments {
        seeds: 0..20,
        bound: None,
        jobs: 3,
        shrink: Duration::from_secs(DEFAULT_SHRINK_SECONDS),
        print: false,
        options: Options::default(),
    };
    let mut given = std::env::args().skip(1);
    while let Some(flag) = given.next() {
        parse_option(&mut arguments, &flag, &mut given).ok_or(flag)?;
    }
    Ok(arguments)
}

fn parse_option(
    arguments: &mut Arguments,
    flag: &str,
    given: &mut impl Iterator<Item = String>,
) -> Option<()> {
    match flag {
        "--no-faults" => arguments.options.faults = false,
        "--forget" => arguments.options.forget = true,
        "--restart" => arguments.options.restart = true,
        "--durable" => arguments.options.durable = true,
        "--print" => arguments.print = true,
        "--seeds" => {
            let seeds = given.next()?;
            let (from, to) = seeds.split_once("..")?;
            arguments.seeds = from.parse().ok()?..to.parse().ok()?;
        }
        "--for" => arguments.bound = Some(Duration::from_secs(given.next()?.parse().ok()?)),
        "--steps" => arguments.options.steps = given.next()?.parse().ok()?,
        "--jobs" => arguments.jobs = given.next()?.parse().ok()?,
        "--shrink" => arguments.shrink = Duration::from_secs(given.next()?.parse().ok()?),
        _ => return None,
    }
    Some(())
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match parse_arguments() {
        Ok(arguments) => arguments,
        Err(option) => {
            eprintln!("check: invalid option or value: '{option}'\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let Arguments { seeds, bound, jobs, options, .. } = arguments;
    let began = Instant::now();
    let in_time = move |_: &u64| std::future::ready(bound.is_none_or(|bound| began.elapsed() < bound));
    let runs = stream::iter(seeds).take_while(in_time).map(|seed| async move {
        let steps = draw(seed, &options);
        if arguments.print {
            steps.iter().for_each(|step| println!("seed {seed} {step}"));
        }
        run(seed, &steps, &options).await
    });
    let mut runs = Box::pin(runs.buffer_unordered(jobs));
    let (mut done, mut failed): (u64, Vec<Outcome>) = (0, vec![]);
    while let Some(outcome) = runs.next().await {
        done += 1;
        if outcome.violations.is_empty() {
            println!(
                "seed {}: no violations, {} published, {:.1} s",
                outcome.seed,
                outcome.published,
                outcome.took.as_secs_f64()
            );
        } else {
            print!("{outcome}");
            failed.push(outcome);
        }
    }
    let mut rules: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for outcome in &failed {
        outcome.rules().into_iter().for_each(|rule| rules.entry(rule).or_default().push(outcome.seed));
    }
    println!("\n{} of {done} seeds break a rule", failed.len());
    for (rule, seeds) in &rules {
        println!("  {:>4}  {rule}: {seeds:?}", seeds.len());
    }
    let Some(first) = failed.first() else { return ExitCode::SUCCESS };
    if !arguments.shrink.is_zero() {
        let rule = first.violations[0].rule;
        let steps = shrink(first.seed, draw(first.seed, &options), &options, rule, arguments.shrink).await;
        println!("\n{} steps of seed {} that break '{rule}':", steps.len(), first.seed);
        steps.iter().for_each(|step| println!("  {step}"));
    }
    ExitCode::FAILURE
}
