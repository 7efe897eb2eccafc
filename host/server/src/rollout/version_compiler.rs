//! Compiles versions on threads of their own. Does not activate them.

use super::{shared_state::SharedState, slot::blocking_refusal};
use crate::{blocking, hub::cannot_start_thread};
use bytes::Bytes;
use std::sync::Arc;
use switchyard_plugin::{
    Cache, Compilation, Compiler, Engine, EngineError, Plugin, PluginConfig, PluginSeries, StateTables,
    StateUsage, VersionError,
};
use switchyard_process::vital::VitalTasks;
use switchyard_protocol::{ErrorCode, Refusal};
use tokio::sync::OnceCell;

/// When a compilation that could not run may be tried again, in milliseconds.
const RETRY_AFTER_MS: u64 = 1000;

pub(super) struct VersionCompiler {
    /// Started with the first compilation.
    engine: OnceCell<Engine>,
    vitals: VitalTasks,
    /// What the versions of each plugin share.
    states: StateTables,
    /// Where they come from if other nodes have them, too.
    shared_state: Arc<SharedState>,
    cache: Option<Arc<Cache>>,
    compiler: Compiler,
}

/// Cancels a compilation when nobody waits for it any more.
struct CancelOnDrop(Compilation);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl VersionCompiler {
    pub(super) fn new(
        vitals: VitalTasks,
        states: StateTables,
        shared_state: Arc<SharedState>,
        cache: Option<Cache>,
        compiler: Compiler,
    ) -> Self {
        Self { engine: OnceCell::new(), vitals, states, shared_state, cache: cache.map(Arc::new), compiler }
    }

    /// Deletes the state that a plugin has on this node.
    pub(super) fn remove_state(&self, plugin: &str) -> StateUsage {
        self.states.remove(plugin)
    }

    /// Verifies and compiles a version that is to be active, and counts its calls in these series. Dropping the
    /// future cancels the compilation.
    pub(super) async fn compile(
        &self,
        config: &Arc<PluginConfig>,
        code: &Bytes,
        signature: Option<&str>,
        series: &PluginSeries,
    ) -> Result<Arc<Plugin>, Refusal> {
        let plugin = self.compile_uncounted(config, code, signature).await?;
        if self.shared_state.is_shared(config.state) {
            self.shared_state.read_first(config.name(), plugin.state()).await;
        }
        Ok(Arc::new(plugin.with_series(series)))
    }

    /// The same for a candidate.
    pub(super) async fn compile_candidate(
        &self,
        config: &Arc<PluginConfig>,
        code: &Bytes,
        signature: Option<&str>,
        series: &PluginSeries,
    ) -> Result<Arc<Plugin>, Refusal> {
        let plugin = self.compile_uncounted(config, code, signature).await?;
        Ok(Arc::new(plugin.with_candidate_series(series)))
    }

    async fn compile_uncounted(
        &self,
        config: &Arc<PluginConfig>,
        code: &Bytes,
        signature: Option<&str>,
    ) -> Result<Plugin, Refusal> {
        let start = async || Ok(Engine::start(&self.vitals, self.compiler)?.with_cache(self.cache.clone()));
        let engine = self.engine.get_or_try_init(start).await.cloned().map_err(|error| match error {
            EngineError::DeadlineThread(error) => {
                cannot_start_thread("that enforces plugin deadlines", error)
            }
            error @ EngineError::Runtime(_) => Refusal::invalid(error.to_string()),
        })?;
        let state = self.states.table(config.name(), config.budget.state);
        let (config, code, signature) = (config.clone(), code.clone(), signature.map(str::to_owned));
        let compilation = CancelOnDrop(Compilation::default());
        let engine = engine.with_compilation(compilation.0.clone());
        let compile = move || config.compile(&engine, &code, signature.as_deref());
        match blocking::run("compiles a plugin", compile).await {
            Ok(Ok(plugin)) => Ok(plugin.with_state(state)),
            Ok(Err(VersionError { reason, is_retryable: true })) => {
                Err(Refusal::retry(ErrorCode::Overloaded, reason, RETRY_AFTER_MS))
            }
            Ok(Err(VersionError { reason, .. })) => Err(Refusal::invalid(reason)),
            Err(error) => Err(blocking_refusal("compiles a plugin", error)),
        }
    }
}
