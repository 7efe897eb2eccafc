//! A plugin as one shard knows it: never more than an answer or a refusal.

use super::answers::{Refusal, clip};
use super::breaker::Breaker;
use super::failure::{Call, Failure};
use super::filters::{FilterId, Filters, Plan};
use super::instance::Instance;
use super::load::Plugin;
use super::rooms::Rooms;
use super::shadow::Mirror;
use super::status::Stats;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Instant;

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
/// breaker. A call blocks for at most the plugin's budget; if an instance has to be started, for ten of it, and
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
    duty: Duty,
    /// A candidate that sees what is asked and answered here.
    pub(super) mirror: Option<Mirror>,
    /// Reused from message to message.
    pub(super) asked: Vec<u32>,
}

/// What stopped a fresh instance from taking up the live filters, and the filter at which it did.
struct Unfit {
    filter: Option<FilterId>,
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
            duty: Duty::Rooms,
            mirror: None,
            asked: Vec::new(),
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

    /// One holder less. The guest is told about unused filters in batches.
    pub fn release(&mut self, id: FilterId) {
        if self.filters.release(id) {
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
        (self.breaker, self.mirror) = (Breaker::new(), None);
        self.rooms.clear();
        self.stats().quarantined(self.duty, None);
        self.stats().filters(self.filters.len());
        Ok(())
    }

    /// Makes one call. The error is what a client is told; all else about a failure has been dealt with.
    pub(super) fn ask<T>(
        &mut self,
        call: Call,
        ask: impl FnOnce(&mut Instance) -> Result<T, Box<Failure>>,
    ) -> Result<T, Refusal> {
        let instance = self.instance()?;
        let started = Instant::now();
        let answer = ask(instance);
        let worn = instance.worn();
        self.stats().called(call, started.elapsed());
        if answer.is_ok() && self.breaker.succeeded() {
            tracing::info!(plugin = self.name(), "plugin answers again: quarantine ended");
            self.stats().quarantined(self.duty, None);
        }
        if worn && answer.is_ok() {
            self.stats().recycled();
            self.drop_instance();
        }
        answer.map_err(|failure| self.failed(&failure))
    }

    /// The instance, started if there is none, unless the plugin is quarantined.
    pub(super) fn instance(&mut self) -> Result<&mut Instance, Refusal> {
        if let Err(left) = self.breaker.admit(Instant::now()) {
            self.stats().refused();
            let seconds = left.as_secs() + 1;
            let name = self.name();
            return Err(Refusal::failed(format!(
                "plugin '{name}' is quarantined because it failed repeatedly; it is tried again within {seconds} s"
            )));
        }
        if self.instance.is_none() {
            let live = self.filters.live().filter(|(id, _)| !self.filters.is_closed(*id)).collect::<Vec<_>>();
            let started = Instant::now();
            let furnished = furnish(&self.plugin, &live);
            self.stats().called(Call::Init, started.elapsed());
            match furnished {
                Ok((instance, plans)) => self.take_up(instance, plans),
                Err(Unfit { filter, failure }) => {
                    // Otherwise one filter would keep every instance from starting.
                    if let Some(id) = filter {
                        self.close(id, &failure.detail);
                    }
                    return Err(self.failed(&failure));
                }
            }
        }
        self.instance.as_mut().ok_or_else(|| Refusal::failed("no instance"))
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
            let _ = self.ask(Call::Release, |instance| instance.release(&stale));
        }
        self.filters.forgotten();
    }

    fn drop_instance(&mut self) {
        self.instance = None;
        self.filters.forgotten();
    }

    /// After a failure of any kind.
    fn failed(&mut self, failure: &Failure) -> Refusal {
        self.drop_instance();
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
        let now = Instant::now();
        if let Some(pause) = self.breaker.failed(now) {
            tracing::error!(plugin = self.name(), ?pause, "plugin quarantined: it failed repeatedly");
            self.stats().quarantined(self.duty, Some(now + pause));
        }
        Refusal::failed(format!("plugin '{}' failed", self.name()))
    }
}

/// A fresh instance with `live` compiled on it, and each filter's plan or why it has none.
#[expect(clippy::type_complexity, reason = "it is taken apart at once")]
fn furnish(
    plugin: &Plugin,
    live: &[(FilterId, &str)],
) -> Result<(Instance, Vec<(FilterId, Result<Plan, String>)>), Unfit> {
    let mut instance = plugin.instantiate().map_err(|failure| Unfit { filter: None, failure })?;
    let mut plans = Vec::with_capacity(live.len());
    let started = Instant::now();
    let most = plugin.budget().call.saturating_mul(TAKE_UP);
    for (id, canonical) in live {
        if started.elapsed() > most {
            let failure =
                instance.too_slow(format!("it took longer than {most:?} for {} filters", live.len()));
            return Err(Unfit { filter: None, failure });
        }
        let plan =
            instance.compile(id.0, canonical).map_err(|failure| Unfit { filter: Some(*id), failure })?;
        plans.push((*id, plan));
    }
    instance.settle();
    Ok((instance, plans))
}
