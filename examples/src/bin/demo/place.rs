//! Where the demo finds its programs and plugins, and what it writes: a configuration and logs, under target/.

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

const CONFIG: &str = include_str!("../../../demo/switchyard.toml");
/// Where that file expects the plugins.
const PLUGINS: &str = "../../target/wasm32-unknown-unknown/release";

pub struct Place {
    /// The folder of the programs.
    programs: PathBuf,
    plugins: PathBuf,
    /// Private to this run's user.
    state: PathBuf,
}

/// Of this run. On disk are only their digests.
pub struct Keys {
    pub feed: String,
    /// May subscribe, and nothing else.
    pub watcher: String,
}

impl Place {
    pub fn find() -> anyhow::Result<Self> {
        let this = env::current_exe()?;
        let programs = this.parent().context("this program is in no folder")?.to_owned();
        let target = programs.parent().context("this program is in no target folder")?;
        let plugins = target.join("wasm32-unknown-unknown/release");
        if !plugins.join("orderbook.wasm").is_file() {
            bail!("{} has no plugins; build them with: cargo xtask guests", plugins.display());
        }
        let state = target.join("demo");
        private_folder(&state)?;
        Ok(Self { programs, plugins, state })
    }

    /// A folder for this run, without what an earlier one left in it.
    pub fn fresh(&self, name: &str) -> anyhow::Result<PathBuf> {
        let folder = self.state.join(name);
        match remove_dir_all(&folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| folder.display().to_string());
            }
            _ => private_folder(&folder)?,
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

    /// The example's configuration with the plugins' real place and keys for this run.
    pub fn write_config(&self) -> anyhow::Result<Keys> {
        let keys = Keys { feed: generate_key(), watcher: generate_key() };
        let mut text = CONFIG.replace(PLUGINS, &toml_text(&self.plugins)?);
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

    /// What follows `#` never leaves the browser.
    pub fn page(&self, urls: &[&str], key: &str) -> String {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR"));
        let page = escaped(&examples.join("browser/index.html").display().to_string(), "/");
        let urls: String = urls.iter().map(|url| format!("url={}&", escaped(url, ""))).collect();
        format!("file://{page}#{urls}key={key}")
    }
}

fn private_folder(folder: &Path) -> anyhow::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.with_context(|| folder.display().to_string())
}

fn toml_text(path: &Path) -> anyhow::Result<String> {
    match path.to_str() {
        Some(text) if !text.contains(['"', '\\']) && !text.contains(char::is_control) => Ok(text.to_owned()),
        _ => bail!("{}: a path with quotes, backslashes or control characters", path.display()),
    }
}

/// Percent-encoded, but for letters, digits, `-._~` and `kept`.
fn escaped(text: &str, kept: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match char::from(byte) {
            c if c.is_ascii_alphanumeric() || "-._~".contains(c) || kept.contains(c) => escaped.push(c),
            _ => escaped += &format!("%{byte:02X}"),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_names_plugins_where_they_are_replaced() {
        assert_eq!(CONFIG.matches(PLUGINS).count(), 3);
        assert!(toml_text(Path::new("/a \"b\"")).is_err());
    }

    #[test]
    fn addresses_survive_the_location_hash() {
        assert_eq!(
            escaped("ws://127.0.0.1:8080/v2?a=b&c", ""),
            "ws%3A%2F%2F127.0.0.1%3A8080%2Fv2%3Fa%3Db%26c"
        );
        assert_eq!(escaped("/a b/é", "/"), "/a%20b/%C3%A9");
    }
}
