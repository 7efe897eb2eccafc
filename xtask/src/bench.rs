//! Measurements that anybody can make again. What is measured is the programs' own affair.

use crate::{cargo, guests};
use anyhow::{Context, bail};
use std::{env, os::unix::process::CommandExt, process::Command};

/// More files may be open than a shell allows by itself: a thousand members are a thousand connections.
const WITH_FILES: &str = r#"ulimit -n "$(ulimit -Hn)"; exec "$0" "$@""#;

/// Takes this process over, so that Ctrl-C, a signal and the exit status are the benchmark's own.
pub fn run(arguments: &[String]) -> anyhow::Result<()> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (what, file) = match arguments[..] {
        [what @ ("nodes" | "plugins")] => (what, None),
        [what @ ("nodes" | "plugins"), "--json", file] => (what, Some(file)),
        _ => bail!("bench takes 'nodes' or 'plugins' and, after it, --json FILE"),
    };
    if what == "plugins" {
        guests::build()?;
    }
    // One after the other: together they would have other features, and all that they use would be compiled again.
    cargo::run(&["build", "--release", "-p", "switchyard"])?;
    cargo::run(&["build", "--release", "-p", "switchyard-tests", "--bins"])?;
    let mut command = Command::new("sh");
    let program = cargo::target().join("release").join(format!("bench-{what}"));
    command.args(["-c", WITH_FILES]).arg(program);
    if let Some(file) = file {
        command.arg("--json").arg(env::current_dir()?.join(file));
    }
    Err(command.exec()).context("sh")
}
