//! Rolling back: an earlier version is activated again, on all nodes.

use super::{
    Rollout,
    activity::{LoadResult, LoadSource, WithdrawalKind},
    audit,
    slot::{ActiveVersion, PluginSlot},
};
use crate::{
    audit::Actor,
    hub::{conflict, stopping, unavailable},
};
use std::sync::Arc;
use switchyard_protocol::Refusal;
use switchyard_store::{HistoryChange, RollbackReason};

impl Rollout {
    /// Activates an earlier version on all nodes: the one that was loaded before the active one, or the one
    /// whose SHA-256 begins with `to`. `by` asks for it.
    pub(crate) async fn rollback(
        self: &Arc<Self>,
        name: &str,
        to: Option<String>,
        by: Actor,
    ) -> Result<Arc<PluginSlot>, Refusal> {
        let slot = self.slot(name)?;
        let (rollout, of) = (self.clone(), slot.clone());
        // On a task of its own: if the caller goes away, this must not stop halfway.
        let rolled_back = tokio::spawn(async move { rollout.roll_back(&of, to.as_deref(), &by).await });
        rolled_back.await.unwrap_or_else(|_| Err(stopping()))?;
        Ok(slot)
    }

    async fn roll_back(
        self: &Arc<Self>,
        slot: &Arc<PluginSlot>,
        to: Option<&str>,
        by: &Actor,
    ) -> Result<(), Refusal> {
        let name = &slot.name();
        let history = self.registry().history(name).await.map_err(unavailable)?;
        let target = match to {
            None => history.previous().ok_or_else(|| {
                format!(
                    "plugin '{name}' has no earlier version to roll back to, except versions that were rolled back; \
                     name one, with `--to SHA256` or `?to=`, to activate it nevertheless"
                )
            }),
            Some(prefix) => match history.find_by_prefix(prefix)[..] {
                [release] => Ok(release),
                [] => Err(format!("plugin '{name}' has no version whose SHA-256 begins with '{prefix}'")),
                [..] => Err(format!(
                    "plugin '{name}' has several versions whose SHA-256 begins with '{prefix}'; give more digits"
                )),
            },
        };
        let target = target.map_err(conflict)?.sha256.clone();
        let config = slot.config.load_full();
        let _loading = slot.begin_loading(&target);
        let rolled_back = async {
            // Usually it is still compiled.
            let plugin = self.load_stored(slot, &config, &target).await?;
            let _activating = slot.rollout_lock.lock().await;
            let is_configured = Arc::ptr_eq(&config, &slot.config.load_full());
            if self.registry().history(name).await.map_err(unavailable)? != history || !is_configured {
                return Err(changed_meanwhile());
            }
            let version = ActiveVersion { plugin: plugin.clone(), config: config.clone() };
            let previous = self.activate(slot, version, false).await?;
            let next = history.roll_back_to(&target, RollbackReason::ByHand(by.principal_name()));
            let change = HistoryChange { history: &next, code: None, dropped: &[] };
            let changed = self.registry().change(name, change).await;
            let refusal = match changed {
                Ok(true) => {
                    let previous = previous.as_ref().map(ActiveVersion::sha256);
                    // Going to a newer version withdraws none.
                    if previous.is_some_and(|sha256| history.find(sha256) != next.find(sha256)) {
                        slot.activity.record_withdrawal(WithdrawalKind::Rollback);
                    }
                    audit::log_rollback(&self.hub.audit, previous, &plugin, by);
                    slot.state().history = next;
                    return Ok(LoadResult::Active);
                }
                Ok(false) => changed_meanwhile(),
                Err(error) => unavailable(error),
            };
            self.revert(slot, previous).await;
            Err(refusal)
        };
        let rolled_back: Result<_, Refusal> = rolled_back.await;
        slot.finish_loading(&target, &rolled_back);
        slot.activity.record_load(LoadSource::Rollback, &rolled_back);
        if let Err(refusal) = &rolled_back {
            let audit = &self.hub.audit;
            audit::log_failed_load(audit, &config, &target, LoadSource::Rollback, by, refusal);
        }
        rolled_back.map(drop)
    }
}

fn changed_meanwhile() -> Refusal {
    conflict(
        "another version was activated at the same time; check which one is active before you roll back"
            .to_owned(),
    )
}
