//! State of one version of a plugin. Its governors write it; metrics, HTTP handlers and the task that watches
//! probation read it from other threads. What is counted is in `counters.rs`.

use super::counters::{CallCounters, CallCounts};
use super::failure::{CallFailure, PluginFunction};
use super::governor::GovernorRole;
use serde::Serialize;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use switchyard_process::lock::LockExt;
use tokio::sync::watch;

/// How many quarantined principals are counted. Each was quarantined for at most a minute, after failures that cost
/// the plugin's time.
const MAX_QUARANTINED_PRINCIPALS: usize = 10_000;

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

/// The live state of one version; [`status`](Self::status) reads it.
#[derive(Default)]
pub struct Stats {
    /// Shared with everything else that was compiled from the same code.
    counters: Arc<CallCounters>,
    filters: AtomicU64,
    /// Until when principals are quarantined, by their ids. Only quarantines that have not ended count.
    quarantined_principals: Mutex<HashMap<Box<str>, Instant>>,
    health: Mutex<Health>,
    /// How many quarantines there have been.
    quarantines: watch::Sender<u64>,
}

#[derive(Default)]
struct Health {
    /// Indexed by [`GovernorRole`].
    quarantined_until: [Option<Instant>; 3],
    last_failure: Option<String>,
}

/// The counters and the state of one version at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PluginStatus {
    /// Whether the plugin is called.
    #[serde(skip)]
    pub state: State,
    /// What its calls were counted in.
    #[serde(flatten)]
    pub counts: CallCounts,
    /// Filters in use.
    pub filters: u64,
    /// Principals that are quarantined now, at most 10,000.
    pub quarantined_principals: usize,
    /// The last failure, as a sentence.
    pub last_failure: Option<String>,
}

impl Stats {
    /// The state of a version that counts its calls here.
    pub(super) fn new(counters: Arc<CallCounters>) -> Self {
        Self { counters, ..Self::default() }
    }

    pub(super) fn record_call(&self, function: PluginFunction, duration: Duration) {
        self.counters.record_call(function, duration);
    }

    pub(super) fn record_rejection(&self) {
        self.counters.record_rejection();
    }

    pub(super) fn record_start(&self) {
        self.counters.record_start();
    }

    pub(super) fn record_recycling(&self) {
        self.counters.record_recycling();
    }

    pub(super) fn record_filtering(&self, evaluated: usize, passed: u32) {
        self.counters.record_filtering(evaluated, passed);
    }

    pub(super) fn record_failure(&self, failure: &CallFailure) {
        self.counters.record_failure(failure.function, failure.kind);
        self.with_health(|health| health.last_failure = Some(failure.to_string()));
    }

    pub(super) fn set_filters(&self, live: usize) {
        self.filters.store(live as u64, Relaxed);
    }

    pub(super) fn record_principal_quarantine(&self, principal_id: &str, now: Instant, until: Instant) {
        self.counters.record_principal_quarantine();
        let mut quarantined = self.quarantined_principals.locked();
        if quarantined.len() >= MAX_QUARANTINED_PRINCIPALS {
            quarantined.retain(|_, until| *until > now);
        }
        if quarantined.len() < MAX_QUARANTINED_PRINCIPALS {
            quarantined.insert(principal_id.into(), until);
        }
    }

    pub(super) fn end_principal_quarantine(&self, principal_id: &str) {
        self.quarantined_principals.locked().remove(principal_id);
    }

    /// For a version that becomes active again: nobody is quarantined for it any more.
    pub(super) fn clear_principal_quarantines(&self) {
        self.quarantined_principals.locked().clear();
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
        let now = Instant::now();
        let quarantined = self.quarantined_principals.locked();
        PluginStatus {
            state,
            counts: self.counters.values(),
            filters: self.filters.load(Relaxed),
            quarantined_principals: quarantined.values().filter(|until| **until > now).count(),
            last_failure,
        }
    }

    fn with_health<T>(&self, access: impl FnOnce(&mut Health) -> T) -> T {
        access(&mut self.health.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
