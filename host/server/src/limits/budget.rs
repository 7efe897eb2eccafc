//! What one principal may still use of this node by the rates of its tier. All its connections and HTTP calls
//! share one budget. Knows no requests: it is told what they cost.

use super::{ByteRate, LimitMode, Rate, TokenBucket};
use crate::{
    key::Key,
    metrics::{LimitKind, Metrics},
};
use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};
use switchyard_process::{lock::LockExt, memory::MemoryShare};
use switchyard_protocol::{ErrorCode, Refusal};

/// Minimum time between two log lines about one principal.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// When to try again if the principal keeps as much as its tier allows, in milliseconds.
const MEMORY_RETRY_MS: u64 = 1000;

/// What a tier limits by a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TierRate {
    /// Frames of clients and HTTP calls.
    Requests,
    /// Messages published.
    Publishes,
    /// Bytes of the data of these messages.
    Bytes,
    /// Rooms in requests to subscribe.
    Subscribes,
    /// Bytes of messages read from the store.
    Reads,
}

/// How many rates there are.
const RATES: usize = 5;

impl TierRate {
    /// What the tier of a key allows. `None`: any number.
    fn of(self, key: &Key) -> Option<Rate> {
        let tier = &key.limits;
        match self {
            Self::Requests => tier.requests,
            Self::Publishes => tier.publishes,
            Self::Bytes => tier.bytes.map(|ByteRate(rate)| rate),
            Self::Subscribes => tier.subscribes,
            Self::Reads => tier.reads.map(|ByteRate(rate)| rate),
        }
    }

    fn limit(self) -> LimitKind {
        match self {
            Self::Requests => LimitKind::Requests,
            Self::Publishes => LimitKind::Publishes,
            Self::Bytes => LimitKind::Bytes,
            Self::Subscribes => LimitKind::Subscribes,
            Self::Reads => LimitKind::Reads,
        }
    }

    /// What is counted, in the plural.
    fn unit(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Publishes => "messages",
            Self::Bytes => "bytes of messages",
            Self::Subscribes => "rooms to subscribe to",
            Self::Reads => "bytes of history",
        }
    }
}

/// What is the same for all budgets of a node.
pub(super) struct BudgetRules {
    pub mode: LimitMode,
    pub metrics: Metrics,
}

/// The budget of one principal.
pub(crate) struct Budget {
    principal: Arc<str>,
    rules: Arc<BudgetRules>,
    state: Mutex<State>,
}

struct State {
    /// By [`TierRate`]. `None` until the first request to which the rate applies.
    buckets: [Option<TokenBucket>; RATES],
    used: Instant,
    logged: Option<Instant>,
    /// What was limited since the last log line.
    unlogged: u64,
}

impl State {
    /// The bucket for a rate. If its rate was another one, because the tier has changed or another key of the
    /// principal has another tier, what was taken stays taken.
    fn bucket(&mut self, of: TierRate, rate: Rate, now: Instant) -> &mut TokenBucket {
        self.used = now;
        let bucket = self.buckets[of as usize].get_or_insert_with(|| TokenBucket::full(rate, now));
        bucket.set_rate(rate);
        bucket
    }
}

impl Budget {
    pub(super) fn new(principal: Arc<str>, rules: Arc<BudgetRules>, now: Instant) -> Self {
        let state = State { buckets: [None; RATES], used: now, logged: None, unlogged: 0 };
        Self { principal, rules, state: Mutex::new(state) }
    }

    /// A budget that nobody shares. For tests and benchmarks.
    pub(crate) fn detached(principal: &str) -> Arc<Self> {
        let rules = Arc::new(BudgetRules { mode: LimitMode::Enforce, metrics: Metrics::default() });
        Arc::new(Self::new(principal.into(), rules, Instant::now()))
    }

    /// Takes all of this, or nothing and refuses. Each item says how many there are of what. What was taken is
    /// not given back if the request is refused for another reason: it has cost something, too.
    pub(crate) fn take<const N: usize>(
        &self,
        key: &Key,
        wanted: [(TierRate, usize); N],
    ) -> Result<(), Refusal> {
        // Without rates, this is all that it costs.
        if wanted.iter().all(|(of, _)| of.of(key).is_none()) {
            return Ok(());
        }
        self.take_at(key, wanted, Instant::now())
    }

    pub(super) fn take_at<const N: usize>(
        &self,
        key: &Key,
        wanted: [(TierRate, usize); N],
        now: Instant,
    ) -> Result<(), Refusal> {
        let mut state = self.state();
        let rated = wanted.map(|(of, count)| (of, of.of(key), count));
        let waits =
            rated.map(|(of, rate, count)| Some((state.bucket(of, rate?, now).wait_for(count, now)?, of)));
        if let Some((wait, of)) = waits.into_iter().flatten().max_by_key(|(wait, _)| *wait) {
            return self.refuse(&mut state, key, of, wait, now);
        }
        for (of, rate, count) in rated {
            if let Some(rate) = rate {
                state.bucket(of, rate, now).charge(count, now);
            }
        }
        Ok(())
    }

    /// Counts a request that is never refused. `Some`: it is beyond the rate, and nothing should be read from its
    /// connection for this long.
    pub(crate) fn count_request(&self, key: &Key) -> Option<Duration> {
        let rate = TierRate::Requests.of(key)?;
        self.count_request_at(key, rate, Instant::now())
    }

    fn count_request_at(&self, key: &Key, rate: Rate, now: Instant) -> Option<Duration> {
        let mut state = self.state();
        if state.bucket(TierRate::Requests, rate, now).take(now).is_ok() {
            return None;
        }
        if !self.is_refused(&mut state, key, TierRate::Requests.limit(), now) {
            return None;
        }
        let bucket = state.bucket(TierRate::Requests, rate, now);
        bucket.overdraw(now);
        bucket.wait(now)
    }

    /// Refuses to read from the store if the principal has read too much.
    pub(crate) fn check_reads(&self, key: &Key) -> Result<(), Refusal> {
        let Some(rate) = TierRate::Reads.of(key) else { return Ok(()) };
        let (mut state, now) = (self.state(), Instant::now());
        match state.bucket(TierRate::Reads, rate, now).wait(now) {
            Some(wait) => self.refuse(&mut state, key, TierRate::Reads, wait, now),
            None => Ok(()),
        }
    }

    /// How long to wait before more is read from the store for the principal. `None`: not at all. `is_first` says
    /// whether this is to be counted, because it does not continue an earlier wait.
    pub(crate) fn read_delay(&self, key: &Key, is_first: bool) -> Option<Duration> {
        let rate = TierRate::Reads.of(key)?;
        let (mut state, now) = (self.state(), Instant::now());
        let wait = state.bucket(TierRate::Reads, rate, now).wait(now)?;
        let is_enforced = match is_first {
            true => self.is_refused(&mut state, key, LimitKind::Reads, now),
            false => self.rules.mode == LimitMode::Enforce,
        };
        is_enforced.then_some(wait)
    }

    /// Whether reads are counted, so that the caller need not find out how much was read.
    pub(crate) fn counts_reads(&self, key: &Key) -> bool {
        TierRate::Reads.of(key).is_some()
    }

    /// Counts bytes that were read from the store. They may be more than was left.
    pub(crate) fn charge_read(&self, key: &Key, bytes: usize) {
        let Some(rate) = TierRate::Reads.of(key) else { return };
        let (mut state, now) = (self.state(), Instant::now());
        let bucket = state.bucket(TierRate::Reads, rate, now);
        // When only observing, a debt would grow for ever, and everything after it would count.
        if self.rules.mode == LimitMode::Enforce || bucket.wait(now).is_none() {
            bucket.charge(bytes, now);
        }
    }

    /// Refuses what would make the node keep more for the principal than its tier allows.
    pub(crate) fn check_memory(&self, key: &Key, share: &MemoryShare) -> Result<(), Refusal> {
        let Some(limit) = key.limits.memory else { return Ok(()) };
        let used = share.used();
        if used < limit || !self.is_refused(&mut self.state(), key, LimitKind::Memory, Instant::now()) {
            return Ok(());
        }
        let Self { principal, .. } = self;
        let message = format!(
            "this node keeps {used} bytes for principal '{principal}', tier '{}' allows {limit}; leave rooms, close \
             connections, or wait until old messages expire",
            key.tier
        );
        Err(Refusal::retry(ErrorCode::Overloaded, message, MEMORY_RETRY_MS))
    }

    /// Tells the principal's share how much may be kept, for the queues of its connections. With several tiers, that
    /// of the latest key.
    pub(crate) fn bound_memory(&self, key: &Key, share: &MemoryShare) {
        share.set_limit(key.limits.memory.filter(|_| self.rules.mode == LimitMode::Enforce));
    }

    /// Counts, and logs from time to time, what is beyond the filters that a tier allows. Returns whether it is
    /// refused.
    pub(crate) fn refuses_filter(&self, key: &Key) -> bool {
        self.is_refused(&mut self.state(), key, LimitKind::Filters, Instant::now())
    }

    fn refuse(
        &self,
        state: &mut State,
        key: &Key,
        of: TierRate,
        wait: Duration,
        now: Instant,
    ) -> Result<(), Refusal> {
        if !self.is_refused(state, key, of.limit(), now) {
            return Ok(());
        }
        let Some(Rate { times, period }) = of.of(key) else { return Ok(()) };
        let milliseconds = wait.as_nanos().div_ceil(1_000_000) as u64;
        let period = if period == Duration::from_secs(1) { "second" } else { "minute" };
        let (tier, unit, principal) = (&key.tier, of.unit(), &self.principal);
        let message = format!(
            "tier '{tier}' allows principal '{principal}' {times} {unit} per {period}, over all its connections and \
             calls; wait {milliseconds} ms"
        );
        Err(Refusal::retry(ErrorCode::RateLimited, message, milliseconds))
    }

    /// Counts what is beyond a limit, and logs it from time to time. Returns whether it is refused.
    fn is_refused(&self, state: &mut State, key: &Key, limit: LimitKind, now: Instant) -> bool {
        let BudgetRules { mode, metrics } = &*self.rules;
        metrics.count_limited(limit, *mode);
        state.unlogged += 1;
        if state.logged.is_none_or(|logged| now.duration_since(logged) >= LOG_INTERVAL) {
            state.logged = Some(now);
            let (principal, tier, count) =
                (&*self.principal, &*key.tier, std::mem::take(&mut state.unlogged));
            let (limit, mode) = (limit.as_str(), mode.as_str());
            tracing::warn!(principal, tier, limit, mode, count, "a principal is beyond a limit of its tier");
        }
        *mode == LimitMode::Enforce
    }

    /// When the principal last used it.
    pub(super) fn used(&self) -> Instant {
        self.state().used
    }

    /// Notes that the principal uses it.
    pub(super) fn touch(&self, now: Instant) {
        self.state().used = now;
    }

    /// Whether forgetting it changes nothing.
    pub(super) fn is_full(&self, now: Instant) -> bool {
        self.state().buckets.iter_mut().flatten().all(|bucket| bucket.is_full(now))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.locked()
    }
}

#[cfg(test)]
mod tests;
