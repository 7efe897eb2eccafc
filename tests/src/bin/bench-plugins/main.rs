//! Benchmarks plugins on a real node: their cost, and how well others are protected from them, everything on
//! loopback. Prints Markdown, and fails only for wrong verdicts, loss or wrong order. `cargo xtask bench
//! plugins` builds and runs it.

mod decider;
mod filters;
mod floods;
mod governed;
mod hooks;
mod hostile;
mod state;
mod steady;
mod swaps;
mod tally;
mod wakeups;

use serde_json::json;
use std::{path::PathBuf, process::ExitCode, time::Instant};
use switchyard_tests::{
    cpu_time,
    report::{self, Report, Section},
};

const USAGE: &str = "\
Usage: bench-plugins [--json FILE] [--only SECTION]

  --json FILE      also write the figures of the report to FILE, as JSON
  --only SECTION   run one section: hooks, state, swaps, hostile, floods or filters
";

const SECTIONS: [&str; 6] = ["hooks", "state", "swaps", "hostile", "floods", "filters"];

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (mut file, mut only) = (None, None);
    for option in arguments.chunks(2) {
        match option {
            [flag, value] if flag == "--json" => file = Some(PathBuf::from(value)),
            [flag, value] if flag == "--only" && SECTIONS.contains(&value.as_str()) => {
                only = Some(value.clone())
            }
            _ => {
                eprint!("bench-plugins: invalid option '{}'\n\n{USAGE}", option.join(" "));
                return ExitCode::from(2);
            }
        }
    }
    measure(only.as_deref()).await.finish("bench-plugins", file.as_deref())
}

async fn measure(only: Option<&str>) -> Report {
    let (began, cores, before) = (Instant::now(), cpu_time::cores(), cpu_time::by_others());
    let mut sections: Vec<Section> = vec![];
    for name in SECTIONS.into_iter().filter(|name| only.is_none_or(|only| only == *name)) {
        eprintln!("bench-plugins: {name} …");
        match name {
            "hooks" => {
                let measured = tokio::task::spawn_blocking(hooks::measure).await;
                sections.push(measured.expect("a measurement without a panic"));
            }
            "state" => {
                let measured = tokio::task::spawn_blocking(state::measure).await;
                sections.push(measured.expect("a measurement without a panic"));
            }
            "swaps" => sections.push(swaps::measure().await),
            "floods" => sections.push(floods::measure().await),
            "hostile" => sections.extend(hostile::measure().await),
            _ => sections.push(filters::measure().await),
        }
    }
    let (version, seconds) = (env!("CARGO_PKG_VERSION"), began.elapsed().as_secs());
    // The nodes have ended by now, so they count as ended child processes of this process.
    let others = (cpu_time::by_others() - before).max(0.0) / began.elapsed().as_secs_f64();
    Report {
        title: "Plugins".to_owned(),
        about: format!(
            "Switchyard {version}, {cores} cores, which the node shares with its clients, everything on \
             loopback. The whole run took {seconds} s, during which unrelated programs kept {others:.1} cores \
             busy."
        ),
        facts: json!({
            "switchyard": version, "cores": cores, "seconds": seconds, "other_programs_cores": report::rounded(others),
        }),
        sections,
    }
}
