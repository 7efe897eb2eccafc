//! The development commands of this repository: `cargo xtask COMMAND`. Each command has a module of its own;
//! this file only parses the command's name.

mod bench;
mod cargo;
mod check;
mod commits;
mod guests;
mod languages;
mod targets;
mod test;
mod tools;

use anyhow::{Context, bail};
use std::{
    env,
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

const USAGE: &str = "\
Usage: cargo xtask COMMAND

  guests                 build the plugins, and the guests that only tests use, as WebAssembly
  languages              build the example plugins in C, JavaScript and Python as WebAssembly. Needs
                         Node 20 or later with npm, and Python 3.10 or later with venv
  demo [--nodes N] [--for SECONDS]
                         build everything, run a node with three plugins and a live feed, and show
                         how to watch it. Ends with Ctrl-C or after SECONDS. With --nodes, run
                         2 to 8 nodes that share a Redis; redis-server must be installed
  bench [load] [--json FILE] [--plot FILE] [--only SECTION]
                         compare one node with a minimal server: connections, one room, many rooms,
                         one plugin on several cores, filters, mass reconnects, and everything at
                         once. Prints a report as Markdown after about nine minutes. SECTION is
                         connections, fanout, rooms, cores, filters, recovery, tenants or crowded.
                         --plot draws fanout as an SVG
  bench nodes [--json FILE] [--only SECTION]
                         measure nodes that share a Redis and print a report as Markdown. Takes two
                         minutes; redis-server and redis-benchmark must be installed
  bench plugins [--json FILE]
                         measure the cost of plugins, of a misbehaving one, and of replacing one
                         under load, and print a report as Markdown. Takes about four minutes
  commits [RANGE]        check the subjects of commits with .githooks/commit-msg. RANGE is by default
                         all commits since origin/main, or, without origin/main, since the hook
                         was added
  check [--seeds A..B] [--for SECONDS] [--steps N] [--jobs N] [--no-faults] [--forget] [--restart]
        [--durable] [--print] [--shrink SECONDS]
                         draw a schedule of kills, stops, cuts, pauses and takeovers from each seed,
                         run it on three nodes that share a Redis, and report which rules of the
                         protocol were broken, with what the clients saw.
                           --no-faults  only what clients do, without failures
                           --forget     Redis loses rooms or everything
                           --restart    Redis is killed and restarted
                           --durable    Redis writes everything to disk
                           --print      print the schedules
                           --shrink     search for a shorter schedule for the first seed that fails
                         SWITCHYARD_BINARY names another binary to check, such as an older one
  test [ARGUMENTS]       build the guests and languages, check formatting, run clippy, and run all
                         tests. ARGUMENTS are passed on to cargo test
  test NAME [ARGUMENTS]  run only the tests with NAME in their path, such as hub::room, built as fast
                         as possible, without formatting and clippy
  help                   print this text
";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let result = match arguments.split_first().map(|(command, rest)| (command.as_str(), rest)) {
        Some(("guests", [])) => guests::build().map(|folder| println!("{}", folder.display())),
        Some(("languages", [])) => languages::build_all().map(|folder| println!("{}", folder.display())),
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
        Some(("guests" | "languages" | "commits", rest)) => {
            eprint!("xtask: unexpected arguments: {}\n\n{USAGE}", rest.join(" "));
            return ExitCode::from(2);
        }
        Some((command, _)) => {
            eprint!("xtask: unknown command '{command}'\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Builds everything and replaces this process with the demo, a program in `examples`, so that Ctrl-C,
/// signals and the exit status are the demo's own.
fn demo(arguments: &[String]) -> anyhow::Result<()> {
    // Checked here as well, before minutes of building.
    let is_valid = |option: &[String]| match option {
        [flag, seconds] if flag == "--for" => seconds.parse::<u64>().is_ok(),
        [flag, nodes] if flag == "--nodes" => nodes.parse().is_ok_and(|nodes: u16| (2..=8).contains(&nodes)),
        _ => false,
    };
    if !arguments.chunks(2).all(is_valid) {
        bail!(
            "demo: invalid options '{}'; expected --for SECONDS and --nodes N, where N is 2 to 8",
            arguments.join(" ")
        );
    }
    guests::build_bundled_plugins()?;
    // What the demo shows does not need optimized code, which takes minutes more to build.
    cargo::run(&["build", "--profile", "quick", "-p", "switchyard", "-p", "switchyard-examples"])?;
    let demo = cargo::target().join("quick/demo");
    let error = Command::new(&demo).args(arguments).exec();
    Err(error).with_context(|| format!("cannot start {}", demo.display()))
}
