//! Candidates: a version that runs in the shadow of the active one, on this node's traffic and without
//! effect.

use super::{
    Rollout,
    activity::{LoadResult, LoadSource},
    audit,
    deploy::Deployment,
    slot::{Candidate, PluginSlot},
};
use crate::{
    audit::{Actor, AuditAction},
    hub::{cannot_start_thread, conflict},
};
use bytes::Bytes;
use std::sync::Arc;
use switchyard_plugin::{Plugin, Shadow, digest};
use switchyard_protocol::{Refusal, unix_ms};
use switchyard_store::ActivationSource;

impl Rollout {
    /// Starts a candidate, replacing the one before. It ends when another version is activated. `by`
    /// asks for it.
    pub(crate) async fn start_shadow(
        &self,
        name: &str,
        code: Bytes,
        signature: Option<String>,
        by: &Actor,
    ) -> Result<Arc<PluginSlot>, Refusal> {
        let slot = self.slot(name)?;
        let sha256 = digest(&code);
        let started = self.start_candidate(&slot, code, signature).await;
        let outcome = started.as_ref().map(|_| LoadResult::Active).map_err(Refusal::clone);
        slot.activity.record_load(LoadSource::Shadow, &outcome);
        let audit = &self.hub.audit;
        match &started {
            Ok(candidate) => audit::log_candidate(audit, AuditAction::CandidateStart, candidate, by),
            Err(refusal) => {
                let config = slot.config();
                audit::log_failed_load(audit, &config, &sha256, LoadSource::Shadow, by, refusal);
            }
        }
        started.map(|_| slot)
    }

    async fn start_candidate(
        &self,
        slot: &PluginSlot,
        code: Bytes,
        signature: Option<String>,
    ) -> Result<Arc<Plugin>, Refusal> {
        let _deploying = slot.deploy_lock.lock().await;
        if slot.plugin().is_none() {
            let name = slot.name();
            let message =
                format!("plugin '{name}' has no active version to compare a candidate with: load one");
            return Err(conflict(message));
        }
        let config = slot.config.load_full();
        let signed = signature.as_deref();
        let plugin = self.compiler.compile_candidate(&config, &code, signed, &slot.series).await?;
        let _activating = slot.rollout_lock.lock().await;
        let shadow = Shadow::start(plugin.clone(), self.copy_budget.clone())
            .map_err(|error| cannot_start_thread("of a candidate", error))?;
        self.hub.set_mirror(slot.id, Some(shadow.mirror()));
        slot.state().candidate = Some(Candidate { shadow, code, signature, since: unix_ms() });
        Ok(plugin)
    }

    /// Ends the candidate. `by` asks for it.
    pub(crate) async fn stop_shadow(&self, name: &str, by: &Actor) -> Result<Arc<PluginSlot>, Refusal> {
        let slot = self.slot(name)?;
        {
            let _activating = slot.rollout_lock.lock().await;
            let candidate = slot.state().candidate.take().ok_or_else(|| no_candidate(name))?;
            self.hub.set_mirror(slot.id, None);
            let dropped = candidate.shadow.plugin();
            audit::log_candidate(&self.hub.audit, AuditAction::CandidateDrop, dropped, by);
        }
        Ok(slot)
    }

    /// Deploys the candidate, on all nodes. If its plugin has not been added yet, adds it. `by` asks for it.
    pub(crate) async fn promote(
        self: &Arc<Self>,
        name: &str,
        by: &Actor,
    ) -> Result<Arc<PluginSlot>, Refusal> {
        if let Some(added) = self.add_new_candidate(name, by).await {
            return added;
        }
        let slot = self.slot(name)?;
        self.deploy_candidate(&slot, by).await?;
        Ok(slot)
    }

    async fn deploy_candidate(self: &Arc<Self>, slot: &Arc<PluginSlot>, by: &Actor) -> Result<(), Refusal> {
        let _deploying = slot.deploy_lock.lock().await;
        let deployment = slot.state().candidate.as_ref().map(|candidate| Deployment {
            code: candidate.code.clone(),
            signature: candidate.signature.clone(),
            source: ActivationSource::Promotion,
            by: by.clone(),
        });
        let deployment = deployment.ok_or_else(|| no_candidate(&slot.name()))?;
        let config = slot.config.load_full();
        self.deploy(slot, &config, deployment, None).await
    }
}

fn no_candidate(name: &str) -> Refusal {
    conflict(format!("plugin '{name}' has no candidate on this node"))
}
