//! One running guest: calls its hooks, each within its budget.

use super::answers::{self, Connecting, Counts, Granted, Limits, Principal, Refusal, RoomVerdict, Verdict};
use super::bindings::{self, connect, deliver, lifecycle, publish, room, subscribe};
use super::clock::Clock;
use super::deadline::{Deadline, LOOK};
use super::engine::Budget;
use super::failure::{self, Call, Failure, FailureKind, LIFTED};
use super::filters::Plan;
use super::imports::{State, Voice};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use switchyard_protocol::json;
use wasmtime::component::InstancePre;
use wasmtime::{Store, UpdateDeadline};

/// Budgets that starting an instance may take: it may build tables, and happens rarely.
const START: u32 = 10;

/// Bytes of a room's name in a failure.
const MAX_ROOM: usize = 1024;

/// More than any call takes: fuel is for counting, time is what limits.
const FUEL: u64 = u64::MAX;

type Called<T> = Result<T, Box<Failure>>;

/// A compiled guest and where its exports are; `None` for what it does not export.
pub(super) struct Blueprint {
    pub pre: InstancePre<State>,
    pub lifecycle: lifecycle::GuestIndices,
    pub connect: Option<connect::GuestIndices>,
    pub room: Option<room::GuestIndices>,
    pub subscribe: Option<subscribe::GuestIndices>,
    pub publish: Option<publish::GuestIndices>,
    pub deliver: Option<deliver::GuestIndices>,
    pub budget: Budget,
    /// Of the engine.
    pub clock: Arc<Clock>,
    /// Whether the engine counts instructions.
    pub counts: bool,
}

struct Exports {
    lifecycle: lifecycle::Guest,
    connect: Option<connect::Guest>,
    room: Option<room::Guest>,
    subscribe: Option<subscribe::Guest>,
    publish: Option<publish::Guest>,
    deliver: Option<deliver::Guest>,
}

/// A running plugin. After any [`Failure`] it must be dropped: the guest stopped in the middle of something.
/// The inner `Result` of a hook is the plugin's answer.
pub struct Instance {
    store: Store<State>,
    exports: Exports,
    clock: Arc<Clock>,
    call: Duration,
    counts: bool,
    /// Bytes of memory after the start.
    settled: usize,
    /// Calls so far, and how many it may serve.
    served: u64,
    calls: u64,
}

impl Instance {
    /// Instantiates, without `init`; `call` is what a failure is reported as.
    pub(super) fn open(plan: &Blueprint, voice: &Arc<Voice>, call: Call) -> Called<Self> {
        let state = State {
            voice: voice.clone(),
            deadline: Deadline::new(plan.budget.call.saturating_mul(START)),
            room: String::new(),
            said: None,
            memory: 0,
            memory_limit: plan.budget.memory,
        };
        let mut store = Store::new(plan.pre.engine(), state);
        store.limiter(|state| state);
        store.set_hostcall_fuel(LIFTED);
        store.epoch_deadline_callback(|mut store| {
            Ok(match store.data_mut().deadline.goes_on() {
                true => UpdateDeadline::Continue(LOOK),
                false => UpdateDeadline::Interrupt,
            })
        });
        store.set_epoch_deadline(LOOK);
        if plan.counts {
            refuel(&mut store);
        }
        let clock = plan.clock.clone();
        let running = clock.run();
        let opened = Exports::open(plan, &mut store);
        drop(running);
        match opened {
            Ok(exports) => {
                let (Budget { call, calls, .. }, counts) = (plan.budget, plan.counts);
                Ok(Self { store, exports, clock, call, counts, settled: 0, served: 0, calls })
            }
            Err(error) => Err(fail(&store, call, plan.budget.call.saturating_mul(START), &error)),
        }
    }

    pub(super) fn describe(&mut self) -> Called<lifecycle::Info> {
        self.within(self.call.saturating_mul(START), Call::Describe, "", |exports, store| {
            exports.lifecycle.call_describe(store)
        })
    }

    /// `config` is JSON; the error says what is wrong with it.
    pub(super) fn init(&mut self, config: &str) -> Called<Result<(), String>> {
        let answer = self.within(self.call.saturating_mul(START), Call::Init, "", |exports, store| {
            exports.lifecycle.call_init(store, config)
        });
        self.settled = self.store.data().memory;
        answer
    }

    pub fn connect(&mut self, from: &Connecting) -> Called<Result<Limits, Refusal>> {
        let tags = bindings::tags(&from.principal);
        let answer = self.ask(Call::Connect, "", |exports, store| {
            present(&exports.connect)?.call_authorize(store, bindings::request(from, &tags))
        })?;
        Ok(answer.map(Limits::from).map_err(Refusal::from))
    }

    pub fn room(&mut self, name: &str) -> Called<Result<RoomVerdict, Refusal>> {
        let answer =
            self.ask(Call::Room, name, |exports, store| present(&exports.room)?.call_validate(store, name))?;
        if let Ok(room::Verdict { canonical: Some(canonical), .. }) = &answer
            && canonical.is_empty()
        {
            return Err(self.nonsense(Call::Room, "an empty canonical room name".into()));
        }
        Ok(answer.map(RoomVerdict::from).map_err(Refusal::from))
    }

    /// `filter` is JSON as the client sent it.
    pub fn subscribe(
        &mut self,
        who: &Principal,
        room: &str,
        filter: Option<&str>,
        counts: Counts,
    ) -> Called<Result<Granted, Refusal>> {
        let tags = bindings::tags(who);
        let answer = self.ask(Call::Subscribe, room, |exports, store| {
            let who = bindings::principal(who, &tags);
            present(&exports.subscribe)?.call_authorize(store, who, room, filter, counts.into())
        })?;
        if let Ok(subscribe::Grant { filter: Some(_), .. }) = &answer
            && self.exports.deliver.is_none()
        {
            return Err(
                self.nonsense(Call::Subscribe, "a filter, but it exports no deliver to match it".into())
            );
        }
        Ok(answer.map(Granted::from).map_err(Refusal::from))
    }

    /// `who` is a principal's id; `event` is empty for a message without one; `data` is JSON.
    pub fn publish(
        &mut self,
        who: &str,
        room: &str,
        event: &str,
        data: &[u8],
    ) -> Called<Result<Verdict, Refusal>> {
        let answer = self.ask(Call::Publish, room, |exports, store| {
            present(&exports.publish)?.call_check(store, who, room, event, data)
        })?;
        if let Ok(publish::Verdict::Replace(data)) = &answer {
            // A raw value is checked for UTF-8 too, and it is what the host will embed.
            let wrong = match serde_json::from_slice::<&serde_json::value::RawValue>(data) {
                Ok(json) => {
                    json::check_portable(json.get()).err().map(|unfit| format!("a replacement that {unfit}"))
                }
                Err(error) => Some(format!("a replacement that is not JSON ({error})")),
            };
            if let Some(wrong) = wrong {
                return Err(self.nonsense(Call::Publish, wrong));
            }
        }
        Ok(answer.map(Verdict::from).map_err(Refusal::from))
    }

    /// Keeps `filter` under `id`; the inner error says what is wrong with it.
    pub fn compile(&mut self, id: u32, filter: &str) -> Called<Result<Plan, String>> {
        let answer = self.ask(Call::Compile, "", |exports, store| {
            present(&exports.deliver)?.call_compile(store, id, filter)
        })?;
        Ok(answer.map(Plan::from))
    }

    pub fn release(&mut self, ids: &[u32]) -> Called<()> {
        self.ask(Call::Release, "", |exports, store| present(&exports.deliver)?.call_release(store, ids))
    }

    /// Bit `i % 64` of word `i / 64` tells whether the message passes the filter `ids[i]`.
    pub fn matches(&mut self, room: &str, event: &str, data: &[u8], ids: &[u32]) -> Called<Vec<u64>> {
        let words = self.ask(Call::Matches, room, |exports, store| {
            present(&exports.deliver)?.call_matches(store, room, event, data, ids)
        })?;
        let expected = ids.len().div_ceil(64);
        if words.len() != expected {
            let detail = format!("{} words for {} filters, not {expected}", words.len(), ids.len());
            return Err(self.nonsense(Call::Matches, detail));
        }
        Ok(words)
    }

    /// Whether a fresh one should take its place: it has grown so much that it is about to run out of memory, or has
    /// served for long. Guests leak, and hold nothing that an instance's end would lose.
    pub(super) fn worn(&self) -> bool {
        let State { memory, memory_limit, .. } = self.store.data();
        let bloated = *memory > memory_limit / 4 * 3 && *memory > 2 * self.settled;
        bloated || self.served >= self.calls
    }

    /// Called when the live filters are compiled: what they take is no leak.
    pub(super) fn settle(&mut self) {
        self.settled = self.store.data().memory;
    }

    fn ask<T>(
        &mut self,
        call: Call,
        room: &str,
        ask: impl FnOnce(&Exports, &mut Store<State>) -> wasmtime::Result<T>,
    ) -> Called<T> {
        if !self.counts {
            return self.within(self.call, call, room, ask);
        }
        refuel(&mut self.store);
        let answer = self.within(self.call, call, room, ask);
        let spent = FUEL - self.store.get_fuel().unwrap_or(FUEL);
        self.store.data().voice.spent.fetch_add(spent, Ordering::Relaxed);
        answer
    }

    fn within<T>(
        &mut self,
        budget: Duration,
        call: Call,
        room: &str,
        ask: impl FnOnce(&Exports, &mut Store<State>) -> wasmtime::Result<T>,
    ) -> Called<T> {
        self.served += 1;
        let state = self.store.data_mut();
        state.room.clear();
        state.room.push_str(room);
        state.said = None;
        state.deadline = Deadline::new(budget);
        self.store.set_epoch_deadline(LOOK);
        let _running = self.clock.run();
        ask(&self.exports, &mut self.store).map_err(|error| fail(&self.store, call, budget, &error))
    }

    pub(super) fn too_slow(&self, detail: String) -> Box<Failure> {
        blank(&self.store, Call::Compile, FailureKind::Deadline, detail)
    }

    fn nonsense(&self, call: Call, answer: String) -> Box<Failure> {
        blank(&self.store, call, FailureKind::Nonsense, format!("it answered {answer}"))
    }
}

impl Exports {
    fn open(plan: &Blueprint, store: &mut Store<State>) -> wasmtime::Result<Self> {
        let instance = plan.pre.instantiate(&mut *store)?;
        // Each interface by itself: the generated loader of the whole world refuses what exports only some.
        macro_rules! load {
            ($interface:ident) => {
                plan.$interface.as_ref().map(|indices| indices.load(&mut *store, &instance)).transpose()?
            };
        }
        Ok(Self {
            lifecycle: plan.lifecycle.load(&mut *store, &instance)?,
            connect: load!(connect),
            room: load!(room),
            subscribe: load!(subscribe),
            publish: load!(publish),
            deliver: load!(deliver),
        })
    }
}

fn refuel(store: &mut Store<State>) {
    store.set_fuel(FUEL).expect("it is for engines that count");
}

fn present<T>(export: &Option<T>) -> wasmtime::Result<&T> {
    export.as_ref().ok_or_else(|| wasmtime::Error::msg("it does not export this hook"))
}

fn fail(store: &Store<State>, call: Call, budget: Duration, error: &wasmtime::Error) -> Box<Failure> {
    let said = store.data().said.as_deref();
    let (kind, detail, backtrace) = failure::read(error, said, &format!("{budget:?}"));
    Box::new(Failure { backtrace, ..*blank(store, call, kind, detail) })
}

fn blank(store: &Store<State>, call: Call, kind: FailureKind, detail: String) -> Box<Failure> {
    let State { voice, room, said, .. } = store.data();
    Box::new(Failure {
        plugin: voice.name.clone(),
        version: voice.version.clone(),
        call,
        room: (!room.is_empty()).then(|| answers::clip(room, MAX_ROOM)),
        kind,
        detail,
        said: said.clone(),
        backtrace: Vec::new(),
    })
}
