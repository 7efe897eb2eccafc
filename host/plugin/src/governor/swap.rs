//! Replacing the active version by another one, in two steps: all governors of a plugin prepare, and then all
//! of them commit or none does. Does not decide which version is active.

use super::filter_setup::instantiate_with_filters;
use super::{Governor, MAX_LOGGED_FILTER_BYTES, OnFailure};
use crate::failure::CallFailure;
use crate::filters::{FilterId, Plan};
use crate::hook_types::clip;
use crate::instance::Instance;
use crate::load::Plugin;
use crate::state::StateAccess;
use std::sync::Arc;

/// Why another version cannot replace the active one. The active one stays in place.
#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    /// It cannot evaluate filters, but some are in use.
    #[error("it has no deliver hook, but {filters} filters are in use")]
    NoDeliverHook {
        /// How many filters are in use.
        filters: usize,
    },
    /// It failed to start or to compile a filter.
    #[error("{0}")]
    Failed(Box<CallFailure>),
    /// It does not accept a filter that members hold.
    #[error("it rejects a filter in use, {filter}: {reason}")]
    FilterRejected {
        /// The canonical form of the filter, cut to 200 bytes.
        filter: String,
        /// The plugin's reason.
        reason: String,
    },
}

/// Another version with all live filters of one governor, ready to replace the active one.
pub struct PreparedSwap {
    plugin: Arc<Plugin>,
    on_failure: OnFailure,
    state: StateAccess,
    instance: Instance,
    plans: Vec<(FilterId, Result<Plan, String>)>,
}

impl Governor {
    /// Activates another version between two calls, if it starts and compiles every live filter. Ends
    /// mirroring to a candidate, a recording, and all quarantines. Blocks for up to 110 budgets of the new version.
    /// For a governor that is alone in its group.
    ///
    /// # Errors
    ///
    /// Fails if the new version does not start or does not accept a filter in use. Then nothing changes.
    pub fn swap(&mut self, plugin: Arc<Plugin>, on_failure: OnFailure) -> Result<(), SwapError> {
        let prepared = self.prepare(plugin.clone(), on_failure)?;
        self.group.activate(&plugin, on_failure);
        self.commit(prepared);
        Ok(())
    }

    /// Starts an instance of another version and compiles every live filter on it. Nothing changes yet. Until
    /// [`commit`](Self::commit), nothing may be called here. Blocks for up to 110 budgets of the new version.
    ///
    /// # Errors
    ///
    /// Fails if the new version does not start or does not accept a filter in use.
    pub fn prepare(&self, plugin: Arc<Plugin>, on_failure: OnFailure) -> Result<PreparedSwap, SwapError> {
        let live = self.filters.live().collect::<Vec<_>>();
        if !live.is_empty() && !plugin.info().hooks.deliver {
            let mut filters = 0;
            self.filters.report_count(|count| filters = count);
            return Err(SwapError::NoDeliverHook { filters });
        }
        let state = StateAccess::direct(plugin.state().clone());
        let (instance, plans) = instantiate_with_filters(&plugin, state.clone(), &live)
            .map_err(|error| SwapError::Failed(error.failure))?;
        for (id, plan) in &plans {
            if let Err(reason) = plan {
                let filter = clip(self.filters.canonical(*id), MAX_LOGGED_FILTER_BYTES);
                return Err(SwapError::FilterRejected { filter, reason: reason.clone() });
            }
        }
        Ok(PreparedSwap { plugin, on_failure, state, instance, plans })
    }

    /// Continues with a version that was prepared, after the group has begun with it. Ends mirroring.
    pub fn commit(&mut self, prepared: PreparedSwap) {
        let PreparedSwap { plugin, on_failure, state, instance, plans } = prepared;
        self.drop_instance();
        (self.plugin, self.on_failure, self.state) = (plugin, on_failure, state);
        self.adopt_instance(instance, plans);
        self.mirror = None;
        self.filters.clear_suspensions();
        self.room_names.clear();
    }
}
