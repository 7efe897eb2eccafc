//! Builds the guests: the plugins written in Rust, which run inside the sandbox as WebAssembly.

use crate::cargo;
use anyhow::{Context, bail};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const TARGET: &str = "wasm32-unknown-unknown";

/// Each subfolder is a guest, whose package is named like the folder.
const FOLDERS: [&str; 2] = ["plugins", "tests/guests"];

const INSTALL_INSTRUCTIONS: &str = "\
the standard library for wasm32-unknown-unknown is not installed. With rustup:

    rustup target add wasm32-unknown-unknown

If rustup cannot download it, cargo can build it from the sources in Debian's packages: run
apt-get install rustc-web cargo-web rust-web-src lld, and then, for each folder in plugins/:

    RUSTC_BOOTSTRAP=1 RUSTC=/usr/bin/rustc CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=wasm-ld \\
      /usr/bin/cargo build -Zbuild-std=std,panic_abort --release --target wasm32-unknown-unknown -p FOLDER";

/// Builds all guests and returns the folder with the modules.
pub fn build() -> anyhow::Result<PathBuf> {
    build_folders(&FOLDERS)
}

/// Builds the plugins that users get, without the guests that only tests use.
pub fn build_bundled_plugins() -> anyhow::Result<PathBuf> {
    build_folders(&FOLDERS[..1])
}

fn build_folders(folders: &[&str]) -> anyhow::Result<PathBuf> {
    ensure_target()?;
    let names = guest_names(cargo::root(), folders)?;
    let mut arguments = vec!["build", "--release", "--target", TARGET];
    names.iter().for_each(|name| arguments.extend(["-p", name]));
    cargo::run(&arguments)?;
    Ok(cargo::target().join(TARGET).join("release"))
}

fn guest_names(root: &Path, folders: &[&str]) -> anyhow::Result<Vec<String>> {
    let mut names = vec![];
    for folder in folders {
        let entries = fs::read_dir(root.join(folder)).with_context(|| format!("cannot read {folder}"))?;
        for entry in entries {
            let entry = entry?;
            if entry.path().join("Cargo.toml").is_file() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
    }
    names.sort();
    Ok(names)
}

fn ensure_target() -> anyhow::Result<()> {
    if is_installed() {
        return Ok(());
    }
    eprintln!("$ rustup target add {TARGET}");
    let added = Command::new("rustup").args(["target", "add", TARGET]).current_dir(cargo::root()).status();
    if added.is_ok_and(|status| status.success()) && is_installed() {
        return Ok(());
    }
    bail!("{INSTALL_INSTRUCTIONS}");
}

/// Asks the compiler, which may not come from rustup.
fn is_installed() -> bool {
    let libdir = Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]).output();
    libdir.is_ok_and(|output| Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir())
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_guest_is_found() {
        let names = super::guest_names(crate::cargo::root(), &super::FOLDERS).unwrap();
        for name in ["hostile", "orderbook", "protocol-rooms", "rate-guard", "threshold-filter"] {
            assert!(names.iter().any(|found| found == name), "{name} is not among {names:?}");
        }
    }
}
