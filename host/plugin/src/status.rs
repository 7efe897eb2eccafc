//! What a version of a plugin did and how it is, readable from other threads.

use super::failure::{Call, Failure, FailureKind};
use super::governor::Duty;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Whether the plugin is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum State {
    #[default]
    Active,
    /// It failed too often; every call is refused until one is tried.
    Quarantined { retry_in_ms: u64 },
}

/// Counters of one version. Its governors write, others read.
#[derive(Default)]
pub struct Stats {
    calls: [AtomicU64; Call::ALL.len()],
    nanos: [AtomicU64; Call::ALL.len()],
    failures: [[AtomicU64; FailureKind::ALL.len()]; Call::ALL.len()],
    refused: AtomicU64,
    instances: AtomicU64,
    recycled: AtomicU64,
    filters: AtomicU64,
    asked: AtomicU64,
    passed: AtomicU64,
    principals_quarantined: AtomicU64,
    condition: Mutex<Condition>,
    /// Rises with each quarantine.
    alarm: watch::Sender<u64>,
}

#[derive(Default)]
struct Condition {
    /// By duty.
    quarantined_until: [Option<Instant>; 2],
    last_failure: Option<String>,
}

/// A version's counters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Status {
    #[serde(skip)]
    pub state: State,
    /// By function of the contract: how often asked, and nanoseconds spent. `lifecycle.init` is all of starting
    /// an instance, with taking up the filters in use.
    pub calls: BTreeMap<&'static str, (u64, u64)>,
    /// By kind; those that never happened are left out.
    pub failures: BTreeMap<&'static str, u64>,
    /// The same by hook and kind.
    #[serde(skip)]
    pub failures_by_hook: Vec<((&'static str, &'static str), u64)>,
    /// Calls not made because of a quarantine.
    pub refused: u64,
    /// Instances started, and those of them that replaced one which had grown too large or served for long.
    pub instances: u64,
    pub recycled: u64,
    /// Filters in use.
    pub filters: u64,
    /// Questions whether a message passes a filter, and those of them that were answered with yes.
    pub filters_asked: u64,
    pub filters_passed: u64,
    /// How often a principal alone was quarantined, because its requests made the plugin fail.
    pub principals_quarantined: u64,
    pub last_failure: Option<String>,
}

impl Stats {
    pub(super) fn called(&self, call: Call, took: Duration) {
        self.calls[call as usize].fetch_add(1, Relaxed);
        self.nanos[call as usize].fetch_add(took.as_nanos() as u64, Relaxed);
    }

    pub(super) fn failed(&self, failure: &Failure) {
        self.failures[failure.call as usize][failure.kind as usize].fetch_add(1, Relaxed);
        self.condition(|condition| condition.last_failure = Some(failure.to_string()));
    }

    pub(super) fn refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    pub(super) fn started(&self) {
        self.instances.fetch_add(1, Relaxed);
    }

    pub(super) fn recycled(&self) {
        self.recycled.fetch_add(1, Relaxed);
    }

    pub(super) fn filters(&self, live: usize) {
        self.filters.store(live as u64, Relaxed);
    }

    pub(super) fn filtered(&self, asked: usize, passed: u32) {
        self.asked.fetch_add(asked as u64, Relaxed);
        self.passed.fetch_add(passed.into(), Relaxed);
    }

    pub(super) fn principal_quarantined(&self) {
        self.principals_quarantined.fetch_add(1, Relaxed);
    }

    pub(super) fn quarantined(&self, duty: Duty, until: Option<Instant>) {
        self.condition(|condition| condition.quarantined_until[duty as usize] = until);
        if until.is_some() {
            self.alarm.send_modify(|count| *count += 1);
        }
    }

    /// Changes with each quarantine from now on.
    pub fn alarms(&self) -> watch::Receiver<u64> {
        self.alarm.subscribe()
    }

    /// Everything as it is now.
    pub fn status(&self) -> Status {
        let read = |cell: &AtomicU64| cell.load(Relaxed);
        let calls = Call::ALL
            .map(|call| (call.name(), (read(&self.calls[call as usize]), read(&self.nanos[call as usize]))));
        let (mut failures, mut failures_by_hook) = (BTreeMap::new(), vec![]);
        for call in Call::ALL {
            for kind in FailureKind::ALL {
                let count = read(&self.failures[call as usize][kind as usize]);
                if count > 0 {
                    *failures.entry(kind.name()).or_default() += count;
                    failures_by_hook.push(((call.name(), kind.name()), count));
                }
            }
        }
        let (state, last_failure) = self.condition(|condition| {
            let state = match condition.quarantined_until.into_iter().flatten().max() {
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    State::Quarantined { retry_in_ms: left.as_millis() as u64 }
                }
                None => State::Active,
            };
            (state, condition.last_failure.clone())
        });
        Status {
            state,
            calls: calls.into_iter().filter(|(_, (calls, _))| *calls > 0).collect(),
            failures,
            failures_by_hook,
            refused: read(&self.refused),
            instances: read(&self.instances),
            recycled: read(&self.recycled),
            filters: read(&self.filters),
            filters_asked: read(&self.asked),
            filters_passed: read(&self.passed),
            principals_quarantined: read(&self.principals_quarantined),
            last_failure,
        }
    }

    fn condition<T>(&self, with: impl FnOnce(&mut Condition) -> T) -> T {
        with(&mut self.condition.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
