//! From a file's bytes to a plugin that is known to run.

use super::answers::clip;
use super::bindings::{self, connect, deliver, lifecycle, publish, room, subscribe};
use super::contract;
use super::engine::{Budget, Engine};
use super::failure::{Call, Failure, FailureKind};
use super::imports::{State, Voice};
use super::instance::{Blueprint, Instance};
use super::log::LogGate;
use super::meters::{Meter, MeterKind, Meters, Reading};
use super::status::Stats;
use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use wasmtime::component::{HasSelf, Linker};

/// Bytes of the name and of the version that a plugin gives itself.
const MAX_NAME: usize = 64;

/// The hooks of a plugin: those it both exports and describes. Others are never called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Hooks {
    pub connect: bool,
    pub room: bool,
    pub subscribe: bool,
    pub publish: bool,
    pub deliver: bool,
}

/// What is known of a loaded plugin.
#[derive(Clone, Debug, Serialize)]
pub struct Info {
    /// As the operator configured it.
    pub name: String,
    /// As it calls itself.
    pub package: String,
    pub version: String,
    pub hooks: Hooks,
    pub metrics: Vec<Meter>,
    /// A JSON Schema of its config.
    pub config_schema: Option<Value>,
    /// Of the file, in hexadecimal.
    pub sha256: String,
    /// Bytes of the file.
    pub size: usize,
    /// The trusted key that vouches for the file.
    pub signed_by: Option<String>,
}

/// Why a file is no plugin that can run here.
#[derive(Debug, thiserror::Error)]
#[error("plugin '{plugin}' {fault}")]
pub struct LoadError {
    pub plugin: String,
    pub fault: LoadFault,
}

#[derive(Debug, thiserror::Error)]
pub enum LoadFault {
    #[error("is not WebAssembly: it must be a core module or a component, which begin with \\0asm")]
    NotWasm,
    #[error("has {size} bytes, and a plugin at most {}: leave out what it does not need", contract::LARGEST)]
    TooLarge { size: usize },
    #[error("is damaged or truncated, build or copy it again: {0}")]
    Damaged(String),
    #[error("has {count} {what}, and a plugin may have {most}: leave out what it does not need")]
    Extent { what: &'static str, count: usize, most: usize },
    #[error("cannot be compiled: the process that compiles cannot be started or read: {0}")]
    NoCompiler(io::Error),
    #[error("is not compiled, because nobody waits for it any more")]
    GivenUp,
    #[error("cannot be compiled, build it with WebAssembly features that are standard: {0}")]
    Uncompilable(String),
    #[error("imports {}, but a plugin may import only log, clock, random and metrics of switchyard:plugin@{}: \
        build it for wasm32-unknown-unknown and without WASI", .0.join(", "), contract::VERSION)]
    Imports(Vec<String>),
    #[error(
        "exports no switchyard:plugin/lifecycle@{}: build it with the plugin SDK, and keep the file's \
        custom sections when stripping it",
        contract::VERSION
    )]
    NoContract,
    #[error(
        "was built for switchyard:plugin@{found}, but this host speaks switchyard:plugin@{}: \
        build it against an SDK of that version",
        contract::VERSION
    )]
    Version { found: String },
    #[error("does not have the shape that switchyard:plugin@{} asks for: {_0}", contract::VERSION)]
    Shape(String),
    #[error("describes itself wrongly: {0}")]
    Description(String),
    #[error("refuses its config: {0}")]
    Config(String),
    #[error("{}", .0.story())]
    Failed(Box<Failure>),
}

/// A compiled plugin that was checked, described and started once; shared by all its instances.
pub struct Plugin {
    info: Info,
    /// The file's bytes, for a store that has lost them.
    code: Bytes,
    config: String,
    blueprint: Blueprint,
    voice: Arc<Voice>,
    stats: Stats,
}

impl Plugin {
    /// Compiles and tries a plugin, which takes some tenths of a second. `config` is what `init` is given;
    /// null is `{}`.
    pub fn load(
        engine: &Engine,
        name: &str,
        bytes: &[u8],
        config: &Value,
        budget: Budget,
    ) -> Result<Plugin, LoadError> {
        Self::try_load(engine, name, bytes, config, budget)
            .map_err(|fault| LoadError { plugin: name.to_owned(), fault })
    }

    fn try_load(
        engine: &Engine,
        name: &str,
        bytes: &[u8],
        config: &Value,
        budget: Budget,
    ) -> Result<Plugin, LoadFault> {
        contract::check_file(bytes)?;
        let blueprint = draw(engine, bytes, budget)?;
        let nameless = Voice {
            name: name.into(),
            version: String::new(),
            log: LogGate::new(),
            meters: Meters::default(),
            spent: AtomicU64::default(),
        };
        let mut instance =
            Instance::open(&blueprint, &Arc::new(nameless), Call::Describe).map_err(Failure::at_start)?;
        let described = instance.describe().map_err(Failure::at_start)?;
        drop(instance);

        let info = read(name, bytes, described, &blueprint).map_err(LoadFault::Description)?;
        let meters = Meters::new(&info.metrics).map_err(LoadFault::Description)?;
        let voice = Voice {
            name: name.into(),
            version: info.version.clone(),
            log: LogGate::new(),
            meters,
            spent: AtomicU64::default(),
        };
        let config = if config.is_null() { "{}".into() } else { config.to_string() };
        let code = Bytes::copy_from_slice(bytes);
        let plugin =
            Plugin { info, code, config, blueprint, voice: Arc::new(voice), stats: Stats::default() };
        // Thrown away: shows now what would otherwise fail with the first message.
        plugin.open()?;
        Ok(plugin)
    }

    pub(super) fn signed_by(mut self, key: Option<String>) -> Self {
        self.info.signed_by = key;
        self
    }

    pub fn info(&self) -> &Info {
        &self.info
    }

    pub fn code(&self) -> &Bytes {
        &self.code
    }

    /// What its governors count, and how it is.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    pub(super) fn budget(&self) -> Budget {
        self.blueprint.budget
    }

    /// The plugin's own metrics, summed over all its instances, ordered by name.
    pub fn metrics(&self) -> Vec<(&str, Reading)> {
        self.voice.meters.read()
    }

    /// WebAssembly instructions of all calls so far, of all instances, without `init`; 0 on an engine that does not
    /// count. The same calls in the same order take the same number on every machine.
    pub fn instructions(&self) -> u64 {
        self.voice.spent.load(Ordering::Relaxed)
    }

    /// A fresh instance, initialized; some ten microseconds and what the guest's `init` takes.
    pub fn instantiate(&self) -> Result<Instance, Box<Failure>> {
        self.open().map_err(|fault| match fault {
            LoadFault::Failed(failure) => failure,
            fault => Box::new(Failure {
                plugin: self.info.name.clone(),
                version: self.info.version.clone(),
                call: Call::Init,
                room: None,
                kind: FailureKind::Nonsense,
                detail: format!("it now {fault}"),
                said: None,
                backtrace: Vec::new(),
            }),
        })
    }

    fn open(&self) -> Result<Instance, LoadFault> {
        let mut instance =
            Instance::open(&self.blueprint, &self.voice, Call::Init).map_err(LoadFault::Failed)?;
        match instance.init(&self.config) {
            Ok(Ok(())) => Ok(instance),
            Ok(Err(reason)) => Err(LoadFault::Config(clip(&reason, 2048))),
            Err(failure) => Err(LoadFault::Failed(failure)),
        }
    }
}

impl LoadError {
    /// Whether it may well be loaded later as it is.
    pub fn passes(&self) -> bool {
        match &self.fault {
            LoadFault::NoCompiler(error) => error.kind() != ErrorKind::NotFound,
            LoadFault::GivenUp => true,
            _ => false,
        }
    }
}

impl Failure {
    /// A type that the contract does not have shows when an instance is opened.
    fn at_start(failure: Box<Failure>) -> LoadFault {
        match failure.kind {
            FailureKind::Nonsense => LoadFault::Shape(failure.detail),
            _ => LoadFault::Failed(failure),
        }
    }
}

/// Compiles a file and finds its exports.
fn draw(engine: &Engine, file: &[u8], budget: Budget) -> Result<Blueprint, LoadFault> {
    let runtime = engine.runtime();
    let component = engine.component(file)?;
    contract::check(&component.component_type(), runtime)?;
    let shape = |error: wasmtime::Error| LoadFault::Shape(format!("{error:#}"));
    let mut linker = Linker::<State>::new(runtime);
    bindings::Plugin::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state).map_err(shape)?;
    let pre = linker.instantiate_pre(&component).map_err(shape)?;
    Ok(Blueprint {
        lifecycle: lifecycle::GuestIndices::new(&pre).map_err(shape)?,
        connect: connect::GuestIndices::new(&pre).ok(),
        room: room::GuestIndices::new(&pre).ok(),
        subscribe: subscribe::GuestIndices::new(&pre).ok(),
        publish: publish::GuestIndices::new(&pre).ok(),
        deliver: deliver::GuestIndices::new(&pre).ok(),
        pre,
        budget,
        clock: engine.clock.clone(),
        counts: engine.counts,
    })
}

/// The SHA-256 of a plugin's code, in hexadecimal.
pub fn digest(code: &[u8]) -> String {
    Sha256::digest(code).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Checks what `describe` answered.
fn read(name: &str, bytes: &[u8], described: lifecycle::Info, plan: &Blueprint) -> Result<Info, String> {
    use bindings::types::Hooks as Flags;
    let hook = |flag, name: &str, exported: bool| match (described.hooks.contains(flag), exported) {
        (true, false) => Err(format!("it lists the hook {name} but exports no switchyard:plugin/{name}")),
        (listed, _) => Ok(listed),
    };
    let hooks = Hooks {
        connect: hook(Flags::CONNECT, "connect", plan.connect.is_some())?,
        room: hook(Flags::ROOM, "room", plan.room.is_some())?,
        subscribe: hook(Flags::SUBSCRIBE, "subscribe", plan.subscribe.is_some())?,
        publish: hook(Flags::PUBLISH, "publish", plan.publish.is_some())?,
        deliver: hook(Flags::DELIVER, "deliver", plan.deliver.is_some())?,
    };
    for (what, text) in [("name", &described.name), ("version", &described.version)] {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._+-".contains(&b);
        if !(1..=MAX_NAME).contains(&text.len()) || !text.bytes().all(plain) {
            return Err(format!("its {what} must be 1 to {MAX_NAME} of A-Z a-z 0-9 . _ + -"));
        }
    }
    let schema = described.config_schema.map(|schema| serde_json::from_str(&schema)).transpose();
    let kind = |kind| match kind {
        lifecycle::Kind::Counter => MeterKind::Counter,
        lifecycle::Kind::Histogram => MeterKind::Histogram,
    };
    Ok(Info {
        name: name.to_owned(),
        package: described.name,
        version: described.version,
        hooks,
        metrics: described
            .metrics
            .into_iter()
            .map(|m| Meter { id: m.id, name: m.name, kind: kind(m.kind) })
            .collect(),
        config_schema: schema.map_err(|error| format!("its config schema is not JSON ({error})"))?,
        sha256: digest(bytes),
        size: bytes.len(),
        signed_by: None,
    })
}
