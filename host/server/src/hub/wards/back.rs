//! The way back: an earlier version comes into charge again, on all nodes.

use super::{Charge, Ward, change::conflict, took_charge};
use crate::hub::{Hub, stopping, unavailable};
use std::sync::Arc;
use switchyard_protocol::Refusal;
use switchyard_store::Change;

impl Hub {
    /// Puts an earlier version in charge on all nodes: the one that was loaded before the present one, or the one whose digest
    /// begins with `to`.
    pub(crate) async fn rollback(
        self: &Arc<Self>,
        name: &str,
        to: Option<String>,
        by: Option<String>,
    ) -> Result<&Ward, Refusal> {
        let index = self.index(name)?;
        let hub = self.clone();
        // On a task of its own: who asked for it may leave, and half of it must not be done.
        let back = tokio::spawn(async move { hub.go_back(index, to.as_deref(), by.as_deref()).await });
        back.await.unwrap_or_else(|_| Err(stopping()))?;
        Ok(&self.wards[index])
    }

    async fn go_back(
        self: &Arc<Self>,
        index: usize,
        to: Option<&str>,
        by: Option<&str>,
    ) -> Result<(), Refusal> {
        let ward = &self.wards[index];
        let name = &ward.name();
        let lineage = self.store.plugins.lineage(name).await.map_err(unavailable)?;
        let target = match to {
            None => lineage
                .before()
                .ok_or_else(|| format!("plugin '{name}' has no earlier version to go back to")),
            Some(digest) => lineage.find(digest).ok_or_else(|| {
                format!("plugin '{name}' has no one version whose SHA-256 begins with '{digest}'")
            }),
        };
        let target = target.map_err(conflict)?.sha256.clone();
        let config = ward.config.load_full();
        let _underway = ward.begins(&target);
        let back = async {
            // Compiled still, as a rule.
            let plugin = self.revive(index, &config, &target).await?;
            let _turn = ward.turn.lock().await;
            let is_configured = Arc::ptr_eq(&config, &ward.config.load_full());
            if self.store.plugins.lineage(name).await.map_err(unavailable)? != lineage || !is_configured {
                return Err(changed_meanwhile());
            }
            let charge = Charge { plugin: plugin.clone(), config: config.clone() };
            let previous = self.take_up(index, charge, false).await?;
            let next = lineage.back_to(&target, None);
            let change = Change { lineage: &next, code: None, dropped: &[] };
            let changed = self.store.plugins.change(name, change).await;
            let refusal = match changed {
                Ok(true) => {
                    ward.standing().lineage = next;
                    took_charge(&plugin, "rollback", by);
                    return Ok(());
                }
                Ok(false) => changed_meanwhile(),
                Err(error) => unavailable(error),
            };
            self.put_back(index, previous).await;
            Err(refusal)
        };
        let back = back.await;
        ward.ends(&target, &back);
        back
    }
}

fn changed_meanwhile() -> Refusal {
    conflict("another version came into charge just now: look again before going back".to_owned())
}
