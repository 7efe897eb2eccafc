//! The state of one plugin on this node. Any thread may use it; no lock is held for longer than a few steps,
//! and none while anything else is awaited.

mod sharing;

use super::NotKept;
use super::bucket::{NEVER, TokenBucket, Withdrawal};
use super::changes::ChangeQueue;
use super::key::StateKey;
use super::key_range::{EntryContent, Evicted, EvictionOrder, KeyRange, StateValue, ValueData};
use super::ledger::{StateClaim, StateLedger, Victim};
use crate::clock::PluginClock;
use bytesize::ByteSize;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use switchyard_process::lock::LockExt;
use switchyard_process::memory::MemoryCharge;

/// How many locks the keys are spread over. A plugin's instances rarely want the same one at the same time.
const KEY_RANGES: usize = 16;

/// How many entries one call evicts at most: enough for the largest value in place of the smallest entries.
const MAX_EVICTIONS_PER_CALL: usize = 512;

/// What the state of a plugin takes, and what its budget has cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateUsage {
    /// Bytes of memory: of keys, values and what is needed to find them.
    pub bytes: usize,
    /// Buckets and values.
    pub entries: usize,
    /// How many entries were removed to make room for others.
    pub evictions: u64,
    /// How many entries were not kept, because there was no room for them.
    pub refusals: u64,
    /// How many changes of shared values reach no other node, because there were too many.
    pub dropped_changes: u64,
}

/// The state of one plugin on this node.
pub struct StateTable {
    ranges: [Mutex<KeyRange>; KEY_RANGES],
    hasher: RandomState,
    ledger: Mutex<StateLedger>,
    budget: AtomicUsize,
    clock: PluginClock,
    evictions: AtomicU64,
    refusals: AtomicU64,
    changes: ChangeQueue,
}

impl StateTable {
    /// An empty table that may take this many bytes of memory.
    pub fn new(budget: usize) -> Self {
        Self {
            ranges: Default::default(),
            hasher: RandomState::new(),
            ledger: Mutex::default(),
            budget: AtomicUsize::new(budget),
            clock: PluginClock::default(),
            evictions: AtomicU64::new(0),
            refusals: AtomicU64::new(0),
            changes: ChangeQueue::default(),
        }
    }

    /// Uses this clock for everything that depends on time.
    pub fn with_clock(self, clock: PluginClock) -> Self {
        Self { clock, ..self }
    }

    /// Counts what the table takes in the account of the node.
    pub(super) fn with_charge(self, charge: MemoryCharge) -> Self {
        Self { ledger: Mutex::new(StateLedger::new(Some(charge))), ..self }
    }

    pub(crate) fn clock(&self) -> &PluginClock {
        &self.clock
    }

    /// How many bytes of memory it may take.
    pub fn budget(&self) -> usize {
        self.budget.load(Relaxed)
    }

    /// Sets how many bytes of memory it may take. If it takes more, nothing is added until enough is gone.
    pub fn set_budget(&self, bytes: usize) {
        self.budget.store(bytes, Relaxed);
    }

    /// What it takes now.
    pub fn usage(&self) -> StateUsage {
        let ledger = self.ledger.locked();
        let (evictions, refusals) = (self.evictions.load(Relaxed), self.refusals.load(Relaxed));
        let dropped_changes = self.changes.dropped();
        StateUsage { bytes: ledger.bytes, entries: ledger.entries, evictions, refusals, dropped_changes }
    }

    /// Takes from a bucket. If there is none, it is the one that `inherited` returns, or else a full one.
    pub(super) fn take(
        &self,
        principal_id: &str,
        key: &str,
        asked: Withdrawal,
        inherited: impl Fn(&StateKey) -> Option<TokenBucket>,
    ) -> Result<(), u64> {
        let (key, now) = (StateKey::of_bucket(key), self.clock.monotonic_ms());
        let answer = self.with_room(principal_id, now, |claimant| {
            let mut range = self.range(&key);
            if let Some(answer) = range.take(&key, asked, now) {
                return Ok(answer);
            }
            let new = || TokenBucket::full(asked.burst, asked.per_minute, now);
            let mut bucket = inherited(&key).unwrap_or_else(new);
            let answer = bucket.take(asked, now);
            if bucket.full_at() <= now {
                return Ok(answer);
            }
            let content = EntryContent::Bucket(bucket);
            let bytes = content.bytes(&key);
            let claim = claimant.claim(bytes, None)?;
            range.insert(&key, claim, content);
            Ok(answer)
        });
        answer.unwrap_or(Err(NEVER))
    }

    pub(super) fn bucket(&self, key: &StateKey) -> Option<TokenBucket> {
        self.range(key).bucket(key)
    }

    /// The value of a key, which counts as used. The outer `None` means that there is none.
    pub(super) fn get(&self, key: &str) -> Option<ValueData> {
        let key = StateKey::of_value(key);
        self.range(&key).value(&key, self.clock.monotonic_ms())
    }

    /// The value of a key, whose use is not recorded.
    pub(super) fn peek(&self, key: &str) -> ValueData {
        let key = StateKey::of_value(key);
        self.range(&key).peek(&key, self.clock.monotonic_ms()).and_then(|value| value.data.clone())
    }

    /// Sets a value, for some milliseconds; 0 means until it is evicted.
    pub(super) fn set(
        &self,
        principal_id: &str,
        key: &str,
        data: Option<&[u8]>,
        ttl_ms: u64,
    ) -> Result<(), NotKept> {
        let (key, now) = (StateKey::of_value(key), self.clock.monotonic_ms());
        let expires_at = if ttl_ms == 0 { u64::MAX } else { now.saturating_add(ttl_ms) };
        let data = data.map(Arc::from);
        let value = StateValue { data: data.clone(), expires_at, used_at: now };
        let content = EntryContent::Value(value);
        let bytes = content.bytes(&key);
        let kept = self.with_room(principal_id, now, |claimant| {
            let mut range = self.range(&key);
            let claim = claimant.claim(bytes, range.claim(&key))?;
            range.insert(&key, claim, content.clone());
            self.changes.record(&key, principal_id, &data, expires_at);
            Ok(())
        });
        kept.ok_or_else(|| {
            let size = |bytes: usize| ByteSize(bytes as u64);
            NotKept::NoRoom { budget: size(self.budget()), used: size(self.usage().bytes) }
        })
    }

    pub(super) fn delete(&self, principal_id: &str, key: &str) {
        let key = StateKey::of_value(key);
        let removed = {
            let mut range = self.range(&key);
            // Another node may have the value.
            self.changes.record(&key, principal_id, &None, u64::MAX);
            range.remove(key.as_bytes())
        };
        self.release(removed);
    }

    fn release(&self, claims: impl IntoIterator<Item = StateClaim>) {
        claims.into_iter().for_each(|claim| self.ledger.locked().release(claim));
    }

    /// Tries again after each eviction, as long as there is no room. `None` if there is nothing to evict.
    fn with_room<T>(
        &self,
        principal_id: &str,
        now: u64,
        attempt: impl Fn(&Claimant<'_>) -> Result<T, NoRoom>,
    ) -> Option<T> {
        let claimant = Claimant { table: self, principal_id };
        for _ in 0..MAX_EVICTIONS_PER_CALL {
            match attempt(&claimant) {
                Ok(answer) => return Some(answer),
                Err(NoRoom { bytes }) if self.evict_one(principal_id, bytes, now) => {}
                Err(NoRoom { .. }) => break,
            }
        }
        self.refusals.fetch_add(1, Relaxed);
        None
    }

    /// Evicts what carries nothing, whoever it belongs to, or else the value that was not used for longest,
    /// so that a principal can keep this many bytes more. Returns whether another attempt makes sense.
    fn evict_one(&self, principal_id: &str, bytes: usize, now: u64) -> bool {
        let unused = match self.ledger.locked().victim(principal_id, bytes, self.budget()) {
            Victim::Anyone => Some((None, EvictionOrder::Unused, u64::MAX)),
            Victim::Only(holder) => Some((Some(holder), EvictionOrder::Unused, u64::MAX)),
            Victim::Nobody => None,
        };
        for (holder, order, until) in [(None, EvictionOrder::Spent, now)].into_iter().chain(unused) {
            let firsts = self.ranges.iter().enumerate().filter_map(|(n, range)| {
                Some((range.locked().first(holder, order).filter(|at| *at <= until)?, n))
            });
            let Some((at, n)) = firsts.min() else { continue };
            let evicted = self.ranges[n].locked().evict(holder, order, at);
            if let Evicted::Entry(claim) = evicted {
                self.ledger.locked().release(claim);
                self.evictions.fetch_add(1, Relaxed);
            }
            // If the order was put right, or another thread was faster, the next attempt sees it.
            return true;
        }
        false
    }

    fn range(&self, key: &StateKey) -> MutexGuard<'_, KeyRange> {
        self.ranges[(self.hasher.hash_one(key.as_bytes()) % KEY_RANGES as u64) as usize].locked()
    }
}

/// The principal on whose behalf something is to be kept.
struct Claimant<'a> {
    table: &'a StateTable,
    principal_id: &'a str,
}

/// The principal may not keep this many bytes more.
struct NoRoom {
    bytes: usize,
}

impl Claimant<'_> {
    fn claim(&self, bytes: usize, replaced: Option<StateClaim>) -> Result<StateClaim, NoRoom> {
        let mut ledger = self.table.ledger.locked();
        ledger.claim(self.principal_id, bytes, replaced, self.table.budget()).ok_or(NoRoom { bytes })
    }
}
