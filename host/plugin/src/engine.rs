//! The process's one compiler and runtime for guests, and the clock that stops them.

use super::cache::{self, Cache};
use super::clock::Clock;
use super::compiler::{Compilation, Compiler};
use super::load::LoadFault;
use rayon_core::ThreadPoolBuilder;
use std::error::Error;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use switchyard_process::vital::VitalTasks;
use wasmtime::component::Component;
use wasmtime::{Config, InstanceAllocationStrategy, PoolingAllocationConfig};

/// Bytes of native stack a guest may use. A worker thread of tokio or std has 2 MiB, most of it unused by us.
const STACK: usize = 512 * 1024;

/// Instances that may live at once: one a shard and plugin, two while swapping. What is reserved for them is
/// address space (some 4 GiB each), not memory.
const INSTANCES: u32 = 256;

/// What one plugin may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Time for one call; starting an instance gets ten times as much.
    pub call: Duration,
    /// Bytes of linear memory of one instance.
    pub memory: usize,
    /// Calls after which an instance makes room for a fresh one.
    pub calls: u64,
}

impl Default for Budget {
    /// 10 ms is a thousand times what a call should need and the most that a stuck one costs its shard;
    /// 16 MiB holds a Rust guest's tables of tens of thousands of filters. A million calls are some minutes of a busy room,
    /// and a fresh instance costs less than a hundred of them.
    fn default() -> Self {
        Self { call: Duration::from_millis(10), memory: 16 << 20, calls: 1_000_000 }
    }
}

/// Why this machine runs no plugins.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("the WebAssembly runtime cannot be set up on this machine: {0}")]
    Runtime(String),
    #[error("the thread that enforces plugin deadlines cannot be started")]
    Clock(#[from] io::Error),
}

/// Compiles and runs plugins; one a process, cheap to clone.
#[derive(Clone)]
pub struct Engine {
    runtime: wasmtime::Engine,
    /// Drives the deadlines of calls.
    pub(super) clock: Arc<Clock>,
    cache: Option<Arc<Cache>>,
    compiler: Compiler,
    /// The one that is to go on, by which it can be given up; without it each is awaited to its end.
    compilation: Option<Compilation>,
    /// Whether calls are counted in instructions, which makes them slower.
    pub(super) counts: bool,
}

impl Engine {
    /// For the command line and tests: one that no node depends on.
    pub fn new() -> Result<Self, EngineError> {
        Self::start(&VitalTasks::default(), Compiler::Here)
    }

    /// The same, for what is to be refused as a node refuses it.
    pub fn strict() -> Result<Self, EngineError> {
        Self::start(&VitalTasks::default(), Compiler::Child)
    }

    /// Starts the runtime and the thread that drives deadlines, which ends with the last clone and the last
    /// plugin of the engine.
    pub fn start(vitals: &VitalTasks, compiler: Compiler) -> Result<Self, EngineError> {
        // Who has others compile needs no threads for it.
        let here = compiler == Compiler::Here;
        let runtime = wasmtime::Engine::new(&config(Some(pool()), here)).or_else(|error| {
            tracing::warn!(%error, "plugins start slower: no address space for pooled instances");
            wasmtime::Engine::new(&config(None, here)).map_err(unfit)
        })?;
        let engine = Self::drive(runtime, false, vitals)?;
        Ok(Self { compiler, ..engine })
    }

    /// For authors: one that counts the instructions of calls, and so is slower. See [`super::Plugin::instructions`].
    pub fn counting() -> Result<Self, EngineError> {
        Self::drive(compiling(true)?, true, &VitalTasks::default())
    }

    fn drive(runtime: wasmtime::Engine, counts: bool, vitals: &VitalTasks) -> Result<Self, EngineError> {
        let held = runtime.weak();
        let tick = move || {
            if let Some(runtime) = held.upgrade() {
                runtime.increment_epoch();
            }
        };
        let clock = Clock::start(tick, vitals)?;
        let (compiler, compilation) = (Compiler::Here, None);
        Ok(Self { runtime, clock: Arc::new(clock), cache: None, compiler, compilation, counts })
    }

    /// Compiles nothing that is in the cache.
    pub fn cached(self, cache: Option<Arc<Cache>>) -> Self {
        Self { cache, ..self }
    }

    /// What is compiled with it can be given up.
    pub fn within(self, compilation: Compilation) -> Self {
        Self { compilation: Some(compilation), ..self }
    }

    /// A file that was [checked](super::contract::check_file), compiled.
    pub(super) fn component(&self, file: &[u8]) -> Result<Component, LoadFault> {
        let compilation = self.compilation.clone().unwrap_or_default();
        let compile = || self.compiler.compile(&self.runtime, self.counts, file, &compilation);
        match &self.cache {
            Some(cache) => cache.component(&self.runtime, file, compile),
            None => cache::revive(&self.runtime, &compile()?).map_err(uncompilable),
        }
    }

    pub(super) fn runtime(&self) -> &wasmtime::Engine {
        &self.runtime
    }
}

pub(super) fn uncompilable(error: wasmtime::Error) -> LoadFault {
    LoadFault::Uncompilable(format!("{error:#}"))
}

/// One that only compiles, for [`Engine::start`] or, where calls are counted, for [`Engine::counting`].
pub(super) fn compiling(counts: bool) -> Result<wasmtime::Engine, EngineError> {
    let mut config = config(None, true);
    config.consume_fuel(counts);
    wasmtime::Engine::new(&config).map_err(unfit)
}

fn unfit(error: wasmtime::Error) -> EngineError {
    EngineError::Runtime(format!("{error:#}"))
}

/// Whether this process has threads to compile on. They are started once, here, because without any the first compilation
/// would panic; with none plugins are compiled by who asks for it.
fn compiles_in_parallel() -> bool {
    static STARTED: OnceLock<bool> = OnceLock::new();
    *STARTED.get_or_init(|| {
        let started = ThreadPoolBuilder::new().thread_name(|n| format!("compiler {n}")).build_global();
        // Without a source, the error says that others have started them.
        let lacking = started.err().filter(|error| error.source().is_some());
        if let Some(error) = &lacking {
            tracing::warn!(%error, "plugins are compiled on one thread: no others can be started");
        }
        lacking.is_none()
    })
}

/// `here`: whether this process compiles.
fn config(pool: Option<PoolingAllocationConfig>, here: bool) -> Config {
    let mut config = Config::new();
    config.parallel_compilation(here && compiles_in_parallel());
    // Three times cheaper calls; no contract function is async.
    config.concurrency_support(false);
    config.epoch_interruption(true);
    config.max_wasm_stack(STACK);
    if let Some(pool) = pool {
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    }
    config
}

fn pool() -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    // A component has a few core modules of glue besides the guest's own; those made from other languages
    // than Rust have more, with larger tables.
    pool.total_component_instances(INSTANCES);
    pool.total_memories(INSTANCES);
    pool.total_core_instances(8 * INSTANCES);
    pool.total_tables(4 * INSTANCES);
    pool.max_tables_per_module(4);
    pool
}
