//! Measurements that anybody can make again. What is measured is the programs' own affair.

use crate::{cargo, guests};
use anyhow::{Context, bail};
use std::{os::unix::process::CommandExt, process::Command};

/// More files may be open than a shell allows by itself: a thousand members are a thousand connections.
const WITH_FILES: &str = r#"ulimit -n "$(ulimit -Hn)"; exec "$0" "$@""#;

/// Takes this process over, so that Ctrl-C, a signal and the exit status are the benchmark's own.
pub fn run(arguments: &[String]) -> anyhow::Result<()> {
    let (what, options) = match arguments.split_first() {
        Some((what, options)) if ["load", "nodes", "plugins"].contains(&what.as_str()) => {
            (what.as_str(), options)
        }
        Some((what, _)) if !what.starts_with("--") => {
            bail!("bench takes 'load', which it also is without a word, 'nodes' or 'plugins', not '{what}'")
        }
        _ => ("load", arguments),
    };
    if what != "nodes" {
        guests::build()?;
    }
    // One after the other: together they would have other features, and all that they use would be compiled again.
    cargo::run(&["build", "--release", "-p", "switchyard"])?;
    cargo::run(&["build", "--release", "-p", "switchyard-tests", "--bins"])?;
    let mut command = Command::new("sh");
    let program = cargo::target().join("release").join(format!("bench-{what}"));
    command.args(["-c", WITH_FILES]).arg(program).args(options);
    Err(command.exec()).context("sh")
}
