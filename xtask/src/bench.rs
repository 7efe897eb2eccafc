//! Measurements that anybody can make again. What is measured is the programs' own affair.

use crate::cargo;
use anyhow::{Context, bail};
use std::{env, fs, os::unix::process::CommandExt, path::PathBuf, process::Command};

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
    command.args(["-c", WITH_FILES]).arg(placed()?);
    if let Some(file) = file {
        command.arg("--json").arg(env::current_dir()?.join(file));
    }
    Err(command.exec()).context("sh")
}

/// Where it finds the server as the tests do, which run from a folder within that of the server.
fn placed() -> anyhow::Result<PathBuf> {
    let built = cargo::target().join("release/bench-nodes");
    let place = cargo::target().join("release/deps/bench-nodes");
    fs::remove_file(&place).ok();
    fs::hard_link(&built, &place).with_context(|| built.display().to_string())?;
    Ok(place)
}
