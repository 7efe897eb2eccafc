//! Running a candidate version in the shadow of the active one: it receives the same calls on live traffic,
//! on a thread of its own. Its answers have no effect; they are only compared.

use super::filters::FilterId;
use super::governor::Governor;
use super::hook_types::{
    ConnectRequest, Counts, Limits, Principal, PublishRequest, Rejection, RejectionCode, Verdict, Via, clip,
};
use super::load::Plugin;
use super::status::PluginStatus;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::{io, thread};

/// How many calls may wait for the candidate, each with a copy of its message. Further calls are skipped.
const QUEUE_CAPACITY: usize = 256;

/// How many differences are kept for each hook: the newest.
const MAX_DIFFERENCES: usize = 10;

/// How many filters a difference names, and how many bytes of a message or an answer it shows.
const MAX_SHOWN_FILTERS: usize = 5;
const MAX_SHOWN_BYTES: usize = 1024;

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

/// The queue into which a governor puts copies of its calls and their answers.
#[derive(Clone)]
pub struct Mirror {
    calls: SyncSender<MirroredCall>,
    report: Arc<Mutex<ComparisonReport>>,
}

/// A call to the active version, and its answer.
pub(super) enum MirroredCall {
    Connect(ConnectRequest, Result<Limits, Rejection>),
    /// The principal, the room's name, and the canonical name.
    Room(String, String, Result<Option<String>, Rejection>),
    Subscribe(Box<SubscribeCall>),
    Publish(Box<PublishCall>),
    /// The message, and the canonical form of each filter with its result.
    Deliver(MirroredMessage, Vec<(Arc<str>, bool)>),
}

pub(super) struct SubscribeCall {
    pub principal: Principal,
    pub room: String,
    pub filter: Option<String>,
    pub counts: Counts,
    /// The filter in canonical form, and the limits.
    pub answer: Result<(Option<String>, Limits), Rejection>,
}

pub(super) struct PublishCall {
    pub principal: Principal,
    pub message: MirroredMessage,
    pub via: Via,
    pub idempotency_key: Option<String>,
    pub answer: Result<Verdict, Rejection>,
}

pub(super) struct MirroredMessage {
    pub room: String,
    pub event: String,
    pub data: Vec<u8>,
}

/// How a candidate compares to the active version.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ComparisonReport {
    /// By name of the hook.
    pub hooks: BTreeMap<&'static str, HookComparison>,
    /// Calls that the candidate did not receive, because it was too slow.
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
    /// Starts the candidate's thread.
    ///
    /// # Errors
    ///
    /// Fails if the system does not provide a thread.
    pub fn start(plugin: Arc<Plugin>) -> io::Result<Self> {
        let (calls, queue) = sync_channel(QUEUE_CAPACITY);
        let report: Arc<Mutex<ComparisonReport>> = Arc::default();
        let mut comparator = Comparator {
            governor: Governor::for_candidate(plugin.clone()),
            filters: HashMap::new(),
            report: report.clone(),
        };
        let name = format!("shadow {}", plugin.info().name);
        thread::Builder::new().name(name).spawn(move || comparator.run(&queue))?;
        Ok(Self { plugin, mirror: Mirror { calls, report } })
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
        let report = self.mirror.report.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (report, self.plugin.stats().status())
    }
}

impl Mirror {
    /// Never blocks: if the queue is full, the call is skipped and counted. If the candidate's thread has
    /// panicked, the call counts as failed.
    pub(super) fn send(&self, call: MirroredCall) {
        let Err(error) = self.calls.try_send(call) else { return };
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        match error {
            TrySendError::Full(_) => report.skipped += 1,
            TrySendError::Disconnected(call) => report.hooks.entry(call.hook()).or_default().failed += 1,
        }
    }
}

impl MirroredCall {
    /// About how many bytes it has.
    pub(super) fn size(&self) -> usize {
        let content = match self {
            Self::Connect(request, _) => {
                request.principal.id.len() + request.origin.as_ref().map_or(0, String::len)
            }
            Self::Room(principal, room, _) => principal.len() + room.len(),
            Self::Subscribe(call) => {
                let canonical = call.answer.as_ref().ok().and_then(|(filter, _)| filter.as_ref());
                call.room.len()
                    + [call.filter.as_ref(), canonical].into_iter().flatten().map(String::len).sum::<usize>()
            }
            Self::Publish(call) => {
                let replacement = if let Ok(Verdict::Replace(data)) = &call.answer { data.len() } else { 0 };
                let key = call.idempotency_key.as_ref().map_or(0, String::len);
                size_of::<PublishCall>() + call.message.size() + call.principal.id.len() + key + replacement
            }
            Self::Deliver(message, results) => {
                message.size()
                    + results
                        .iter()
                        .map(|(filter, _)| size_of::<(Arc<str>, bool)>() + filter.len())
                        .sum::<usize>()
            }
        };
        size_of::<Self>() + content
    }

    fn hook(&self) -> &'static str {
        match self {
            Self::Connect(..) => "connect",
            Self::Room(..) => "room",
            Self::Subscribe(_) => "subscribe",
            Self::Publish(..) => "publish",
            Self::Deliver(..) => "deliver",
        }
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
    fn run(&mut self, calls: &Receiver<MirroredCall>) {
        while let Ok(call) = calls.recv() {
            self.replay(call);
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

impl PublishCall {
    pub(super) fn new(request: &PublishRequest<'_>, answer: Result<Verdict, Rejection>) -> Self {
        let PublishRequest { principal, room, event, data, via, idempotency_key } = *request;
        Self {
            principal: principal.clone(),
            message: MirroredMessage::new(room, event, data),
            via,
            idempotency_key: idempotency_key.map(str::to_owned),
            answer,
        }
    }

    fn request(&self) -> PublishRequest<'_> {
        let MirroredMessage { room, event, data } = &self.message;
        let idempotency_key = self.idempotency_key.as_deref();
        PublishRequest { principal: &self.principal, room, event, data, via: self.via, idempotency_key }
    }
}

impl MirroredMessage {
    pub(super) fn new(room: &str, event: &str, data: &[u8]) -> Self {
        Self { room: room.to_owned(), event: event.to_owned(), data: data.to_owned() }
    }

    fn size(&self) -> usize {
        self.room.len() + self.event.len() + self.data.len()
    }

    fn to_json(&self) -> Value {
        json!({ "room": self.room, "event": self.event, "data": excerpt(&self.data) })
    }
}

/// Short data as JSON, or else its beginning as text.
fn excerpt(data: &[u8]) -> Value {
    let whole = (data.len() <= MAX_SHOWN_BYTES).then(|| serde_json::from_slice(data).ok()).flatten();
    whole.unwrap_or_else(|| json!(clip(&String::from_utf8_lossy(data), MAX_SHOWN_BYTES)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_skipped_if_the_candidate_is_slow_and_failed_if_its_thread_has_ended() {
        let (calls, queue) = sync_channel(1);
        let mirror = Mirror { calls, report: Arc::default() };
        let call = || MirroredCall::Deliver(MirroredMessage::new("a", "", b"1"), vec![]);
        let counted = || {
            let report = mirror.report.lock().unwrap();
            (report.skipped, report.hooks.get("deliver").map_or(0, |hook| hook.failed))
        };
        mirror.send(call());
        assert_eq!(counted(), (0, 0));
        mirror.send(call());
        assert_eq!(counted(), (1, 0), "the queue is full");
        drop(queue);
        mirror.send(call());
        assert_eq!(counted(), (1, 1));
    }
}
