//! The SDK for Rust as this program was built with it: its sources, and a manifest that needs no workspace.

use anyhow::Context;
use toml::{Table, Value};

/// The path and the contents of each file of the SDK, except its manifest.
const SDK_FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/sdk_files.rs"));

const MANIFEST: &str = include_str!("../../../../../sdk/Cargo.toml");
const WORKSPACE_MANIFEST: &str = include_str!("../../../../../Cargo.toml");
const LICENSE: &str = include_str!("../../../../../LICENSE");

/// The files of the SDK, by path in its folder.
pub(super) fn sdk_files() -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let mut files: Vec<_> =
        SDK_FILES.iter().map(|(file, contents)| ((*file).to_owned(), contents.to_vec())).collect();
    files.push(("Cargo.toml".to_owned(), manifest()?.into_bytes()));
    files.push(("LICENSE".to_owned(), LICENSE.into()));
    Ok(files)
}

/// The manifest of the SDK with the values that it inherits, and without what only its own tests need.
fn manifest() -> anyhow::Result<String> {
    let mut manifest: Table = MANIFEST.parse().context("sdk/Cargo.toml")?;
    let workspace: Table = WORKSPACE_MANIFEST.parse().context("Cargo.toml")?;
    let workspace = workspace["workspace"].as_table().context("Cargo.toml: workspace")?;
    for own in ["lints", "dev-dependencies"] {
        manifest.remove(own);
    }
    inherit(&mut manifest["package"], &workspace["package"])?;
    inherit(&mut manifest["dependencies"], &workspace["dependencies"])?;
    let targets = manifest.get_mut("target").and_then(Value::as_table_mut);
    for (_, target) in targets.into_iter().flatten() {
        inherit(&mut target["dependencies"], &workspace["dependencies"])?;
    }
    Ok(toml::to_string(&manifest)?)
}

/// Replaces each `key.workspace = true` in `section` by the workspace's value. Further fields of a dependency
/// stay.
fn inherit(section: &mut Value, workspace: &Value) -> anyhow::Result<()> {
    for (key, value) in section.as_table_mut().into_iter().flatten() {
        let Some(own) = value.as_table_mut().filter(|own| own.contains_key("workspace")) else { continue };
        let inherited =
            workspace.get(key).with_context(|| format!("Cargo.toml: no {key} in the workspace"))?;
        own.remove("workspace");
        *value = match (inherited.clone(), std::mem::take(own)) {
            (inherited, own) if own.is_empty() => inherited,
            (Value::Table(mut inherited), own) => {
                inherited.extend(own);
                Value::Table(inherited)
            }
            (version, mut own) => {
                own.insert("version".to_owned(), version);
                Value::Table(own)
            }
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vendored_sdk_needs_no_workspace() {
        let manifest = manifest().unwrap();
        assert!(!manifest.contains("workspace"), "{manifest}");
        let manifest: Table = manifest.parse().unwrap();
        let workspace: Table = WORKSPACE_MANIFEST.parse().unwrap();
        assert_eq!(manifest["package"]["version"], workspace["workspace"]["package"]["version"]);
        assert_eq!(
            manifest["dependencies"]["serde_json"],
            workspace["workspace"]["dependencies"]["serde_json"]
        );
        let wasm = &manifest["target"]["cfg(target_arch = \"wasm32\")"]["dependencies"];
        assert_eq!(wasm["wit-bindgen"], workspace["workspace"]["dependencies"]["wit-bindgen"]);
    }

    #[test]
    fn a_dependency_keeps_its_own_fields() {
        let parse = |text: &str| Value::Table(text.parse().unwrap());
        let mut section = parse(
            "a = { workspace = true, optional = true }\nb = { workspace = true, optional = true }\nc = \"3\"",
        );
        inherit(&mut section, &parse("a = \"1\"\nb = { version = \"2\", features = [\"x\"] }")).unwrap();
        let expected = "a = { version = \"1\", optional = true }\n\
                        b = { version = \"2\", features = [\"x\"], optional = true }\nc = \"3\"";
        assert_eq!(section, parse(expected));
        assert!(inherit(&mut parse("d.workspace = true"), &parse("")).is_err());
    }
}
