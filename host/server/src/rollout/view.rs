//! What operators and other nodes see of a plugin. Changes nothing.

use super::slot::{Candidate, PluginSlot, SlotState};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Instant};
use switchyard_plugin::{ComparisonReport, PluginInfo, PluginStatus, State};
use switchyard_protocol::{room::RoomPattern, unix_ms};
use switchyard_store::ActivationSource;

/// The state of one version, or of the plugin as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub(crate) enum PluginState {
    /// It is being compiled and started; the active version stays active until it is ready.
    Loading,
    Active,
    /// It is active, and will be withdrawn if it fails repeatedly within that time.
    Probation {
        /// `None` in a report to other nodes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ends_in_ms: Option<u64>,
    },
    /// It failed too often; calls are refused until the next one is made on trial.
    Quarantined {
        /// `None` in a report to other nodes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_in_ms: Option<u64>,
        reason: String,
    },
    /// It could not be loaded, or was withdrawn.
    Failed {
        reason: String,
    },
    /// It was active before, and a rollback to it is possible.
    Kept,
}

impl PluginState {
    /// The states of a plugin as a whole.
    pub(crate) const ALL: [&'static str; 5] = ["loading", "active", "probation", "quarantined", "failed"];

    pub(crate) const fn name(&self) -> &'static str {
        match self {
            PluginState::Loading => "loading",
            PluginState::Active => "active",
            PluginState::Probation { .. } => "probation",
            PluginState::Quarantined { .. } => "quarantined",
            PluginState::Failed { .. } => "failed",
            PluginState::Kept => "kept",
        }
    }
}

/// A plugin on this node, for operators.
#[derive(Serialize)]
pub(crate) struct PluginView {
    pub name: String,
    pub rooms: Vec<RoomPattern>,
    #[serde(flatten)]
    pub state: PluginState,
    /// Increases whenever another version is activated, on any node.
    pub generation: u64,
    #[serde(flatten)]
    pub active: Option<ActiveView>,
    /// Identifies the settings with which the active version runs, or would run: `config`, `headers`, `state`,
    /// `budget` and `on_failure`.
    pub config_digest: String,
    /// Why the active version could not be restarted with a changed configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_refused: Option<String>,
    /// The version that was loaded last comes first.
    pub versions: Vec<VersionView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow: Option<CandidateView>,
}

/// The active version.
#[derive(Serialize)]
pub(crate) struct ActiveView {
    pub plugin: PluginInfo,
    #[serde(flatten)]
    pub status: PluginStatus,
}

/// A version that is active, was active, or could not be activated.
#[derive(Serialize)]
pub(crate) struct VersionView {
    sha256: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(flatten)]
    state: PluginState,
    #[serde(rename = "how", skip_serializing_if = "Option::is_none")]
    source: Option<ActivationSource>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    /// Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<u64>,
    /// The principal that rolled it back, if one did: a rollback passes over it.
    #[serde(skip_serializing_if = "Option::is_none")]
    rolled_back_by: Option<String>,
}

/// A candidate, compared with the active version.
#[derive(Serialize)]
pub(crate) struct CandidateView {
    sha256: String,
    version: String,
    config_digest: String,
    /// Unix milliseconds.
    since: u64,
    #[serde(flatten)]
    report: ComparisonReport,
    status: PluginStatus,
}

/// What a node reports about its plugins to all other nodes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NodeReport {
    /// The address of its admin listener.
    pub host: String,
    /// Identifies the process. Earlier releases do not report it.
    #[serde(default)]
    pub instance: String,
    /// The record of governance of which the node has done its part.
    #[serde(default)]
    pub governance: u64,
    /// Whether rooms without a plugin are open there. Earlier releases do not report it.
    #[serde(default)]
    pub opens_ungoverned: bool,
    pub plugins: BTreeMap<String, PluginReport>,
}

/// What a node reports about one plugin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PluginReport {
    pub sha256: Option<String>,
    pub version: Option<String>,
    pub generation: u64,
    /// Identifies the settings with which the version runs. Earlier releases do not report it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_digest: Option<String>,
    #[serde(flatten)]
    pub state: PluginState,
    /// Why the node does not run the version that is active on other nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<String>,
}

/// A version that could not be activated, or was withdrawn.
#[derive(Clone)]
pub(super) struct FailedVersion {
    /// `None` if the file could not be read.
    pub sha256: Option<String>,
    pub reason: String,
    /// Unix milliseconds.
    pub at: u64,
}

impl FailedVersion {
    pub(super) fn now(sha256: Option<&str>, reason: &str) -> Self {
        Self { sha256: sha256.map(str::to_owned), reason: reason.to_owned(), at: unix_ms() }
    }
}

impl PluginSlot {
    pub(crate) fn view(&self) -> PluginView {
        let state = self.state();
        let active = state.active.as_ref().map(|active| ActiveView {
            plugin: active.plugin.info().clone(),
            status: active.plugin.stats().status(),
        });
        PluginView {
            name: self.name(),
            rooms: self.config.load().rooms.clone(),
            state: state.plugin_state(),
            generation: state.history.generation,
            config_digest: state.config_digest().unwrap_or_else(|| self.config.load().digest()),
            active,
            config_refused: state.refused_config(),
            versions: state.versions(),
            shadow: state.candidate.as_ref().map(Candidate::view),
        }
    }

    pub(crate) fn report(&self) -> PluginReport {
        let state = self.state();
        let info = state.active.as_ref().map(|active| active.plugin.info());
        let sha256 = info.map(|info| info.sha256.clone());
        let is_behind = sha256.as_ref().is_some_and(|sha256| *sha256 != state.history.current);
        let reason = || state.failed.as_ref().map(|failed| failed.reason.clone());
        PluginReport {
            version: info.map(|info| info.version.clone()),
            generation: state.history.generation,
            config_digest: state.config_digest(),
            state: state.plugin_state().without_remaining_time(),
            behind: is_behind.then(reason).flatten(),
            sha256,
        }
    }
}

impl PluginState {
    /// The remaining time would make each report differ from the one before.
    fn without_remaining_time(self) -> Self {
        match self {
            PluginState::Probation { .. } => PluginState::Probation { ends_in_ms: None },
            PluginState::Quarantined { reason, .. } => PluginState::Quarantined { retry_in_ms: None, reason },
            state => state,
        }
    }
}

impl Candidate {
    pub(super) fn view(&self) -> CandidateView {
        let (info, (report, status)) = (self.shadow.plugin().info(), self.shadow.report());
        let (sha256, version) = (info.sha256.clone(), info.version.clone());
        let config_digest = self.shadow.plugin().config_digest().to_owned();
        CandidateView { sha256, version, config_digest, since: self.since, report, status }
    }
}

impl SlotState {
    /// The state of the active version or, without one, of the plugin.
    pub(super) fn plugin_state(&self) -> PluginState {
        let Some(active) = &self.active else {
            return match (&self.loading, &self.failed) {
                (None, Some(failed)) => PluginState::Failed { reason: failed.reason.clone() },
                _ => PluginState::Loading,
            };
        };
        let status = active.plugin.stats().status();
        if let State::Quarantined { retry_in_ms } = status.state {
            let reason = status.last_failure.unwrap_or_default();
            return PluginState::Quarantined { retry_in_ms: Some(retry_in_ms), reason };
        }
        let remaining = |until: Instant| until.saturating_duration_since(Instant::now()).as_millis() as u64;
        match self.probation.as_ref().map(|probation| remaining(probation.until)) {
            Some(ends_in_ms) if ends_in_ms > 0 => PluginState::Probation { ends_in_ms: Some(ends_in_ms) },
            _ => PluginState::Active,
        }
    }

    /// Identifies the settings with which the active version runs.
    fn config_digest(&self) -> Option<String> {
        self.active.as_ref().map(|active| active.plugin.config_digest().to_owned())
    }

    fn refused_config(&self) -> Option<String> {
        let (active, failed) = (self.active.as_ref()?, self.failed.as_ref()?);
        (failed.sha256.as_deref() == Some(active.sha256())).then(|| failed.reason.clone())
    }

    fn versions(&self) -> Vec<VersionView> {
        let active = self.active.as_ref().map(|active| active.sha256());
        let state = |sha256: &str, withdrawn: Option<&String>| {
            if active == Some(sha256) {
                return self.plugin_state();
            }
            let failed = self.failed.as_ref().filter(|failed| failed.sha256.as_deref() == Some(sha256));
            match failed.map(|failed| &failed.reason).or(withdrawn) {
                _ if self.loading.as_deref() == Some(sha256) => PluginState::Loading,
                Some(reason) => PluginState::Failed { reason: reason.clone() },
                None => PluginState::Kept,
            }
        };
        let is_stored = |sha256: &str| self.history.versions.iter().any(|release| release.sha256 == sha256);
        let loading = self.loading.iter().map(|sha256| (sha256.as_str(), None));
        let failed =
            self.failed.iter().filter_map(|failed| Some((failed.sha256.as_deref()?, Some(failed.at))));
        // A version that could not be activated, or is active only here, has no entry in the history.
        let local = loading.chain(failed).chain(active.map(|sha256| (sha256, None)));
        let mut views: Vec<VersionView> = vec![];
        for (sha256, at) in local.filter(|(sha256, _)| !is_stored(sha256)) {
            if !views.iter().any(|view| view.sha256 == sha256) {
                let (sha256, state) = (sha256.to_owned(), state(sha256, None));
                views.push(VersionView {
                    sha256,
                    version: None,
                    state,
                    source: None,
                    by: None,
                    at,
                    rolled_back_by: None,
                });
            }
        }
        views.extend(self.history.versions.iter().map(|release| VersionView {
            sha256: release.sha256.clone(),
            version: Some(release.version.clone()),
            state: state(&release.sha256, release.withdrawn.as_ref()),
            source: Some(release.source),
            by: release.by.clone(),
            at: Some(release.at),
            rolled_back_by: release.rolled_back_by.clone(),
        }));
        views
    }
}
