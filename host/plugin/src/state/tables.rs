//! The state of all plugins of a node, by name. It outlives their versions and slots, and ends with the
//! process.

use super::{StateTable, StateUsage};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use switchyard_process::lock::LockExt;
use switchyard_process::memory::{MemoryAccount, MemoryKind};

/// The state of all plugins of a node.
pub struct StateTables {
    by_name: Mutex<BTreeMap<String, Arc<StateTable>>>,
    account: Arc<MemoryAccount>,
}

impl StateTables {
    /// No state yet. What is kept is counted in the account.
    pub fn new(account: Arc<MemoryAccount>) -> Self {
        Self { by_name: Mutex::default(), account }
    }

    /// The state of the plugin with this name in the configuration. It is empty if there was none, and may
    /// then take `budget` bytes.
    pub fn table(&self, name: &str, budget: usize) -> Arc<StateTable> {
        let mut by_name = self.by_name.locked();
        if let Some(table) = by_name.get(name) {
            return table.clone();
        }
        let charge = self.account.charge(MemoryKind::PluginState, 0);
        let table = Arc::new(StateTable::new(budget).with_charge(charge));
        by_name.insert(name.to_owned(), table.clone());
        table
    }

    /// Removes the state of a plugin, and returns what it took. A version that still runs has nothing from now on.
    pub fn remove(&self, name: &str) -> StateUsage {
        let removed = self.by_name.locked().remove(name);
        removed.map(|table| table.clear()).unwrap_or_default()
    }
}
