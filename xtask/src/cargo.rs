//! The folders of the repository and of the build, and calls of cargo.

use anyhow::{Context, bail};
use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the repository")
}

/// Where cargo puts what it builds. A relative `CARGO_TARGET_DIR` is relative to the current directory.
pub fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => env::current_dir().unwrap_or_default().join(folder),
        None => root().join("target"),
    }
}

/// Runs cargo in the repository.
pub fn run(arguments: &[&str]) -> anyhow::Result<()> {
    run_with(arguments, &[])
}

/// Runs cargo in the repository, with additional environment variables.
pub fn run_with(arguments: &[&str], environment: &[(&str, &Path)]) -> anyhow::Result<()> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // `cargo run` describes this package in them. Build scripts read them, so that ring, and whatever uses
    // it, would be compiled again each time that cargo is called by hand and through xtask in turns.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command.args(arguments).current_dir(root()).env("CARGO_TARGET_DIR", target());
    command.envs(environment.iter().copied());
    eprintln!("$ cargo {}", arguments.join(" "));
    let status = command.status().context("cannot start cargo")?;
    if !status.success() {
        bail!("cargo {} failed", arguments.join(" "));
    }
    Ok(())
}
