//! A plugin as one shard knows it: never more than an answer or a refusal.

use super::answers::{Refusal, clip};
use super::breaker::Breaker;
use super::failure::{Call, Failure, FailureKind};
use super::filters::{FilterId, Filters, Plan};
use super::instance::Instance;
use super::load::Plugin;
use super::rooms::Rooms;
use super::shadow::Mirror;
use super::status::Stats;
use super::suspects::{Blame, Suspects};
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Budgets that a fresh instance may take for the live filters, all together: a shard waits for them.
const TAKE_UP: u32 = 100;

/// Bytes of a filter in the operator's log.
const MAX_SHOWN: usize = 200;

/// What a call that failed is taken for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// A refusal: nothing happens that the plugin did not allow.
    #[default]
    Deny,
    /// The answer of a plugin without that hook: names stay, messages pass, and every message reaches members
    /// whose filter could not be asked. Only for plugins whose filters save traffic and protect nothing.
    Allow,
}

/// What a governor is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Rooms, their members and messages.
    Rooms,
    /// Who may connect.
    Connections,
}

/// Owns one plugin's instance on one shard, the filters in use there, the verdicts that still hold, and the
/// breakers: that of the plugin, and those of principals whose requests made it fail. A call blocks for at most the plugin's budget; if an instance has to be started, for ten of it, and
/// a hundred to take up many filters.
///
/// Failures end here: the instance is dropped and the next call starts another and compiles the live filters
/// on it again.
pub struct Governor {
    plugin: Arc<Plugin>,
    pub(super) on_failure: OnFailure,
    instance: Option<Instance>,
    pub(super) filters: Filters,
    pub(super) rooms: Rooms,
    breaker: Breaker,
    suspects: Suspects,
    /// Whose filter made it fail last: suspected first when it fails again.
    pub(super) culprit: Option<Arc<str>>,
    duty: Duty,
    /// A candidate that sees what is asked and answered here.
    pub(super) mirror: Option<Mirror>,
    /// Reused from message to message.
    pub(super) asked: Vec<u32>,
    pub(super) places: Vec<usize>,
}

/// What stopped a fresh instance from taking up the live filters, and the filter at which it did.
struct Unfit {
    filter: Option<FilterId>,
    /// Where it took too long for all of them: what each filter took.
    took: Vec<(FilterId, Duration)>,
    failure: Box<Failure>,
}

impl Governor {
    /// The instance is started by the first call that needs it.
    pub fn new(plugin: Arc<Plugin>, on_failure: OnFailure) -> Self {
        Self {
            plugin,
            on_failure,
            instance: None,
            filters: Filters::default(),
            rooms: Rooms::default(),
            breaker: Breaker::new(),
            suspects: Suspects::default(),
            culprit: None,
            duty: Duty::Rooms,
            mirror: None,
            asked: Vec::new(),
            places: Vec::new(),
        }
    }

    /// The same for who may connect.
    pub fn at_the_door(plugin: Arc<Plugin>, on_failure: OnFailure) -> Self {
        // It may have been quarantined when it was in charge before.
        plugin.stats().quarantined(Duty::Connections, None);
        Self { duty: Duty::Connections, ..Self::new(plugin, on_failure) }
    }

    /// From now on a candidate sees everything, or none does.
    pub fn reflect(&mut self, mirror: Option<Mirror>) {
        self.mirror = mirror;
    }

    /// As the configuration calls the plugin.
    pub fn name(&self) -> &str {
        &self.plugin.info().name
    }

    /// The version in charge.
    pub fn plugin(&self) -> &Arc<Plugin> {
        &self.plugin
    }

    /// Counters and state of the version in charge.
    pub fn stats(&self) -> &Stats {
        self.plugin.stats()
    }

    /// Whether anything may happen in its rooms: not while it is quarantined, whatever hooks it has. Where its failures are allowed,
    /// they close nothing.
    pub fn open_rooms(&mut self) -> Result<(), Refusal> {
        match self.on_failure {
            OnFailure::Deny => self.breaker.admit(Instant::now()).map_err(|left| self.closed(left)),
            OnFailure::Allow => Ok(()),
        }
    }

    /// Whether a publish has to be asked here: a hook decides about it, or names the room, or limits who publishes; or the plugin is
    /// quarantined, and its rooms are closed.
    pub fn wants_publishes(&self) -> bool {
        let hooks = &self.plugin.info().hooks;
        let is_closed = self.on_failure == OnFailure::Deny && self.breaker.is_open();
        hooks.room || hooks.publish || hooks.subscribe || is_closed
    }

    /// One reference of `who` less. The guest is told about unused filters in batches.
    pub fn release(&mut self, id: FilterId, who: &str) {
        if self.filters.release(id, who) {
            self.forget();
        }
        self.stats().filters(self.filters.len());
    }

    /// Puts another plugin in charge between two calls, if it starts and takes up every live filter. No candidate sees
    /// what it answers. Otherwise nothing changes and the error says why.
    pub fn swap(&mut self, plugin: Arc<Plugin>, on_failure: OnFailure) -> Result<(), String> {
        let live = self.filters.live().collect::<Vec<_>>();
        if !live.is_empty() && !plugin.info().hooks.deliver {
            return Err(format!("it has no deliver hook, but {} filters are in use", live.len()));
        }
        let (instance, plans) = furnish(&plugin, &live).map_err(|unfit| unfit.failure.to_string())?;
        for (id, plan) in &plans {
            if let Err(reason) = plan {
                let filter = clip(self.filters.canonical(*id), MAX_SHOWN);
                return Err(format!("it refuses a filter in use, {filter}: {reason}"));
            }
        }
        self.drop_instance();
        (self.plugin, self.on_failure) = (plugin, on_failure);
        self.take_up(instance, plans);
        (self.breaker, self.suspects, self.mirror) = (Breaker::new(), Suspects::default(), None);
        self.filters.pardon();
        self.rooms.clear();
        self.stats().quarantined(self.duty, None);
        self.stats().filters(self.filters.len());
        Ok(())
    }

    /// Makes one call. The error is what a client is told; all else about a failure has been dealt with.
    pub(super) fn ask<T>(
        &mut self,
        call: Call,
        blame: Blame<'_>,
        ask: impl FnOnce(&mut Instance) -> Result<T, Box<Failure>>,
    ) -> Result<T, Refusal> {
        self.admit(blame)?;
        let answer = self.attempt(call, ask).map_err(|failure| self.failed(&failure, blame))?;
        if self.suspects.succeeded(blame) {
            tracing::info!(
                plugin = self.name(),
                ?blame,
                "plugin answers again: quarantine of who asks ended"
            );
        }
        Ok(answer)
    }

    /// The same of an instance that is there; a failure has no consequence yet but its end.
    pub(super) fn attempt<T>(
        &mut self,
        call: Call,
        ask: impl FnOnce(&mut Instance) -> Result<T, Box<Failure>>,
    ) -> Result<T, Box<Failure>> {
        let instance = self.instance.as_mut().expect("it was started");
        let started = Instant::now();
        let answer = ask(instance);
        let worn = instance.worn();
        self.stats().called(call, started.elapsed());
        if let Err(failure) = &answer {
            self.drop_instance();
            self.note(failure);
            return answer;
        }
        if self.breaker.succeeded() {
            tracing::info!(plugin = self.name(), "plugin answers again: quarantine ended");
            self.stats().quarantined(self.duty, None);
        }
        if worn {
            self.stats().recycled();
            self.drop_instance();
        }
        answer
    }

    /// An instance is there to be asked on that behalf, unless the plugin is quarantined, or who asks is for this plugin.
    pub(super) fn admit(&mut self, blame: Blame<'_>) -> Result<(), Refusal> {
        let now = Instant::now();
        if let Err(left) = self.breaker.admit(now) {
            return Err(self.closed(left));
        }
        if let Err(left) = self.suspects.admit(blame, now) {
            self.stats().refused();
            return Err(self.quarantined(blame, left));
        }
        self.start()
    }

    /// It is quarantined for so long.
    fn closed(&self, left: Duration) -> Refusal {
        self.stats().refused();
        let (name, seconds) = (self.name(), left.as_secs() + 1);
        Refusal::failed(format!(
            "plugin '{name}' is quarantined because it failed repeatedly; it is tried again within {seconds} s"
        ))
    }

    fn quarantined(&self, blame: Blame<'_>, left: Duration) -> Refusal {
        let (seconds, plugin) = (left.as_secs() + 1, self.name());
        let (who, what) = match blame {
            Blame::Host => ("the host".to_owned(), "calls"),
            Blame::Caller(who) => (format!("principal '{who}'"), "requests"),
            Blame::Reader(who) => (format!("history for principal '{who}'"), "filters"),
            Blame::Room(room) => (format!("room '{room}'"), "messages"),
        };
        Refusal::failed(format!(
            "{who} is quarantined for plugin '{plugin}', because its {what} made it fail repeatedly; try again \
             after {seconds} s"
        ))
    }

    /// Starts an instance if there is none.
    pub(super) fn start(&mut self) -> Result<(), Refusal> {
        if self.instance.is_some() {
            return Ok(());
        }
        let live = self.filters.live().filter(|(id, _)| !self.filters.is_closed(*id)).collect::<Vec<_>>();
        let started = Instant::now();
        let furnished = furnish(&self.plugin, &live);
        self.stats().called(Call::Init, started.elapsed());
        match furnished {
            Ok((instance, plans)) => {
                self.take_up(instance, plans);
                Ok(())
            }
            Err(unfit) => Err(self.unfit(unfit)),
        }
    }

    /// Filters that keep instances from starting are closed, and who brought them answers for it: otherwise one filter
    /// would keep every instance from starting.
    fn unfit(&mut self, unfit: Unfit) -> Refusal {
        let Unfit { filter, took, failure } = unfit;
        self.note(&failure);
        let owner = match filter {
            Some(_) if failure.kind == FailureKind::Memory && self.filters.hoarder().is_some() => {
                self.filters.hoarder()
            }
            Some(id) => self.filters.owner(id),
            None => slowest(&took, &self.filters),
        };
        let owner = owner.cloned();
        let closed = match (filter, &owner) {
            (Some(id), Some(owner)) if self.filters.owner(id) == Some(owner) => vec![id],
            (_, Some(owner)) => self.filters.of(owner),
            (Some(id), None) => vec![id],
            (None, None) => vec![],
        };
        for id in closed {
            self.close(id, &failure.detail);
        }
        self.failed(&failure, owner.as_deref().map_or(Blame::Host, Blame::Caller))
    }

    fn take_up(&mut self, instance: Instance, plans: Vec<(FilterId, Result<Plan, String>)>) {
        self.instance = Some(instance);
        self.stats().started();
        for (id, plan) in plans {
            match plan {
                Ok(plan) => self.filters.set_plan(id, plan),
                Err(reason) => self.close(id, &reason),
            }
        }
    }

    fn close(&mut self, id: FilterId, reason: &str) {
        let filter = clip(self.filters.canonical(id), MAX_SHOWN);
        tracing::error!(
            plugin = self.name(),
            filter,
            reason,
            "filter closed: it could not be compiled again"
        );
        self.filters.close(id);
    }

    /// Tells the guest which filters are out of use.
    pub(super) fn forget(&mut self) {
        if self.instance.is_some() && !self.filters.stale().is_empty() {
            let stale = self.filters.stale().to_vec();
            // A failure has dropped the instance, and with it what it kept.
            let _ = self.ask(Call::Release, Blame::Host, |instance| instance.release(&stale));
        }
        self.filters.forgotten();
    }

    fn drop_instance(&mut self) {
        self.instance = None;
        self.filters.forgotten();
    }

    /// Counts and logs a failure.
    fn note(&self, failure: &Failure) {
        self.stats().failed(failure);
        tracing::error!(
            plugin = failure.plugin,
            version = failure.version,
            call = failure.call.name(),
            room = failure.room,
            kind = failure.kind.name(),
            said = failure.said,
            backtrace = failure.backtrace.join(" < "),
            "plugin failed: {}",
            failure.detail
        );
    }

    /// What follows from a failure, for whoever is to blame and for the plugin.
    pub(super) fn failed(&mut self, failure: &Failure, blame: Blame<'_>) -> Refusal {
        let hoarder = match failure.kind {
            // Who asks when the memory is full is not who filled it.
            FailureKind::Memory => self.filters.hoarder().cloned(),
            _ => None,
        };
        let blame = hoarder.as_deref().map_or(blame, Blame::Caller);
        let now = Instant::now();
        if let Some(pause) = self.suspects.failed(blame, now) {
            tracing::error!(
                plugin = self.name(),
                ?blame,
                ?pause,
                "quarantined for this plugin: it failed repeatedly on its requests"
            );
            if let Blame::Caller(who) = blame {
                self.filters.suspend(who, now, now + pause);
                self.stats().principal_quarantined();
            }
        }
        let opened = self.suspects.witness(blame).and_then(|witness| self.breaker.failed(now, witness));
        if let Some(pause) = opened {
            tracing::error!(plugin = self.name(), ?pause, "plugin quarantined: it failed repeatedly");
            self.stats().quarantined(self.duty, Some(now + pause));
        }
        Refusal::failed(format!("plugin '{}' failed", self.name()))
    }
}

/// Whose filters took the most of the time.
fn slowest<'a>(took: &[(FilterId, Duration)], filters: &'a Filters) -> Option<&'a Arc<str>> {
    let mut by_owner: HashMap<&Arc<str>, Duration> = HashMap::new();
    for (id, time) in took {
        if let Some(owner) = filters.owner(*id) {
            *by_owner.entry(owner).or_default() += *time;
        }
    }
    by_owner.into_iter().max_by_key(|(_, time)| *time).map(|(owner, _)| owner)
}

/// A fresh instance with `live` compiled on it, and each filter's plan or why it has none.
#[expect(clippy::type_complexity, reason = "it is taken apart at once")]
fn furnish(
    plugin: &Plugin,
    live: &[(FilterId, &str)],
) -> Result<(Instance, Vec<(FilterId, Result<Plan, String>)>), Unfit> {
    let unfit = |filter, failure| Unfit { filter, took: vec![], failure };
    let mut instance = plugin.instantiate().map_err(|failure| unfit(None, failure))?;
    let (mut plans, mut took) = (Vec::with_capacity(live.len()), Vec::with_capacity(live.len()));
    let started = Instant::now();
    let most = plugin.budget().call.saturating_mul(TAKE_UP);
    let mut at = started;
    for (id, canonical) in live {
        if at - started > most {
            let failure =
                instance.too_slow(format!("it took longer than {most:?} for {} filters", live.len()));
            return Err(Unfit { filter: None, took, failure });
        }
        let plan = instance.compile(id.0, canonical).map_err(|failure| unfit(Some(*id), failure))?;
        plans.push((*id, plan));
        let now = Instant::now();
        took.push((*id, now - at));
        at = now;
    }
    instance.settle();
    Ok((instance, plans))
}
