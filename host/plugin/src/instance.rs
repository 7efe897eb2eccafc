//! One running guest: calls its functions, each within its budget. Filters, breakers and restarts are the
//! governor's.

use super::bindings::{Description, ExportIndices, GuestExports, GuestStore};
use super::deadline::{Deadline, TICKS_PER_CHECK};
use super::engine::Budget;
use super::failure::{self, CallFailure, FailureKind, MAX_TRANSFER_BYTES, PluginFunction};
use super::filters::Plan;
use super::hook_types::{
    self, ConnectRequest, Counts, Limits, Principal, PublishRequest, Rejection, RoomVerdict, UncompiledGrant,
    Verdict,
};
use super::imports::{InstanceState, PluginContext};
use super::state::StateAccess;
use super::ticker::Ticker;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use switchyard_protocol::json;
use wasmtime::component::InstancePre;
use wasmtime::{Store, UpdateDeadline};

/// How many call budgets starting an instance may take: it may build tables, and happens rarely.
const START_BUDGETS: u32 = 10;

/// Maximum length of a room name in a failure, in bytes.
const MAX_ROOM_BYTES: usize = 1024;

/// More fuel than any call uses: fuel only counts instructions. Deadlines are what limits a call.
const FUEL: u64 = u64::MAX;

/// For whom and about which room a call is made. Both are empty if there is none.
#[derive(Clone, Copy, Default)]
struct CallScope<'a> {
    principal_id: &'a str,
    room: &'a str,
}

type CallResult<T> = Result<T, Box<CallFailure>>;

/// A compiled guest and the indices of its exports.
pub(super) struct CompiledPlugin {
    pub pre: InstancePre<InstanceState>,
    pub exports: ExportIndices,
    pub budget: Budget,
    /// The engine's ticker.
    pub ticker: Arc<Ticker>,
    /// Whether the engine counts instructions.
    pub counts_instructions: bool,
}

/// A running plugin. Each call blocks for at most the plugin's budget.
///
/// Functions return two nested results. The outer error means that the call failed; the instance must then be
/// dropped, because the guest was stopped at an arbitrary point. The inner one is the plugin's answer.
pub struct Instance {
    store: GuestStore,
    exports: Box<dyn GuestExports>,
    evaluates_filters: bool,
    ticker: Arc<Ticker>,
    call_budget: Duration,
    counts_instructions: bool,
    /// Bytes of memory in use after the start, and after the live filters were compiled.
    baseline_memory: usize,
    calls: u64,
    /// The number of calls after which the instance should be replaced.
    max_calls: u64,
}

impl Instance {
    /// Instantiates the guest without calling `init`. A failure is reported as one of `function`.
    pub(super) fn open(
        compiled: &CompiledPlugin,
        context: &Arc<PluginContext>,
        state: StateAccess,
        function: PluginFunction,
    ) -> CallResult<Self> {
        let start_budget = compiled.budget.call.saturating_mul(START_BUDGETS);
        let state = InstanceState {
            context: context.clone(),
            state,
            principal_id: String::new(),
            deadline: Deadline::new(start_budget),
            room: String::new(),
            last_error_line: None,
            memory: 0,
            memory_limit: compiled.budget.memory,
        };
        let mut store = Store::new(compiled.pre.engine(), state);
        store.limiter(|state| state);
        store.set_hostcall_fuel(MAX_TRANSFER_BYTES);
        store.epoch_deadline_callback(|mut store| {
            Ok(match store.data_mut().deadline.continue_after_tick() {
                true => UpdateDeadline::Continue(TICKS_PER_CHECK),
                false => UpdateDeadline::Interrupt,
            })
        });
        store.set_epoch_deadline(TICKS_PER_CHECK);
        if compiled.counts_instructions {
            refuel(&mut store);
        }
        let ticker = compiled.ticker.clone();
        let running = ticker.start_call();
        let exports = compiled
            .pre
            .instantiate(&mut store)
            .and_then(|instance| compiled.exports.load(&mut store, &instance));
        drop(running);
        match exports {
            Ok(exports) => Ok(Self {
                store,
                exports,
                evaluates_filters: compiled.exports.hooks().deliver,
                ticker,
                call_budget: compiled.budget.call,
                counts_instructions: compiled.counts_instructions,
                baseline_memory: 0,
                calls: 0,
                max_calls: compiled.budget.calls,
            }),
            Err(error) => Err(failure_of(&store, function, start_budget, &error)),
        }
    }

    pub(super) fn describe(&mut self) -> CallResult<Description> {
        self.call_within(
            self.start_budget(),
            PluginFunction::Describe,
            CallScope::default(),
            |exports, store| exports.describe(store),
        )
    }

    /// `config` is JSON. The inner error says what is wrong with it.
    pub(super) fn init(&mut self, config: &str) -> CallResult<Result<(), String>> {
        let answer = self.call_within(
            self.start_budget(),
            PluginFunction::Init,
            CallScope::default(),
            |exports, store| exports.init(store, config),
        );
        self.reset_memory_baseline();
        answer
    }

    /// Calls `connect.authorize`: whether a connection is allowed, and its limits.
    ///
    /// # Errors
    ///
    /// The outer error means that the call failed, and this instance must be dropped.
    pub fn connect(&mut self, request: &ConnectRequest) -> CallResult<Result<Limits, Rejection>> {
        let scope = CallScope { principal_id: &request.principal.id, room: "" };
        self.call(PluginFunction::Connect, scope, |exports, store| exports.connect(store, request))
    }

    /// Calls `room.validate`: whether a room name is valid, and its canonical form. The call is made on behalf
    /// of the principal `principal_id`.
    ///
    /// # Errors
    ///
    /// The outer error means that the call failed, and this instance must be dropped.
    pub fn room(&mut self, principal_id: &str, name: &str) -> CallResult<Result<RoomVerdict, Rejection>> {
        let scope = CallScope { principal_id, room: name };
        let answer = self.call(PluginFunction::Room, scope, |exports, store| exports.room(store, name))?;
        if let Ok(RoomVerdict { canonical: Some(canonical), .. }) = &answer
            && canonical.is_empty()
        {
            return Err(self.invalid_answer(PluginFunction::Room, "an empty canonical room name".into()));
        }
        Ok(answer)
    }

    /// Calls `subscribe.authorize`: whether a principal may join a room. `filter` is JSON as the client sent
    /// it.
    ///
    /// # Errors
    ///
    /// The outer error means that the call failed, and this instance must be dropped.
    pub fn subscribe(
        &mut self,
        principal: &Principal,
        room: &str,
        filter: Option<&str>,
        counts: Counts,
    ) -> CallResult<Result<UncompiledGrant, Rejection>> {
        let scope = CallScope { principal_id: &principal.id, room };
        let answer = self.call(PluginFunction::Subscribe, scope, |exports, store| {
            exports.subscribe(store, principal, room, filter, counts)
        })?;
        if let Ok(UncompiledGrant { filter: Some(_), .. }) = &answer
            && !self.evaluates_filters
        {
            let answer = "a filter, but it does not export deliver to evaluate it".into();
            return Err(self.invalid_answer(PluginFunction::Subscribe, answer));
        }
        Ok(answer)
    }

    /// Calls `publish.check`: what happens to a message.
    ///
    /// # Errors
    ///
    /// The outer error means that the call failed, and this instance must be dropped.
    pub fn publish(&mut self, request: &PublishRequest<'_>) -> CallResult<Result<Verdict, Rejection>> {
        let scope = CallScope { principal_id: &request.principal.id, room: request.room };
        let answer =
            self.call(PluginFunction::Publish, scope, |exports, store| exports.publish(store, request))?;
        if let Ok(Verdict::Replace(data)) = &answer {
            // A raw value also checks for UTF-8, and it is what the host will embed into the delivery.
            let problem = match serde_json::from_slice::<&serde_json::value::RawValue>(data) {
                Ok(json) => {
                    json::check_portable(json.get()).err().map(|unfit| format!("a replacement that {unfit}"))
                }
                Err(error) => Some(format!("a replacement that is not JSON ({error})")),
            };
            if let Some(problem) = problem {
                return Err(self.invalid_answer(PluginFunction::Publish, problem));
            }
        }
        Ok(answer)
    }

    /// Calls `deliver.compile`: keeps `filter` under `id`. `principal_id` is who wants it, or empty. The inner
    /// error says what is wrong with the filter.
    ///
    /// # Errors
    ///
    /// The outer error means that the call failed, and this instance must be dropped.
    pub fn compile(&mut self, principal_id: &str, id: u32, filter: &str) -> CallResult<Result<Plan, String>> {
        let scope = CallScope { principal_id, room: "" };
        self.call(PluginFunction::Compile, scope, |exports, store| exports.compile(store, id, filter))
    }

    /// Calls `deliver.release`: these filters are no longer needed.
    ///
    /// # Errors
    ///
    /// An error means that the call failed, and this instance must be dropped.
    pub fn release(&mut self, ids: &[u32]) -> CallResult<()> {
        self.call(PluginFunction::Release, CallScope::default(), |exports, store| exports.release(store, ids))
    }

    /// Calls `deliver.matches`: which filters a message passes. Bit `i % 64` of word `i / 64` is the result
    /// of the filter `ids[i]`.
    ///
    /// # Errors
    ///
    /// An error means that the call failed, and this instance must be dropped.
    pub fn matches(&mut self, room: &str, event: &str, data: &[u8], ids: &[u32]) -> CallResult<Vec<u64>> {
        let scope = CallScope { principal_id: "", room };
        let words = self.call(PluginFunction::Matches, scope, |exports, store| {
            exports.matches(store, room, event, data, ids)
        })?;
        let expected = ids.len().div_ceil(64);
        if words.len() != expected {
            let answer = format!("{} words for {} filters instead of {expected}", words.len(), ids.len());
            return Err(self.invalid_answer(PluginFunction::Matches, answer));
        }
        Ok(words)
    }

    /// Whether the instance should be replaced: it has grown so much that it is about to run out of memory,
    /// or has served its number of calls. Guests leak memory, and keep nothing that must outlive an instance.
    pub(super) fn needs_recycling(&self) -> bool {
        let InstanceState { memory, memory_limit, .. } = self.store.data();
        let has_grown = *memory > memory_limit / 4 * 3 && *memory > 2 * self.baseline_memory;
        has_grown || self.calls >= self.max_calls
    }

    /// Call this once the live filters are compiled: the memory that they take is not a leak.
    pub(super) fn reset_memory_baseline(&mut self) {
        self.baseline_memory = self.store.data().memory;
    }

    fn start_budget(&self) -> Duration {
        self.call_budget.saturating_mul(START_BUDGETS)
    }

    fn call<T>(
        &mut self,
        function: PluginFunction,
        scope: CallScope<'_>,
        invoke: impl FnOnce(&dyn GuestExports, &mut GuestStore) -> wasmtime::Result<T>,
    ) -> CallResult<T> {
        if !self.counts_instructions {
            return self.call_within(self.call_budget, function, scope, invoke);
        }
        refuel(&mut self.store);
        let answer = self.call_within(self.call_budget, function, scope, invoke);
        let instructions = FUEL - self.store.get_fuel().unwrap_or(FUEL);
        self.store.data().context.instructions.fetch_add(instructions, Ordering::Relaxed);
        answer
    }

    fn call_within<T>(
        &mut self,
        budget: Duration,
        function: PluginFunction,
        scope: CallScope<'_>,
        invoke: impl FnOnce(&dyn GuestExports, &mut GuestStore) -> wasmtime::Result<T>,
    ) -> CallResult<T> {
        self.calls += 1;
        let state = self.store.data_mut();
        scope.room.clone_into(&mut state.room);
        scope.principal_id.clone_into(&mut state.principal_id);
        state.last_error_line = None;
        state.deadline = Deadline::new(budget);
        self.store.set_epoch_deadline(TICKS_PER_CHECK);
        let _running = self.ticker.start_call();
        invoke(&*self.exports, &mut self.store)
            .map_err(|error| failure_of(&self.store, function, budget, &error))
    }

    /// The failure to report if compiling the live filters takes too long.
    pub(super) fn filter_setup_timeout(&self, detail: String) -> Box<CallFailure> {
        new_failure(&self.store, PluginFunction::Compile, FailureKind::Deadline, detail)
    }

    fn invalid_answer(&self, function: PluginFunction, answer: String) -> Box<CallFailure> {
        new_failure(&self.store, function, FailureKind::InvalidAnswer, format!("it returned {answer}"))
    }
}

fn refuel(store: &mut GuestStore) {
    store.set_fuel(FUEL).expect("the engine counts instructions");
}

fn failure_of(
    store: &GuestStore,
    function: PluginFunction,
    budget: Duration,
    error: &wasmtime::Error,
) -> Box<CallFailure> {
    let last_error_line = store.data().last_error_line.as_deref();
    let (kind, detail, backtrace) = failure::classify(error, last_error_line, &format!("{budget:?}"));
    Box::new(CallFailure { backtrace, ..*new_failure(store, function, kind, detail) })
}

fn new_failure(
    store: &GuestStore,
    function: PluginFunction,
    kind: FailureKind,
    detail: String,
) -> Box<CallFailure> {
    let InstanceState { context, room, last_error_line, .. } = store.data();
    Box::new(CallFailure {
        plugin: context.name.clone(),
        version: context.version.clone(),
        function,
        room: (!room.is_empty()).then(|| hook_types::clip(room, MAX_ROOM_BYTES)),
        kind,
        detail,
        last_error_line: last_error_line.clone(),
        backtrace: Vec::new(),
    })
}
