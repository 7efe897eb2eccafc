//! A candidate version beside the one in charge: asked the same on live traffic, on a thread of its own and without effect,
//! and compared.

use super::answers::{Connecting, Counts, Limits, Principal, Refusal, RefusalCode, Verdict, clip};
use super::filters::FilterId;
use super::governor::{Governor, OnFailure};
use super::load::Plugin;
use super::status::Status;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::{io, thread};

/// Questions that may wait for the candidate; those beyond are not compared. Each may hold a message.
const WAITING: usize = 256;

/// Differences that are kept of each hook, the newest.
const SAMPLES: usize = 10;

/// Filters that one sample names, and bytes that it shows of a message or an answer.
const SHOWN_FILTERS: usize = 5;
const SHOWN: usize = 1024;

/// Whose the filters are of which a candidate is asked: of all principals.
const NOBODY: &str = "";

/// A candidate at work. It ends when this and every [`Mirror`] of it are dropped.
pub struct Shadow {
    plugin: Arc<Plugin>,
    mirror: Mirror,
}

/// Where a governor puts what it was asked and what it answered.
#[derive(Clone)]
pub struct Mirror {
    questions: SyncSender<Question>,
    tally: Arc<Mutex<Tally>>,
}

/// What was asked of the version in charge, and its answer.
pub(super) enum Question {
    Connect(Connecting, Result<Limits, Refusal>),
    Room(String, String, Result<Option<String>, Refusal>),
    Subscribe(Box<Subscribing>),
    Publish(Message, String, Result<Verdict, Refusal>),
    /// Each filter in use, by its canonical form, and whether the message passes.
    Deliver(Message, Vec<(Arc<str>, bool)>),
}

pub(super) struct Subscribing {
    pub who: Principal,
    pub room: String,
    pub filter: Option<String>,
    pub counts: Counts,
    pub answer: Result<(Option<String>, Limits), Refusal>,
}

pub(super) struct Message {
    pub room: String,
    pub event: String,
    pub data: Vec<u8>,
}

/// How a candidate compares, by hook.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Tally {
    pub hooks: BTreeMap<&'static str, Compared>,
    /// Questions that the candidate was not asked, because it was too slow.
    pub skipped: u64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Compared {
    pub same: u64,
    pub different: u64,
    /// One of them failed, so there was nothing to compare.
    pub failed: u64,
    pub samples: VecDeque<Sample>,
}

/// Where the two differ.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    pub asked: Value,
    pub active: Value,
    pub candidate: Value,
}

impl Shadow {
    /// Starts the candidate's thread.
    pub fn start(plugin: Arc<Plugin>) -> io::Result<Self> {
        let (questions, asked) = sync_channel(WAITING);
        let tally: Arc<Mutex<Tally>> = Arc::default();
        let mut judge = Judge {
            governor: Governor::new(plugin.clone(), OnFailure::Deny),
            filters: HashMap::new(),
            tally: tally.clone(),
        };
        let name = format!("shadow {}", plugin.info().name);
        thread::Builder::new().name(name).spawn(move || judge.run(&asked))?;
        Ok(Self { plugin, mirror: Mirror { questions, tally } })
    }

    pub fn plugin(&self) -> &Arc<Plugin> {
        &self.plugin
    }

    pub fn mirror(&self) -> Mirror {
        self.mirror.clone()
    }

    /// How it compares so far, and how it fares.
    pub fn report(&self) -> (Tally, Status) {
        let tally = self.mirror.tally.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (tally, self.plugin.stats().status())
    }
}

impl Mirror {
    pub(super) fn show(&self, question: Question) {
        if self.questions.try_send(question).is_err() {
            self.tally.lock().unwrap_or_else(PoisonError::into_inner).skipped += 1;
        }
    }
}

struct Judge {
    governor: Governor,
    /// By canonical form of the version in charge; `None`: the candidate refuses the filter.
    filters: HashMap<Arc<str>, Option<FilterId>>,
    tally: Arc<Mutex<Tally>>,
}

impl Judge {
    fn run(&mut self, questions: &Receiver<Question>) {
        while let Ok(question) = questions.recv() {
            self.judge(question);
        }
    }

    fn judge(&mut self, question: Question) {
        match question {
            Question::Connect(connecting, active) => {
                let candidate = self.governor.connect(&connecting);
                let asked = json!({ "principal": connecting.principal.id, "remote": connecting.remote });
                let limits = |limits: &Limits| json!({ "limits": limits });
                self.compare("connect", asked, &active, &candidate, limits);
            }
            Question::Room(who, room, active) => {
                let candidate = self.governor.validate(&who, &room);
                let name = |canonical: &Option<String>| json!(canonical.as_deref().unwrap_or(&room));
                self.compare("room", json!({ "room": room }), &active, &candidate, name);
            }
            Question::Subscribe(question) => {
                let Subscribing { who, room, filter, counts, answer } = *question;
                let granted = self.governor.authorize(&who, &room, filter.as_deref(), counts);
                let candidate = granted.map(|grant| {
                    let canonical = grant.filter.map(|id| self.governor.filters.canonical(id).to_owned());
                    grant.filter.into_iter().for_each(|id| self.governor.release(id, &who.id));
                    (canonical, grant.limits)
                });
                let asked = json!({ "principal": who.id, "room": room, "filter": filter });
                let grant = |(filter, limits): &(Option<String>, Limits)| json!({ "filter": filter, "limits": limits });
                self.compare("subscribe", asked, &answer, &candidate, grant);
            }
            Question::Publish(message, who, active) => {
                let candidate = self.governor.check(&who, &message.room, &message.event, &message.data);
                let verdict = |verdict: &Verdict| match verdict {
                    Verdict::Pass => json!("pass"),
                    Verdict::Discard => json!("discard"),
                    Verdict::Replace(data) => json!({ "replace": shown(data) }),
                };
                self.compare("publish", message.shown(), &active, &candidate, verdict);
            }
            Question::Deliver(message, active) => self.deliver(&message, &active),
        }
    }

    fn deliver(&mut self, message: &Message, active: &[(Arc<str>, bool)]) {
        // Filters come and go; the candidate keeps those that were asked for lately.
        if self.filters.len() > 2 * active.len() + 64 {
            self.filters.drain().filter_map(|(_, id)| id).for_each(|id| self.governor.release(id, NOBODY));
        }
        for (canonical, _) in active {
            if !self.filters.contains_key(canonical) {
                let id = self.governor.intern(canonical, NOBODY).ok().flatten();
                self.filters.insert(canonical.clone(), id);
            }
        }
        let ids: Vec<_> = active.iter().filter_map(|(canonical, _)| self.filters[canonical]).collect();
        let mut bits = vec![];
        if self.governor.matches(&message.room, &message.event, &message.data, &ids, &mut bits).is_err() {
            return self.note("deliver", |compared| compared.failed += 1);
        }
        let mut answers = (0..).map(|n| bits[n / 64] >> (n % 64) & 1 == 1);
        let mut candidate = vec![];
        for (canonical, _) in active {
            let passes = self.filters[canonical].and_then(|_| answers.next());
            candidate.push(passes.map_or(json!("refused"), |passes| json!(passes)));
        }
        let differing: Vec<_> = active.iter().zip(candidate).filter(|((_, a), c)| json!(a) != *c).collect();
        if differing.is_empty() {
            return self.note("deliver", |compared| compared.same += 1);
        }
        let filters = || {
            differing
                .iter()
                .take(SHOWN_FILTERS)
                .map(|((canonical, passes), c)| (clip(canonical, SHOWN), json!(passes), c.clone()))
        };
        let by = |answer: fn((String, Value, Value)) -> (String, Value)| {
            Value::Object(filters().map(answer).collect())
        };
        let sample = Sample {
            asked: message.shown(),
            active: by(|(filter, active, _)| (filter, active)),
            candidate: by(|(filter, _, candidate)| (filter, candidate)),
        };
        self.note("deliver", |compared| compared.differ(sample));
    }

    fn compare<T>(
        &self,
        hook: &'static str,
        asked: Value,
        active: &Result<T, Refusal>,
        candidate: &Result<T, Refusal>,
        show: impl Fn(&T) -> Value,
    ) {
        let failed = |answer: &Result<T, Refusal>| {
            answer.as_ref().is_err_and(|refusal| refusal.code == RefusalCode::Failed)
        };
        if failed(active) || failed(candidate) {
            return self.note(hook, |compared| compared.failed += 1);
        }
        let show = |answer: &Result<T, Refusal>| match answer {
            Ok(answer) => show(answer),
            Err(refusal) => json!({ "reject": refusal.code, "reason": refusal.message }),
        };
        let (active, candidate) = (show(active), show(candidate));
        match active == candidate {
            true => self.note(hook, |compared| compared.same += 1),
            false => self.note(hook, |compared| compared.differ(Sample { asked, active, candidate })),
        }
    }

    fn note(&self, hook: &'static str, note: impl FnOnce(&mut Compared)) {
        note(self.tally.lock().unwrap_or_else(PoisonError::into_inner).hooks.entry(hook).or_default());
    }
}

impl Compared {
    fn differ(&mut self, sample: Sample) {
        self.different += 1;
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }
}

impl Message {
    pub(super) fn of(room: &str, event: &str, data: &[u8]) -> Self {
        Self { room: room.to_owned(), event: event.to_owned(), data: data.to_owned() }
    }

    fn shown(&self) -> Value {
        json!({ "room": self.room, "event": self.event, "data": shown(&self.data) })
    }
}

/// JSON as it is where it is short, else its beginning as text.
fn shown(data: &[u8]) -> Value {
    let whole = (data.len() <= SHOWN).then(|| serde_json::from_slice(data).ok()).flatten();
    whole.unwrap_or_else(|| json!(clip(&String::from_utf8_lossy(data), SHOWN)))
}
