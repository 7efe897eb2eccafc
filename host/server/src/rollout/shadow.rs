//! Candidates: a version that runs in the shadow of the active one, on this node's traffic and without
//! effect.

use super::{
    Rollout,
    deploy::Deployment,
    slot::{Candidate, PluginSlot},
};
use crate::hub::{cannot_start_thread, conflict};
use bytes::Bytes;
use std::sync::Arc;
use switchyard_plugin::Shadow;
use switchyard_protocol::{Refusal, unix_ms};
use switchyard_store::ActivationSource;

impl Rollout {
    /// Starts a candidate, replacing the one before. It ends when another version is activated.
    pub(crate) async fn start_shadow(
        &self,
        name: &str,
        code: Bytes,
        signature: Option<String>,
    ) -> Result<Arc<PluginSlot>, Refusal> {
        let slot = self.slot(name)?;
        self.start_candidate(&slot, code, signature).await?;
        Ok(slot)
    }

    async fn start_candidate(
        &self,
        slot: &PluginSlot,
        code: Bytes,
        signature: Option<String>,
    ) -> Result<(), Refusal> {
        let _deploying = slot.deploy_lock.lock().await;
        if slot.plugin().is_none() {
            let name = slot.name();
            let message =
                format!("plugin '{name}' has no active version to compare a candidate with: load one");
            return Err(conflict(message));
        }
        let config = slot.config.load_full();
        let plugin = self.compiler.compile(&config, &code, signature.as_deref()).await?;
        let _activating = slot.rollout_lock.lock().await;
        let shadow = Shadow::start(plugin).map_err(|error| cannot_start_thread("of a candidate", error))?;
        self.hub.set_mirror(slot.id, Some(shadow.mirror()));
        slot.state().candidate = Some(Candidate { shadow, code, signature, since: unix_ms() });
        Ok(())
    }

    /// Ends the candidate.
    pub(crate) async fn stop_shadow(&self, name: &str) -> Result<Arc<PluginSlot>, Refusal> {
        let slot = self.slot(name)?;
        {
            let _activating = slot.rollout_lock.lock().await;
            slot.state().candidate.take().ok_or_else(|| no_candidate(name))?;
            self.hub.set_mirror(slot.id, None);
        }
        Ok(slot)
    }

    /// Deploys the candidate, on all nodes.
    pub(crate) async fn promote(
        self: &Arc<Self>,
        name: &str,
        by: Option<String>,
    ) -> Result<Arc<PluginSlot>, Refusal> {
        let slot = self.slot(name)?;
        self.deploy_candidate(&slot, by).await?;
        Ok(slot)
    }

    async fn deploy_candidate(
        self: &Arc<Self>,
        slot: &Arc<PluginSlot>,
        by: Option<String>,
    ) -> Result<(), Refusal> {
        let _deploying = slot.deploy_lock.lock().await;
        let deployment = slot.state().candidate.as_ref().map(|candidate| Deployment {
            code: candidate.code.clone(),
            signature: candidate.signature.clone(),
            source: ActivationSource::Promotion,
            by,
        });
        let deployment = deployment.ok_or_else(|| no_candidate(&slot.name()))?;
        let config = slot.config.load_full();
        self.deploy(slot, &config, deployment, None).await
    }
}

fn no_candidate(name: &str) -> Refusal {
    conflict(format!("plugin '{name}' has no candidate on this node"))
}
