//! Deploying a version: verify, compile, activate on this node, and record in the store, from which other
//! nodes follow. A version that cannot be activated changes nothing. Other ways to activate a version are in
//! `rollback.rs`, `follow.rs` and `start.rs`.

use super::{
    MAX_CHANGE_ATTEMPTS, Rollout,
    activity::{LoadResult, LoadSource, is_temporary},
    audit,
    slot::{ActiveVersion, PluginSlot},
};
use crate::{
    audit::{Actor, AuditAction},
    hub::{conflict, stopping, unavailable},
};
use bytes::Bytes;
use std::{sync::Arc, time::Duration};
use switchyard_plugin::{Plugin, PluginConfig, PluginFile, digest};
use switchyard_process::log::AUDIT_TARGET;
use switchyard_protocol::{Refusal, unix_ms};
use switchyard_store::{ActivationSource, HistoryChange, Release, Unavailable, VersionHistory};

/// How long reading the file of a plugin may take.
pub(super) const FILE_READ_TIMEOUT: Duration = Duration::from_secs(30);

/// A version to deploy.
#[derive(Clone)]
pub(crate) struct Deployment {
    pub code: Bytes,
    pub signature: Option<String>,
    pub source: ActivationSource,
    /// Who deploys it.
    pub by: Actor,
}

impl Deployment {
    pub(super) fn of_file(file: PluginFile) -> Self {
        Self { code: file.code, signature: file.signature, source: ActivationSource::File, by: Actor::Config }
    }
}

impl Rollout {
    /// Deploys code that an operator sent, on all nodes.
    pub(crate) async fn load(
        self: &Arc<Self>,
        name: &str,
        deployment: Deployment,
    ) -> Result<Arc<PluginSlot>, Refusal> {
        let slot = self.slot(name)?;
        self.check_name(&slot)?;
        self.deploy_code(&slot, deployment).await?;
        Ok(slot)
    }

    async fn deploy_code(
        self: &Arc<Self>,
        slot: &Arc<PluginSlot>,
        deployment: Deployment,
    ) -> Result<(), Refusal> {
        let _deploying = slot.deploy_lock.lock().await;
        let config = slot.config.load_full();
        self.deploy(slot, &config, deployment, None).await
    }

    /// Applies a plugin's configuration, except for its rooms, and deploys its file, if either has changed. If
    /// the file cannot be read, that is an error, but the configuration is applied nevertheless.
    pub(crate) async fn reload(
        self: &Arc<Self>,
        slot: &Arc<PluginSlot>,
        config: PluginConfig,
    ) -> Result<(), Refusal> {
        slot.set_trust(&config.trust);
        let config = Arc::new(config);
        if config.file.is_none() {
            let _deploying = slot.deploy_lock.lock().await;
            self.restart(slot, &config).await?;
            slot.store_config(&config);
            return Ok(());
        }
        self.check_name(slot)?;
        let read = slot.read_file(&config, FILE_READ_TIMEOUT).await;
        let mut loaded = slot.reload_lock.lock().await;
        let _deploying = slot.deploy_lock.lock().await;
        let identity = read.as_ref().ok().map(|file| (digest(&file.code), file.signature.clone()));
        let has_active = slot.plugin().is_some();
        match (read, has_active) {
            (Ok(file), _) if identity != loaded.identity => {
                loaded.identity = identity;
                let deployed = self.deploy(slot, &config, Deployment::of_file(file), None).await;
                // The next attempt may succeed: when the store answers, or the signature is there.
                if deployed.is_err() {
                    loaded.identity = None;
                }
                deployed?;
            }
            (Err(refusal), false) => {
                slot.store_config(&config);
                slot.activity.record_load(LoadSource::File, &Err(refusal.clone()));
                return Err(refusal);
            }
            (read, true) => {
                self.restart(slot, &config).await?;
                // A version that another node deployed runs here even if this node's file is missing.
                if let Err(refusal) = read {
                    slot.store_config(&config);
                    return Err(refusal);
                }
            }
            (Ok(_), false) => {}
        }
        slot.store_config(&config);
        Ok(())
    }

    /// Restarts the active version with another configuration, on this node only.
    async fn restart(
        self: &Arc<Self>,
        slot: &Arc<PluginSlot>,
        config: &Arc<PluginConfig>,
    ) -> Result<(), Refusal> {
        let outdated = || {
            let state = slot.state();
            let active = state.active.as_ref();
            active
                .filter(|active| !active.config.has_same_runtime_settings(config))
                .map(|active| active.sha256().to_owned())
        };
        while let Some(sha256) = outdated() {
            let restarted = async {
                let plugin = self.load_stored(slot, config, &sha256).await?;
                let _activating = slot.rollout_lock.lock().await;
                // Another version may have been activated during the compilation.
                if outdated().is_some_and(|active| active == sha256) {
                    let version = ActiveVersion { plugin: plugin.clone(), config: config.clone() };
                    let previous = self.activate(slot, version, true).await?;
                    slot.store_config(config);
                    audit::log_config_change(&self.hub.audit, previous.as_ref(), &plugin);
                }
                Ok(LoadResult::Active)
            };
            let restarted: Result<_, Refusal> = restarted.await;
            slot.finish_loading(&sha256, &restarted);
            slot.activity.record_load(LoadSource::Config, &restarted);
            if let Err(refusal) = &restarted
                && !is_temporary(refusal)
            {
                let audit = &self.hub.audit;
                audit::log_failed_load(audit, config, &sha256, LoadSource::Config, &Actor::Config, refusal);
            }
            restarted?;
        }
        Ok(())
    }

    /// Verifies, compiles, activates and records a version. `seen` is the history by which the caller
    /// decided, if it read one.
    pub(super) async fn deploy(
        self: &Arc<Self>,
        slot: &Arc<PluginSlot>,
        config: &Arc<PluginConfig>,
        deployment: Deployment,
        seen: Option<VersionHistory>,
    ) -> Result<(), Refusal> {
        let sha256 = digest(&deployment.code);
        let _loading = slot.begin_loading(&sha256);
        let (source, by) = (LoadSource::from(deployment.source), deployment.by.clone());
        let mut deployed = self.try_deploy(slot, config, &sha256, deployment, seen).await;
        if let (Err(refusal), LoadSource::File, Some(file)) = (&mut deployed, source, &config.file) {
            refusal.message += &format!(" ({})", file.display());
        }
        slot.finish_loading(&sha256, &deployed);
        // A file that cannot be deployed is read again and again.
        if let (Err(refusal), Actor::Caller { .. }) = (&deployed, &by) {
            audit::log_failed_load(&self.hub.audit, config, &sha256, source, &by, refusal);
        }
        slot.activity.record_load(source, &deployed);
        deployed.map(drop)
    }

    async fn try_deploy(
        self: &Arc<Self>,
        slot: &Arc<PluginSlot>,
        config: &Arc<PluginConfig>,
        sha256: &str,
        deployment: Deployment,
        seen: Option<VersionHistory>,
    ) -> Result<LoadResult, Refusal> {
        let (name, signature) = (config.name(), deployment.signature.as_deref());
        // This comes before everything else, also for a version that is still compiled here.
        let signed_by = config
            .trust
            .verify(name, &deployment.code, signature)
            .map_err(|error| Refusal::invalid(error.to_string()))?;
        let has_same_signer = |plugin: &Arc<Plugin>| plugin.info().signed_by == signed_by;
        // Read before the compilation, which would be wasted if the store did not answer.
        let history = self.registry().history(name).await.map_err(unavailable)?;
        if slot.is_active(sha256, config)
            && slot.plugin().is_some_and(|plugin| has_same_signer(&plugin))
            && history.current == sha256
        {
            return Ok(LoadResult::Unchanged);
        }
        let plugin = match slot.earlier(sha256, config).filter(has_same_signer) {
            Some(plugin) => plugin,
            None => self.compiler.compile(config, &deployment.code, signature, &slot.series).await?,
        };
        let (rollout, slot, config) = (self.clone(), slot.clone(), config.clone());
        // On a task of its own: if the caller goes away, this must not stop halfway.
        let rolled_out = tokio::spawn(async move {
            rollout.roll_out(&slot, &config, plugin, deployment, &seen.unwrap_or(history)).await
        });
        rolled_out.await.unwrap_or_else(|_| Err(stopping())).map(|()| LoadResult::Active)
    }

    /// Activates a compiled version on this node and records it in the store. `seen` is the history from
    /// before it was compiled.
    async fn roll_out(
        self: &Arc<Self>,
        slot: &Arc<PluginSlot>,
        config: &Arc<PluginConfig>,
        plugin: Arc<Plugin>,
        deployment: Deployment,
        seen: &VersionHistory,
    ) -> Result<(), Refusal> {
        let _activating = slot.rollout_lock.lock().await;
        // Ensures that the store answers, so that the activation rarely has to be reverted.
        self.registry().history(config.name()).await.map_err(unavailable)?;
        let version = ActiveVersion { plugin: plugin.clone(), config: config.clone() };
        let previous = self.activate(slot, version, true).await?;
        slot.store_config(config);
        match self.record(slot, &plugin, &deployment, seen).await {
            Ok(Some(history)) => slot.state().history = history,
            // The version that is active on other nodes is followed next.
            Ok(None) => return Ok(()),
            Err(error) => {
                self.revert(slot, previous).await;
                return Err(unavailable(error));
            }
        }
        audit::log_activation(&self.hub.audit, &plugin, deployment.source.into(), &deployment.by);
        let (package, before) = (&plugin.info().package, previous.map(|p| p.plugin.info().package.clone()));
        if let Some(before) = before.filter(|before| before != package) {
            tracing::warn!(
                target: AUDIT_TARGET,
                plugin = config.name(),
                "the plugin now calls itself '{package}' instead of '{before}': is this the right file?"
            );
        }
        Ok(())
    }

    /// Records a version as the active one of all nodes; the last one recorded wins. `None`: it comes from a
    /// file that is not new after all. The store had lost the history when `seen` was read, and other nodes
    /// have restored it since.
    async fn record(
        &self,
        slot: &PluginSlot,
        plugin: &Plugin,
        deployment: &Deployment,
        seen: &VersionHistory,
    ) -> Result<Option<VersionHistory>, Unavailable> {
        let release = Release {
            sha256: plugin.info().sha256.clone(),
            version: plugin.info().version.clone(),
            signature: deployment.signature.clone(),
            source: deployment.source,
            by: deployment.by.principal().map(ToString::to_string),
            at: unix_ms(),
            withdrawn: None,
            rolled_back_by: None,
        };
        let (name, known) = (&slot.name(), slot.state().history.clone());
        for _ in 0..MAX_CHANGE_ATTEMPTS {
            let history = self.registry().history(name).await?;
            // If the store lost the history, its generations would start over, and other nodes would not
            // follow.
            if history.generation < known.generation {
                self.restore(slot, &known).await?;
                continue;
            }
            let has_signature =
                |stored: &Release| release.signature.is_none() || stored.signature == release.signature;
            if history.current == release.sha256 && history.active().is_some_and(has_signature) {
                return Ok(Some(history));
            }
            if release.source == ActivationSource::File
                && history != *seen
                && history.has_seen(&release.sha256)
            {
                return Ok(None);
            }
            let (next, dropped) = history.activate(release.clone());
            let change = HistoryChange { history: &next, code: Some(&deployment.code), dropped: &dropped };
            if self.registry().change(name, change).await? {
                return Ok(Some(next));
            }
        }
        Err(Unavailable(format!("the versions of plugin '{name}' keep changing")))
    }

    /// A version that was deployed before: still compiled here, or compiled from the code in the store.
    pub(super) async fn load_stored(
        &self,
        slot: &PluginSlot,
        config: &Arc<PluginConfig>,
        sha256: &str,
    ) -> Result<Arc<Plugin>, Refusal> {
        let name = config.name();
        if let Some(plugin) = slot.earlier(sha256, config) {
            config
                .trust
                .admit(name, plugin.info().signed_by.as_deref())
                .map_err(|error| conflict(error.to_string()))?;
            return Ok(plugin);
        }
        let history = self.registry().history(name).await.map_err(unavailable)?;
        let signature = history.find(sha256).and_then(|release| release.signature.clone());
        let code = self.registry().code(name, sha256).await.map_err(unavailable)?;
        let gone = || {
            conflict(format!(
                "the code of version {sha256} of plugin '{name}' is not stored any more: load it again"
            ))
        };
        let code = code.filter(|code| digest(code) == sha256).ok_or_else(gone)?;
        self.compiler.compile(config, &code, signature.as_deref(), &slot.series).await
    }

    /// Activates a version on this node, between two messages, and returns the one before. With
    /// `on_probation` it is watched, and rolled back if it is quarantined. The caller holds the slot's
    /// `rollout_lock`.
    pub(super) async fn activate(
        self: &Arc<Self>,
        slot: &Arc<PluginSlot>,
        version: ActiveVersion,
        on_probation: bool,
    ) -> Result<Option<ActiveVersion>, Refusal> {
        // The trusted keys may have changed since the version was verified, which is before its compilation.
        let trust = slot.config.load().trust.clone();
        trust
            .admit(&slot.name(), version.plugin.info().signed_by.as_deref())
            .map_err(|error| Refusal::invalid(error.to_string()))?;
        self.activate_admitted(slot, version, on_probation).await
    }

    async fn activate_admitted(
        self: &Arc<Self>,
        slot: &Arc<PluginSlot>,
        version: ActiveVersion,
        on_probation: bool,
    ) -> Result<Option<ActiveVersion>, Refusal> {
        let previous = slot.state().active.clone();
        // From before the activation, so that no quarantine is missed.
        let quarantines = version.plugin.stats().watch_quarantines();
        self.hub.swap(slot.id, version.compiled()).await?;
        let (state, config) = (version.plugin.state(), &version.config);
        state.set_budget(config.budget.state);
        state.set_shared(self.shared_state.is_shared(config.state));
        let watched = previous.clone().filter(|_| on_probation && !version.config.probation.is_zero());
        let probation = watched.map(|previous| self.watch(slot, &version, previous, quarantines));
        let candidate = slot.state().set_active(version, probation);
        if let Some(candidate) = candidate {
            let ended = candidate.shadow.plugin();
            audit::log_candidate(&self.hub.audit, AuditAction::CandidateDrop, ended, &Actor::Node);
        }
        Ok(previous)
    }

    /// Activates the previous version again because the new one could not be recorded. If there was none, the
    /// new one stays.
    pub(super) async fn revert(self: &Arc<Self>, slot: &Arc<PluginSlot>, previous: Option<ActiveVersion>) {
        let Some(previous) = previous else { return };
        if let Err(error) = self.activate_admitted(slot, previous, false).await {
            tracing::error!(
                plugin = slot.name(),
                error = error.message,
                "the previous version cannot be activated again"
            );
        }
    }
}
