//! Finds the plugins and the binary that were built.

use std::path::{Path, PathBuf};

/// The file of a plugin, which `cargo xtask test` has built.
pub fn guest(name: &str) -> PathBuf {
    built(name, "SWITCHYARD_GUESTS", "wasm32-unknown-unknown/release", "guests")
}

/// The configuration of such a plugin; `rooms` and `config` are TOML.
pub fn plugin(name: &str, rooms: &str, config: &str) -> String {
    let file = guest(name);
    format!(
        "[[plugin]]\nname = \"{name}\"\nfile = \"{}\"\nrooms = {rooms}\nconfig = {config}\n",
        file.display()
    )
}

/// The component of an example plugin that is not written in Rust.
pub fn language_guest(language: &str) -> PathBuf {
    built(&format!("{language}_filter"), "SWITCHYARD_LANGUAGES", "languages", "languages")
}

fn built(name: &str, variable: &str, folder: &str, command: &str) -> PathBuf {
    let folder = match std::env::var_os(variable) {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target").join(folder),
    };
    let file = folder.join(format!("{name}.wasm"));
    assert!(file.exists(), "{} does not exist; run `cargo xtask {command}` first", file.display());
    file
}

/// The binary `switchyard` from the same build, or the one that `SWITCHYARD_BINARY` names, to compare versions.
pub fn binary() -> PathBuf {
    if let Some(file) = std::env::var_os("SWITCHYARD_BINARY") {
        return file.into();
    }
    let here = std::env::current_exe().expect("a program has a path");
    // Test programs are in a folder next to the binary, other programs in the same folder.
    let beside = here.ancestors().skip(1).take(2).map(|folder| folder.join("switchyard"));
    let found = beside.into_iter().find(|file| file.is_file());
    found
        .unwrap_or_else(|| panic!("no switchyard near {}: run `cargo build --release` first", here.display()))
}
