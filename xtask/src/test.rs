//! Everything that must hold. Release builds throughout: one profile is compiled, and only once.

use crate::{cargo, guests};
use std::process::{Command, Stdio};

/// `rest` is for `cargo test`.
pub fn all(rest: &[String]) -> anyhow::Result<()> {
    let guests = guests::build()?;
    ensure_redis();
    cargo::run(&["fmt", "--all", "--check"])?;
    cargo::run(&["clippy", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    // The tests of the command line run the binary, which `cargo test` alone does not build.
    cargo::run(&["build", "--release", "-p", "switchyard"])?;
    let mut arguments = vec!["test", "--release", "--workspace"];
    arguments.extend(rest.iter().map(String::as_str));
    cargo::run_with(&arguments, &[("SWITCHYARD_GUESTS", &guests)])
}

/// A missing redis-server is installed where that needs no password. Tests that need one fail by themselves.
fn ensure_redis() {
    if succeeds("redis-server", &["--version"]) {
        return;
    }
    let install = ["apt-get", "install", "--yes", "--no-install-recommends", "redis-server"];
    for command in [&["apt-get", "update", "--quiet"], &install[..]] {
        match is_root() {
            true => succeeds(command[0], &command[1..]),
            false => succeeds("sudo", &[&["-n"], command].concat()),
        };
    }
    if !succeeds("redis-server", &["--version"]) {
        eprintln!("xtask: warning: there is no redis-server; install it with: {}", install.join(" "));
    }
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let status = Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
