//! `[[plugin]]`: which file governs which rooms, and what it may use.

use super::{Budget, Engine, OnFailure, Plugin, Trust, contract};
use bytes::Bytes;
use serde::Deserialize;
use std::{
    ffi::OsString,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use switchyard_process::{
    file::{self, FileError, UnusableFile},
    unit,
};
use switchyard_protocol::room::RoomPattern;

/// Bytes of a file that holds a signature: one line.
const SIGNATURE: u64 = 1024;

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginConfig {
    pub name: toml::Spanned<String>,
    /// A core module or a component.
    pub file: PathBuf,
    /// Of the file, in hexadecimal; another file is refused.
    pub sha256: Option<String>,
    pub rooms: Vec<RoomPattern>,
    /// Handed to the plugin as JSON.
    #[serde(default)]
    pub config: toml::Table,
    #[serde(default)]
    pub on_failure: OnFailure,
    #[serde(default)]
    pub budget: BudgetConfig,
    /// How long a new version is watched, and goes back by itself when it fails; zero is never.
    #[serde(default = "probation", deserialize_with = "unit::duration")]
    pub probation: Duration,
    /// `[signatures]`, the same for all: put here when the configuration was read, so that a plugin is nowhere
    /// loaded without it.
    #[serde(skip)]
    pub trust: Arc<Trust>,
}

fn probation() -> Duration {
    Duration::from_secs(60)
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BudgetConfig {
    /// Of one call.
    #[serde(deserialize_with = "unit::duration")]
    pub call: Duration,
    /// Bytes of one instance.
    #[serde(deserialize_with = "unit::size")]
    pub memory: usize,
    /// Of one instance, before a fresh one takes its place.
    pub calls: u64,
}

impl Default for BudgetConfig {
    fn default() -> Self {
        let Budget { call, memory, calls } = Budget::default();
        Self { call, memory, calls }
    }
}

/// Why a version does not run here.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct Unloadable {
    pub reason: String,
    /// It may well run later as it is.
    pub passes: bool,
}

impl From<String> for Unloadable {
    fn from(reason: String) -> Self {
        Self { reason, passes: false }
    }
}

/// What a plugin's files hold.
pub struct Source {
    pub code: Bytes,
    pub signature: Option<String>,
}

impl PluginConfig {
    pub fn name(&self) -> &str {
        self.name.get_ref()
    }

    /// A file that was found rather than configured.
    pub fn found(name: String, file: PathBuf, rooms: Vec<RoomPattern>) -> Self {
        Self {
            name: toml::Spanned::new(0..0, name),
            file,
            sha256: None,
            rooms,
            config: toml::Table::new(),
            on_failure: OnFailure::default(),
            budget: BudgetConfig::default(),
            probation: probation(),
            trust: Arc::default(),
        }
    }

    /// Whether a version that was started with the other would be the same with this.
    pub fn runs_like(&self, other: &Self) -> bool {
        let of =
            |config: &Self| (config.config.clone(), config.budget, config.on_failure, config.sha256.clone());
        of(self) == of(other)
    }

    /// Reads the file, verifies and compiles it, which takes some tenths of a second.
    pub fn load(&self, engine: &Engine) -> Result<Plugin, String> {
        let Source { code, signature } = self.read().map_err(|error| error.to_string())?;
        self.compile(engine, &code, signature.as_deref())
            .map_err(|error| format!("{error} ({})", self.file.display()))
    }

    /// The signature beside the file, if there is one.
    fn signature(&self) -> Result<Option<String>, UnusableFile> {
        let file = signature_file(&self.file);
        read_signature(&file).map_err(|why| self.not_taken(&file, &why))
    }

    fn not_taken(&self, file: &Path, why: &FileError) -> UnusableFile {
        UnusableFile::new(format_args!("plugin '{}': {}", self.name(), file.display()), why)
    }

    /// The file and its signature, as they are now. Blocks.
    pub fn read(&self) -> Result<Source, UnusableFile> {
        let code = file::read(&self.file, contract::LARGEST as u64);
        let code = code.map_err(|why| self.not_taken(&self.file, &why))?;
        Ok(Source { code: code.into(), signature: self.signature()? })
    }

    /// The files that it is made of: when one changes, it is read again.
    pub fn files(&self) -> [PathBuf; 2] {
        [self.file.clone(), signature_file(&self.file)]
    }

    /// Verifies and compiles bytes that came otherwise.
    pub fn compile(
        &self,
        engine: &Engine,
        bytes: &[u8],
        signature: Option<&str>,
    ) -> Result<Plugin, Unloadable> {
        let name = self.name();
        // First: nothing looks into bytes that nobody vouches for.
        let signed_by = self.trust.verify(name, bytes, signature)?;
        let config = serde_json::to_value(&self.config)
            .map_err(|error| format!("plugin '{name}': its config is no JSON: {error}"))?;
        let BudgetConfig { call, memory, calls } = self.budget;
        let plugin = Plugin::load(engine, name, bytes, &config, Budget { call, memory, calls })
            .map_err(|error| Unloadable { passes: error.passes(), reason: error.to_string() })?;
        match &self.sha256 {
            Some(pin) if !pin.eq_ignore_ascii_case(&plugin.info().sha256) => {
                let found = &plugin.info().sha256;
                let reason =
                    format!("plugin '{name}' has the SHA-256 {found}, but the configuration pins {pin}");
                Err(reason.into())
            }
            _ => Ok(plugin.signed_by(signed_by)),
        }
    }
}

/// `dydx.wasm.sig` of `dydx.wasm`.
pub fn signature_file(file: &Path) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(".sig");
    name.into()
}

/// What a file of a signature holds; `None` where there is no file.
pub fn read_signature(file: &Path) -> Result<Option<String>, FileError> {
    match file::read_text(file, SIGNATURE) {
        Ok(text) => Ok(Some(text)),
        Err(FileError::Io(error)) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
