//! `switchyard plugin run` and `switchyard plugin bench`: what a plugin says of messages, and what that costs.

use super::trial::{Instructions, Outcome, Trial, TrialArgs, next};
use crate::{
    client::note,
    output::{OutputError, print_line, remark},
    publish::feed::Outgoing,
};
use clap::Args;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use switchyard_plugin::{Rejection, Verdict};

#[derive(Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    trial: TrialArgs,
    /// How long to measure
    #[arg(long = "for", value_name = "TIME", default_value = "2s", value_parser = switchyard_process::unit::parse_duration)]
    time: Duration,
}

/// A line a message: its room, the verdict, and the filters that let it through, counted from 1.
pub(super) async fn run(args: TrialArgs) -> anyhow::Result<()> {
    let (mut trial, mut twin, mut lines) = (Trial::new(&args)?, Trial::counting(&args)?, args.lines()?);
    let mut all = Instructions::new();
    let mut passed = vec![0u64; args.filters()];
    let mut messages = 0;
    while let Some(message) = next(&mut lines).await? {
        let (outcome, spent) = (trial.ask(&message), twin.count(&message));
        messages += 1;
        for (count, passes) in passed.iter_mut().zip(&outcome.passes) {
            *count += u64::from(matches!(passes, Ok(true)));
        }
        match args.json {
            true => print_line!("{}", object(&message, &outcome, &spent))?,
            false => show(&message.room, &outcome)?,
        }
        add(&mut all, spent);
    }
    if !args.json {
        for (n, count) in passed.iter().enumerate() {
            note(format_args!("filter {}: {count} of {messages} messages pass", n + 1));
        }
        table(&trial.times, &all).iter().for_each(remark);
    }
    Ok(())
}

/// The messages again and again, once they were read.
pub(super) async fn bench(args: BenchArgs) -> anyhow::Result<()> {
    let (mut trial, mut lines) = (Trial::new(&args.trial)?, args.trial.lines()?);
    let mut messages = vec![];
    while let Some(message) = next(&mut lines).await? {
        messages.push(message);
    }
    // Counting is exact and slow, so it is done once and beside.
    let (mut twin, mut all) = (Trial::counting(&args.trial)?, Instructions::new());
    messages.iter().for_each(|message| add(&mut all, twin.count(message)));
    drop(twin);
    messages.iter().for_each(|message| drop(trial.ask(message)));
    // What the first round compiled and cached is not measured.
    trial.times.clear();
    let end = Instant::now() + args.time;
    'measuring: loop {
        for message in &messages {
            trial.ask(message);
            if Instant::now() >= end {
                break 'measuring;
            }
        }
    }
    match args.trial.json {
        true => print_line!("{}", Value::from_iter(summary(&trial.times, &all)))?,
        false => table(&trial.times, &all).iter().try_for_each(|line| print_line!("{line}"))?,
    }
    Ok(())
}

fn add(all: &mut Instructions, spent: Instructions) {
    spent.into_iter().for_each(|(hook, calls)| all.entry(hook).or_default().extend(calls));
}

fn said(refusal: &Rejection) -> String {
    let code = serde_json::to_value(refusal.code).unwrap_or_default();
    format!("{}: {}", code.as_str().unwrap_or_default(), refusal.message)
}

fn verdict(outcome: &Outcome) -> (&'static str, String) {
    match &outcome.verdict {
        Ok(Verdict::Pass) => ("pass", String::new()),
        Ok(Verdict::Discard) => ("discard", String::new()),
        Ok(Verdict::Replace(data)) => ("replace", String::from_utf8_lossy(data).into_owned()),
        Err(refusal) => ("reject", said(refusal)),
    }
}

fn show(asked: &str, outcome: &Outcome) -> Result<(), OutputError> {
    let room = outcome.room.as_deref().unwrap_or(asked);
    let ((verdict, why), mut filters) = (verdict(outcome), vec![]);
    for (n, passes) in outcome.passes.iter().enumerate() {
        match passes {
            Ok(true) => filters.push((n + 1).to_string()),
            Ok(false) => {}
            Err(refusal) => filters.push(format!("{} {}", n + 1, said(refusal))),
        }
    }
    let line = [room, verdict, &why, &filters.join(", ")];
    print_line!("{}", line.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("  "))
}

fn object(message: &Outgoing, outcome: &Outcome, spent: &Instructions) -> Value {
    let (verdict, why) = verdict(outcome);
    let passes = |passes: &Result<bool, Rejection>| match passes {
        Ok(passes) => json!(passes),
        Err(refusal) => json!({ "rejected": said(refusal) }),
    };
    json!({
        "line": message.line, "room": outcome.room.as_deref().unwrap_or(&message.room), "verdict": verdict,
        "why": Some(why).filter(|why| !why.is_empty()),
        "filters": outcome.passes.iter().map(passes).collect::<Vec<_>>(),
        "instructions": spent.iter().map(|(hook, calls)| (*hook, calls.iter().sum())).collect::<BTreeMap<_, u64>>(),
    })
}

type Times = BTreeMap<&'static str, Vec<Duration>>;

/// Calls, and nanoseconds of each: median, 99th percentile, longest. Then what each message took once, in
/// instructions: the median call, and all together.
fn summary(times: &Times, all: &Instructions) -> Vec<Value> {
    let row = |(hook, times): (&&str, &Vec<Duration>)| {
        let mut times = times.clone();
        times.sort();
        let at = |part: usize| times[(times.len() - 1) * part / 100].as_nanos() as u64;
        let mut spent = all.get(*hook).cloned().unwrap_or_default();
        spent.sort();
        let median = spent.get(spent.len().saturating_sub(1) / 2);
        json!({
            "hook": hook, "calls": times.len(), "p50": at(50), "p99": at(99), "longest": at(100),
            "instructions": { "median": median, "total": spent.iter().sum::<u64>() },
        })
    };
    times.iter().map(row).collect()
}

fn table(times: &Times, all: &Instructions) -> Vec<String> {
    let micros = |value: &Value| format!("{:.1}", value.as_u64().unwrap_or_default() as f64 / 1000.0);
    let head = format!(
        "{:10}{:>10}{:>12}{:>12}{:>12}{:>14}{:>14}",
        "hook", "calls", "p50 µs", "p99 µs", "longest µs", "instructions", "in total"
    );
    let row = |row: Value| {
        let (hook, calls) = (row["hook"].as_str().unwrap_or_default().to_owned(), row["calls"].to_string());
        let [p50, p99, longest] = ["p50", "p99", "longest"].map(|name| micros(&row[name]));
        let [median, total] = ["median", "total"].map(|name| row["instructions"][name].to_string());
        format!("{hook:10}{calls:>10}{p50:>12}{p99:>12}{longest:>12}{median:>14}{total:>14}")
    };
    std::iter::once(head).chain(summary(times, all).into_iter().map(row)).collect()
}
