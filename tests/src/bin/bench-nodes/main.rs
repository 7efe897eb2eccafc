//! Benchmarks nodes that share one Redis, all on loopback: commands, latency and throughput. Prints Markdown,
//! and fails only if messages are lost or out of order. `cargo xtask bench nodes` builds and runs it.

mod clients;
mod commands;
mod latency;
mod load;
mod overlap;
mod redis_counters;
mod throughput;

use serde_json::json;
use std::{
    path::PathBuf,
    process::{ExitCode, Stdio},
    time::Instant,
};
use switchyard_tests::{
    Redis, cpu_time,
    report::{self, Report, Section},
};
use tokio::process::Command;

const USAGE: &str = "\
Usage: bench-nodes [--only SECTION] [--json FILE]

  --only SECTION   run one section: commands, clients, latency, overlap or throughput
  --json FILE      also write the figures of the report to FILE, as JSON
";

const SECTIONS: [&str; 5] = ["commands", "clients", "latency", "overlap", "throughput"];

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (mut file, mut only) = (None, None);
    for option in arguments.chunks(2) {
        match option {
            [name, path] if name == "--json" => file = Some(PathBuf::from(path)),
            [name, section] if name == "--only" && SECTIONS.contains(&&**section) => only = Some(&**section),
            _ => {
                eprint!("bench-nodes: invalid option '{}'\n\n{USAGE}", option.join(" "));
                return ExitCode::from(2);
            }
        }
    }
    for program in ["redis-server", "redis-benchmark"] {
        if version(program).await.is_none() {
            eprintln!(
                "bench-nodes: {program} is not installed; install it with: apt-get install redis-server"
            );
            return ExitCode::FAILURE;
        }
    }
    measure(only).await.finish("bench-nodes", file.as_deref())
}

async fn measure(only: Option<&str>) -> Report {
    let (began, cores, before) = (Instant::now(), cpu_time::cores(), cpu_time::by_others());
    let mut sections: Vec<Section> = vec![];
    for section in SECTIONS.into_iter().filter(|section| only.is_none_or(|only| only == *section)) {
        eprintln!("bench-nodes: {section} …");
        sections.push(match section {
            "commands" => commands::measure().await,
            "clients" => clients::measure().await,
            "latency" => latency::measure().await,
            "overlap" => overlap::measure().await,
            _ => throughput::measure().await,
        });
    }
    let redis = redis_counters::info(&Redis::start().await, "server", "redis_version").await;
    let benchmark = version("redis-benchmark").await.unwrap_or_default();
    let (version, seconds) = (env!("CARGO_PKG_VERSION"), began.elapsed().as_secs());
    let others = (cpu_time::by_others() - before).max(0.0) / began.elapsed().as_secs_f64();
    Report {
        title: "Nodes on one Redis".to_owned(),
        about: format!(
            "Switchyard {version}, Redis {redis}, {benchmark}, {cores} cores, everything on loopback. The whole \
             run took {seconds} s, during which unrelated programs kept {others:.1} cores busy."
        ),
        facts: json!({
            "switchyard": version, "redis": redis, "redis_benchmark": benchmark, "cores": cores, "seconds": seconds,
            "other_programs_cores": report::rounded(others),
        }),
        sections,
    }
}

/// The output of a program's `--version`; `None` if it is not installed.
async fn version(program: &str) -> Option<String> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().await.ok()?;
    Some(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().trim().to_owned())
}
