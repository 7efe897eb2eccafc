//! `switchyard plugin new`: a crate that builds, with a plugin to change and a test that shows how.

use crate::output::print_line;
use anyhow::{Context, bail};
use clap::Args;
use std::{
    fs,
    path::{Path, PathBuf},
};

#[derive(Args)]
pub(crate) struct NewArgs {
    /// Of the crate and its folder: small letters, digits and - after a letter
    name: String,
    /// The folder of the SDK, instead of the published one
    #[arg(long, value_name = "FOLDER")]
    sdk: Option<PathBuf>,
}

/// The same that the SDK's manual begins with and its tests run.
const PLUGIN: &str = include_str!("../../../../sdk/tests/first_plugin.rs");
const SDK: &str = "git = \"https://github.com/switchyard-rs/switchyard\"";

/// A small stack makes memory begin at two pages; names stay for readable traps.
const FLAGS: &str = "[target.wasm32-unknown-unknown]\n\
                     rustflags = [\"-C\", \"link-arg=-zstack-size=65536\", \"-C\", \"strip=debuginfo\"]\n";

pub(super) fn run(args: NewArgs) -> anyhow::Result<()> {
    let name = &args.name;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(plain) || name.len() > 64 {
        bail!("'{name}' is no name of a crate: small letters, digits and - after a letter, such as my-rooms");
    }
    let sdk = match &args.sdk {
        None => SDK.to_owned(),
        Some(folder) => {
            let folder = folder.canonicalize().with_context(|| folder.display().to_string())?;
            if !folder.join("Cargo.toml").is_file() {
                bail!("{} holds no crate: name the folder of switchyard-sdk", folder.display());
            }
            format!("path = {:?}", folder.display().to_string())
        }
    };
    let folder = Path::new(name);
    if folder.exists() {
        bail!("{name} is there already: choose another name, or move it away");
    }
    let manifest = format!(
        "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\npublish = false\n\n\
         # The Wasm module, and the library for tests.\n[lib]\ncrate-type = [\"cdylib\", \"rlib\"]\n\n\
         [dependencies]\nserde = {{ version = \"1\", features = [\"derive\"] }}\nserde_json = \"1\"\n\
         switchyard-sdk = {{ {sdk} }}\n\n[profile.release]\noverflow-checks = true\n\n\
         # It stands alone, also inside of another repository.\n[workspace]\n"
    );
    for (file, text) in [
        ("Cargo.toml", manifest.as_str()),
        (".cargo/config.toml", FLAGS),
        (".gitignore", "/target\n"),
        ("src/lib.rs", PLUGIN),
    ] {
        let file = folder.join(file);
        fs::create_dir_all(file.parent().expect("a folder")).with_context(|| name.clone())?;
        fs::write(&file, text).with_context(|| file.display().to_string())?;
    }
    let module = format!("target/wasm32-unknown-unknown/release/{}.wasm", name.replace('-', "_"));
    print_line!("{name} is there: src/lib.rs checks prices and filters them. In its folder:")?;
    print_line!("")?;
    print_line!("cargo test")?;
    print_line!("rustup target add wasm32-unknown-unknown")?;
    print_line!("cargo build --release --target wasm32-unknown-unknown")?;
    print_line!("switchyard plugin check {module} --config '{{\"max\":10}}'")?;
    print_line!(
        "switchyard plugin run {module} --config '{{\"max\":10}}' --room prices --filter '{{\"floor\":4}}' '{{\"price\":5}}'"
    )?;
    Ok(())
}
