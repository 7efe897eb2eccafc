//! `switchyard plugin run` and `switchyard plugin bench`: print what a plugin does with messages, and what
//! that costs.

use super::trial::{Instructions, Trial, TrialArgs, TrialOutcome, next_message};
use crate::{
    count::{counted, grouped},
    output::{OutputError, note, print_line, write_stderr_line},
    publish::feed::FeedMessage,
};
use anyhow::bail;
use clap::Args;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use switchyard_plugin::{Rejection, Verdict};
use switchyard_protocol::unix_ms;

#[derive(Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    trial: TrialArgs,
    /// How long to measure, such as 2s
    #[arg(long = "for", value_name = "TIME", default_value = "2s", value_parser = switchyard_process::unit::parse_duration)]
    time: Duration,
}

/// Prints a line for each message: its room, the verdict, and the filters that it passes, counted from 1.
pub(super) async fn run(args: TrialArgs) -> anyhow::Result<()> {
    let (mut trial, mut counting) = (Trial::new(&args)?, Trial::counting(&args)?);
    let mut feed = args.feed()?;
    let mut all = Instructions::new();
    let mut passed = vec![0u64; args.subscription_count()];
    let (mut messages, mut failed) = (0, 0);
    while let Some(message) = next_message(&mut feed).await? {
        let (outcome, spent) = (trial.process(&message), counting.count_instructions(&message));
        messages += 1;
        failed += u64::from(outcome.has_failure());
        for (count, passes) in passed.iter_mut().zip(&outcome.passes) {
            *count += u64::from(matches!(passes, Ok(true)));
        }
        match args.json {
            true => print_line!("{}", outcome_json(&message, &outcome, &spent))?,
            false => print_outcome(&message.room, &outcome)?,
        }
        add_instructions(&mut all, spent);
    }
    fail_if_a_subscription_is_rejected(&trial)?;
    if !args.json {
        let pass = if messages == 1 { "passes" } else { "pass" };
        for (n, count) in passed.iter().enumerate() {
            let (count, messages) = (grouped(*count), counted(messages, "message"));
            note(format_args!("filter {}: {count} of {messages} {pass}", n + 1));
        }
        table(&trial.times, &all).iter().for_each(write_stderr_line);
    }
    match failed {
        0 => Ok(()),
        failed => bail!("the plugin failed for {failed} of {}", counted(messages, "message")),
    }
}

/// Reads all messages, then processes them repeatedly for the given time and prints the statistics.
pub(super) async fn bench(args: BenchArgs) -> anyhow::Result<()> {
    let (mut trial, mut feed) = (Trial::new(&args.trial)?, args.trial.feed()?);
    let mut messages = vec![];
    while let Some(message) = next_message(&mut feed).await? {
        messages.push(message);
    }
    if messages.is_empty() {
        bail!("--from: there is no message to measure");
    }
    // Counting is exact but slow, so it is done only once, on an instance of its own.
    let (mut counting, mut all) = (Trial::counting(&args.trial)?, Instructions::new());
    messages.iter().for_each(|message| add_instructions(&mut all, counting.count_instructions(message)));
    drop(counting);
    // The first round fills caches and is not measured.
    messages.iter().for_each(|message| drop(trial.process(message)));
    fail_if_a_subscription_is_rejected(&trial)?;
    trial.times.clear();
    let end = Instant::now() + args.time;
    'measuring: loop {
        begin_next_round(&mut messages);
        for message in &messages {
            trial.process(message);
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

/// Moves the messages to a time at which the limits of a plugin that counts them have recovered. Otherwise most of the
/// calls that are measured would be rejections.
fn begin_next_round(messages: &mut [FeedMessage]) {
    const PAUSE_MS: u64 = 24 * 3600 * 1000;
    let times = || messages.iter().filter_map(|message| message.time);
    let begin = times().min().unwrap_or_else(unix_ms);
    let next = times().max().unwrap_or(begin) + PAUSE_MS;
    for message in messages {
        message.time = Some(next + message.time.map_or(0, |time| time - begin));
    }
}

fn fail_if_a_subscription_is_rejected(trial: &Trial) -> anyhow::Result<()> {
    match trial.rejected_subscription() {
        Some((subject, rejection)) => bail!("{subject} is rejected: {}", rejection.message),
        None => Ok(()),
    }
}

fn add_instructions(all: &mut Instructions, spent: Instructions) {
    spent.into_iter().for_each(|(hook, calls)| all.entry(hook).or_default().extend(calls));
}

fn rejection_text(refusal: &Rejection) -> String {
    let code = serde_json::to_value(refusal.code).unwrap_or_default();
    format!("{}: {}", code.as_str().unwrap_or_default(), refusal.message)
}

/// The verdict in one word, and the reason or the replacement.
fn verdict(outcome: &TrialOutcome) -> (&'static str, String) {
    match &outcome.verdict {
        Ok(Verdict::Pass) => ("pass", String::new()),
        Ok(Verdict::Discard) => ("discard", String::new()),
        Ok(Verdict::Replace(data)) => ("replace", String::from_utf8_lossy(data).into_owned()),
        Err(refusal) => ("reject", rejection_text(refusal)),
    }
}

fn print_outcome(requested_room: &str, outcome: &TrialOutcome) -> Result<(), OutputError> {
    let room = outcome.room.as_deref().unwrap_or(requested_room);
    let ((verdict, reason), mut filters) = (verdict(outcome), vec![]);
    for (n, passes) in outcome.passes.iter().enumerate() {
        match passes {
            Ok(true) => filters.push((n + 1).to_string()),
            Ok(false) => {}
            Err(refusal) => {
                filters.push(format!("(filter {} is rejected: {})", n + 1, rejection_text(refusal)))
            }
        }
    }
    let line = [room, verdict, &reason, &filters.join(", ")];
    print_line!("{}", line.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("  "))
}

fn outcome_json(message: &FeedMessage, outcome: &TrialOutcome, spent: &Instructions) -> Value {
    let (verdict, reason) = verdict(outcome);
    let passes = |passes: &Result<bool, Rejection>| match passes {
        Ok(passes) => json!(passes),
        Err(refusal) => json!({ "rejected": rejection_text(refusal) }),
    };
    json!({
        "line": message.line, "room": outcome.room.as_deref().unwrap_or(&message.room), "verdict": verdict,
        "why": Some(reason).filter(|reason| !reason.is_empty()),
        "filters": outcome.passes.iter().map(passes).collect::<Vec<_>>(),
        "instructions": spent.iter().map(|(hook, calls)| (*hook, calls.iter().sum())).collect::<BTreeMap<_, u64>>(),
    })
}

type Times = BTreeMap<&'static str, Vec<Duration>>;

/// For each hook, as JSON: the number of calls; their median, 99th percentile and maximum time in
/// nanoseconds; and the instructions that the messages took once: those of the median call, and the total.
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
        "hook", "calls", "p50 µs", "p99 µs", "longest µs", "instructions", "total"
    );
    let row = |row: Value| {
        let (hook, calls) = (row["hook"].as_str().unwrap_or_default().to_owned(), row["calls"].to_string());
        let [p50, p99, longest] = ["p50", "p99", "longest"].map(|name| micros(&row[name]));
        let [median, total] = ["median", "total"].map(|name| row["instructions"][name].to_string());
        format!("{hook:10}{calls:>10}{p50:>12}{p99:>12}{longest:>12}{median:>14}{total:>14}")
    };
    std::iter::once(head).chain(summary(times, all).into_iter().map(row)).collect()
}
