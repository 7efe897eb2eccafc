//! What a change of the plugins would do to the rooms and members of this node. Changes nothing.

use super::{Rollout, slot::blocking_refusal};
use crate::{
    blocking,
    hub::{CompiledVersion, SurveyJudge, SurveyedMember},
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};
use switchyard_plugin::{PluginConfig, PluginFile, PluginSeries, digest};
use switchyard_process::file::UnusableFile;
use switchyard_protocol::{
    ErrorCode, Refusal,
    room::{RoomPattern, any_governs},
};
use tokio::sync::OwnedSemaphorePermit;

/// Maximum number of rooms and of members in a preview.
const MAX_LISTED: usize = 100;
/// When a preview may be tried again, in milliseconds.
const PREVIEW_RETRY_MS: u64 = 1000;

/// The plugins in the order of precedence, with their rooms.
pub(crate) type RoomTable = Vec<(String, Vec<RoomPattern>)>;

/// Held while a preview is made: one at a time, because it compiles plugins, and lists and judges many members.
pub(super) type PreviewPermit = Arc<OwnedSemaphorePermit>;

/// A change of the plugins.
pub(crate) struct PlannedChange {
    pub before: RoomTable,
    pub after: RoomTable,
    /// Compiled for the preview, for those plugins that are new or have other settings.
    pub versions: HashMap<String, CompiledVersion>,
}

/// What a change would do on this node. Members on other nodes are not counted.
#[derive(Serialize)]
pub(crate) struct ChangePreview {
    /// The address of the node that was asked.
    host: String,
    /// Patterns of rooms that would have no plugin any more.
    ungoverned: Vec<RoomPattern>,
    /// Rooms with members here that would get another plugin, the first 100.
    rooms: Vec<RoomPreview>,
    /// How many such rooms there are.
    room_count: usize,
    /// Their members.
    members: usize,
    /// Members that would be removed, with those whose filter is refused.
    removed: usize,
    /// Members that would be removed, the first 100.
    refused: Vec<RefusedMember>,
    /// Whether all members were listed and judged. Those of large rooms may be too many.
    complete: bool,
}

#[derive(Serialize)]
struct RoomPreview {
    room: String,
    /// The plugin that governs it now.
    from: Option<String>,
    /// The plugin that would govern it.
    to: Option<String>,
    members: usize,
    removed: usize,
}

#[derive(Serialize)]
struct RefusedMember {
    room: String,
    principal: Arc<str>,
    /// As the client wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    filter: Option<Arc<str>>,
    /// Why it would be removed.
    error: Refusal,
}

/// The plugin that governs a room.
fn governor<'a>(table: &'a RoomTable, room: &str) -> Option<&'a str> {
    table.iter().find(|(_, patterns)| any_governs(patterns, room)).map(|(name, _)| name.as_str())
}

impl Rollout {
    /// What a change would do here. Members of rooms whose plugin has other settings are judged, too.
    /// `permit` is held until the end.
    pub(crate) async fn preview(
        &self,
        change: PlannedChange,
        permit: PreviewPermit,
    ) -> Result<ChangePreview, Refusal> {
        let (PlannedChange { before, after, mut versions }, _permit) = (change, permit);
        let tables = Arc::new((before, after));
        let changed: Vec<_> = versions.keys().cloned().collect();
        let (selected, of) = (tables.clone(), changed.clone());
        let selector = move |room: &str| {
            let (before, after) = (governor(&selected.0, room), governor(&selected.1, room));
            before != after || after.is_some_and(|after| of.iter().any(|changed| changed == after))
        };
        let survey = self.hub.survey(Arc::new(selector)).await;
        let (before, after) = &*tables;
        let mut by_governor: BTreeMap<Option<&str>, Vec<SurveyedMember>> = BTreeMap::new();
        for member in survey.members {
            by_governor.entry(governor(after, &member.room)).or_default().push(member);
        }
        let governing = || after.iter().flat_map(|(_, patterns)| patterns);
        let patterns = before.iter().flat_map(|(_, patterns)| patterns);
        let ungoverned = patterns.filter(|pattern| !governing().any(|other| other.covers(pattern)));
        let mut preview = ChangePreview {
            host: self.governance.host().to_owned(),
            ungoverned: ungoverned.cloned().collect(),
            rooms: vec![],
            room_count: 0,
            members: 0,
            removed: 0,
            refused: vec![],
            complete: survey.is_complete,
        };
        let mut rooms: BTreeMap<String, RoomPreview> = BTreeMap::new();
        for (to, members) in by_governor {
            let judge = match to {
                None => Ok(SurveyJudge::Ungoverned(self.ungoverned)),
                Some(name) => self.judge_of(name, &mut versions).await.map(SurveyJudge::Version),
            };
            let (members, judged) = match judge {
                Ok(judge) => blocking::run("judges members", move || {
                    let judged = judge.judge(&members);
                    (members, judged)
                })
                .await
                .map_err(|error| blocking_refusal("judges members", error))?,
                Err(refusal) => {
                    let judged = members.iter().map(|_| Some(Err(refusal.clone()))).collect();
                    (members, judged)
                }
            };
            for (member, judged) in members.into_iter().zip(judged) {
                let name = member.room.to_string();
                let room = rooms.entry(name.clone()).or_insert_with(|| RoomPreview {
                    from: governor(before, &name).map(str::to_owned),
                    to: to.map(str::to_owned),
                    room: name.clone(),
                    members: 0,
                    removed: 0,
                });
                room.members += 1;
                preview.members += 1;
                preview.complete &= judged.is_some();
                let Some(Err(error)) = judged else { continue };
                room.removed += 1;
                preview.removed += 1;
                if preview.refused.len() < MAX_LISTED {
                    let SurveyedMember { connection, filter_text: filter, .. } = member;
                    let principal = connection.principal.clone();
                    preview.refused.push(RefusedMember { room: name, principal, filter, error });
                }
            }
        }
        preview.room_count = rooms.len();
        preview.rooms = rooms.into_values().take(MAX_LISTED).collect();
        Ok(preview)
    }

    /// Refuses if another preview is being made.
    pub(super) fn begin_preview(&self) -> Result<PreviewPermit, Refusal> {
        let message = "another preview is being made; try again";
        let busy = |_| Refusal::retry(ErrorCode::Overloaded, message, PREVIEW_RETRY_MS);
        self.previews.clone().try_acquire_owned().map(Arc::new).map_err(busy)
    }

    /// The version that would decide about the rooms of a plugin, compiled once more, so that nothing that it does
    /// here counts for the active one.
    async fn judge_of(
        &self,
        name: &str,
        versions: &mut HashMap<String, CompiledVersion>,
    ) -> Result<CompiledVersion, Refusal> {
        if let Some(version) = versions.remove(name) {
            return Ok(version);
        }
        let closed = |why: &str| {
            let message = format!("its plugin '{name}' {why}, so the room would be closed");
            Refusal::new(ErrorCode::PluginFailed, message)
        };
        let slot = self.slot(name).map_err(|_| closed("is not on this node"))?;
        let active = slot.plugin().ok_or_else(|| closed("has no active version"))?;
        let config: Arc<PluginConfig> = slot.config.load_full();
        let history = self.registry().history(name).await.map_err(crate::hub::unavailable)?;
        let signature = history.find(&active.info().sha256).and_then(|release| release.signature.clone());
        let plugin = self
            .compiler
            .compile(&config, active.code(), signature.as_deref(), &PluginSeries::default())
            .await?;
        Ok(CompiledVersion { plugin, on_failure: config.on_failure })
    }

    /// What it would do here to make these the plugins of the configuration.
    pub(crate) async fn preview_configuration(
        self: &Arc<Self>,
        configs: &[PluginConfig],
    ) -> Result<ChangePreview, Refusal> {
        let (mut versions, permit) = (HashMap::new(), self.begin_preview()?);
        for config in configs {
            if let Some(version) = self.changed_version(config, &permit).await? {
                versions.insert(config.name().to_owned(), version);
            }
        }
        let (before, after) = self.planned_rooms(configs).await?;
        self.preview(PlannedChange { before, after, versions }, permit).await
    }

    /// The version of a plugin with this configuration, if it is new or has another file or other settings.
    async fn changed_version(
        &self,
        config: &PluginConfig,
        permit: &PreviewPermit,
    ) -> Result<Option<CompiledVersion>, Refusal> {
        let config = Arc::new(config.clone());
        // If the file system does not answer, there are no more previews until it does.
        let (reading, permit) = (config.clone(), permit.clone());
        let read = blocking::run("reads a plugin", move || {
            let _permit = permit;
            reading.read()
        })
        .await;
        let read = read.map_err(|error| blocking_refusal("reads a plugin", error))?;
        let PluginFile { code, signature } = read.map_err(|error| match error {
            UnusableFile::Temporary(why) => Refusal::new(ErrorCode::Overloaded, why),
            UnusableFile::Invalid(why) => Refusal::invalid(why),
        })?;
        let own = self.configured.load().iter().find(|slot| slot.has_name(config.name())).cloned();
        if let Some(own) = own {
            let loaded = own.reload_lock.lock().await.identity.clone();
            let is_same_file = loaded == Some((digest(&code), signature.clone()));
            if is_same_file && own.config.load().has_same_runtime_settings(&config) {
                return Ok(None);
            }
        }
        let plugin =
            self.compiler.compile(&config, &code, signature.as_deref(), &PluginSeries::default()).await?;
        Ok(Some(CompiledVersion { plugin, on_failure: config.on_failure }))
    }
}
