//! Runs the checker of random failures. The program in `tests/src/bin/check` draws the schedules and parses its
//! own options.

use crate::{cargo, guests};
use anyhow::Context;
use std::{os::unix::process::CommandExt, process::Command};

/// Replaces this process with the checker, so that Ctrl-C, signals and the exit status are the checker's own.
pub fn run(arguments: &[String]) -> anyhow::Result<()> {
    let guests = guests::build()?;
    // One after the other: in one build they would get other features, and all dependencies would compile
    // again.
    cargo::run(&["build", "--release", "-p", "switchyard"])?;
    cargo::run(&["build", "--release", "-p", "switchyard-tests", "--bin", "check"])?;
    let program = cargo::target().join("release/check");
    let error = Command::new(&program).args(arguments).env("SWITCHYARD_GUESTS", guests).exec();
    Err(error).with_context(|| format!("cannot start {}", program.display()))
}
