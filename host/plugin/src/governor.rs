//! A plugin as a shard sees it: every call gives an answer or a rejection, whatever the guest does. This file
//! owns the instance; the breakers belong to the plugin's governors together (`governor_group.rs`). The hooks are in
//! `hooks.rs`, evaluating filters in `deliver.rs`.

mod filter_setup;
mod quarantine;
mod swap;

pub use swap::{PreparedSwap, SwapError};

use self::filter_setup::{FilterSetupFailure, instantiate_with_filters, slowest_owner};
use super::blame::Blame;
use super::failure::{CallFailure, FailureKind, PluginFunction};
use super::filters::{FilterId, FilterTable, Plan};
use super::governor_group::{GovernorGroup, Quarantined};
use super::hook_types::{Rejection, clip};
use super::instance::Instance;
use super::load::Plugin;
use super::mirror::Mirror;
use super::room_cache::RoomNameCache;
use super::state::StateAccess;
use super::status::Stats;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Instant;
use switchyard_process::log::AUDIT_TARGET;

/// Maximum length of a filter in the operator's log, in bytes.
const MAX_LOGGED_FILTER_BYTES: usize = 200;

/// What a failed call is treated as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// A rejection: nothing happens that the plugin did not allow.
    #[default]
    Deny,
    /// The answer of a plugin without that hook: room names stay unchanged, messages pass, and members whose
    /// filter cannot be evaluated receive every message. Only for plugins whose filters save traffic and
    /// protect nothing.
    Allow,
}

/// What a governor is responsible for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GovernorRole {
    /// Rooms, their members and messages.
    Rooms,
    /// Who may connect.
    Connections,
    /// Nothing: it is compared with the active version.
    Candidate,
}

impl GovernorRole {
    /// What its plugin is called in the log.
    pub(super) fn subject(self) -> &'static str {
        match self {
            GovernorRole::Rooms | GovernorRole::Connections => "plugin",
            GovernorRole::Candidate => "candidate",
        }
    }
}

/// Owns one plugin's instance on one shard, the filters in use there, and the cached answers about room names.
/// What the shards of a plugin have in common is in its group.
///
/// A call blocks for at most the plugin's budget. If an instance has to be started first, that takes up to 10
/// budgets, and compiling many filters on it up to 100.
///
/// Failures end here: the instance is dropped, and the next call starts another one and compiles the live
/// filters on it again.
pub struct Governor {
    plugin: Arc<Plugin>,
    pub(super) on_failure: OnFailure,
    instance: Option<Instance>,
    pub(super) filters: FilterTable,
    pub(super) room_names: RoomNameCache,
    pub(super) group: Arc<GovernorGroup>,
    /// How many suspensions of the group have been applied to the filters here.
    seen_suspensions: u64,
    /// The principal whose filter made the plugin fail last. Its filters are suspected first at the next
    /// failure.
    pub(super) last_culprit: Option<Arc<str>>,
    /// The plugin's state, as all instances started here use it.
    state: StateAccess,
    /// Where a candidate sees the calls made here and their answers.
    pub(super) mirror: Option<Mirror>,
    /// Buffers that are reused from message to message; see `deliver.rs`.
    pub(super) guest_ids: Vec<u32>,
    pub(super) guest_positions: Vec<usize>,
}

impl Governor {
    /// A governor for rooms that is alone in its group. The first call that needs an instance starts it.
    pub fn new(plugin: Arc<Plugin>, on_failure: OnFailure) -> Self {
        Self::alone(plugin, on_failure, GovernorRole::Rooms)
    }

    /// A governor that decides who may connect.
    pub fn for_connections(plugin: Arc<Plugin>, on_failure: OnFailure) -> Self {
        Self::alone(plugin, on_failure, GovernorRole::Connections)
    }

    fn alone(plugin: Arc<Plugin>, on_failure: OnFailure, role: GovernorRole) -> Self {
        let group = Arc::new(GovernorGroup::new(role));
        group.activate(&plugin, on_failure);
        Self::in_group(plugin, on_failure, group)
    }

    /// One of several governors of a plugin, for the rooms of one shard. This version is active in the group, or
    /// is about to be.
    pub fn in_group(plugin: Arc<Plugin>, on_failure: OnFailure, group: Arc<GovernorGroup>) -> Self {
        Self {
            state: StateAccess::direct(plugin.state().clone()),
            plugin,
            on_failure,
            instance: None,
            filters: FilterTable::new(group.filters.clone()),
            room_names: RoomNameCache::default(),
            group,
            seen_suspensions: 0,
            last_culprit: None,
            mirror: None,
            guest_ids: Vec::new(),
            guest_positions: Vec::new(),
        }
    }

    /// A governor for a candidate, whose calls change nothing in the plugin's state.
    pub fn for_candidate(plugin: Arc<Plugin>) -> Self {
        let state = StateAccess::without_effect(plugin.state().clone());
        Self { state, ..Self::alone(plugin, OnFailure::Deny, GovernorRole::Candidate) }
    }

    /// Starts sending all calls and answers to a candidate, or stops with `None`.
    pub fn set_mirror(&mut self, mirror: Option<Mirror>) {
        self.mirror = mirror;
    }

    /// The plugin's name in the configuration.
    pub fn name(&self) -> &str {
        &self.plugin.info().name
    }

    /// The active version.
    pub fn plugin(&self) -> &Arc<Plugin> {
        &self.plugin
    }

    /// Counters and state of the active version.
    pub fn stats(&self) -> &Stats {
        self.plugin.stats()
    }

    /// Returns one of the references to a filter that a principal holds. The guest is told in batches which
    /// filters are no longer used.
    pub fn release(&mut self, id: FilterId, principal_id: &str) {
        if self.filters.release(id, principal_id) {
            self.release_stale_filters();
        }
        self.report_filters();
    }

    /// How many different filters a principal holds on all shards of the plugin.
    pub fn filters_held_by(&self, principal_id: &str) -> usize {
        self.filters.held_by(principal_id)
    }

    /// Updates the gauge of the plugin's filters.
    pub(super) fn report_filters(&self) {
        self.filters.report_count(|count| self.stats().set_filters(count));
    }

    /// Suspends the filters of principals that were quarantined on any shard.
    pub(super) fn apply_suspensions(&mut self) {
        let Some(suspensions) = self.group.new_suspensions(&mut self.seen_suspensions) else { return };
        let now = Instant::now();
        for (principal_id, until) in suspensions {
            self.filters.suspend(&principal_id, now, until);
        }
    }

    /// Makes one call. The error is what the client is told; everything else about the failure has been
    /// handled.
    pub(super) fn call<T>(
        &mut self,
        function: PluginFunction,
        blame: Blame<'_>,
        invoke: impl FnOnce(&mut Instance) -> Result<T, Box<CallFailure>>,
    ) -> Result<T, Rejection> {
        self.admit(blame)?;
        let answer =
            self.try_call(function, invoke).map_err(|failure| self.handle_failure(&failure, blame))?;
        self.record_success(blame);
        Ok(answer)
    }

    /// Records that a call on this behalf succeeded.
    pub(super) fn record_success(&mut self, blame: Blame<'_>) {
        if self.group.record_success(blame) {
            tracing::info!(
                plugin = self.name(),
                %blame,
                "{} answers again: the caller's quarantine has ended",
                self.group.subject()
            );
            if let Blame::Principal(principal_id) = blame {
                self.stats().end_principal_quarantine(principal_id);
            }
        }
    }

    /// Makes one call on an instance that has been started. A failure drops the instance and is logged, but
    /// blames nobody yet.
    pub(super) fn try_call<T>(
        &mut self,
        function: PluginFunction,
        invoke: impl FnOnce(&mut Instance) -> Result<T, Box<CallFailure>>,
    ) -> Result<T, Box<CallFailure>> {
        let instance = self.instance.as_mut().expect("the caller has started one");
        let started = Instant::now();
        let answer = invoke(instance);
        let needs_recycling = instance.needs_recycling();
        self.stats().record_call(function, started.elapsed());
        if let Err(failure) = &answer {
            self.drop_instance();
            self.log_failure(failure);
            return answer;
        }
        if self.group.record_plugin_success(self.stats()) {
            let (name, subject) = (self.name(), self.group.subject());
            tracing::info!(plugin = name, "{subject} answers again: its quarantine has ended");
        }
        if needs_recycling {
            self.stats().record_recycling();
            self.drop_instance();
        }
        answer
    }

    /// Starts an instance for a call on this behalf, unless the plugin or the caller is quarantined.
    pub(super) fn admit(&mut self, blame: Blame<'_>) -> Result<(), Rejection> {
        match self.group.admit(blame, Instant::now()) {
            Ok(()) => self.ensure_instance(),
            Err(Quarantined::Plugin(remaining)) => Err(self.closed(remaining)),
            Err(Quarantined::Caller(remaining)) => {
                self.stats().record_rejection();
                Err(self.quarantined(blame, remaining))
            }
        }
    }

    /// Starts an instance if there is none.
    pub(super) fn ensure_instance(&mut self) -> Result<(), Rejection> {
        if self.instance.is_some() {
            return Ok(());
        }
        let live = self.filters.live().filter(|(id, _)| !self.filters.is_closed(*id)).collect::<Vec<_>>();
        let started = Instant::now();
        let result = instantiate_with_filters(&self.plugin, self.state.clone(), &live);
        self.stats().record_call(PluginFunction::Init, started.elapsed());
        match result {
            Ok((instance, plans)) => {
                self.adopt_instance(instance, plans);
                Ok(())
            }
            Err(error) => Err(self.handle_setup_failure(error)),
        }
    }

    /// Closes filters that keep an instance from starting, and blames the principal that added them.
    /// Otherwise a single filter would keep every instance from starting.
    fn handle_setup_failure(&mut self, error: FilterSetupFailure) -> Rejection {
        let FilterSetupFailure { filter, durations, failure } = error;
        self.log_failure(&failure);
        let owner = match filter {
            Some(_) if failure.kind == FailureKind::Memory && self.filters.dominant_holder().is_some() => {
                self.filters.dominant_holder()
            }
            Some(id) => self.filters.owner(id),
            None => slowest_owner(&durations, &self.filters),
        };
        let owner = owner.cloned();
        let to_close = match (filter, &owner) {
            (Some(id), Some(owner)) if self.filters.owner(id) == Some(owner) => vec![id],
            (_, Some(owner)) => self.filters.owned_by(owner),
            (Some(id), None) => vec![id],
            (None, None) => vec![],
        };
        for id in to_close {
            self.close_filter(id, &failure.detail);
        }
        self.handle_failure(&failure, owner.as_deref().map_or(Blame::Host, Blame::Principal))
    }

    fn adopt_instance(&mut self, instance: Instance, plans: Vec<(FilterId, Result<Plan, String>)>) {
        self.instance = Some(instance);
        self.stats().record_start();
        for (id, plan) in plans {
            match plan {
                Ok(plan) => self.filters.set_plan(id, plan),
                Err(reason) => self.close_filter(id, &reason),
            }
        }
    }

    fn close_filter(&mut self, id: FilterId, reason: &str) {
        let filter = clip(self.filters.canonical(id), MAX_LOGGED_FILTER_BYTES);
        tracing::error!(
            plugin = self.name(),
            filter,
            reason,
            "filter closed: it could not be compiled again"
        );
        self.filters.close(id);
    }

    /// Tells the guest which filters are no longer used.
    pub(super) fn release_stale_filters(&mut self) {
        if self.instance.is_some() && !self.filters.stale().is_empty() {
            let stale = self.filters.stale().to_vec();
            // A failure drops the instance, and with it all its filters.
            let _ = self.call(PluginFunction::Release, Blame::Host, |instance| instance.release(&stale));
        }
        self.filters.free_stale();
    }

    fn drop_instance(&mut self) {
        self.instance = None;
        self.filters.free_stale();
    }

    fn log_failure(&self, failure: &CallFailure) {
        self.stats().record_failure(failure);
        tracing::error!(
            plugin = failure.plugin,
            version = failure.version,
            call = failure.function.name(),
            room = failure.room,
            kind = failure.kind.name(),
            last_error_line = failure.last_error_line,
            backtrace = failure.backtrace.join(" < "),
            "{} failed: {}",
            self.group.subject(),
            failure.detail
        );
    }

    /// Records a failure in the breakers of whoever is to blame and of the plugin.
    pub(super) fn handle_failure(&mut self, failure: &CallFailure, blame: Blame<'_>) -> Rejection {
        let dominant_holder = match failure.kind {
            // Whoever calls when the memory is full is not the one who filled it.
            FailureKind::Memory => self.filters.dominant_holder().cloned(),
            _ => None,
        };
        let blame = dominant_holder.as_deref().map_or(blame, Blame::Principal);
        let now = Instant::now();
        let consequences = self.group.record_failure(blame, now, self.stats());
        let (plugin, subject) = (&*self.plugin, self.group.subject());
        if let Some((blame, pause)) = consequences.quarantined {
            tracing::error!(
                plugin = plugin.info().name,
                version = plugin.info().version,
                sha256 = plugin.info().sha256,
                config = plugin.config_digest(),
                %blame,
                ?pause,
                "caller quarantined for this {subject}: its requests repeatedly made the plugin fail"
            );
            if let Blame::Principal(principal_id) = blame {
                self.stats().record_principal_quarantine(principal_id, now, now + pause);
            }
        }
        if let Some(pause) = consequences.plugin_pause {
            tracing::error!(
                target: AUDIT_TARGET,
                plugin = plugin.info().name,
                version = plugin.info().version,
                sha256 = plugin.info().sha256,
                config = plugin.config_digest(),
                ?pause,
                "{subject} quarantined: it failed repeatedly"
            );
        }
        Rejection::failed(format!("plugin '{}' failed", self.name()))
    }
}
