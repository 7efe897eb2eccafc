//! Measurements that anybody can make again. What is measured is the programs' own affair.

use crate::cargo;
use anyhow::{Context, bail};
use std::{env, os::unix::process::CommandExt, process::Command};

/// More files may be open than a shell allows by itself: a thousand members are a thousand connections.
const WITH_FILES: &str = r#"ulimit -n "$(ulimit -Hn)"; exec "$0" "$@""#;

/// Takes this process over, so that Ctrl-C, a signal and the exit status are the benchmark's own.
pub fn run(arguments: &[String]) -> anyhow::Result<()> {
    let file = match arguments {
        [what] if what == "nodes" => None,
        [what, flag, file] if what == "nodes" && flag == "--json" => Some(file),
        _ => bail!("bench takes 'nodes' and, after it, --json FILE"),
    };
    // One after the other: together they would have other features, and all that they use would be compiled again.
    cargo::run(&["build", "--release", "-p", "switchyard"])?;
    cargo::run(&["build", "--release", "-p", "switchyard-tests", "--bins"])?;
    let mut command = Command::new("sh");
    command.args(["-c", WITH_FILES]).arg(cargo::target().join("release/bench-nodes"));
    if let Some(file) = file {
        command.arg("--json").arg(env::current_dir()?.join(file));
    }
    Err(command.exec()).context("sh")
}
