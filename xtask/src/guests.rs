//! Builds what runs inside the sandbox.

use crate::cargo;
use anyhow::{Context, bail};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const TARGET: &str = "wasm32-unknown-unknown";

/// Each folder in these is a guest, and its package has the folder's name.
const FOLDERS: [&str; 2] = ["plugins", "tests/guests"];

const WHAT_TO_DO: &str = "\
the standard library of wasm32-unknown-unknown is not installed. With rustup:

    rustup target add wasm32-unknown-unknown

Where rustup cannot reach its server, Debian's packages have the sources of the standard library, from which
cargo builds it; after apt-get install rustc-web cargo-web rust-web-src lld, for each folder in plugins/:

    RUSTC_BOOTSTRAP=1 RUSTC=/usr/bin/rustc CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=wasm-ld \\
      /usr/bin/cargo build -Zbuild-std=std,panic_abort --release --target wasm32-unknown-unknown -p FOLDER";

/// Builds all guests, and answers where the modules are.
pub fn build() -> anyhow::Result<PathBuf> {
    ensure_target()?;
    let names = names(cargo::root())?;
    let mut arguments = vec!["build", "--release", "--target", TARGET];
    names.iter().for_each(|name| arguments.extend(["-p", name]));
    cargo::run(&arguments)?;
    Ok(cargo::target().join(TARGET).join("release"))
}

fn names(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = vec![];
    for folder in FOLDERS {
        let entries = fs::read_dir(root.join(folder)).with_context(|| folder.to_owned())?;
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
    bail!("{WHAT_TO_DO}");
}

/// Asked of the compiler, because it need not come from rustup.
fn is_installed() -> bool {
    let asked = Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]).output();
    asked.is_ok_and(|output| Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir())
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_guest_is_found() {
        let names = super::names(crate::cargo::root()).unwrap();
        for name in ["hostile", "orderbook", "protocol-rooms", "threshold-filter"] {
            assert!(names.iter().any(|found| found == name), "{name} is not among {names:?}");
        }
    }
}
