//! `switchyard plugin test`: asks a plugin what another version was asked on a node, and compares the answers.

use super::budget::BudgetArgs;
use crate::{
    count::counted,
    json_argument::parse_config,
    output::{note, print_line},
};
use anyhow::{Context, bail};
use clap::Args;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    sync::Arc,
};
use switchyard_plugin::{Engine, Plugin, RecordedCall, Replayer};

#[derive(Args)]
pub(crate) struct TestArgs {
    /// The plugin: a WebAssembly core module or a component
    file: PathBuf,
    /// The calls that `plugin record` printed, or - for standard input
    #[arg(long, value_name = "CALLS.ndjson")]
    from: PathBuf,
    /// The answers to expect, as --json prints them [default: the recorded answers]
    #[arg(long, value_name = "VERDICTS.ndjson")]
    expect: Option<PathBuf>,
    /// The configuration to pass to the plugin
    #[arg(long, value_name = "JSON", default_value = "{}", value_parser = parse_config)]
    config: Value,
    #[command(flatten)]
    budget: BudgetArgs,
    /// Print every answer as JSON, for programs and as a file for --expect
    #[arg(long)]
    json: bool,
}

/// Whether a line is no call, but the first or the last of a recording.
fn is_marker(line: &str) -> bool {
    let object: BTreeMap<String, IgnoredAny> = serde_json::from_str(line).unwrap_or_default();
    object.contains_key("recording") || object.contains_key("end")
}

/// The expected answer to the call in this line of the recording.
#[derive(Deserialize)]
struct ExpectedAnswer {
    line: usize,
    answer: Value,
}

#[derive(Default)]
struct ReplayCounts {
    replayed: u64,
    without_data: u64,
    different: u64,
}

pub(super) fn run(args: TestArgs) -> anyhow::Result<()> {
    let mut expected = args.expect.as_deref().map(read_expected).transpose()?;
    let bytes = super::versions::read_plugin(&args.file)?;
    let name = args.file.file_stem().unwrap_or_default().to_string_lossy();
    let engine = Engine::with_compiler_limits()?;
    let plugin = Plugin::load(&engine, &name, &bytes, &args.config, args.budget.budget())?;
    let (mut replay, mut counts) = (Replayer::new(Arc::new(plugin)), ReplayCounts::default());
    let from = args.from.display();
    for (line, text) in open(&args.from).with_context(|| format!("--from {from}"))?.lines().enumerate() {
        let (line, text) = (line + 1, text.with_context(|| format!("--from {from}: line {}", line + 1))?);
        if text.trim().is_empty() || is_marker(&text) {
            continue;
        }
        let call: RecordedCall = serde_json::from_str(&text)
            .with_context(|| format!("--from {from}: line {line} is not a recorded call"))?;
        let Some(answer) = replay.ask(&call) else {
            counts.without_data += 1;
            continue;
        };
        counts.replayed += 1;
        let wanted = match &mut expected {
            None => Some(call.answer.clone()),
            Some(expected) => expected.remove(&line),
        };
        report(&args, line, &call, &answer, wanted.as_ref(), &mut counts)?;
    }
    if let Some((line, _)) = expected.into_iter().flatten().next() {
        bail!("--expect: there is an answer for line {line} of {from}, where no call could be replayed");
    }
    if counts.replayed == 0 {
        bail!("--from {from}: there is no call to replay; record with --data");
    }
    let skipped = match counts.without_data {
        0 => String::new(),
        count => format!("; skipped {} recorded without data", counted(count, "call")),
    };
    note(format_args!("replayed {}{skipped}", counted(counts.replayed, "call")));
    match counts.different {
        0 => Ok(()),
        different => {
            let is = if different == 1 { "is" } else { "are" };
            bail!("{different} of {} {is} different", counted(counts.replayed, "answer"))
        }
    }
}

/// Prints a difference, or with `--json` every answer.
fn report(
    args: &TestArgs,
    line: usize,
    call: &RecordedCall,
    answer: &Value,
    wanted: Option<&Value>,
    counts: &mut ReplayCounts,
) -> anyhow::Result<()> {
    let is_same = wanted == Some(answer);
    counts.different += u64::from(!is_same);
    let hook = call.ask.hook();
    if args.json {
        let mut shown = json!({ "line": line, "hook": hook, "answer": answer });
        if !is_same {
            shown["expected"] = wanted.cloned().unwrap_or(Value::Null);
        }
        return Ok(print_line!("{shown}")?);
    }
    if !is_same {
        let room = call.ask.room().map(|room| format!("  {room}")).unwrap_or_default();
        let wanted = wanted.map_or_else(|| "no answer".to_owned(), Value::to_string);
        print_line!("line {line}  {hook}{room}  expected {wanted}, got {answer}")?;
    }
    Ok(())
}

fn open(file: &Path) -> io::Result<Box<dyn BufRead>> {
    Ok(match file.to_str() {
        Some("-") => Box::new(io::stdin().lock()),
        _ => Box::new(BufReader::new(File::open(file)?)),
    })
}

/// The expected answers by line of the recording.
fn read_expected(file: &Path) -> anyhow::Result<BTreeMap<usize, Value>> {
    let name = file.display();
    let text = std::fs::read_to_string(file).with_context(|| format!("--expect {name}"))?;
    let mut answers = BTreeMap::new();
    for (line, text) in text.lines().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
        let wrong =
            || format!("--expect {name}: line {} is not like {{\"line\":2,\"answer\":{{…}}}}", line + 1);
        let ExpectedAnswer { line, answer } = serde_json::from_str(text).with_context(wrong)?;
        answers.insert(line, answer);
    }
    Ok(answers)
}
