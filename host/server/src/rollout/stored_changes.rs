//! What operators do to the plugins of the store: adding, configuring and removing them for all nodes. How a record
//! becomes plugins of this node is in `stored_plugins.rs`.

use super::{
    ChangePreview, MAX_CHANGE_ATTEMPTS, PlannedChange, Rollout,
    record_changes::{EFFECT_POLL_INTERVAL, EFFECT_TIMEOUT, rooms_of, slot_conflict, still_changing},
    slot::PluginSlot,
    staged_versions::StagedVersion,
};
use crate::{
    audit::{Actor, AuditAction, AuditEvent},
    hub::{CompiledVersion, conflict, stopping, unavailable},
};
use serde_json::{Map, Value};
use std::{collections::HashMap, sync::Arc, time::Duration};
use switchyard_plugin::{Plugin, PluginConfig, PluginSeries, digest};
use switchyard_protocol::{ErrorCode, Refusal, room::RoomPattern, unix_ms};
use switchyard_store::{
    ActivationSource, Governance, GovernedSlot, HistoryChange, MAX_SETTINGS_BYTES, Release, RemovedValues,
    StoredSettings, VersionHistory,
};
use tokio::time::{Instant, timeout};

/// How long a removal waits for all nodes before it leaves the versions in the store.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(600);

/// What an operator wants a plugin of the store to be.
#[derive(Clone)]
pub(crate) struct SlotChange {
    pub name: String,
    pub rooms: Vec<RoomPattern>,
    /// The plugin that it precedes.
    pub before: Option<String>,
    /// The keys of a `[[plugin]]`, without name, file and rooms.
    pub settings: Map<String, Value>,
    /// The revision of the settings that the operator has seen. `None`: those of the moment.
    pub revision: Option<u64>,
    /// Whether rooms may be left without a plugin and open.
    pub opens_rooms: bool,
    /// Whether rooms that change their plugin lose their history.
    pub clears_history: bool,
    pub by: Actor,
}

/// A plugin that an operator wants to remove.
pub(crate) struct SlotRemoval {
    pub name: String,
    /// Whether rooms may be left without a plugin and open.
    pub opens_rooms: bool,
    /// Whether rooms that change their plugin lose their history.
    pub clears_history: bool,
    pub by: Actor,
}

/// The version with which a changed slot starts.
struct ChangedVersion {
    plugin: Arc<Plugin>,
    /// `None` if the store has it already.
    staged: Option<StagedVersion>,
}

/// Why a plugin cannot be added to the memory store.
pub(crate) const NO_SHARED_STORE: &str = "this node keeps everything in its own memory, so after a restart it would have forgotten the plugin, and its rooms \
     would be open: put the plugin into the configuration file and reload it";

impl Rollout {
    /// The rooms and settings of a plugin of the store, as operators have set them.
    pub(crate) fn stored_settings(&self, name: &str) -> Option<(Vec<RoomPattern>, StoredSettings)> {
        let record = self.governance.record();
        let slot = record.slots.iter().find(|slot| slot.name == name)?;
        Some((slot.rooms.clone(), slot.stored.clone()?))
    }

    /// Adds a plugin for all nodes, or changes its rooms and its settings. Returns when all nodes have done their
    /// part. If the caller goes away, the change goes on.
    pub(crate) async fn change_slot(
        self: &Arc<Self>,
        change: SlotChange,
    ) -> Result<Arc<PluginSlot>, Refusal> {
        let rollout = self.clone();
        tokio::spawn(async move { rollout.try_change_slot(change).await }).await.map_err(|_| stopping())?
    }

    /// What a change would do on this node.
    pub(crate) async fn preview_slot_change(
        self: &Arc<Self>,
        change: SlotChange,
    ) -> Result<ChangePreview, Refusal> {
        self.require_shared_store()?;
        let permit = self.begin_preview()?;
        let change = SlotChange { opens_rooms: true, ..change };
        let record = self.settled_record_of_store().await?;
        let known = record.slots.iter().find(|slot| slot.name == change.name);
        let seen = change.revision.or_else(|| Some(known?.stored.as_ref()?.revision));
        let config = Arc::new(self.parse_change(&change)?);
        let next = self.changed_record(&record, &change, seen, None).await?;
        let ChangedVersion { plugin, .. } = self.version_of_change(&config, known).await?;
        let version = CompiledVersion { plugin, on_failure: config.on_failure };
        let versions = HashMap::from([(change.name, version)]);
        let (before, after) = (rooms_of(&record), rooms_of(&next));
        self.preview(PlannedChange { before, after, versions }, permit).await
    }

    /// What removing a plugin would do on this node.
    pub(crate) async fn preview_removal(self: &Arc<Self>, name: &str) -> Result<ChangePreview, Refusal> {
        let permit = self.begin_preview()?;
        let record = self.settled_record_of_store().await?;
        let (live, _) = self.live_nodes().await.map_err(unavailable)?;
        let next = record.remove(name, &live).map_err(slot_conflict)?;
        let (before, after) = (rooms_of(&record), rooms_of(&next));
        self.preview(PlannedChange { before, after, versions: HashMap::new() }, permit).await
    }

    async fn try_change_slot(self: Arc<Self>, change: SlotChange) -> Result<Arc<PluginSlot>, Refusal> {
        self.require_shared_store()?;
        let record = self.settled_record(0).await?;
        let known = record.slots.iter().find(|slot| slot.name == change.name);
        let seen = change.revision.or_else(|| Some(known?.stored.as_ref()?.revision));
        let config = Arc::new(self.parse_change(&change)?);
        // So that obvious mistakes are reported before anything is compiled or stored.
        self.changed_record(&record, &change, seen, None).await?;
        let version = self.version_of_change(&config, known).await?;
        let revision = match &version.staged {
            None => self.record_change(&change, seen, None).await?,
            Some(staged) => {
                let token = self.reserve(&change.name, change.by.principal_name()).await?;
                let recorded = async {
                    self.store_version(&change, &version.plugin, staged).await?;
                    self.record_change(&change, seen, Some(token)).await
                };
                match recorded.await {
                    Ok(revision) => revision,
                    Err(refusal) => {
                        self.give_up_adding(&change.name, token).await;
                        return Err(refusal);
                    }
                }
            }
        };
        if let Some(staged) = &version.staged {
            self.staged.forget(&change.name, &staged.code);
        }
        let action =
            if version.staged.is_some() { AuditAction::PluginAdd } else { AuditAction::PluginConfigure };
        let event = AuditEvent::new(change.by.clone(), action, &change.name);
        let event = event.digest(&version.plugin.info().sha256).detail("config", config.digest());
        self.hub.audit.record(&event.detail("revision", revision));
        self.applied_record(revision).await?;
        self.slot(&change.name)
    }

    /// Removes a plugin, with its versions, for all nodes. Returns when all nodes have done their part. If the
    /// caller goes away, or that takes too long, the change goes on.
    pub(crate) async fn remove_plugin(
        self: &Arc<Self>,
        removal: SlotRemoval,
    ) -> Result<RemovedValues, Refusal> {
        let rollout = self.clone();
        let removed = tokio::spawn(async move { rollout.try_remove_plugin(removal).await });
        match timeout(EFFECT_TIMEOUT, removed).await {
            Ok(removed) => removed.map_err(|_| stopping())?,
            Err(_) => Err(still_changing()),
        }
    }

    async fn try_remove_plugin(self: Arc<Self>, removal: SlotRemoval) -> Result<RemovedValues, Refusal> {
        let SlotRemoval { name, opens_rooms, clears_history, by } = &removal;
        let revision = loop {
            let record = self.settled_record_of_store().await?;
            let (live, _) = self.live_nodes().await.map_err(unavailable)?;
            let mut next = record.remove(name, &live).map_err(slot_conflict)?;
            if *clears_history {
                next = next.clearing_history(self.governance.node());
            }
            self.check_opened_rooms(&record, &next, *opens_rooms).await?;
            if self.replace_record(&record, &next).await? {
                break next.revision;
            }
        };
        let event = AuditEvent::new(by.clone(), AuditAction::PluginRemove, name);
        self.hub.audit.record(&event.detail("revision", revision));
        // Its versions are deleted when no node runs them any more. If that takes too long, they stay until a plugin of
        // this name is added.
        let until = Instant::now() + REMOVAL_TIMEOUT;
        while let Err(refusal) = self.applied_record(revision).await {
            if Instant::now() >= until {
                tracing::warn!(
                    plugin = name,
                    "the versions of a removed plugin were not deleted: {}",
                    refusal.message
                );
                return Err(refusal);
            }
            tokio::time::sleep(EFFECT_POLL_INTERVAL).await;
        }
        // Another plugin of this name may have been added since. It keeps its versions.
        let token = match self.reserve(name, by.principal_name()).await {
            Ok(token) => token,
            Err(refusal) if refusal.code == ErrorCode::Conflict => return Ok(RemovedValues::default()),
            Err(refusal) => return Err(refusal),
        };
        // A node that still has the plugin would write its shared values again.
        let until = Instant::now() + EFFECT_TIMEOUT;
        while self.is_reported(name).await.map_err(unavailable)? && Instant::now() < until {
            tokio::time::sleep(EFFECT_POLL_INTERVAL).await;
        }
        let removed = self.remove_shared_values(name).await?;
        self.forget_versions(name, token).await?;
        Ok(removed)
    }

    pub(super) fn require_shared_store(&self) -> Result<(), Refusal> {
        match self.hub.store.remote {
            Some(_) => Ok(()),
            None => Err(conflict(NO_SHARED_STORE.to_owned())),
        }
    }

    pub(super) fn parse_change(&self, change: &SlotChange) -> Result<PluginConfig, Refusal> {
        let size =
            serde_json::to_string(&(&change.settings, &change.rooms)).map_or(usize::MAX, |json| json.len());
        if size > MAX_SETTINGS_BYTES {
            let message = format!(
                "the settings of plugin '{}' have {size} bytes; at most {MAX_SETTINGS_BYTES} are allowed",
                change.name
            );
            return Err(Refusal::new(ErrorCode::InvalidRequest, message));
        }
        let trust = self.trust.load_full();
        (self.parse_settings)(&change.name, &change.rooms, &change.settings, &trust).map_err(Refusal::invalid)
    }

    /// The record after this change.
    async fn changed_record(
        &self,
        record: &Governance,
        change: &SlotChange,
        seen: Option<u64>,
        token: Option<u64>,
    ) -> Result<Governance, Refusal> {
        let stored = StoredSettings {
            settings: change.settings.clone(),
            before: change.before.clone(),
            revision: 0,
            by: change.by.principal_name().to_owned(),
            at: unix_ms(),
        };
        let (live, _) = self.live_nodes().await.map_err(unavailable)?;
        let next = record
            .put_stored(&change.name, &change.rooms, stored, seen, token, &live)
            .map_err(slot_conflict)?;
        self.check_opened_rooms(record, &next, change.opens_rooms).await?;
        Ok(if change.clears_history { next.clearing_history(self.governance.node()) } else { next })
    }

    /// Records this change. Returns the revision.
    async fn record_change(
        &self,
        change: &SlotChange,
        seen: Option<u64>,
        token: Option<u64>,
    ) -> Result<u64, Refusal> {
        loop {
            let record = self.settled_record_of_store().await?;
            let next = self.changed_record(&record, change, seen, token).await?;
            if self.replace_record(&record, &next).await? {
                return Ok(next.revision);
            }
        }
    }

    /// Compiles the version with which the slot will run, with its settings: the staged one, or else the one that
    /// is active.
    async fn version_of_change(
        &self,
        config: &Arc<PluginConfig>,
        known: Option<&GovernedSlot>,
    ) -> Result<ChangedVersion, Refusal> {
        let name = config.name();
        // A plugin that is there already gets versions by loading them. Those that are stored under the name of another
        // one may be about to be deleted.
        if known.is_none() {
            let staged = self.staged_code(name)?;
            let plugin = self
                .compiler
                .compile(config, &staged.code, staged.signature.as_deref(), &PluginSeries::default())
                .await?;
            return Ok(ChangedVersion { plugin, staged: Some(staged) });
        }
        let history = self.registry().history(name).await.map_err(unavailable)?;
        let code = match history.generation {
            0 => None,
            _ => self.registry().code(name, &history.current).await.map_err(unavailable)?,
        };
        let none =
            || conflict(format!("plugin '{name}' has no code: send it with PUT /v1/plugins/{name} first"));
        let code = code.filter(|code| digest(code) == history.current).ok_or_else(none)?;
        let signature = history.active().and_then(|release| release.signature.clone());
        let plugin =
            self.compiler.compile(config, &code, signature.as_deref(), &PluginSeries::default()).await?;
        Ok(ChangedVersion { plugin, staged: None })
    }

    /// Stores a staged version as the active one. Its plugin governs nothing yet.
    async fn store_version(
        &self,
        change: &SlotChange,
        plugin: &Plugin,
        staged: &StagedVersion,
    ) -> Result<(), Refusal> {
        let release = Release {
            sha256: plugin.info().sha256.clone(),
            version: plugin.info().version.clone(),
            signature: staged.signature.clone(),
            source: ActivationSource::Load,
            by: change.by.principal().map(ToString::to_string),
            at: unix_ms(),
            withdrawn: None,
            rolled_back_by: None,
        };
        for _ in 0..MAX_CHANGE_ATTEMPTS {
            let history: VersionHistory = self.registry().history(&change.name).await.map_err(unavailable)?;
            let (next, dropped) = history.activate(release.clone());
            let changed = HistoryChange { history: &next, code: Some(&staged.code), dropped: &dropped };
            if self.registry().change(&change.name, changed).await.map_err(unavailable)? {
                return Ok(());
            }
        }
        Err(conflict(format!("the versions of plugin '{}' keep changing", change.name)))
    }

    /// Takes back what was stored for a plugin that could not be added. If the store does not answer, the
    /// reservation ends by itself, and the code is replaced when a plugin of this name is added.
    async fn give_up_adding(&self, name: &str, token: u64) {
        if let Err(refusal) = self.forget_versions(name, token).await {
            tracing::warn!(
                plugin = name,
                "a plugin that was not added is still reserved: {}",
                refusal.message
            );
        }
    }
}
