//! Schedules of failures drawn from seeds. What is drawn and what must hold is the program's own affair.

use crate::{cargo, guests};
use anyhow::Context;
use std::{os::unix::process::CommandExt, process::Command};

/// Takes this process over, so that Ctrl-C, a signal and the exit status are the checker's own.
pub fn run(arguments: &[String]) -> anyhow::Result<()> {
    let guests = guests::build()?;
    // One after the other: together they would have other features, and all that they use would be compiled again.
    cargo::run(&["build", "--release", "-p", "switchyard"])?;
    cargo::run(&["build", "--release", "-p", "switchyard-tests", "--bin", "check"])?;
    let program = cargo::target().join("release/check");
    let error = Command::new(&program).args(arguments).env("SWITCHYARD_GUESTS", guests).exec();
    Err(error).with_context(|| program.display().to_string())
}
