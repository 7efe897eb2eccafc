//! Probation: a new version is watched for a while. If it is quarantined in that time, it is withdrawn and
//! the previous version is activated again, on all nodes.

use super::{
    MAX_CHANGE_ATTEMPTS, Rollout,
    activity::WithdrawalKind,
    audit,
    slot::{ActiveVersion, PluginSlot, Probation},
    view::FailedVersion,
};
use std::{sync::Arc, time::Instant};
use switchyard_plugin::Plugin;
use switchyard_store::{HistoryChange, RollbackReason, Unavailable, VersionHistory};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

impl Rollout {
    /// Watches a version. `quarantines` counts from before its activation.
    pub(super) fn watch(
        self: &Arc<Self>,
        slot: &Arc<PluginSlot>,
        version: &ActiveVersion,
        previous: ActiveVersion,
        mut quarantines: watch::Receiver<u64>,
    ) -> Probation {
        let (rollout, slot) = (Arc::downgrade(self), slot.clone());
        let (plugin, duration) = (version.plugin.clone(), version.config.probation);
        let watch = async move {
            if !matches!(tokio::time::timeout(duration, quarantines.changed()).await, Ok(Ok(()))) {
                return;
            }
            // On a task of its own: this one is aborted as soon as another version is active.
            if let Some(rollout) = rollout.upgrade() {
                tokio::spawn(async move { rollout.withdraw(&slot, &plugin, previous).await });
            }
        };
        Probation { until: Instant::now() + duration, _watch: AbortOnDropHandle::new(tokio::spawn(watch)) }
    }

    /// Activates the previous version because `plugin` failed on probation.
    async fn withdraw(
        self: Arc<Self>,
        slot: &Arc<PluginSlot>,
        plugin: &Arc<Plugin>,
        previous: ActiveVersion,
    ) {
        let _activating = slot.rollout_lock.lock().await;
        if !slot.plugin().is_some_and(|active| Arc::ptr_eq(&active, plugin)) {
            return;
        }
        let (name, sha256) = (slot.name(), plugin.info().sha256.clone());
        let failure = plugin.stats().status().last_failure.unwrap_or_default();
        let reason =
            format!("it failed repeatedly on probation and was rolled back automatically; {failure}");
        let back_to = previous.sha256().to_owned();
        if let Err(error) = self.activate(slot, previous.clone(), false).await {
            return tracing::error!(
                plugin = name,
                error = error.message,
                "the previous version cannot be activated again"
            );
        }
        let is_same_code = back_to == sha256;
        slot.activity.record_withdrawal(match is_same_code {
            true => WithdrawalKind::Config,
            false => WithdrawalKind::Probation,
        });
        audit::log_withdrawal(&self.hub.audit, plugin, &previous, &reason);
        slot.state().failed = Some(FailedVersion::now(Some(&sha256), &reason));
        if is_same_code {
            return;
        }
        for _ in 0..MAX_CHANGE_ATTEMPTS {
            match self.record_withdrawal(&name, &sha256, &back_to, &reason).await {
                Ok(None) => {}
                Ok(Some(history)) => return slot.state().history = history,
                Err(error) => {
                    return tracing::error!(
                        plugin = name,
                        %error,
                        "other nodes are not told that the version was withdrawn"
                    );
                }
            }
        }
    }

    /// Returns the history in which the version is not active any more. `None`: another node changed it at
    /// the same time.
    async fn record_withdrawal(
        &self,
        name: &str,
        sha256: &str,
        back_to: &str,
        reason: &str,
    ) -> Result<Option<VersionHistory>, Unavailable> {
        let history = self.registry().history(name).await?;
        if history.current != sha256 || history.find(back_to).is_none() {
            return Ok(Some(history));
        }
        let next = history.roll_back_to(back_to, RollbackReason::Failed(reason));
        let change = HistoryChange { history: &next, code: None, dropped: &[] };
        Ok(self.registry().change(name, change).await?.then_some(next))
    }
}
