//! What the calls of one version of a plugin are counted in. Its governors write the counters; others read them
//! from other threads, also when the version is not active any more.

use super::failure::{FailureKind, PluginFunction};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The live counters of a version; [`values`](Self::values) reads them.
#[derive(Default)]
pub(crate) struct CallCounters {
    calls: [AtomicU64; PluginFunction::ALL.len()],
    nanos: [AtomicU64; PluginFunction::ALL.len()],
    failures: [[AtomicU64; FailureKind::ALL.len()]; PluginFunction::ALL.len()],
    rejected_calls: AtomicU64,
    instances: AtomicU64,
    recycled: AtomicU64,
    filters_evaluated: AtomicU64,
    filters_passed: AtomicU64,
    principal_quarantines: AtomicU64,
}

/// The counters of a version at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CallCounts {
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
    /// How often a filter was evaluated for a message.
    pub filters_asked: u64,
    /// How often the message passed.
    pub filters_passed: u64,
    /// How often a single principal was quarantined because its requests made the plugin fail.
    pub principals_quarantined: u64,
}

impl CallCounters {
    pub(crate) fn record_call(&self, function: PluginFunction, duration: Duration) {
        self.calls[function as usize].fetch_add(1, Relaxed);
        self.nanos[function as usize].fetch_add(duration.as_nanos() as u64, Relaxed);
    }

    pub(crate) fn record_failure(&self, function: PluginFunction, kind: FailureKind) {
        self.failures[function as usize][kind as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn record_rejection(&self) {
        self.rejected_calls.fetch_add(1, Relaxed);
    }

    pub(crate) fn record_start(&self) {
        self.instances.fetch_add(1, Relaxed);
    }

    pub(crate) fn record_recycling(&self) {
        self.recycled.fetch_add(1, Relaxed);
    }

    pub(crate) fn record_filtering(&self, evaluated: usize, passed: u32) {
        self.filters_evaluated.fetch_add(evaluated as u64, Relaxed);
        self.filters_passed.fetch_add(passed.into(), Relaxed);
    }

    pub(crate) fn record_principal_quarantine(&self) {
        self.principal_quarantines.fetch_add(1, Relaxed);
    }

    /// Adds everything that others have counted.
    pub(crate) fn absorb(&self, other: &Self) {
        for (into, from) in self.cells().zip(other.cells()) {
            into.fetch_add(from.load(Relaxed), Relaxed);
        }
    }

    fn cells(&self) -> impl Iterator<Item = &AtomicU64> {
        let Self { calls, nanos, failures, rejected_calls, instances, recycled, .. } = self;
        let Self { filters_evaluated, filters_passed, principal_quarantines, .. } = self;
        let single =
            [rejected_calls, instances, recycled, filters_evaluated, filters_passed, principal_quarantines];
        calls.iter().chain(nanos).chain(failures.as_flattened()).chain(single)
    }

    /// All counters at this moment.
    pub(crate) fn values(&self) -> CallCounts {
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
        CallCounts {
            calls: calls.into_iter().filter(|(_, (calls, _))| *calls > 0).collect(),
            failures,
            failures_by_hook,
            refused: read(&self.rejected_calls),
            instances: read(&self.instances),
            recycled: read(&self.recycled),
            filters_asked: read(&self.filters_evaluated),
            filters_passed: read(&self.filters_passed),
            principals_quarantined: read(&self.principal_quarantines),
        }
    }
}
