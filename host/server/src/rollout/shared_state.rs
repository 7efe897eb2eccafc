//! Exchanges the values that plugins share with other nodes, through the store. Does not know what they mean.

use super::{Rollout, slot::PluginSlot};
use crate::hub::unavailable;
use bytes::Bytes;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use switchyard_plugin::{StateChange, StateScope, StateTable, StateUsage};
use switchyard_process::lock::LockExt;
use switchyard_protocol::Refusal;
use switchyard_store::{RemovedValues, SharedValueStore, Unavailable, ValueChange, ValuePosition};

/// How often changes are sent and read. Changes of one value in that time are sent as one.
const EXCHANGE_INTERVAL: Duration = Duration::from_millis(200);

/// How long a version that is about to become active waits for the stored values.
const FIRST_READ_TIMEOUT: Duration = Duration::from_secs(2);

/// Up to where this node knows the values of each plugin.
pub(super) struct SharedState {
    /// A store outside of this process. Without one, there are no other nodes.
    store: Option<Arc<dyn SharedValueStore>>,
    /// By plugin. Each is locked while its values are exchanged.
    positions: Mutex<HashMap<String, Arc<tokio::sync::Mutex<ValuePosition>>>>,
}

/// Changes that were taken to be sent. They are put back if that fails or is cancelled.
struct UnsentChanges<'a> {
    table: &'a StateTable,
    changes: Vec<StateChange>,
}

impl Drop for UnsentChanges<'_> {
    fn drop(&mut self) {
        self.table.put_back_changes(std::mem::take(&mut self.changes));
    }
}

impl SharedState {
    pub(super) fn new(store: Option<Arc<dyn SharedValueStore>>) -> Self {
        Self { store, positions: Mutex::default() }
    }

    /// Whether a plugin with this setting shares its values.
    pub(super) fn is_shared(&self, scope: StateScope) -> bool {
        scope == StateScope::Shared && self.store.is_some()
    }

    /// Reads the values that are stored, before a version runs that needs them. If the store does not answer in time,
    /// they come later.
    pub(super) async fn read_first(&self, plugin: &str, table: &StateTable) {
        let reason = match tokio::time::timeout(FIRST_READ_TIMEOUT, self.exchange(plugin, table)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {FIRST_READ_TIMEOUT:?}"),
        };
        tracing::warn!(
            plugin,
            reason,
            "the shared values of a plugin cannot be read yet; it starts without them"
        );
    }

    /// Sends what was changed here, and makes the changes of other nodes.
    async fn exchange(&self, plugin: &str, table: &StateTable) -> Result<(), Unavailable> {
        let Some(store) = &self.store else { return Ok(()) };
        let position = self.positions.locked().entry(plugin.to_owned()).or_default().clone();
        let mut position = position.lock().await;
        loop {
            let mut unsent = UnsentChanges { table, changes: table.take_changes() };
            let sent: Vec<_> = unsent.changes.iter().map(to_stored).collect();
            let answer = store.exchange(plugin, &position, &sent, table.budget() as u64).await?;
            unsent.changes.clear();
            if answer.restart {
                table.clear_shared_values();
            }
            answer.changes.iter().map(from_stored).for_each(|change| table.apply(&change));
            *position = answer.position;
            if !answer.has_more {
                return Ok(());
            }
        }
    }
}

impl Rollout {
    /// Exchanges the shared values of all plugins once.
    pub(crate) async fn exchange_states(&self) -> Result<(), Refusal> {
        let is_shared = |slot: &&Arc<PluginSlot>| self.shared_state.is_shared(slot.config.load().state);
        for slot in self.slots().iter().filter(is_shared) {
            if let Some(plugin) = slot.plugin() {
                self.shared_state.exchange(&slot.name(), plugin.state()).await.map_err(unavailable)?;
            }
        }
        Ok(())
    }

    /// Deletes the state that a plugin has on this node, for good. Returns what it took.
    pub(crate) fn remove_state(&self, plugin: &str) -> StateUsage {
        self.shared_state.positions.locked().remove(plugin);
        self.compiler.remove_state(plugin)
    }

    /// Deletes the shared values of a plugin from the store, after all nodes have removed their own.
    pub(crate) async fn remove_shared_values(&self, plugin: &str) -> Result<RemovedValues, Refusal> {
        match &self.shared_state.store {
            Some(store) => store.remove(plugin).await.map_err(unavailable),
            None => Ok(RemovedValues::default()),
        }
    }
}

/// Exchanges the shared values of all plugins, for ever.
pub(crate) async fn share_states(rollout: Arc<Rollout>) {
    loop {
        tokio::time::sleep(EXCHANGE_INTERVAL).await;
        if let Err(refusal) = rollout.exchange_states().await {
            tracing::debug!("{}; shared values are exchanged later", refusal.message);
        }
    }
}

fn to_stored(change: &StateChange) -> ValueChange {
    ValueChange {
        key: Bytes::copy_from_slice(&change.key),
        principal: change.principal_id.clone(),
        data: change.data.as_ref().map(|data| Bytes::copy_from_slice(data)),
        ttl_ms: change.ttl_ms,
    }
}

fn from_stored(change: &ValueChange) -> StateChange {
    StateChange {
        key: change.key.as_ref().into(),
        principal_id: change.principal.clone(),
        data: change.data.as_ref().map(|data| data.as_ref().into()),
        ttl_ms: change.ttl_ms,
    }
}
