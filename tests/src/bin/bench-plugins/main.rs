//! Measures what plugins cost and what they cannot cost others, on a real node, everything on loopback. Prints Markdown; judges
//! nothing but verdicts, order and loss. `cargo xtask bench plugins` builds and runs it.

mod decider;
mod filters;
mod floods;
mod governed;
mod hooks;
mod hostile;
mod punctual;
mod steady;
mod swaps;
mod tally;

use serde_json::json;
use std::{path::PathBuf, process::ExitCode, time::Instant};
use switchyard_tests::{
    report::{self, Report, Section},
    spent,
};

const USAGE: &str = "\
bench-plugins [--json FILE] [--only SECTION]

  --json FILE      the figures of the report as JSON too
  --only SECTION   hooks, swaps, misdeeds, floods or filters alone
";

const SECTIONS: [&str; 5] = ["hooks", "swaps", "misdeeds", "floods", "filters"];

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
                eprint!("{USAGE}");
                return ExitCode::from(2);
            }
        }
    }
    measure(only.as_deref()).await.hand_over("bench-plugins", file.as_deref())
}

async fn measure(only: Option<&str>) -> Report {
    let (began, cores, before) = (Instant::now(), spent::cores(), spent::by_others());
    let mut sections: Vec<Section> = vec![];
    for name in SECTIONS.into_iter().filter(|name| only.is_none_or(|only| only == *name)) {
        eprintln!("bench-plugins: {name} …");
        match name {
            "hooks" => {
                let measured = tokio::task::spawn_blocking(hooks::measure).await;
                sections.push(measured.expect("a measurement without a panic"));
            }
            "swaps" => sections.push(swaps::measure().await),
            "floods" => sections.push(floods::measure().await),
            "misdeeds" => sections.extend(hostile::measure().await),
            _ => sections.push(filters::measure().await),
        }
    }
    let (version, seconds) = (env!("CARGO_PKG_VERSION"), began.elapsed().as_secs());
    // The nodes have ended by now, so that they count as children of this process.
    let others = (spent::by_others() - before).max(0.0) / began.elapsed().as_secs_f64();
    Report {
        title: "Plugins".to_owned(),
        about: format!(
            "Switchyard {version}, {cores} cores, which the node shares with its clients, everything on loopback. The whole \
             run took {seconds} s, in which programs that have nothing to do with it kept {others:.1} cores busy."
        ),
        facts: json!({
            "switchyard": version, "cores": cores, "seconds": seconds, "other_programs_cores": report::rounded(others),
        }),
        sections,
    }
}
