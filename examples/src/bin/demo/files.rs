//! The files of the demo: its programs and plugins, and the configuration and logs that it writes to
//! target/demo.

use anyhow::{Context, bail};
use std::{
    env,
    fs::{DirBuilder, OpenOptions, remove_dir_all},
    io::{ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::Command,
};
use switchyard_server::generate_key;
use switchyard_store::key::Digest;

/// The example configuration.
const CONFIG: &str = include_str!("../../../demo/switchyard.toml");
/// The folder of the plugins in that file, which is replaced with the real one.
const PLUGINS_FOLDER: &str = "../../target/wasm32-unknown-unknown/release";

pub struct DemoFiles {
    /// The folder with the programs.
    programs: PathBuf,
    /// The folder with the plugins.
    plugins: PathBuf,
    /// The folder for what the demo writes. Only its owner can read it.
    state: PathBuf,
}

/// The API keys of this run. Only their digests are written to disk.
pub struct Keys {
    /// May only publish.
    pub feed: String,
    /// May only subscribe.
    pub watcher: String,
}

impl DemoFiles {
    /// Finds the programs next to this one, and the plugins in the same target folder.
    pub fn find() -> anyhow::Result<Self> {
        let this = env::current_exe()?;
        let programs = this.parent().context("the demo program is not in a folder")?.to_owned();
        let target = programs.parent().context("the demo program is not in a target folder")?;
        let plugins = target.join("wasm32-unknown-unknown/release");
        if !plugins.join("orderbook.wasm").is_file() {
            bail!("{}: no plugins there; build them with `cargo xtask guests`", plugins.display());
        }
        let state = target.join("demo");
        create_private_folder(&state)?;
        Ok(Self { programs, plugins, state })
    }

    /// Creates an empty folder, and removes what an earlier run left there.
    pub fn create_empty_folder(&self, name: &str) -> anyhow::Result<PathBuf> {
        let folder = self.state.join(name);
        match remove_dir_all(&folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| folder.display().to_string());
            }
            _ => create_private_folder(&folder)?,
        }
        Ok(folder)
    }

    pub fn program(&self, name: &str) -> Command {
        Command::new(self.programs.join(name))
    }

    pub fn config(&self) -> PathBuf {
        self.state.join("switchyard.toml")
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.state.join(name).with_extension("log")
    }

    /// Writes the configuration: the example with the real folder of the plugins and new keys.
    pub fn write_config(&self) -> anyhow::Result<Keys> {
        let keys = Keys { feed: generate_key(), watcher: generate_key() };
        let mut text = CONFIG.replace(PLUGINS_FOLDER, &toml_string(&self.plugins)?);
        for (key, principal, scope) in
            [(&keys.feed, "feed", "publish"), (&keys.watcher, "watcher", "subscribe")]
        {
            let digest = Digest::of(key);
            text += &format!(
                "\n[[key]]\ndigest = \"{digest}\"\nprincipal = \"{principal}\"\nscopes = [\"{scope}\"]\n"
            );
        }
        let file = self.config();
        let opened = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&file);
        opened
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| file.display().to_string())?;
        Ok(keys)
    }

    /// The URL of the web page. The part after `#` never leaves the browser, so it may contain the key.
    pub fn page_url(&self, urls: &[&str], key: &str) -> String {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR"));
        let page = percent_encode(&examples.join("browser/index.html").display().to_string(), "/");
        let urls: String = urls.iter().map(|url| format!("url={}&", percent_encode(url, ""))).collect();
        format!("file://{page}#{urls}key={key}")
    }
}

fn create_private_folder(folder: &Path) -> anyhow::Result<()> {
    let created = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    created.with_context(|| folder.display().to_string())
}

fn toml_string(path: &Path) -> anyhow::Result<String> {
    match path.to_str() {
        Some(text) if !text.contains(['"', '\\']) && !text.contains(char::is_control) => Ok(text.to_owned()),
        _ => bail!("{}: the path must not contain quotes, backslashes or control characters", path.display()),
    }
}

/// Percent-encodes everything but letters, digits, `-._~` and the characters in `allowed`.
fn percent_encode(text: &str, allowed: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match char::from(byte) {
            c if c.is_ascii_alphanumeric() || "-._~".contains(c) || allowed.contains(c) => encoded.push(c),
            _ => encoded += &format!("%{byte:02X}"),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_configuration_has_the_folder_that_is_replaced() {
        assert_eq!(CONFIG.matches(PLUGINS_FOLDER).count(), 3);
        assert!(toml_string(Path::new("/a \"b\"")).is_err());
    }

    #[test]
    fn addresses_are_encoded_for_the_url_fragment() {
        assert_eq!(
            percent_encode("ws://127.0.0.1:8080/v2?a=b&c", ""),
            "ws%3A%2F%2F127.0.0.1%3A8080%2Fv2%3Fa%3Db%26c"
        );
        assert_eq!(percent_encode("/a b/é", "/"), "/a%20b/%C3%A9");
    }
}
