//! What a plugin's state exchanges with other nodes. Only values are shared; buckets are this node's own.

use super::{StateTable, StateUsage};
use crate::state::StateChange;
use crate::state::key::{StateKey, StoredKey};
use crate::state::key_range::{EntryContent, StateValue};
use switchyard_process::lock::LockExt;

impl StateTable {
    /// Says whether changes of values are noted for other nodes from now on.
    pub fn set_shared(&self, is_shared: bool) {
        self.changes.set_shared(is_shared);
    }

    /// The changes that were made here since the last call: of each value the last one, and at most 512 changes with
    /// 1 MiB.
    pub fn take_changes(&self) -> Vec<StateChange> {
        self.changes.take(self.clock.monotonic_ms())
    }

    /// Gives back changes that could not be sent. The next call of [`take_changes`](Self::take_changes) returns them,
    /// unless the values have changed again.
    pub fn put_back_changes(&self, changes: Vec<StateChange>) {
        self.changes.put_back(changes, self.clock.monotonic_ms());
    }

    /// Makes a change of another node. A value that was changed here since keeps its newer state, which other nodes
    /// will be told. A value for which there is no room is gone here, so that nobody reads an outdated one.
    pub fn apply(&self, change: &StateChange) {
        let Some(key) = StateKey::of_stored_value(&change.key) else { return };
        let kept = change.data.as_ref().and_then(|data| {
            let now = self.clock.monotonic_ms();
            let expires_at = if change.ttl_ms == 0 { u64::MAX } else { now.saturating_add(change.ttl_ms) };
            let value = StateValue { data: Some(data.clone()), expires_at, used_at: now };
            let content = EntryContent::Value(value);
            let bytes = content.bytes(&key);
            self.with_room(&change.principal_id, now, |claimant| {
                let mut range = self.range(&key);
                if !self.changes.has(&key) {
                    let claim = claimant.claim(bytes, range.claim(&key))?;
                    range.insert(&key, claim, content.clone());
                }
                Ok(())
            })
        });
        if kept.is_none() {
            let removed = {
                let mut range = self.range(&key);
                if self.changes.has(&key) { None } else { range.remove(key.as_bytes()) }
            };
            self.release(removed);
        }
    }

    /// Removes all values, except those that were changed here and of which no other node has been told.
    pub fn clear_shared_values(&self) {
        for range in &self.ranges {
            let removed = range.locked().remove_all(|key| key.is_of_value() && !self.changes.has_stored(key));
            self.release(removed);
        }
    }

    /// Removes everything, and returns what it took.
    pub fn clear(&self) -> StateUsage {
        let usage = self.usage();
        self.changes.set_shared(false);
        for range in &self.ranges {
            let removed = range.locked().remove_all(|_: &StoredKey| true);
            self.release(removed);
        }
        usage
    }
}
