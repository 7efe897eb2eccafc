//! The process's WebAssembly runtime: its settings, and the thread that enforces the deadlines of calls.
//! Compiling is in `compiler.rs`, running in `instance.rs`.

use super::cache::{self, Cache};
use super::compiler::{Compilation, Compiler};
use super::load::LoadErrorKind;
use super::ticker::Ticker;
use rayon_core::ThreadPoolBuilder;
use std::error::Error;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use switchyard_process::vital::VitalTasks;
use wasmtime::component::Component;
use wasmtime::{Config, InstanceAllocationStrategy, PoolingAllocationConfig};

/// Bytes of native stack that a guest may use. Worker threads of tokio and std have 2 MiB, most of which the
/// host does not use.
const MAX_STACK_BYTES: usize = 512 * 1024;

/// Maximum number of instances at a time, of all plugins together. They reserve address space (some 4 GiB each),
/// not memory.
pub const MAX_INSTANCES: u32 = 1024;

/// The resources that one plugin may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Time for one call. Starting an instance may take ten times as long.
    pub call: Duration,
    /// Bytes of linear memory of one instance.
    pub memory: usize,
    /// Number of calls after which an instance is replaced by a new one.
    pub calls: u64,
    /// Bytes of memory of the plugin's state, which all its instances share.
    pub state: usize,
    /// Maximum number of instances for rooms, each with a thread of its own. There are never more than cores.
    pub instances: usize,
}

impl Default for Budget {
    /// 10 ms is a thousand times what a call should need, and the longest that a stuck call can delay its
    /// shard. 16 MiB hold the tables of a Rust guest with tens of thousands of filters. A million calls are
    /// some minutes of a busy room, and a new instance costs less than a hundred calls. 4 MiB of state hold
    /// some eight thousand buckets. Eight instances at full memory take 128 MiB.
    fn default() -> Self {
        Self {
            call: Duration::from_millis(10),
            memory: 16 << 20,
            calls: 1_000_000,
            state: 4 << 20,
            instances: 8,
        }
    }
}

/// Why this machine cannot run plugins.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Wasmtime does not support this machine or these settings.
    #[error("the WebAssembly runtime cannot be set up on this machine: {0}")]
    Runtime(String),
    /// The system does not provide another thread.
    #[error("the thread that enforces plugin deadlines cannot be started")]
    DeadlineThread(#[from] io::Error),
}

/// Compiles and runs plugins. A process needs only one; clones are cheap and share it.
#[derive(Clone)]
pub struct Engine {
    runtime: wasmtime::Engine,
    /// Interrupts running calls, so that they check their deadline.
    pub(super) ticker: Arc<Ticker>,
    cache: Option<Arc<Cache>>,
    compiler: Compiler,
    /// The handle by which the next compilation can be cancelled; without it, a compilation runs to its end.
    compilation: Option<Compilation>,
    /// Whether instructions are counted, which makes calls slower.
    pub(super) counts_instructions: bool,
}

impl Engine {
    /// An engine that compiles in this process without limits, for tests and for plugin authors.
    ///
    /// # Errors
    ///
    /// Fails if this machine cannot run plugins.
    pub fn new() -> Result<Self, EngineError> {
        Self::start(&VitalTasks::default(), Compiler::InProcess)
    }

    /// An engine for checking a plugin outside of a node. It compiles in a child process with limits, as a
    /// node does, and so rejects what a node would reject.
    ///
    /// # Errors
    ///
    /// Fails if this machine cannot run plugins.
    pub fn with_compiler_limits() -> Result<Self, EngineError> {
        Self::start(&VitalTasks::default(), Compiler::ChildProcess)
    }

    /// Starts the runtime, and the thread that enforces deadlines. That thread ends with the last clone of
    /// the engine and the last plugin that was loaded with it. If it panics, `vitals` stops the node.
    ///
    /// # Errors
    ///
    /// Fails if this machine cannot run plugins.
    pub fn start(vitals: &VitalTasks, compiler: Compiler) -> Result<Self, EngineError> {
        // A process that compiles elsewhere needs no compiler threads.
        let compiles_here = compiler == Compiler::InProcess;
        let runtime = wasmtime::Engine::new(&config(Some(pool()), compiles_here)).or_else(|error| {
            tracing::warn!(%error, "plugins will start more slowly: no address space for an instance pool");
            wasmtime::Engine::new(&config(None, compiles_here)).map_err(runtime_error)
        })?;
        let engine = Self::with_runtime(runtime, false, vitals)?;
        Ok(Self { compiler, ..engine })
    }

    /// An engine that counts the instructions of calls, which makes them slower. For plugin authors; see
    /// [`Plugin::instructions`](super::Plugin::instructions).
    ///
    /// # Errors
    ///
    /// Fails if this machine cannot run plugins.
    pub fn counting() -> Result<Self, EngineError> {
        Self::with_runtime(compiler_runtime(true)?, true, &VitalTasks::default())
    }

    fn with_runtime(
        runtime: wasmtime::Engine,
        counts_instructions: bool,
        vitals: &VitalTasks,
    ) -> Result<Self, EngineError> {
        let weak = runtime.weak();
        let tick = move || {
            if let Some(runtime) = weak.upgrade() {
                runtime.increment_epoch();
            }
        };
        let ticker = Arc::new(Ticker::start(tick, vitals)?);
        let (compiler, compilation) = (Compiler::InProcess, None);
        Ok(Self { runtime, ticker, cache: None, compiler, compilation, counts_instructions })
    }

    /// Takes compiled plugins from the cache, and adds to it what it compiles.
    pub fn with_cache(self, cache: Option<Arc<Cache>>) -> Self {
        Self { cache, ..self }
    }

    /// Makes the next compilation cancellable by `compilation`.
    pub fn with_compilation(self, compilation: Compilation) -> Self {
        Self { compilation: Some(compilation), ..self }
    }

    /// Compiles a file that has passed [`check_file`](super::contract::check_file), or takes it from the cache.
    pub(super) fn component(&self, file: &[u8]) -> Result<Component, LoadErrorKind> {
        let compilation = self.compilation.clone().unwrap_or_default();
        let compile = || self.compiler.compile(&self.runtime, self.counts_instructions, file, &compilation);
        match &self.cache {
            Some(cache) => cache.component(&self.runtime, file, compile),
            None => cache::deserialize(&self.runtime, &compile()?).map_err(compilation_failed),
        }
    }

    pub(super) fn runtime(&self) -> &wasmtime::Engine {
        &self.runtime
    }
}

pub(super) fn compilation_failed(error: wasmtime::Error) -> LoadErrorKind {
    LoadErrorKind::CompilationFailed(format!("{error:#}"))
}

/// A runtime that only compiles. Its code runs on [`Engine::start`], or on [`Engine::counting`] if it counts
/// instructions.
pub(super) fn compiler_runtime(counts_instructions: bool) -> Result<wasmtime::Engine, EngineError> {
    let mut config = config(None, true);
    config.consume_fuel(counts_instructions);
    wasmtime::Engine::new(&config).map_err(runtime_error)
}

fn runtime_error(error: wasmtime::Error) -> EngineError {
    EngineError::Runtime(format!("{error:#}"))
}

/// Whether this process has threads to compile on. They are started here, once, because the first compilation
/// would panic if they could not be started. Without them, each plugin is compiled on the calling thread.
fn compiles_in_parallel() -> bool {
    static STARTED: OnceLock<bool> = OnceLock::new();
    *STARTED.get_or_init(|| {
        let started = ThreadPoolBuilder::new().thread_name(|n| format!("compiler {n}")).build_global();
        // An error without a source means that the pool has been started already.
        let failed = started.err().filter(|error| error.source().is_some());
        if let Some(error) = &failed {
            tracing::warn!(%error, "plugins will be compiled on a single thread: no other can be started");
        }
        failed.is_none()
    })
}

fn config(pool: Option<PoolingAllocationConfig>, compiles_here: bool) -> Config {
    let mut config = Config::new();
    config.parallel_compilation(compiles_here && compiles_in_parallel());
    // Makes calls three times cheaper. No function of the contract is async.
    config.concurrency_support(false);
    config.epoch_interruption(true);
    config.max_wasm_stack(MAX_STACK_BYTES);
    if let Some(pool) = pool {
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    }
    config
}

fn pool() -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    // Besides the guest's own core module, a component has a few modules of glue code. Components from
    // languages other than Rust have more, with larger tables.
    pool.total_component_instances(MAX_INSTANCES);
    pool.total_memories(MAX_INSTANCES);
    pool.total_core_instances(8 * MAX_INSTANCES);
    pool.total_tables(4 * MAX_INSTANCES);
    pool.max_tables_per_module(4);
    pool
}
