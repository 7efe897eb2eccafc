//! Counters and state of one version of a plugin. Its governors write them; metrics, HTTP handlers and the
//! task that watches probation read them from other threads.

use super::failure::{CallFailure, FailureKind, PluginFunction};
use super::governor::GovernorRole;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Whether the plugin is called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum State {
    /// Calls are made.
    #[default]
    Active,
    /// The plugin failed too often. All calls are rejected, until one is made on trial.
    Quarantined {
        /// How long this will take, in milliseconds.
        retry_in_ms: u64,
    },
}

/// The live counters of one version; [`status`](Self::status) reads them.
#[derive(Default)]
pub struct Stats {
    calls: [AtomicU64; PluginFunction::ALL.len()],
    nanos: [AtomicU64; PluginFunction::ALL.len()],
    failures: [[AtomicU64; FailureKind::ALL.len()]; PluginFunction::ALL.len()],
    rejected_calls: AtomicU64,
    instances: AtomicU64,
    recycled: AtomicU64,
    filters: AtomicU64,
    filters_evaluated: AtomicU64,
    filters_passed: AtomicU64,
    principals_quarantined: AtomicU64,
    health: Mutex<Health>,
    /// How many quarantines there have been.
    quarantines: watch::Sender<u64>,
}

#[derive(Default)]
struct Health {
    /// Indexed by [`GovernorRole`].
    quarantined_until: [Option<Instant>; 2],
    last_failure: Option<String>,
}

/// The counters of one version at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PluginStatus {
    /// Whether the plugin is called.
    #[serde(skip)]
    pub state: State,
    /// By function of the contract: the number of calls, and the nanoseconds that they took. `lifecycle.init`
    /// covers everything that starting an instance takes, including the compilation of the live filters.
    pub calls: BTreeMap<&'static str, (u64, u64)>,
    /// The number of failures by kind, without kinds that never occurred.
    pub failures: BTreeMap<&'static str, u64>,
    /// The same by function and kind.
    #[serde(skip)]
    pub failures_by_hook: Vec<((&'static str, &'static str), u64)>,
    /// Calls that were not made because of a quarantine.
    pub refused: u64,
    /// Instances that were started.
    pub instances: u64,
    /// Instances that were replaced because they had grown too large or served their number of calls.
    pub recycled: u64,
    /// Filters in use.
    pub filters: u64,
    /// How often a filter was evaluated for a message.
    pub filters_asked: u64,
    /// How often the message passed.
    pub filters_passed: u64,
    /// How often a single principal was quarantined because its requests made the plugin fail.
    pub principals_quarantined: u64,
    /// The last failure, as a sentence.
    pub last_failure: Option<String>,
}

impl Stats {
    pub(super) fn record_call(&self, function: PluginFunction, duration: Duration) {
        self.calls[function as usize].fetch_add(1, Relaxed);
        self.nanos[function as usize].fetch_add(duration.as_nanos() as u64, Relaxed);
    }

    pub(super) fn record_failure(&self, failure: &CallFailure) {
        self.failures[failure.function as usize][failure.kind as usize].fetch_add(1, Relaxed);
        self.with_health(|health| health.last_failure = Some(failure.to_string()));
    }

    pub(super) fn record_rejection(&self) {
        self.rejected_calls.fetch_add(1, Relaxed);
    }

    pub(super) fn record_start(&self) {
        self.instances.fetch_add(1, Relaxed);
    }

    pub(super) fn record_recycling(&self) {
        self.recycled.fetch_add(1, Relaxed);
    }

    pub(super) fn set_filters(&self, live: usize) {
        self.filters.store(live as u64, Relaxed);
    }

    pub(super) fn record_filtering(&self, evaluated: usize, passed: u32) {
        self.filters_evaluated.fetch_add(evaluated as u64, Relaxed);
        self.filters_passed.fetch_add(passed.into(), Relaxed);
    }

    pub(super) fn record_principal_quarantine(&self) {
        self.principals_quarantined.fetch_add(1, Relaxed);
    }

    pub(super) fn set_quarantine(&self, role: GovernorRole, until: Option<Instant>) {
        self.with_health(|health| health.quarantined_until[role as usize] = until);
        if until.is_some() {
            self.quarantines.send_modify(|count| *count += 1);
        }
    }

    /// A receiver that is notified of each quarantine from now on.
    pub fn watch_quarantines(&self) -> watch::Receiver<u64> {
        self.quarantines.subscribe()
    }

    /// A snapshot of all counters and the state.
    pub fn status(&self) -> PluginStatus {
        let read = |cell: &AtomicU64| cell.load(Relaxed);
        let calls = PluginFunction::ALL.map(|function| {
            (function.name(), (read(&self.calls[function as usize]), read(&self.nanos[function as usize])))
        });
        let (mut failures, mut failures_by_hook) = (BTreeMap::new(), vec![]);
        for function in PluginFunction::ALL {
            for kind in FailureKind::ALL {
                let count = read(&self.failures[function as usize][kind as usize]);
                if count > 0 {
                    *failures.entry(kind.name()).or_default() += count;
                    failures_by_hook.push(((function.name(), kind.name()), count));
                }
            }
        }
        let (state, last_failure) = self.with_health(|health| {
            let state = match health.quarantined_until.into_iter().flatten().max() {
                Some(until) => {
                    let remaining = until.saturating_duration_since(Instant::now());
                    State::Quarantined { retry_in_ms: remaining.as_millis() as u64 }
                }
                None => State::Active,
            };
            (state, health.last_failure.clone())
        });
        PluginStatus {
            state,
            calls: calls.into_iter().filter(|(_, (calls, _))| *calls > 0).collect(),
            failures,
            failures_by_hook,
            refused: read(&self.rejected_calls),
            instances: read(&self.instances),
            recycled: read(&self.recycled),
            filters: read(&self.filters),
            filters_asked: read(&self.filters_evaluated),
            filters_passed: read(&self.filters_passed),
            principals_quarantined: read(&self.principals_quarantined),
            last_failure,
        }
    }

    fn with_health<T>(&self, access: impl FnOnce(&mut Health) -> T) -> T {
        access(&mut self.health.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
