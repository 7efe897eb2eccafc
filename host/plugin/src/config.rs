//! The configuration of one plugin, `[[plugin]]`: its file, its rooms and its budget; and loading what it
//! names.

use super::{Budget, Engine, OnFailure, Plugin, SignatureError, StateScope, Trust, contract, load::digest};
use bytes::Bytes;
use serde::{Deserialize, Deserializer};
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

/// Maximum size of a signature file, in bytes. It has a single line.
const MAX_SIGNATURE_BYTES: u64 = 1024;

/// Maximum length of the name of a header, in bytes.
const MAX_HEADER_NAME_BYTES: usize = 64;

/// How long a new version is on probation by default.
const DEFAULT_PROBATION: Duration = Duration::from_secs(60);

/// One `[[plugin]]` of the configuration.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginConfig {
    /// The name under which operators know the plugin.
    pub name: toml::Spanned<String>,
    /// The WebAssembly file: a core module or a component. `None` for a plugin of the store, whose versions are
    /// loaded over HTTP. A configuration file must name it.
    #[serde(deserialize_with = "present_file")]
    pub file: Option<PathBuf>,
    /// The SHA-256 that the file must have, in hexadecimal; any other file is rejected.
    pub sha256: Option<String>,
    /// The rooms that the plugin governs.
    pub rooms: Vec<RoomPattern>,
    /// The plugin's own settings, passed to it as JSON.
    #[serde(default)]
    pub config: toml::Table,
    /// What a failed call is treated as.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// The headers of a client's upgrade that the connect hook sees.
    #[serde(default)]
    pub headers: Vec<ListedHeader>,
    /// Which nodes have the values that the plugin keeps.
    #[serde(default)]
    pub state: StateScope,
    /// The resources that the plugin may use.
    #[serde(default)]
    pub budget: BudgetConfig,
    /// How long a new version is watched and rolled back automatically if it fails; zero means never.
    #[serde(default = "default_probation", deserialize_with = "unit::duration")]
    pub probation: Duration,
    /// The section `[signatures]`, which is the same for all plugins. It is copied here when the
    /// configuration is read, so that no plugin can be loaded without it.
    #[serde(skip)]
    pub trust: Arc<Trust>,
}

fn present_file<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    PathBuf::deserialize(deserializer).map(Some)
}

fn default_probation() -> Duration {
    DEFAULT_PROBATION
}

/// A header of a client's upgrade that a plugin may see: its name, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ListedHeader(String);

/// A text that cannot be listed in `headers`.
#[derive(Debug, thiserror::Error)]
pub enum InvalidHeader {
    /// It is not the name of a header.
    #[error("plugin.headers: invalid header name {0:?}; expected something like \"user-agent\"")]
    Malformed(String),
    /// It presents credentials.
    #[error("plugin.headers: '{0}' carries credentials, which no plugin may see; remove it")]
    Credentials(String),
}

/// Headers that no plugin may see.
const CREDENTIAL_HEADERS: [&str; 4] = ["authorization", "proxy-authorization", "x-api-key", "cookie"];

impl TryFrom<String> for ListedHeader {
    type Error = InvalidHeader;

    fn try_from(name: String) -> Result<Self, InvalidHeader> {
        let lower_case = name.to_ascii_lowercase();
        let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || name.len() > MAX_HEADER_NAME_BYTES || !name.bytes().all(is_token) {
            return Err(InvalidHeader::Malformed(name));
        }
        match CREDENTIAL_HEADERS.contains(&lower_case.as_str()) {
            true => Err(InvalidHeader::Credentials(lower_case)),
            false => Ok(Self(lower_case)),
        }
    }
}

/// `budget` of a `[[plugin]]`. The defaults are those of [`Budget`].
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BudgetConfig {
    /// Time for one call.
    #[serde(deserialize_with = "unit::duration")]
    pub call: Duration,
    /// Bytes of memory of one instance.
    #[serde(deserialize_with = "unit::size")]
    pub memory: usize,
    /// Number of calls after which an instance is replaced by a new one.
    pub calls: u64,
    /// Bytes of memory of the plugin's state.
    #[serde(deserialize_with = "unit::size")]
    pub state: usize,
    /// Maximum number of instances for rooms.
    pub instances: usize,
}

impl Default for BudgetConfig {
    fn default() -> Self {
        let Budget { call, memory, calls, state, instances } = Budget::default();
        Self { call, memory, calls, state, instances }
    }
}

/// Why a version of a plugin cannot run on this node.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct VersionError {
    /// What is wrong, as a sentence that names the plugin.
    pub reason: String,
    /// Whether the same version may load successfully later.
    pub is_retryable: bool,
}

impl From<String> for VersionError {
    fn from(reason: String) -> Self {
        Self { reason, is_retryable: false }
    }
}

impl From<SignatureError> for VersionError {
    fn from(error: SignatureError) -> Self {
        error.to_string().into()
    }
}

/// Why the file of a plugin cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum PluginFileError {
    /// The file or its signature cannot be read.
    #[error("{0}")]
    Read(UnusableFile),
    /// The file was read, but is not a plugin that can run here.
    #[error("{error} ({})", file.display())]
    Version {
        /// What is wrong with it.
        error: VersionError,
        /// The file.
        file: PathBuf,
    },
}

/// The contents of a plugin's files.
pub struct PluginFile {
    /// The WebAssembly code.
    pub code: Bytes,
    /// The signature file beside it, if there is one.
    pub signature: Option<String>,
}

impl PluginConfig {
    /// The name under which operators know the plugin.
    pub fn name(&self) -> &str {
        self.name.get_ref()
    }

    /// A configuration with defaults, for a file that does not come from the configuration.
    pub fn for_file(name: String, file: PathBuf, rooms: Vec<RoomPattern>) -> Self {
        Self {
            name: toml::Spanned::new(0..0, name),
            file: Some(file),
            sha256: None,
            rooms,
            config: toml::Table::new(),
            on_failure: OnFailure::default(),
            headers: vec![],
            state: StateScope::default(),
            budget: BudgetConfig::default(),
            probation: DEFAULT_PROBATION,
            trust: Arc::default(),
        }
    }

    /// Whether a version that runs with one of these configurations need not be restarted for the other. Only
    /// rooms, file, probation and trusted keys may differ.
    pub fn has_same_runtime_settings(&self, other: &Self) -> bool {
        let settings = |config: &Self| {
            let Self { config, headers, state, budget, on_failure, sha256, .. } = config;
            (config.clone(), headers.clone(), *state, *budget, *on_failure, sha256.clone())
        };
        settings(self) == settings(other)
    }

    /// The SHA-256, in hexadecimal, of the settings with which a version runs: `config`, `headers`, `state`,
    /// `budget` and `on_failure`. Equal settings have the same digest on all nodes.
    pub fn digest(&self) -> String {
        let BudgetConfig { call, memory, calls, state, instances } = self.budget;
        let budget = [call.as_nanos().to_string(), memory.to_string(), calls.to_string(), state.to_string()];
        let headers: Vec<_> = self.headers.iter().map(|header| &header.0).collect();
        let settings = serde_json::json!({
            "config": self.config,
            "headers": headers,
            "budget": budget,
            "instances": instances,
            "on_failure": self.on_failure,
            "state": self.state,
        });
        digest(settings.to_string().as_bytes())
    }

    /// Reads, verifies and compiles the file. Blocks, usually for some tenths of a second.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be read, or is not a plugin that can run with this configuration.
    pub fn load(&self, engine: &Engine) -> Result<Plugin, PluginFileError> {
        let PluginFile { code, signature } = self.read().map_err(PluginFileError::Read)?;
        self.compile(engine, &code, signature.as_deref())
            .map_err(|error| PluginFileError::Version { error, file: self.file.clone().unwrap_or_default() })
    }

    fn unreadable_file(&self, file: &Path, error: &FileError) -> UnusableFile {
        UnusableFile::new(format_args!("plugin '{}': {}", self.name(), file.display()), error)
    }

    /// Reads the file and its signature. Blocks.
    ///
    /// # Errors
    ///
    /// Fails if one of them cannot be read, or if no file is configured. A missing signature file is not an
    /// error.
    pub fn read(&self) -> Result<PluginFile, UnusableFile> {
        let none = || UnusableFile::Invalid(format!("plugin '{}' has no file", self.name()));
        let path = self.file.as_deref().ok_or_else(none)?;
        let code = file::read(path, contract::MAX_FILE_BYTES as u64);
        let code = code.map_err(|error| self.unreadable_file(path, &error))?.into();
        let path = signature_file(path);
        let signature = read_signature(&path).map_err(|error| self.unreadable_file(&path, &error))?;
        Ok(PluginFile { code, signature })
    }

    /// The files to watch: the plugin is read again when one of them changes.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        self.file.iter().flat_map(|file| [file.clone(), signature_file(file)])
    }

    /// Verifies and compiles a plugin that was received in another way, such as over HTTP or from the store.
    /// Blocks, usually for some tenths of a second.
    ///
    /// # Errors
    ///
    /// Fails if the signature is missing or wrong, if the code is not a plugin that can run with this
    /// configuration, or if its SHA-256 is not the configured one.
    pub fn compile(
        &self,
        engine: &Engine,
        bytes: &[u8],
        signature: Option<&str>,
    ) -> Result<Plugin, VersionError> {
        let name = self.name();
        // This comes first: no code of this process parses bytes that no trusted key has signed.
        let signed_by = self.trust.verify(name, bytes, signature)?;
        if let Some(pin) = &self.sha256 {
            let found = digest(bytes);
            if !pin.eq_ignore_ascii_case(&found) {
                let reason =
                    format!("plugin '{name}' has the SHA-256 {found}, but the configuration pins {pin}");
                return Err(reason.into());
            }
        }
        let config = serde_json::to_value(&self.config)
            .map_err(|error| format!("plugin '{name}': its config cannot be converted to JSON: {error}"))?;
        let BudgetConfig { call, memory, calls, state, instances } = self.budget;
        let budget = Budget { call, memory, calls, state, instances };
        let plugin = Plugin::load(engine, name, bytes, &config, budget).map_err(|error| VersionError {
            is_retryable: error.is_retryable(),
            reason: error.to_string(),
        })?;
        let headers = self.headers.iter().map(|header| header.0.clone()).collect();
        Ok(plugin.signed_by(signed_by).with_headers(headers).with_config_digest(self.digest()))
    }
}

/// The path of the signature file of a plugin: `dydx.wasm.sig` for `dydx.wasm`.
pub fn signature_file(file: &Path) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(".sig");
    name.into()
}

/// Reads a signature file, of at most 1 KiB; `None` if it does not exist. Blocks.
///
/// # Errors
///
/// Fails if the file exists, but cannot be read or is too large.
pub fn read_signature(file: &Path) -> Result<Option<String>, FileError> {
    match file::read_text(file, MAX_SIGNATURE_BYTES) {
        Ok(text) => Ok(Some(text)),
        Err(FileError::Io(error)) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_with_credentials_are_not_shown_to_plugins() {
        let parse = |name: &str| ListedHeader::try_from(name.to_owned()).map_err(|error| error.to_string());
        assert_eq!(parse("User-Agent"), Ok(ListedHeader("user-agent".into())));
        for name in ["Authorization", "X-API-Key", "cookie", "proxy-authorization"] {
            assert!(
                parse(name).unwrap_err().ends_with("carries credentials, which no plugin may see; remove it")
            );
        }
        for name in ["", "user agent", "über", &"h".repeat(65)] {
            assert!(parse(name).unwrap_err().contains("invalid header name"), "{name}");
        }
    }

    #[test]
    fn the_digest_of_a_configuration_covers_the_settings_with_which_a_version_runs() {
        let mut config = PluginConfig::for_file("p".into(), "p.wasm".into(), vec![]);
        let first = config.digest();
        config.file = Some("other.wasm".into());
        config.probation = Duration::ZERO;
        assert_eq!(config.digest(), first);
        let mut seen = vec![first];
        let mut changed = |config: &PluginConfig| {
            assert!(!seen.contains(&config.digest()), "{config:?}");
            seen.push(config.digest());
        };
        config.config.insert("depth".into(), 5.into());
        changed(&config);
        config.on_failure = OnFailure::Allow;
        changed(&config);
        config.budget.state += 1;
        changed(&config);
        config.headers.push(ListedHeader("user-agent".into()));
        changed(&config);
        config.state = StateScope::Shared;
        changed(&config);
    }

    #[test]
    fn a_pinned_digest_is_checked_before_compiling() {
        let mut config = PluginConfig::for_file("p".into(), "p.wasm".into(), vec![]);
        config.sha256 = Some("00".into());
        let engine = Engine::with_compiler_limits().unwrap();
        let error = config.compile(&engine, b"not Wasm", None).err().unwrap().to_string();
        let found = digest(b"not Wasm");
        assert_eq!(error, format!("plugin 'p' has the SHA-256 {found}, but the configuration pins 00"));
        config.sha256 = Some(found.to_uppercase());
        let error = config.compile(&engine, b"not Wasm", None).err().unwrap().to_string();
        assert!(!error.contains("pins"), "{error}");
    }
}
