//! `switchyard plugin new`: writes a crate that builds, with an example plugin to change and its test.

use crate::output::print_line;
use anyhow::{Context, bail};
use clap::Args;
use std::{
    fs,
    path::{Path, PathBuf},
};

#[derive(Args)]
pub(crate) struct NewArgs {
    /// The name of the crate and its folder: a letter, then lowercase letters, digits and -
    #[arg(value_parser = parse_name)]
    name: String,
    /// Use the SDK in this folder instead of the one on GitHub
    #[arg(long, value_name = "FOLDER")]
    sdk: Option<PathBuf>,
}

/// The example plugin, which is also in the SDK's manual and tests.
const PLUGIN_SOURCE: &str = include_str!("../../../../sdk/tests/first_plugin.rs");
const PUBLISHED_SDK: &str = "git = \"https://github.com/switchyard-rs/switchyard\"";

const MAX_NAME_LENGTH: usize = 64;

/// A small stack, so that memory starts at two pages, and no debug sections. Function names stay, for
/// readable traps.
const CARGO_CONFIG: &str = "[target.wasm32-unknown-unknown]\n\
                     rustflags = [\"-C\", \"link-arg=-zstack-size=65536\", \"-C\", \"strip=debuginfo\"]\n";

fn parse_name(text: &str) -> Result<String, String> {
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let is_valid = text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(is_allowed)
        && text.len() <= MAX_NAME_LENGTH;
    match is_valid {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "expected a letter, then lowercase letters, digits and -, at most {MAX_NAME_LENGTH} in all, such as my-rooms"
        )),
    }
}

pub(super) fn run(args: NewArgs) -> anyhow::Result<()> {
    let name = &args.name;
    let sdk = match &args.sdk {
        None => PUBLISHED_SDK.to_owned(),
        Some(folder) => {
            let folder = folder.canonicalize().with_context(|| format!("--sdk {}", folder.display()))?;
            if !folder.join("Cargo.toml").is_file() {
                bail!(
                    "--sdk {}: no Cargo.toml there; expected the folder of switchyard-sdk",
                    folder.display()
                );
            }
            format!("path = {:?}", folder.display().to_string())
        }
    };
    let folder = Path::new(name);
    if folder.exists() {
        bail!("NAME: {name} already exists; choose another name, or move it away");
    }
    let manifest = format!(
        "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\npublish = false\n\n\
         # cdylib is the Wasm module, rlib the library for tests.\n[lib]\ncrate-type = [\"cdylib\", \"rlib\"]\n\n\
         [dependencies]\nserde = {{ version = \"1\", features = [\"derive\"] }}\nserde_json = \"1\"\n\
         switchyard-sdk = {{ {sdk} }}\n\n[profile.release]\noverflow-checks = true\n\n\
         # A workspace of its own, also within another repository.\n[workspace]\n"
    );
    for (file, text) in [
        ("Cargo.toml", manifest.as_str()),
        (".cargo/config.toml", CARGO_CONFIG),
        (".gitignore", "/target\n"),
        ("src/lib.rs", PLUGIN_SOURCE),
    ] {
        let file = folder.join(file);
        fs::create_dir_all(file.parent().expect("it is in a folder")).with_context(|| name.clone())?;
        fs::write(&file, text).with_context(|| file.display().to_string())?;
    }
    let module = format!("target/wasm32-unknown-unknown/release/{}.wasm", name.replace('-', "_"));
    print_line!("Created {name}: src/lib.rs checks and filters prices. Run this in its folder:")?;
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
