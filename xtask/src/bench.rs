//! Runs the benchmarks. The programs in `tests/src/bin` decide what is measured, and parse their own options.

use crate::{cargo, guests};
use anyhow::{Context, bail};
use std::{os::unix::process::CommandExt, process::Command};

/// Raises the limit of open files before it starts the program: a thousand members are a thousand connections.
const WITH_MAX_OPEN_FILES: &str = r#"ulimit -n "$(ulimit -Hn)"; exec "$0" "$@""#;

/// Replaces this process with the benchmark, so that Ctrl-C, signals and the exit status are the benchmark's
/// own.
pub fn run(arguments: &[String]) -> anyhow::Result<()> {
    let (benchmark, options) = match arguments.split_first() {
        Some((name, options)) if ["load", "nodes", "plugins"].contains(&name.as_str()) => {
            (name.as_str(), options)
        }
        Some((name, _)) if !name.starts_with("--") => {
            bail!("bench: unknown benchmark '{name}'; expected load (the default), nodes or plugins")
        }
        _ => ("load", arguments),
    };
    if benchmark != "nodes" {
        guests::build()?;
    }
    // One after the other: in one build they would get other features, and all dependencies would compile
    // again.
    cargo::run(&["build", "--release", "-p", "switchyard"])?;
    cargo::run(&["build", "--release", "-p", "switchyard-tests", "--bins"])?;
    let mut command = Command::new("sh");
    let program = cargo::target().join("release").join(format!("bench-{benchmark}"));
    command.args(["-c", WITH_MAX_OPEN_FILES]).arg(program).args(options);
    Err(command.exec()).context("cannot start sh, which raises the limit of open files")
}
