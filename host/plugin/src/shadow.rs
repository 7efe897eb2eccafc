//! Running a candidate version in the shadow of the active one: it receives the same calls on live traffic,
//! on a thread of its own. Its answers have no effect; they are only compared.

use super::copy_budget::CopyBudget;
use super::filters::FilterId;
use super::governor::Governor;
use super::hook_types::{Limits, Rejection, RejectionCode, Verdict, clip};
use super::load::Plugin;
use super::mirror::{Mirror, QueuedCall, ShadowCall};
use super::mirrored_call::{
    MAX_SHOWN_BYTES, MirroredCall, MirroredMessage, PublishCall, SubscribeCall, excerpt,
};
use super::observed_call::{ALLOWED, ObservedCall};
use super::status::PluginStatus;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::{io, thread};
use tokio::sync::mpsc::Receiver;

/// How many differences are kept for each hook: the newest.
const MAX_DIFFERENCES: usize = 10;

/// How many filters a difference names.
const MAX_SHOWN_FILTERS: usize = 5;

/// The candidate keeps this many filters, plus twice the number of those in use, before it releases all of
/// them.
const SPARE_FILTERS: usize = 64;

/// The holder of the candidate's filters, which belong to all principals.
const ANONYMOUS_PRINCIPAL: &str = "";

/// A running candidate. It ends when this and every [`Mirror`] of it are dropped.
pub struct Shadow {
    plugin: Arc<Plugin>,
    mirror: Mirror,
}

/// How a candidate compares to the active version.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ComparisonReport {
    /// By name of the hook.
    pub hooks: BTreeMap<&'static str, HookComparison>,
    /// Calls that the candidate did not receive, because it was too slow, or memory was short.
    pub skipped: u64,
}

/// How the answers of one hook compare.
#[derive(Clone, Debug, Default, Serialize)]
pub struct HookComparison {
    /// Calls with the same answer.
    pub same: u64,
    /// Calls with different answers.
    pub different: u64,
    /// Calls that failed in one of the versions, so that there was nothing to compare.
    pub failed: u64,
    /// The 10 newest differences.
    pub samples: VecDeque<Difference>,
}

/// A call that the versions answered differently.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// The input of the call. Messages are cut to 1024 bytes.
    pub asked: Value,
    /// The answer of the active version.
    pub active: Value,
    /// The answer of the candidate.
    pub candidate: Value,
}

impl Shadow {
    /// Starts the candidate's thread. `budget` bounds what waits for it.
    ///
    /// # Errors
    ///
    /// Fails if the system does not provide a thread.
    pub fn start(plugin: Arc<Plugin>, budget: Arc<CopyBudget>) -> io::Result<Self> {
        let report: Arc<Mutex<ComparisonReport>> = Arc::default();
        let (mirror, mut calls) = Mirror::new(&budget, report.clone());
        let governor = Governor::for_candidate(plugin.clone());
        let mut comparator = Comparator { governor, filters: HashMap::new(), report };
        let name = format!("shadow {}", plugin.info().name);
        thread::Builder::new().name(name).spawn(move || comparator.run(&mut calls))?;
        Ok(Self { plugin, mirror })
    }

    /// The candidate.
    pub fn plugin(&self) -> &Arc<Plugin> {
        &self.plugin
    }

    /// The queue to give to a governor; see [`Governor::set_mirror`].
    pub fn mirror(&self) -> Mirror {
        self.mirror.clone()
    }

    /// The comparison so far, and the candidate's own counters.
    pub fn report(&self) -> (ComparisonReport, PluginStatus) {
        (self.mirror.report(), self.plugin.stats().status())
    }
}

/// Makes the mirrored calls to the candidate, and compares the answers.
struct Comparator {
    governor: Governor,
    /// The candidate's number of each filter, by the active version's canonical form; `None` if the candidate
    /// rejects the filter.
    filters: HashMap<Arc<str>, Option<FilterId>>,
    report: Arc<Mutex<ComparisonReport>>,
}

impl Comparator {
    fn run(&mut self, calls: &mut Receiver<QueuedCall>) {
        while let Some(QueuedCall { call, .. }) = calls.blocking_recv() {
            match call {
                ShadowCall::Mirrored(call) => self.replay(call),
                ShadowCall::Observed(call) => self.compare_decision(&call),
            }
        }
    }

    fn replay(&mut self, call: MirroredCall) {
        match call {
            MirroredCall::Connect(request, active) => {
                let candidate = self.governor.connect(&request);
                let asked = json!({ "principal": *request.principal.id, "remote": request.remote });
                let limits = |limits: &Limits| json!({ "limits": limits });
                self.compare("connect", asked, &active, &candidate, limits);
            }
            MirroredCall::Room(principal_id, room, active) => {
                let candidate = self.governor.validate(&principal_id, &room);
                let name = |canonical: &Option<String>| json!(canonical.as_deref().unwrap_or(&room));
                self.compare("room", json!({ "room": room }), &active, &candidate, name);
            }
            MirroredCall::Subscribe(call) => {
                let SubscribeCall { principal, room, filter, counts, answer } = *call;
                let granted = self.governor.authorize(&principal, &room, filter.as_deref(), counts);
                let candidate = granted.map(|grant| {
                    let canonical = grant.filter.map(|id| self.governor.filters.canonical(id).to_owned());
                    grant.filter.into_iter().for_each(|id| self.governor.release(id, &principal.id));
                    (canonical, grant.limits)
                });
                let asked = json!({ "principal": *principal.id, "room": room, "filter": filter });
                let grant = |(filter, limits): &(Option<String>, Limits)| json!({ "filter": filter, "limits": limits });
                self.compare("subscribe", asked, &answer, &candidate, grant);
            }
            MirroredCall::Publish(call) => {
                let candidate = self.governor.check(&call.request());
                let PublishCall { message, answer: active, .. } = *call;
                let verdict = |verdict: &Verdict| match verdict {
                    Verdict::Pass => json!("pass"),
                    Verdict::Discard => json!("discard"),
                    Verdict::Replace(data) => json!({ "replace": excerpt(data) }),
                };
                self.compare("publish", message.to_json(), &active, &candidate, verdict);
            }
            MirroredCall::Deliver(message, active) => self.compare_filters(&message, &active),
        }
    }

    /// Compares what the candidate answers with what others decided: only whether they refuse, and whether the
    /// candidate changes a message.
    fn compare_decision(&mut self, call: &ObservedCall) {
        let (hook, candidate) = (call.hook(), call.answer(&mut self.governor));
        let candidate = match (candidate, &call.refusal) {
            (Err(rejection), _) if rejection.code == RejectionCode::Failed => {
                return self.update(hook, |comparison| comparison.failed += 1);
            }
            (Err(_), Some(_)) => return self.update(hook, |comparison| comparison.same += 1),
            (Ok(answer), None) if answer == json!(ALLOWED) => {
                return self.update(hook, |comparison| comparison.same += 1);
            }
            (Ok(answer), _) => answer,
            (Err(rejection), None) => json!({ "reject": rejection.code, "reason": rejection.message }),
        };
        let refused = |reason: &String| json!({ "reason": reason });
        let active = call.refusal.as_ref().map_or_else(|| json!(ALLOWED), refused);
        let difference = Difference { asked: call.to_json(), active, candidate };
        self.update(hook, |comparison| comparison.add_difference(difference));
    }

    fn compare_filters(&mut self, message: &MirroredMessage, active: &[(Arc<str>, bool)]) {
        // It is not known here when a filter goes out of use. Releasing all of them now and then keeps only
        // recent ones.
        if self.filters.len() > 2 * active.len() + SPARE_FILTERS {
            self.filters
                .drain()
                .filter_map(|(_, id)| id)
                .for_each(|id| self.governor.release(id, ANONYMOUS_PRINCIPAL));
        }
        for (canonical, _) in active {
            if !self.filters.contains_key(canonical) {
                let id = self.governor.intern(canonical, ANONYMOUS_PRINCIPAL).ok().flatten();
                self.filters.insert(canonical.clone(), id);
            }
        }
        let ids: Vec<_> = active.iter().filter_map(|(canonical, _)| self.filters[canonical]).collect();
        let mut passed = vec![];
        if self.governor.matches(&message.room, &message.event, &message.data, &ids, &mut passed).is_err() {
            return self.update("deliver", |comparison| comparison.failed += 1);
        }
        let mut results = (0..).map(|n| passed[n / 64] >> (n % 64) & 1 == 1);
        let mut candidate = vec![];
        for (canonical, _) in active {
            let passes = self.filters[canonical].and_then(|_| results.next());
            candidate.push(passes.map_or(json!("refused"), |passes| json!(passes)));
        }
        let differing: Vec<_> = active.iter().zip(candidate).filter(|((_, a), c)| json!(a) != *c).collect();
        if differing.is_empty() {
            return self.update("deliver", |comparison| comparison.same += 1);
        }
        let filters = || {
            differing
                .iter()
                .take(MAX_SHOWN_FILTERS)
                .map(|((canonical, passes), c)| (clip(canonical, MAX_SHOWN_BYTES), json!(passes), c.clone()))
        };
        let by_filter = |answer: fn((String, Value, Value)) -> (String, Value)| {
            Value::Object(filters().map(answer).collect())
        };
        let difference = Difference {
            asked: message.to_json(),
            active: by_filter(|(filter, active, _)| (filter, active)),
            candidate: by_filter(|(filter, _, candidate)| (filter, candidate)),
        };
        self.update("deliver", |comparison| comparison.add_difference(difference));
    }

    fn compare<T>(
        &self,
        hook: &'static str,
        asked: Value,
        active: &Result<T, Rejection>,
        candidate: &Result<T, Rejection>,
        to_json: impl Fn(&T) -> Value,
    ) {
        let failed = |answer: &Result<T, Rejection>| {
            answer.as_ref().is_err_and(|rejection| rejection.code == RejectionCode::Failed)
        };
        if failed(active) || failed(candidate) {
            return self.update(hook, |comparison| comparison.failed += 1);
        }
        let to_json = |answer: &Result<T, Rejection>| match answer {
            Ok(answer) => to_json(answer),
            Err(rejection) => json!({ "reject": rejection.code, "reason": rejection.message }),
        };
        let (active, candidate) = (to_json(active), to_json(candidate));
        match active == candidate {
            true => self.update(hook, |comparison| comparison.same += 1),
            false => self.update(hook, |comparison| {
                comparison.add_difference(Difference { asked, active, candidate })
            }),
        }
    }

    fn update(&self, hook: &'static str, update: impl FnOnce(&mut HookComparison)) {
        update(self.report.lock().unwrap_or_else(PoisonError::into_inner).hooks.entry(hook).or_default());
    }
}

impl HookComparison {
    fn add_difference(&mut self, difference: Difference) {
        self.different += 1;
        if self.samples.len() == MAX_DIFFERENCES {
            self.samples.pop_front();
        }
        self.samples.push_back(difference);
    }
}
