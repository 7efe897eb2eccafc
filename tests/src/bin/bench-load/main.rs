//! Benchmarks one node with a memory store, compared with a minimal server for the same clients, everything
//! on loopback. Prints Markdown, and fails only if messages are lost or out of order. `cargo xtask bench`
//! builds and runs it.

mod connections;
mod cores;
mod crowd;
mod crowded;
mod fanout;
mod filters;
mod floor;
mod line;
mod load;
mod peer;
mod plot;
mod recovery;
mod rooms;
mod tenants;

use serde_json::json;
use std::{
    io,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};
use switchyard_tests::{
    cpu_time,
    report::{self, Report, Section},
};

const USAGE: &str = "\
Usage: bench-load [--json FILE] [--plot FILE] [--only SECTION]

  --json FILE      also write the figures of the report to FILE, as JSON
  --plot FILE      also draw cost and latency over load as an SVG; needs the section fanout
  --only SECTION   run one section: connections, fanout, rooms, cores, filters, recovery,
                   tenants or crowded
";

const SECTIONS: [&str; 8] =
    ["connections", "fanout", "rooms", "cores", "filters", "recovery", "tenants", "crowded"];

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let ["floor", flush @ ..] = &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        let flush = flush.first().and_then(|flush| flush.parse().ok()).map(Duration::from_millis);
        let manner = floor::Manner { flush, ping: Duration::from_secs(10) };
        return floor::serve(manner).await.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    let (mut file, mut plot, mut only) = (None, None, None);
    for option in arguments.chunks(2) {
        match option {
            [flag, value] if flag == "--json" => file = Some(PathBuf::from(value)),
            [flag, value] if flag == "--plot" => plot = Some(PathBuf::from(value)),
            [flag, value] if flag == "--only" && SECTIONS.contains(&value.as_str()) => {
                only = Some(value.clone())
            }
            _ => {
                eprint!("bench-load: invalid option '{}'\n\n{USAGE}", option.join(" "));
                return ExitCode::from(2);
            }
        }
    }
    let cores = cpu_time::cores();
    if peer::apart() {
        let (own, others) = (std::process::id().to_string(), format!("1-{}", cores - 1));
        Command::new("taskset").args(["-acp", &others, &own]).stdout(Stdio::null()).status().ok();
    }
    match measure(cores, only.as_deref(), plot.as_deref()).await {
        Ok(report) => report.finish("bench-load", file.as_deref()),
        Err(error) => {
            eprintln!("bench-load: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(cores: usize, only: Option<&str>, plot: Option<&Path>) -> io::Result<Report> {
    let (began, before) = (Instant::now(), cpu_time::by_others());
    let mut sections: Vec<Section> = vec![];
    for name in SECTIONS.into_iter().filter(|name| only.is_none_or(|only| only == *name)) {
        eprintln!("bench-load: {name} …");
        match name {
            "connections" => sections.push(connections::measure().await?),
            "fanout" => {
                let (measured, pairs) = fanout::measure().await?;
                sections.extend(measured);
                if let Some(file) = plot {
                    plot::draw(file, 1000, &pairs).map_err(|error| io::Error::other(error.to_string()))?;
                }
            }
            "rooms" => sections.push(rooms::measure().await?),
            "cores" => sections.push(cores::measure().await?),
            "filters" => sections.push(filters::measure().await?),
            "tenants" => sections.push(tenants::measure().await?),
            "recovery" => sections.push(recovery::measure().await?),
            _ => sections.push(crowded::measure().await?),
        }
    }
    let (version, seconds) = (env!("CARGO_PKG_VERSION"), began.elapsed().as_secs());
    let others = (cpu_time::by_others() - before).max(0.0) / began.elapsed().as_secs_f64();
    let where_ = if peer::apart() {
        "node and floor on one core, clients on the others"
    } else {
        "all on the same cores"
    };
    Ok(Report {
        title: "One node under load".to_owned(),
        about: format!(
            "Switchyard {version}, {cores} cores, everything on loopback: {where_}. The whole run took {seconds} \
             s, during which unrelated programs kept {others:.1} cores busy."
        ),
        facts: json!({
            "switchyard": version, "cores": cores, "apart": peer::apart(), "seconds": seconds,
            "other_programs_cores": report::rounded(others),
        }),
        sections,
    })
}
