//! What the governors of one plugin share, one on each shard of its rooms: who is quarantined, how many filters
//! there are, and whether messages must be checked. It outlives versions. Makes no calls.

use super::blame::{Blame, BlameBreakers};
use super::breaker::Breaker;
use super::filter_ledger::FilterLedger;
use super::governor::{GovernorRole, OnFailure};
use super::load::Plugin;
use super::status::Stats;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use switchyard_process::lock::LockExt;

/// How many principals can have suspended filters at a time; as many as have breakers. If there are more, the
/// suspension that ends first is forgotten.
const MAX_SUSPENSIONS: usize = 1024;

/// The governors of one plugin. Whatever happens in one of them applies in all.
pub struct GovernorGroup {
    role: GovernorRole,
    health: Mutex<Health>,
    /// Whether nothing has failed since the version became active, so that calls need no lock.
    is_calm: AtomicBool,
    /// Rises with each suspension of a principal's filters.
    suspensions: AtomicU64,
    /// Whether a hook of the active version must be asked before a message is stored. True if none is active.
    has_publish_hooks: AtomicBool,
    /// Whether the rooms are closed, because the plugin is quarantined and failures are denied.
    is_closed: AtomicBool,
    /// Counts the versions that were active.
    generation: AtomicU64,
    pub(super) filters: Arc<Mutex<FilterLedger>>,
}

struct Health {
    /// The active version.
    active: Option<Arc<Plugin>>,
    on_failure: OnFailure,
    breaker: Breaker,
    blame_breakers: BlameBreakers,
    /// Principals whose filters are not evaluated, and until when.
    suspended: HashMap<Arc<str>, Instant>,
}

/// Why no call may be made, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quarantined {
    /// The plugin is quarantined.
    Plugin(Duration),
    /// Whoever the call is made for is quarantined for this plugin.
    Caller(Duration),
}

/// What follows from a failure.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct FailureConsequences<'a> {
    /// Who is quarantined besides the plugin, and for how long.
    pub quarantined: Option<(Blame<'a>, Duration)>,
    /// The plugin is quarantined for this long.
    pub plugin_pause: Option<Duration>,
}

impl Default for GovernorGroup {
    /// A group for rooms. No version is active.
    fn default() -> Self {
        Self::new(GovernorRole::Rooms)
    }
}

impl GovernorGroup {
    pub(super) fn new(role: GovernorRole) -> Self {
        let health = Health::new(None, OnFailure::Deny);
        Self {
            role,
            health: Mutex::new(health),
            is_calm: AtomicBool::new(true),
            suspensions: AtomicU64::new(0),
            has_publish_hooks: AtomicBool::new(true),
            is_closed: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            filters: Arc::default(),
        }
    }

    /// Begins with another version, whose governors have been prepared: ends all quarantines, and the recording of
    /// the previous version. No governor of the group may be making a call.
    pub fn activate(&self, plugin: &Arc<Plugin>, on_failure: OnFailure) {
        let mut health = self.health.locked();
        let hooks = &plugin.info().hooks;
        if let Some(previous) = &health.active {
            previous.recorder().set_replaced(true);
        }
        plugin.recorder().set_replaced(false);
        *health = Health::new(Some(plugin.clone()), on_failure);
        // This version may have been quarantined when it was active before.
        plugin.stats().set_quarantine(self.role, None);
        plugin.stats().clear_principal_quarantines();
        plugin.stats().set_filters(self.filters.locked().len());
        self.is_calm.store(true, Ordering::Release);
        self.is_closed.store(false, Ordering::Release);
        self.has_publish_hooks.store(hooks.room || hooks.publish || hooks.subscribe, Ordering::Release);
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// What its plugin is called in the log.
    pub(super) fn subject(&self) -> &'static str {
        self.role.subject()
    }

    /// How many versions have been active. What one version answered may not be used with another.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether a governor has to be asked before a message is stored: a hook decides about it, names the
    /// room or limits publishers; or no version is active; or the plugin is quarantined, and its rooms are closed.
    pub fn wants_publishes(&self) -> bool {
        self.has_publish_hooks.load(Ordering::Acquire) || self.is_closed.load(Ordering::Acquire)
    }

    /// Whether the plugin may be called for anybody.
    pub(super) fn admit_plugin(&self, now: Instant) -> Result<(), Duration> {
        if self.is_calm.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut health = self.health.locked();
        let admitted = health.breaker.admit(now);
        self.update_closed(&health);
        admitted
    }

    /// Whether the plugin may be called on this behalf.
    pub(super) fn admit(&self, blame: Blame<'_>, now: Instant) -> Result<(), Quarantined> {
        if self.is_calm.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut health = self.health.locked();
        let admitted = health.breaker.admit(now);
        self.update_closed(&health);
        admitted.map_err(Quarantined::Plugin)?;
        health.blame_breakers.admit(blame, now).map_err(Quarantined::Caller)
    }

    /// Records that a call on this behalf succeeded. Returns whether that ended its quarantine.
    pub(super) fn record_success(&self, blame: Blame<'_>) -> bool {
        !self.is_calm.load(Ordering::Acquire) && self.health.locked().blame_breakers.record_success(blame)
    }

    /// Records that any call succeeded. Returns whether that ended the quarantine of the plugin, which `stats` then
    /// show.
    pub(super) fn record_plugin_success(&self, stats: &Stats) -> bool {
        if self.is_calm.load(Ordering::Acquire) {
            return false;
        }
        let mut health = self.health.locked();
        let has_ended = health.breaker.record_success();
        if has_ended {
            // Under the lock, so that they show the latest quarantine.
            stats.set_quarantine(self.role, None);
        }
        has_ended
    }

    /// Records a failure in the breakers of whoever is to blame and of the plugin. If that quarantines the plugin,
    /// `stats` show it.
    pub(super) fn record_failure<'a>(
        &self,
        blame: Blame<'a>,
        now: Instant,
        stats: &Stats,
    ) -> FailureConsequences<'a> {
        let mut health = self.health.locked();
        self.is_calm.store(false, Ordering::Release);
        let quarantined = health.blame_breakers.record_failure(blame, now);
        if let Some((Blame::Principal(principal_id), pause)) = quarantined {
            health.suspend(principal_id, now, now + pause);
            self.suspensions.fetch_add(1, Ordering::AcqRel);
        }
        let origin = health.blame_breakers.origin(blame);
        let plugin_pause = origin.and_then(|origin| health.breaker.record_failure(now, origin));
        if let Some(pause) = plugin_pause {
            stats.set_quarantine(self.role, Some(now + pause));
        }
        self.update_closed(&health);
        FailureConsequences { quarantined, plugin_pause }
    }

    /// The principals whose filters are suspended, unless they are known: `seen` is the number of suspensions
    /// when this was called last.
    pub(super) fn new_suspensions(&self, seen: &mut u64) -> Option<Vec<(Arc<str>, Instant)>> {
        if self.suspensions.load(Ordering::Acquire) == *seen {
            return None;
        }
        let health = self.health.locked();
        *seen = self.suspensions.load(Ordering::Acquire);
        Some(health.suspended.iter().map(|(principal_id, until)| (principal_id.clone(), *until)).collect())
    }

    fn update_closed(&self, health: &Health) {
        let is_closed = health.on_failure == OnFailure::Deny && health.breaker.is_open();
        self.is_closed.store(is_closed, Ordering::Release);
    }
}

impl Health {
    fn new(active: Option<Arc<Plugin>>, on_failure: OnFailure) -> Self {
        let (breaker, blame_breakers) = (Breaker::new(), BlameBreakers::default());
        Self { active, on_failure, breaker, blame_breakers, suspended: HashMap::new() }
    }

    fn suspend(&mut self, principal_id: &str, now: Instant, until: Instant) {
        self.suspended.retain(|_, until| now < *until);
        if self.suspended.len() >= MAX_SUSPENSIONS && !self.suspended.contains_key(principal_id) {
            let first = self.suspended.iter().min_by_key(|(_, until)| **until);
            let first = first.map(|(principal_id, _)| principal_id.clone());
            first.and_then(|first| self.suspended.remove(&first));
        }
        self.suspended.insert(principal_id.into(), until);
    }
}

#[cfg(test)]
mod tests {
    use super::super::status::State;
    use super::*;

    #[test]
    fn a_failure_in_one_governor_counts_in_all() {
        let (group, now, stats) = (GovernorGroup::default(), Instant::now(), Stats::default());
        let fail = || group.record_failure(Blame::Host, now, &stats).plugin_pause;
        assert!((0..4).all(|_| fail().is_none()) && fail().is_some());
        assert!(matches!(stats.status().state, State::Quarantined { .. }));
        assert!(matches!(group.admit(Blame::HistoryReader("r"), now), Err(Quarantined::Plugin(_))));
        assert!(group.wants_publishes());
    }

    #[test]
    fn every_governor_learns_of_a_suspension_once() {
        let (group, now) = (GovernorGroup::default(), Instant::now());
        let (mut one, mut two) = (0, 0);
        assert_eq!(group.new_suspensions(&mut one), None);
        for _ in 0..5 {
            group.record_failure(Blame::Principal("mallory"), now, &Stats::default());
        }
        for seen in [&mut one, &mut two] {
            let suspensions = group.new_suspensions(seen).expect("mallory is suspended");
            assert_eq!(&*suspensions[0].0, "mallory");
            assert_eq!(group.new_suspensions(seen), None);
        }
        assert_eq!(group.admit(Blame::Principal("acme"), now), Ok(()));
        assert!(matches!(group.admit(Blame::Principal("mallory"), now), Err(Quarantined::Caller(_))));
    }

    #[test]
    fn the_number_of_suspensions_is_bounded() {
        let (group, now) = (GovernorGroup::default(), Instant::now());
        let mut health = group.health.locked();
        for n in 0..2 * MAX_SUSPENSIONS as u32 {
            health.suspend(&n.to_string(), now, now + Duration::from_millis((n + 1).into()));
        }
        assert_eq!(health.suspended.len(), MAX_SUSPENSIONS);
        assert!(health.suspended.contains_key(&*(2 * MAX_SUSPENSIONS - 1).to_string()));
    }
}
