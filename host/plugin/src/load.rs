//! Loading a plugin: from the bytes of a file to a version that is known to start. How files are read and
//! signatures verified is in `config.rs`.

use super::bindings::{self, Description, ExportIndices};
use super::contract;
use super::engine::{Budget, Engine};
use super::failure::{CallFailure, FailureKind, PluginFunction};
use super::hook_types::clip;
use super::imports::{InstanceState, PluginContext};
use super::instance::{CompiledPlugin, Instance};
use super::metrics::{Metric, MetricValue, PluginMetrics};
use super::recorder::Recorder;
use super::schema::find_schema_problems;
use super::series::PluginSeries;
use super::state::{StateAccess, StateTable};
use super::status::Stats;
use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use wasmtime::component::Linker;

/// Maximum length of a plugin's own name and version, in bytes.
const MAX_NAME_BYTES: usize = 64;

/// Maximum length of a plugin's reason for rejecting its config, in bytes.
const MAX_CONFIG_ERROR_BYTES: usize = 2048;

/// The hooks of a plugin: those that it both exports and lists in `describe`. The host calls no others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Hooks {
    /// Decides whether a principal may connect.
    pub connect: bool,
    /// Decides which room names exist.
    pub room: bool,
    /// Decides who may join a room, and normalizes filters.
    pub subscribe: bool,
    /// Decides what happens to a published message.
    pub publish: bool,
    /// Evaluates filters.
    pub deliver: bool,
}

/// What is known about a loaded plugin.
#[derive(Clone, Debug, Serialize)]
pub struct PluginInfo {
    /// The name in the configuration.
    pub name: String,
    /// The name that the plugin gives itself: 1 to 64 of `A-Z a-z 0-9 . _ + -`.
    pub package: String,
    /// The version that the plugin gives itself, of the same characters and length.
    pub version: String,
    /// The hooks that the host calls.
    pub hooks: Hooks,
    /// The plugin's own metrics.
    pub metrics: Vec<Metric>,
    /// A JSON Schema of the plugin's config.
    pub config_schema: Option<Value>,
    /// A JSON Schema of the filters of its rooms.
    pub filter_schema: Option<Value>,
    /// The SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    /// The size of the file in bytes.
    pub size: usize,
    /// The trusted key that signed the file.
    pub signed_by: Option<String>,
}

/// Why a file cannot run here as a plugin.
#[derive(Debug, thiserror::Error)]
#[error("plugin '{plugin}' {kind}")]
pub struct LoadError {
    /// The plugin's name in the configuration.
    pub plugin: String,
    /// What is wrong.
    pub kind: LoadErrorKind,
}

/// What is wrong with a file. The messages continue a sentence that begins with the plugin's name.
#[derive(Debug, thiserror::Error)]
pub enum LoadErrorKind {
    /// It is neither a core module nor a component.
    #[error("is not WebAssembly: it must be a core module or a component, which begin with \\0asm")]
    NotWasm,
    /// It is larger than 64 MiB.
    #[error(
        "has {size} bytes, but at most {} are allowed: remove what it does not need",
        contract::MAX_FILE_BYTES
    )]
    TooLarge {
        /// The size of the file in bytes.
        size: usize,
    },
    /// It is not valid WebAssembly.
    #[error("is damaged or truncated; build it or copy it again: {0}")]
    Damaged(String),
    /// It contains so many functions, types or other items that compiling it might take too long.
    #[error("has {count} {items}, but at most {limit} are allowed: remove what it does not need")]
    TooManyItems {
        /// The kind of items, in the plural.
        items: &'static str,
        /// How many there are.
        count: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// The child process that compiles it did not work.
    #[error("cannot be compiled: the compiler process cannot be started or read: {0}")]
    CompilerUnavailable(io::Error),
    /// [`Compilation::cancel`](super::Compilation::cancel) was called.
    #[error("was not compiled, because loading it was cancelled")]
    Cancelled,
    /// The compiler failed, or exceeded its limits.
    #[error("cannot be compiled; build it with standard WebAssembly features only: {0}")]
    CompilationFailed(String),
    /// It imports functions that the host does not offer.
    #[error("imports {}, but a plugin may import only log, clock, random, metrics and state of switchyard:plugin@{}: \
        build it for wasm32-unknown-unknown, without WASI", .0.join(", "), contract::VERSION)]
    ForeignImports(Vec<String>),
    /// It does not export the contract's interface `lifecycle`.
    #[error(
        "exports no switchyard:plugin/lifecycle@{}: build it with the plugin SDK, and keep the custom sections of the \
        file if you strip it",
        contract::VERSION
    )]
    MissingLifecycle,
    /// It was built against a version of the contract that this host does not support.
    #[error(
        "was built for switchyard:plugin@{found}, but this host supports versions up to switchyard:plugin@{}: \
        build it with an SDK of that version",
        contract::VERSION
    )]
    UnsupportedVersion {
        /// The version of the contract that it was built against.
        found: String,
    },
    /// Its imports or exports have other types than those of the contract.
    #[error("does not match the contract switchyard:plugin@{}: {_0}", contract::VERSION)]
    ContractMismatch(String),
    /// Its `describe` returned something that is not valid.
    #[error("describes itself incorrectly: {0}")]
    InvalidDescription(String),
    /// Its `init` rejected the configured settings.
    #[error("rejects its config: {0}")]
    ConfigRejected(String),
    /// Its `describe` or `init` failed.
    #[error("{}", .0.description())]
    CallFailed(Box<CallFailure>),
}

/// A compiled plugin, which was verified and started once. It is shared by all its instances.
pub struct Plugin {
    info: PluginInfo,
    /// The bytes of the file, kept for a store that has lost them.
    code: Bytes,
    config: String,
    compiled: CompiledPlugin,
    context: Arc<PluginContext>,
    /// What it shares with other versions. Its own as long as nobody sets another.
    state: Arc<StateTable>,
    /// The names of the headers that its connect hook sees.
    headers: Vec<String>,
    stats: Stats,
    recorder: Recorder,
    /// Identifies the settings with which it runs. Empty for a plugin without a configuration.
    config_digest: String,
}

impl Plugin {
    /// Compiles a plugin and starts it once. Blocks, usually for some tenths of a second. `config` is passed
    /// to `init`; null stands for `{}`.
    ///
    /// # Errors
    ///
    /// Fails if the file is not a plugin of this contract, or if it does not start.
    pub fn load(
        engine: &Engine,
        name: &str,
        bytes: &[u8],
        config: &Value,
        budget: Budget,
    ) -> Result<Plugin, LoadError> {
        Self::try_load(engine, name, bytes, config, budget)
            .map_err(|kind| LoadError { plugin: name.to_owned(), kind })
    }

    fn try_load(
        engine: &Engine,
        name: &str,
        bytes: &[u8],
        config: &Value,
        budget: Budget,
    ) -> Result<Plugin, LoadErrorKind> {
        contract::check_file(bytes)?;
        let compiled = compile(engine, bytes, budget)?;
        let context = PluginContext::new(name, "", PluginMetrics::default());
        let state = Arc::new(StateTable::new(budget.state));
        let access = || StateAccess::without_effect(state.clone());
        let mut instance = Instance::open(&compiled, &Arc::new(context), access(), PluginFunction::Describe)
            .map_err(CallFailure::at_start)?;
        let described = instance.describe().map_err(CallFailure::at_start)?;
        drop(instance);

        let info =
            plugin_info(name, bytes, described, &compiled).map_err(LoadErrorKind::InvalidDescription)?;
        let metrics = PluginMetrics::new(&info.metrics)?;
        let context = Arc::new(PluginContext::new(name, &info.version, metrics));
        let config = if config.is_null() { "{}".into() } else { config.to_string() };
        let code = Bytes::copy_from_slice(bytes);
        let (headers, stats, recorder, access) = (vec![], Stats::default(), Recorder::default(), access());
        let config_digest = String::new();
        let plugin =
            Plugin { info, code, config, compiled, context, state, headers, stats, recorder, config_digest };
        // This instance is dropped again. It reveals now what would otherwise fail with the first message.
        plugin.open(access)?;
        Ok(plugin)
    }

    pub(super) fn signed_by(mut self, key: Option<String>) -> Self {
        self.info.signed_by = key;
        self
    }

    pub(super) fn with_headers(self, headers: Vec<String>) -> Self {
        Self { headers, ..self }
    }

    pub(super) fn with_config_digest(self, config_digest: String) -> Self {
        Self { config_digest, ..self }
    }

    /// Counts in the series of an active version, which go on from its versions before.
    pub fn with_series(self, series: &PluginSeries) -> Self {
        let PluginInfo { name, version, sha256, .. } = &self.info;
        let stats = Stats::new(series.of_version(version, sha256));
        let metrics = series.guest.continue_in(&self.context.metrics);
        let context = Arc::new(PluginContext::new(name, version, metrics));
        Self { stats, context, ..self }
    }

    /// Counts in the series of a candidate, apart from those of active versions.
    pub fn with_candidate_series(self, series: &PluginSeries) -> Self {
        let stats = Stats::new(series.of_candidate(&self.info.version, &self.info.sha256));
        Self { stats, ..self }
    }

    /// Shares this state with other versions of the plugin.
    pub fn with_state(self, state: Arc<StateTable>) -> Self {
        Self { state, ..self }
    }

    /// What its instances keep beyond their end.
    pub fn state(&self) -> &Arc<StateTable> {
        &self.state
    }

    /// The names of the headers that its connect hook sees, in lower case.
    pub fn headers(&self) -> &[String] {
        &self.headers
    }

    /// What is known about this plugin.
    pub fn info(&self) -> &PluginInfo {
        &self.info
    }

    /// The SHA-256, in hexadecimal, of the settings with which it runs; see
    /// [`PluginConfig::digest`](super::PluginConfig::digest).
    pub fn config_digest(&self) -> &str {
        &self.config_digest
    }

    /// The bytes of its file.
    pub fn code(&self) -> &Bytes {
        &self.code
    }

    /// The counters and the state of this version, over all its governors.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Where the configuration differs from the plugin's schema, although the plugin accepts it. Empty for a plugin
    /// without one.
    pub fn config_problems(&self) -> Vec<String> {
        let config = serde_json::from_str(&self.config).unwrap_or(Value::Null);
        let problems = |schema| find_schema_problems(schema, "config", &config);
        self.info.config_schema.as_ref().map(problems).unwrap_or_default()
    }

    /// Where a client's filter differs from the plugin's schema. Empty for a plugin without one.
    pub fn filter_problems(&self, filter: &Value) -> Vec<String> {
        let problems = |schema| find_schema_problems(schema, "filter", filter);
        self.info.filter_schema.as_ref().map(problems).unwrap_or_default()
    }

    pub(super) fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Sets the clock that the plugin and its state go by, in Unix milliseconds. It stands still until the next call of this.
    /// For a plugin that replays what happened at other times.
    pub fn drive_clock(&self, unix_ms: u64) {
        self.state.clock().set(unix_ms);
    }

    /// The resources that it may use.
    pub fn budget(&self) -> Budget {
        self.compiled.budget
    }

    /// The values of the plugin's own metrics, summed over all its instances and ordered by name.
    pub fn metrics(&self) -> Vec<(&str, MetricValue)> {
        self.context.metrics.read()
    }

    /// The number of WebAssembly instructions of all calls so far, over all instances, without `init`. It is
    /// 0 unless the engine counts them; see [`Engine::counting`]. The same calls in the same order give the
    /// same number on every machine.
    pub fn instructions(&self) -> u64 {
        self.context.instructions.load(Ordering::Relaxed)
    }

    /// Starts an instance. This takes some ten microseconds, plus the time of the guest's `init`.
    ///
    /// # Errors
    ///
    /// Fails if `init` fails or rejects the config, or if the process has no room for another instance.
    pub fn instantiate(&self) -> Result<Instance, Box<CallFailure>> {
        self.instantiate_with_state(StateAccess::direct(self.state.clone()))
    }

    pub(super) fn instantiate_with_state(&self, state: StateAccess) -> Result<Instance, Box<CallFailure>> {
        self.open(state).map_err(|error| match error {
            LoadErrorKind::CallFailed(failure) => failure,
            error => Box::new(CallFailure {
                plugin: self.info.name.clone(),
                version: self.info.version.clone(),
                function: PluginFunction::Init,
                room: None,
                kind: FailureKind::InvalidAnswer,
                detail: format!("it now {error}"),
                last_error_line: None,
                backtrace: Vec::new(),
            }),
        })
    }

    fn open(&self, state: StateAccess) -> Result<Instance, LoadErrorKind> {
        let mut instance = Instance::open(&self.compiled, &self.context, state, PluginFunction::Init)
            .map_err(LoadErrorKind::CallFailed)?;
        match instance.init(&self.config) {
            Ok(Ok(())) => Ok(instance),
            Ok(Err(reason)) => Err(LoadErrorKind::ConfigRejected(clip(&reason, MAX_CONFIG_ERROR_BYTES))),
            Err(failure) => Err(LoadErrorKind::CallFailed(failure)),
        }
    }
}

impl LoadError {
    /// Whether the same file may load successfully later.
    pub fn is_retryable(&self) -> bool {
        match &self.kind {
            LoadErrorKind::CompilerUnavailable(error) => error.kind() != ErrorKind::NotFound,
            LoadErrorKind::Cancelled => true,
            _ => false,
        }
    }
}

impl CallFailure {
    /// Types that do not match the contract are detected only when an instance is opened.
    fn at_start(failure: Box<CallFailure>) -> LoadErrorKind {
        match failure.kind {
            FailureKind::InvalidAnswer => LoadErrorKind::ContractMismatch(failure.detail),
            _ => LoadErrorKind::CallFailed(failure),
        }
    }
}

/// Compiles a file and looks up its exports.
fn compile(engine: &Engine, file: &[u8], budget: Budget) -> Result<CompiledPlugin, LoadErrorKind> {
    let runtime = engine.runtime();
    let component = engine.component(file)?;
    let version = contract::check_component(&component.component_type(), runtime)?;
    let mismatch = |error: wasmtime::Error| LoadErrorKind::ContractMismatch(format!("{error:#}"));
    let mut linker = Linker::<InstanceState>::new(runtime);
    bindings::add_imports(&mut linker).map_err(mismatch)?;
    let pre = linker.instantiate_pre(&component).map_err(mismatch)?;
    Ok(CompiledPlugin {
        exports: ExportIndices::new(&pre, version).map_err(mismatch)?,
        pre,
        budget,
        ticker: engine.ticker.clone(),
        counts_instructions: engine.counts_instructions,
    })
}

/// Checks what can be checked without compiling: that the file is WebAssembly, that it uses this contract, and that
/// it does not contain too much.
///
/// # Errors
///
/// Fails if no node of this release would load the file under this name.
pub fn check_file(name: &str, bytes: &[u8]) -> Result<(), LoadError> {
    contract::check_file(bytes).map_err(|kind| LoadError { plugin: name.to_owned(), kind })
}

/// The SHA-256 of a plugin's code, in hexadecimal.
pub fn digest(code: &[u8]) -> String {
    Sha256::digest(code).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Checks the answer of `describe`. The error is a sentence about what is wrong with it.
fn plugin_info(
    name: &str,
    bytes: &[u8],
    described: Description,
    compiled: &CompiledPlugin,
) -> Result<PluginInfo, String> {
    let (hooks, exported) = (described.hooks, compiled.exports.hooks());
    for (name, is_listed, is_exported) in [
        ("connect", hooks.connect, exported.connect),
        ("room", hooks.room, exported.room),
        ("subscribe", hooks.subscribe, exported.subscribe),
        ("publish", hooks.publish, exported.publish),
        ("deliver", hooks.deliver, exported.deliver),
    ] {
        if is_listed && !is_exported {
            return Err(format!("it lists the hook {name} but does not export switchyard:plugin/{name}"));
        }
    }
    for (field, text) in [("name", &described.name), ("version", &described.version)] {
        let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"._+-".contains(&b);
        if !(1..=MAX_NAME_BYTES).contains(&text.len()) || !text.bytes().all(is_allowed) {
            return Err(format!(
                "its {field} must be 1 to {MAX_NAME_BYTES} characters of A-Z a-z 0-9 . _ + -"
            ));
        }
    }
    let schema = |kind, text: Option<String>| match text.map(|text| serde_json::from_str(&text)).transpose() {
        Ok(schema) => Ok(schema),
        Err(error) => Err(format!("its {kind} schema is not JSON: {error}")),
    };
    Ok(PluginInfo {
        name: name.to_owned(),
        package: described.name,
        version: described.version,
        hooks,
        metrics: described.metrics,
        config_schema: schema("config", described.config_schema)?,
        filter_schema: schema("filter", described.filter_schema)?,
        sha256: digest(bytes),
        size: bytes.len(),
        signed_by: None,
    })
}
