//! Keeps clients out of a node on which a plugin that decides who may connect has no version. The record of governance
//! says which plugins do, because code that cannot be loaded cannot say so.

use crate::rollout::Rollout;
use std::collections::BTreeMap;
use switchyard_protocol::{ErrorCode, Refusal};
use switchyard_store::{Governance, GovernedSlot, Unavailable};

/// When a client may try again, in milliseconds.
const RETRY_MS: u64 = 1000;

impl Rollout {
    /// Records which of the plugins decide who may connect, as far as this node runs the versions that are active on
    /// all nodes.
    pub(super) async fn record_connect_hooks(&self, record: &Governance) -> Result<(), Unavailable> {
        if !record.is_settled() {
            return Ok(());
        }
        let mut known = BTreeMap::new();
        for governed in &record.slots {
            let active = self.own_slot(governed).and_then(|own| own.plugin());
            let Some(active) =
                active.filter(|active| active.info().hooks.connect != governed.has_connect_hook)
            else {
                continue;
            };
            // This node may not have followed the others yet, and they know better.
            let history = self.registry().history(&governed.name).await?;
            if history.current == active.info().sha256 {
                known.insert(governed.name.clone(), active.info().hooks.connect);
            }
        }
        if let Some(next) = record.with_connect_hooks(&known) {
            self.replace_governance(record, &next).await?;
        }
        Ok(())
    }

    /// Lets the hub refuse all clients as long as a plugin that decides who may connect has no version here.
    pub(in crate::rollout) fn apply_connect_hooks(&self) {
        let record = self.governance.record();
        let missing = record.slots.iter().find(|slot| self.lacks_connect_hook(slot));
        let refusal = missing.map(|GovernedSlot { name, .. }| {
            let message =
                format!("plugin '{name}', which decides who may connect, does not run on this node");
            Refusal::retry(ErrorCode::PluginFailed, message, RETRY_MS)
        });
        if self.hub.refuse_connections(refusal.clone())
            && let Some(refusal) = refusal
        {
            tracing::error!("{}; no client is admitted until it does", refusal.message);
        }
    }

    /// Whether a plugin that decides who may connect has no version on this node. One that sees headers does so, even if
    /// no version of it was ever active.
    pub(super) fn lacks_connect_hook(&self, governed: &GovernedSlot) -> bool {
        match self.own_slot(governed) {
            None => governed.has_connect_hook,
            Some(own) => {
                let is_meant_to = governed.has_connect_hook || !own.config().headers.is_empty();
                is_meant_to && own.plugin().is_none()
            }
        }
    }
}
