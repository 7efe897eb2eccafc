//! The chores of this repository: `cargo xtask CHORE`.

mod bench;
mod cargo;
mod check;
mod commits;
mod guests;
mod languages;
mod named;
mod test;
mod tools;

use anyhow::{Context, bail};
use std::{
    env,
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

const USAGE: &str = "\
cargo xtask CHORE

  guests                 build the plugins and the guests of the tests, as WebAssembly
  languages              build the example plugins in JavaScript and in Python, as WebAssembly; takes
                         Node 20 or later with npm, and Python 3.10 or later with venv
  demo [--nodes N] [--for SECONDS]
                         build everything, run a node with the three plugins and a lively feed,
                         and say how to watch it; ends with Ctrl-C or after the time. With --nodes,
                         2 to 8 nodes that share a Redis, for which redis-server must be installed
  bench [load] [--json FILE] [--plot FILE] [--only SECTION]
                         measure one node beside the least that a server could do: connections, one
                         room, many rooms, filters, a storm of returns, and everything at once; print
                         a report as Markdown; takes about eight minutes. SECTION is connections,
                         fanout, rooms, filters, recovery or crowded; the plot is an SVG of fanout
  bench nodes [--only SECTION] [--json FILE]
                         measure nodes that share a Redis and print a report as Markdown; takes two
                         minutes, and redis-server and redis-benchmark must be installed
  bench plugins [--json FILE]
                         measure what plugins cost, one that misbehaves, and changing one under
                         load, and print a report as Markdown; takes about four minutes
  commits [RANGE]        check the subjects of commits with .githooks/commit-msg. Without RANGE: those since
                         origin/main, or since the hook was added where there is no origin/main
  check [--seeds A..B] [--for SECONDS] [--steps N] [--jobs N] [--no-faults] [--forget] [--restart]
        [--durable] [--print] [--shrink SECONDS]
                         draw a schedule of kills, stops, cuts, pauses and takeovers from each seed, run
                         it on three nodes that share a Redis, and say which rules of the protocol were
                         broken, with what the client saw; --no-faults leaves only what clients do, --forget lets Redis forget rooms or everything,
                         --restart kills it, --durable has it keep what was written, --print shows the
                         schedules, and --shrink looks for a shorter one for the first seed that fails.
                         SWITCHYARD_BINARY names another binary to check, such as an older one
  test [ARGUMENTS]       guests, languages, formatting, clippy, and all tests; ARGUMENTS are for
                         cargo test
  test NAME [ARGUMENTS]  only the tests with NAME in their path, such as hub::room, built in the
                         fastest way; without formatting and clippy
";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let ended = match arguments.split_first().map(|(chore, rest)| (chore.as_str(), rest)) {
        Some(("guests", [])) => guests::build().map(|built| println!("{}", built.display())),
        Some(("languages", [])) => languages::all().map(|built| println!("{}", built.display())),
        Some(("demo", rest)) => demo(rest),
        Some(("bench", rest)) => bench::run(rest),
        Some(("commits", [])) => commits::check(None),
        Some(("commits", [range])) if !range.starts_with('-') => commits::check(Some(range)),
        Some(("check", rest)) => check::run(rest),
        Some(("test", rest)) => test::run(rest),
        None | Some(("help" | "--help" | "-h", _)) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Some((chore, _)) => {
            eprint!("xtask: '{}' is no chore\n\n{USAGE}", chore);
            return ExitCode::from(2);
        }
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The demo is a program of the examples, which handles signals and makes keys as the server does. It takes this
/// process over, so that Ctrl-C, a signal and the exit status are all its own.
fn demo(arguments: &[String]) -> anyhow::Result<()> {
    // Before minutes of building.
    let known = |option: &[String]| match option {
        [flag, seconds] if flag == "--for" => seconds.parse::<u64>().is_ok(),
        [flag, nodes] if flag == "--nodes" => nodes.parse().is_ok_and(|nodes: u16| (2..=8).contains(&nodes)),
        _ => false,
    };
    if !arguments.chunks(2).all(known) {
        bail!("demo takes nothing but --for SECONDS and --nodes N, which is 2 to 8");
    }
    guests::build()?;
    cargo::run(&["build", "--release", "-p", "switchyard", "-p", "switchyard-examples"])?;
    let demo = cargo::target().join("release/demo");
    let error = Command::new(&demo).args(arguments).exec();
    Err(error).with_context(|| demo.display().to_string())
}
