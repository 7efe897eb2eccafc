//! What the host functions that a guest imports work on, and its memory limits: the data of each instance's
//! wasmtime store. The functions themselves are in `bindings.rs`.

use super::deadline::Deadline;
use super::failure::clip_guest_text;
use super::log::LogLimiter;
use super::metrics::PluginMetrics;
use super::state::StateAccess;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use tracing::Level;
use wasmtime::ResourceLimiter;

/// Maximum number of elements of a table, which are functions whose address is taken. A JavaScript engine has
/// 8000, Python 6000.
const MAX_TABLE_ELEMENTS: usize = 20_000;

/// Maximum number of core instances, of memories and of tables of one component. A Rust plugin has 3, 1 and
/// 2; a Python plugin, whose libraries are separate modules, has 38, 1 and 2.
const MAX_COMPONENT_PARTS: usize = 64;

/// What all instances of a plugin share: its identity, its log and its metrics.
pub(crate) struct PluginContext {
    pub name: String,
    /// Empty until the plugin has described itself.
    pub version: String,
    pub log: LogLimiter,
    pub metrics: PluginMetrics,
    /// WebAssembly instructions of all calls so far, if the engine counts them.
    pub instructions: AtomicU64,
}

impl PluginContext {
    pub(crate) fn new(name: &str, version: &str, metrics: PluginMetrics) -> Self {
        Self {
            name: name.to_owned(),
            version: version.to_owned(),
            log: LogLimiter::new(),
            metrics,
            instructions: AtomicU64::default(),
        }
    }
}

/// The guest needed more memory than its budget.
#[derive(Debug, thiserror::Error)]
#[error("it needs {wanted} bytes of memory; at most {limit} are allowed")]
pub(crate) struct MemoryLimitExceeded {
    wanted: usize,
    limit: usize,
}

/// The data of one instance's store.
pub(crate) struct InstanceState {
    pub context: Arc<PluginContext>,
    pub state: StateAccess,
    /// The principal on whose behalf the current call is made; empty if there is none.
    pub principal_id: String,
    pub deadline: Deadline,
    /// The room of the current call, for log lines; empty if there is none.
    pub room: String,
    /// The last line that the guest logged as an error during the current call.
    pub last_error_line: Option<String>,
    /// Bytes of linear memory in use, and allowed.
    pub memory: usize,
    pub memory_limit: usize,
}

impl ResourceLimiter for InstanceState {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        // The limit applies to the sum of all memories of the component.
        let wanted = self.memory.saturating_sub(current).saturating_add(desired);
        if wanted > self.memory_limit {
            // An error instead of `false`: otherwise running out of memory would look like any other abort.
            return Err(MemoryLimitExceeded { wanted, limit: self.memory_limit }.into());
        }
        self.memory = wanted;
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= MAX_TABLE_ELEMENTS)
    }

    fn instances(&self) -> usize {
        MAX_COMPONENT_PARTS
    }

    fn tables(&self) -> usize {
        MAX_COMPONENT_PARTS
    }

    fn memories(&self) -> usize {
        MAX_COMPONENT_PARTS
    }
}

impl InstanceState {
    /// Writes a line to the log of the plugin.
    pub(crate) fn log(&mut self, level: Level, text: &str) {
        if level == Level::ERROR {
            self.last_error_line = Some(clip_guest_text(text));
        }
        let plugin = (&*self.context.name, &*self.context.version);
        self.context.log.write(plugin, &self.room, level, text);
    }
}
