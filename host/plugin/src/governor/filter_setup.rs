//! Starting an instance together with the live filters. What follows from a failure is decided in
//! `governor.rs`.

use crate::failure::CallFailure;
use crate::filters::{FilterId, FilterTable, Plan};
use crate::instance::Instance;
use crate::load::Plugin;
use crate::state::StateAccess;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How many call budgets a new instance may take to compile all live filters. The shard waits for it.
const FILTER_SETUP_BUDGETS: u32 = 100;

/// A new instance could not be started with the live filters.
pub(super) struct FilterSetupFailure {
    /// The filter that failed; `None` if starting failed, or all filters together took too long.
    pub filter: Option<FilterId>,
    /// If all filters together took too long: how long each of them took.
    pub durations: Vec<(FilterId, Duration)>,
    pub failure: Box<CallFailure>,
}

/// The principal whose filters took the most time to compile.
pub(super) fn slowest_owner<'a>(
    durations: &[(FilterId, Duration)],
    filters: &'a FilterTable,
) -> Option<&'a Arc<str>> {
    let mut by_owner: HashMap<&Arc<str>, Duration> = HashMap::new();
    for (id, duration) in durations {
        if let Some(owner) = filters.owner(*id) {
            *by_owner.entry(owner).or_default() += *duration;
        }
    }
    by_owner.into_iter().max_by_key(|(_, duration)| *duration).map(|(owner, _)| owner)
}

/// Starts an instance and compiles the live filters on it. Returns each filter's plan, or the plugin's reason
/// to reject it.
#[expect(clippy::type_complexity, reason = "callers destructure it at once")]
pub(super) fn instantiate_with_filters(
    plugin: &Plugin,
    state: StateAccess,
    live: &[(FilterId, &str)],
) -> Result<(Instance, Vec<(FilterId, Result<Plan, String>)>), FilterSetupFailure> {
    let failed = |filter, failure| FilterSetupFailure { filter, durations: vec![], failure };
    let mut instance = plugin.instantiate_with_state(state).map_err(|failure| failed(None, failure))?;
    let (mut plans, mut durations) = (Vec::with_capacity(live.len()), Vec::with_capacity(live.len()));
    let started = Instant::now();
    let budget = plugin.budget().call.saturating_mul(FILTER_SETUP_BUDGETS);
    let mut last = started;
    for (id, canonical) in live {
        if last - started > budget {
            let detail = format!("it took longer than {budget:?} to compile {} filters", live.len());
            let failure = instance.filter_setup_timeout(detail);
            return Err(FilterSetupFailure { filter: None, durations, failure });
        }
        let plan = instance.compile("", id.0, canonical).map_err(|failure| failed(Some(*id), failure))?;
        plans.push((*id, plan));
        let now = Instant::now();
        durations.push((*id, now - last));
        last = now;
    }
    instance.reset_memory_baseline();
    Ok((instance, plans))
}
