//! A new plugin in Rust: a crate with the plugin of the SDK's manual and its test.

use super::{Project, vendor};
use std::path::PathBuf;

/// Where the new crate finds the SDK.
pub(super) enum Sdk {
    Published,
    Folder(PathBuf),
    /// In the crate's own folder.
    Vendored,
}

/// The example plugin, which is also in the SDK's manual and tests.
const PLUGIN_SOURCE: &str = include_str!("../../../../../sdk/tests/first_plugin.rs");
const PUBLISHED_SDK: &str = "git = \"https://github.com/switchyard-rs/switchyard\"";
const VENDORED_SDK_FOLDER: &str = "switchyard-sdk";

/// A small stack, so that memory starts at two pages, and no debug sections. Function names stay, for
/// readable traps.
const CARGO_CONFIG: &str = "[target.wasm32-unknown-unknown]\n\
                     rustflags = [\"-C\", \"link-arg=-zstack-size=65536\", \"-C\", \"strip=debuginfo\"]\n";

pub(super) fn project(name: &str, sdk: &Sdk) -> anyhow::Result<Project> {
    let dependency = match sdk {
        Sdk::Published => PUBLISHED_SDK.to_owned(),
        Sdk::Folder(folder) => format!("path = {:?}", folder.display().to_string()),
        Sdk::Vendored => format!("path = {VENDORED_SDK_FOLDER:?}"),
    };
    let manifest = format!(
        "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\npublish = false\n\n\
         # cdylib is the Wasm module, rlib the library for tests.\n[lib]\ncrate-type = [\"cdylib\", \"rlib\"]\n\n\
         [dependencies]\nserde = {{ version = \"1\", features = [\"derive\"] }}\nserde_json = \"1\"\n\
         switchyard-sdk = {{ {dependency} }}\n\n[profile.release]\noverflow-checks = true\n\n\
         # A workspace of its own, also within another repository.\n[workspace]\n"
    );
    let mut files = vec![
        ("Cargo.toml".to_owned(), manifest.into_bytes()),
        (".cargo/config.toml".to_owned(), CARGO_CONFIG.into()),
        (".gitignore".to_owned(), "/target\n".into()),
        ("src/lib.rs".to_owned(), PLUGIN_SOURCE.into()),
    ];
    if let Sdk::Vendored = sdk {
        let sdk = vendor::sdk_files()?;
        files.extend(
            sdk.into_iter().map(|(file, contents)| (format!("{VENDORED_SDK_FOLDER}/{file}"), contents)),
        );
    }
    let module = format!("target/wasm32-unknown-unknown/release/{}.wasm", name.replace('-', "_"));
    let commands = vec![
        "cargo test".to_owned(),
        "rustup target add wasm32-unknown-unknown".to_owned(),
        "cargo build --release --target wasm32-unknown-unknown".to_owned(),
        format!("switchyard plugin check {module} --config '{{\"max\":10}}'"),
        format!(
            "switchyard plugin run {module} --config '{{\"max\":10}}' --room prices --filter '{{\"floor\":4}}' '{{\"price\":5}}'"
        ),
    ];
    Ok(Project { summary: "src/lib.rs checks and filters prices", files, commands })
}
