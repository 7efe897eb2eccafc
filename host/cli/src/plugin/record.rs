//! `switchyard plugin record`: prints what a plugin of a running node is asked, and what it answers.

use super::versions;
use crate::{
    admin_client::{AdminArgs, AdminClient},
    count::counted,
    output::{note, print_line},
};
use anyhow::bail;
use clap::Args;
use serde::Deserialize;
use std::time::Duration;

#[derive(Args)]
pub(crate) struct RecordArgs {
    /// The plugin's name
    name: String,
    /// How long to record, such as 5m; at most 1h
    #[arg(long = "for", value_name = "TIME", default_value = "1m", value_parser = switchyard_process::unit::parse_duration)]
    time: Duration,
    /// Record the data of messages too. Without it, `plugin test` cannot replay publish and deliver
    #[arg(long)]
    data: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

/// The last line of a recording.
#[derive(Deserialize)]
struct LastLine {
    end: RecordingEnd,
}

#[derive(Deserialize)]
struct RecordingEnd {
    reason: String,
    calls: u64,
    skipped: u64,
}

/// Prints each line as it arrives, so that an interrupted recording is a shorter one.
pub(super) async fn run(args: RecordArgs) -> anyhow::Result<()> {
    let time = humantime::format_duration(args.time).to_string().replace(' ', "");
    let path = versions::path(&args.name, &format!("/record?for={time}&data={}", args.data));
    let mut end = None;
    AdminClient::new(&args.admin)?
        .read_lines(&path, |line| {
            end = serde_json::from_str::<LastLine>(line).ok().map(|last| last.end);
            Ok(print_line!("{line}")?)
        })
        .await?;
    let Some(RecordingEnd { reason, calls, skipped }) = end else {
        bail!("the recording was cut off: it has no last line");
    };
    let reason = match &*reason {
        "time" => "",
        "calls" => "; it ended early, because it has the maximum number of calls",
        "bytes" => "; it ended early, because it has the maximum size",
        "version" => "; it ended early, because another version became active",
        "refused" => "; it ended early, because the key is gone or its principal was banned",
        _ => "; it ended early, because the node is stopping",
    };
    let skipped = match skipped {
        0 => String::new(),
        skipped => format!(", {} skipped because they came too fast", counted(skipped, "call")),
    };
    note(format_args!("recorded {}{skipped}{reason}", counted(calls, "call")));
    Ok(())
}
