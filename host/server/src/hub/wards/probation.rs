//! A new version is watched for a while: quarantined, it goes out of charge by itself.

use super::{Charge, Failed, Probation, change::ATTEMPTS};
use crate::hub::Hub;
use std::{sync::Arc, time::Instant};
use switchyard_plugin::Plugin;
use switchyard_store::{Change, Lineage, Unavailable};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

impl Hub {
    /// `alarms` are those of the version's counters, from before it came into charge.
    pub(super) fn watch(
        self: &Arc<Self>,
        index: usize,
        charge: &Charge,
        previous: Charge,
        mut alarms: watch::Receiver<u64>,
    ) -> Probation {
        let (hub, plugin, span) = (Arc::downgrade(self), charge.plugin.clone(), charge.config.probation);
        let watch = async move {
            if !matches!(tokio::time::timeout(span, alarms.changed()).await, Ok(Ok(()))) {
                return;
            }
            // On a task of its own: this one ends as soon as another version is in charge.
            if let Some(hub) = hub.upgrade() {
                tokio::spawn(async move { hub.withdraw(index, &plugin, previous).await });
            }
        };
        Probation { until: Instant::now() + span, _watch: AbortOnDropHandle::new(tokio::spawn(watch)) }
    }

    /// A version on probation has failed: the one before takes its place, on all nodes.
    async fn withdraw(self: Arc<Self>, index: usize, plugin: &Arc<Plugin>, previous: Charge) {
        let ward = &self.wards[index];
        let _turn = ward.turn.lock().await;
        if !ward.plugin().is_some_and(|present| Arc::ptr_eq(&present, plugin)) {
            return;
        }
        let (name, sha256) = (ward.name(), plugin.info().sha256.clone());
        let failure = plugin.stats().status().last_failure.unwrap_or_default();
        let reason = format!("it failed repeatedly on probation and went back by itself; {failure}");
        let back_to = previous.sha256().to_owned();
        if let Err(error) = self.take_up(index, previous, false).await {
            return tracing::error!(
                plugin = name,
                error = error.message,
                "the version before does not come back"
            );
        }
        tracing::error!(plugin = name, sha256, back_to, "version withdrawn: {reason}");
        ward.fails(Failed::now(Some(&sha256), &reason));
        if back_to == sha256 {
            return;
        }
        for _ in 0..ATTEMPTS {
            match self.withdraw_everywhere(&name, &sha256, &back_to, &reason).await {
                Ok(None) => {}
                Ok(Some(lineage)) => return ward.standing().lineage = lineage,
                Err(error) => {
                    return tracing::error!(plugin = name, %error, "other nodes do not hear that it was withdrawn");
                }
            }
        }
    }

    /// `None`: others have changed it meanwhile.
    async fn withdraw_everywhere(
        &self,
        name: &str,
        sha256: &str,
        back_to: &str,
        reason: &str,
    ) -> Result<Option<Lineage>, Unavailable> {
        let lineage = self.store.plugins.lineage(name).await?;
        if lineage.current != sha256 || lineage.find(back_to).is_none() {
            return Ok(Some(lineage));
        }
        let next = lineage.back_to(back_to, Some(reason));
        let change = Change { lineage: &next, code: None, dropped: &[] };
        Ok(self.store.plugins.change(name, change).await?.then_some(next))
    }
}
