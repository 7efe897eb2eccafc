//! What a plugin keeps on this node beyond its instances and versions: token buckets and values. Bounded by
//! the plugin's `budget.state`. If the values are shared with other nodes, notes what they have to be told. Does not
//! know plugins.

mod bucket;
mod changes;
mod key;
mod key_range;
mod ledger;
mod table;
mod tables;
#[cfg(test)]
mod tests;

pub(crate) use bucket::Withdrawal;
pub use changes::StateChange;
pub use table::{StateTable, StateUsage};
pub use tables::StateTables;

use bucket::NEVER;
use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Maximum size of a value, in bytes.
const MAX_VALUE_BYTES: usize = 64 << 10;

/// Which nodes have the values that a plugin keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateScope {
    /// Each node has its own, until it ends.
    #[default]
    Node,
    /// All nodes have the same values, and the store keeps them. Buckets are each node's own.
    Shared,
}

/// Why a value is not kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotKept {
    #[error("the value has {0} bytes, at most {MAX_VALUE_BYTES} are allowed")]
    TooLarge(usize),
    #[error("there is no room for it: budget.state is {budget}, of which {used} are used")]
    NoRoom { budget: ByteSize, used: ByteSize },
}

/// The state as an instance uses it.
#[derive(Clone)]
pub(crate) struct StateAccess {
    table: Arc<StateTable>,
    /// Holds the changes of instances whose calls must have no effect. They read what is not in it from
    /// `table`.
    overlay: Option<Arc<StateTable>>,
}

impl StateAccess {
    pub(crate) fn direct(table: Arc<StateTable>) -> Self {
        Self { table, overlay: None }
    }

    /// Access that reads this table, but changes nothing in it.
    pub(crate) fn without_effect(table: Arc<StateTable>) -> Self {
        let overlay = StateTable::new(table.budget()).with_clock(table.clock().clone());
        Self { table, overlay: Some(Arc::new(overlay)) }
    }

    /// The Unix time, by the clock that drives the state.
    pub(crate) fn unix_ms(&self) -> u64 {
        self.table.clock().unix_ms()
    }

    /// Takes from a bucket on behalf of a principal. The error is the number of milliseconds after which that
    /// would succeed.
    pub(crate) fn take(&self, principal_id: &str, key: &str, asked: Withdrawal) -> Result<(), u64> {
        if asked.amount > asked.burst {
            return Err(NEVER);
        }
        match &self.overlay {
            Some(overlay) => overlay.take(principal_id, key, asked, |key| self.table.bucket(key)),
            None => self.table.take(principal_id, key, asked, |_| None),
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<Vec<u8>> {
        let data = match self.overlay.as_ref().map(|overlay| overlay.get(key)) {
            Some(Some(own)) => own,
            Some(None) => self.table.peek(key),
            None => self.table.get(key)?,
        };
        data.map(|data| data.to_vec())
    }

    /// Sets a value on behalf of a principal, for some milliseconds; 0 means until it is evicted.
    pub(crate) fn set(&self, principal_id: &str, key: &str, data: &[u8], ttl_ms: u64) -> Result<(), NotKept> {
        if data.len() > MAX_VALUE_BYTES {
            return Err(NotKept::TooLarge(data.len()));
        }
        let table = self.overlay.as_ref().unwrap_or(&self.table);
        table.set(principal_id, key, Some(data), ttl_ms)
    }

    pub(crate) fn delete(&self, principal_id: &str, key: &str) {
        match &self.overlay {
            // If there is no room for the mark, the value shows through again.
            Some(overlay) => drop(overlay.set(principal_id, key, None, 0)),
            None => self.table.delete(principal_id, key),
        }
    }
}
