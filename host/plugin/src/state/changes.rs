//! The changes of a plugin's shared values that other nodes have not been told yet. Does not send them.

use super::key::{StateKey, StoredKey};
use super::key_range::ValueData;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use switchyard_process::lock::LockExt;

/// How many values may have changed between two flushes, and how many bytes their changes may have together.
/// Further changes are made here and reach no other node.
const MAX_CHANGES: usize = 512;
const MAX_CHANGE_BYTES: usize = 1 << 20;

/// Bytes of memory that a change takes beside its key, its data and its principal, roughly.
const CHANGE_BYTES: usize = 128;

/// A change of one value, for other nodes or from one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateChange {
    /// Identifies the value. It is not text.
    pub key: Arc<[u8]>,
    /// The principal on whose behalf it was changed. Empty if there is none.
    pub principal_id: Arc<str>,
    /// `None` if it was deleted.
    pub data: Option<Arc<[u8]>>,
    /// For how many milliseconds from now it is valid; 0 means until it is evicted.
    pub ttl_ms: u64,
}

#[derive(Default)]
pub(super) struct ChangeQueue {
    /// Read with each change, so that state that is not shared pays for nothing else.
    is_shared: AtomicBool,
    pending: Mutex<PendingChanges>,
    dropped: AtomicU64,
}

#[derive(Default)]
struct PendingChanges {
    by_key: BTreeMap<StoredKey, PendingChange>,
    bytes: usize,
}

struct PendingChange {
    principal_id: Arc<str>,
    data: ValueData,
    /// Milliseconds; the highest number means never.
    expires_at: u64,
}

impl ChangeQueue {
    pub(super) fn set_shared(&self, is_shared: bool) {
        self.is_shared.store(is_shared, Relaxed);
        if !is_shared {
            *self.pending.locked() = PendingChanges::default();
        }
    }

    /// Notes a change, in place of an earlier one of the same key. The caller holds the lock of the key's range, so
    /// that the last change noted is the last one made.
    pub(super) fn record(&self, key: &StateKey, principal_id: &str, data: &ValueData, expires_at: u64) {
        if self.is_shared.load(Relaxed) {
            let change = PendingChange { principal_id: principal_id.into(), data: data.clone(), expires_at };
            self.add(key.to_stored(), change);
        }
    }

    fn add(&self, key: StoredKey, change: PendingChange) {
        let mut pending = self.pending.locked();
        let replaced = pending.by_key.get(&key).map_or(0, |earlier| earlier.bytes(&key));
        let bytes = pending.bytes - replaced + change.bytes(&key);
        let is_full = replaced == 0 && pending.by_key.len() == MAX_CHANGES;
        if is_full || bytes > MAX_CHANGE_BYTES {
            self.dropped.fetch_add(1, Relaxed);
            return;
        }
        pending.bytes = bytes;
        pending.by_key.insert(key, change);
    }

    /// Whether a change of this key was not taken yet. The caller holds the lock of the key's range.
    pub(super) fn has(&self, key: &StateKey) -> bool {
        self.has_bytes(key.as_bytes())
    }

    pub(super) fn has_stored(&self, key: &StoredKey) -> bool {
        self.has_bytes(key.as_bytes())
    }

    fn has_bytes(&self, key: &[u8]) -> bool {
        self.is_shared.load(Relaxed) && self.pending.locked().by_key.contains_key(key)
    }

    /// Takes all changes.
    pub(super) fn take(&self, now: u64) -> Vec<StateChange> {
        let pending = std::mem::take(&mut *self.pending.locked());
        let change = |(key, change): (StoredKey, PendingChange)| {
            let has_expired = change.expires_at <= now;
            let ttl_ms =
                if change.expires_at == u64::MAX { 0 } else { change.expires_at.saturating_sub(now) };
            let PendingChange { principal_id, data, .. } = change;
            StateChange { key: key.0, principal_id, data: data.filter(|_| !has_expired), ttl_ms }
        };
        pending.by_key.into_iter().map(change).collect()
    }

    /// Puts changes back that could not be sent. Those that were made since have precedence.
    pub(super) fn put_back(&self, changes: Vec<StateChange>, now: u64) {
        if !self.is_shared.load(Relaxed) {
            return;
        }
        for StateChange { key, principal_id, data, ttl_ms } in changes {
            let key = StoredKey(key);
            if !self.pending.locked().by_key.contains_key(&key) {
                let expires_at = if ttl_ms == 0 { u64::MAX } else { now.saturating_add(ttl_ms) };
                self.add(key, PendingChange { principal_id, data, expires_at });
            }
        }
    }

    /// How many changes were not noted, because there were too many.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

impl PendingChange {
    fn bytes(&self, key: &StoredKey) -> usize {
        let data = self.data.as_ref().map_or(0, |data| data.len());
        CHANGE_BYTES + key.as_bytes().len() + self.principal_id.len() + data
    }
}
