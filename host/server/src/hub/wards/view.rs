//! How a plugin is shown to operators.

use super::{Standing, Ward};
use serde::{Deserialize, Serialize};
use std::time::Instant;
use switchyard_plugin::{ComparisonReport, PluginInfo, PluginStatus, State};
use switchyard_protocol::room::RoomPattern;
use switchyard_store::How;

/// How a version, or the plugin as a whole, is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub(crate) enum Condition {
    /// It is being compiled and tried; the one in charge stays until it is ready.
    Loading,
    Active,
    /// In charge, and goes back by itself if it fails repeatedly within that time.
    Probation {
        ends_in_ms: u64,
    },
    /// It failed too often; every call is refused until one is tried.
    Quarantined {
        retry_in_ms: u64,
        reason: String,
    },
    /// It could not be loaded, or went out of charge by itself.
    Failed {
        reason: String,
    },
    /// It was in charge before, and can be gone back to.
    Kept,
}

impl Condition {
    pub(crate) const ALL: [&'static str; 5] = ["loading", "active", "probation", "quarantined", "failed"];

    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Condition::Loading => "loading",
            Condition::Active => "active",
            Condition::Probation { .. } => "probation",
            Condition::Quarantined { .. } => "quarantined",
            Condition::Failed { .. } => "failed",
            Condition::Kept => "kept",
        }
    }
}

/// A plugin as an operator sees it on one node.
#[derive(Serialize)]
pub(crate) struct Shown {
    pub name: String,
    pub rooms: Vec<RoomPattern>,
    #[serde(flatten)]
    pub condition: Condition,
    /// Rises with each change of the version in charge, on any node.
    pub generation: u64,
    #[serde(flatten)]
    pub charge: Option<InCharge>,
    /// Why the version in charge was not started anew with another configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// The one that was loaded last comes first.
    pub versions: Vec<Version>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Shaded>,
}

#[derive(Serialize)]
pub(crate) struct InCharge {
    pub plugin: PluginInfo,
    #[serde(flatten)]
    pub status: PluginStatus,
}

/// A version that is, was or was to be in charge.
#[derive(Serialize)]
pub(crate) struct Version {
    pub sha256: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(flatten)]
    pub condition: Condition,
    #[serde(skip_serializing_if = "Option::is_none")]
    how: Option<How>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    /// Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<u64>,
}

/// A candidate beside the version in charge.
#[derive(Serialize)]
pub(crate) struct Shaded {
    pub sha256: String,
    pub version: String,
    pub since: u64,
    #[serde(flatten)]
    pub tally: ComparisonReport,
    pub status: PluginStatus,
}

/// What other nodes are told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Reported {
    pub sha256: Option<String>,
    pub version: Option<String>,
    pub generation: u64,
    #[serde(flatten)]
    pub condition: Condition,
    /// Why this node does not run what is in charge elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<String>,
}

impl Ward {
    pub(crate) fn shown(&self) -> Shown {
        let standing = self.standing();
        let charge = standing.charge.as_ref().map(|charge| InCharge {
            plugin: charge.plugin.info().clone(),
            status: charge.plugin.stats().status(),
        });
        Shown {
            name: self.name(),
            rooms: self.config.load().rooms.clone(),
            condition: standing.condition(),
            generation: standing.lineage.generation,
            charge,
            refused: standing.refused(),
            versions: standing.versions(),
            shadow: standing.shadow.as_ref().map(|casting| {
                let (info, (tally, status)) = (casting.shadow.plugin().info(), casting.shadow.report());
                let (sha256, version) = (info.sha256.clone(), info.version.clone());
                Shaded { sha256, version, since: casting.since, tally, status }
            }),
        }
    }

    pub(crate) fn condition(&self) -> Condition {
        self.standing().condition()
    }

    pub(super) fn reported(&self) -> Reported {
        let standing = self.standing();
        let info = standing.charge.as_ref().map(|charge| charge.plugin.info());
        let sha256 = info.map(|info| info.sha256.clone());
        let is_behind = sha256.as_ref().is_some_and(|sha256| *sha256 != standing.lineage.current);
        let why = || standing.failed.as_ref().map(|failed| failed.reason.clone());
        // Milliseconds that are left would make each report another.
        let condition = match standing.condition() {
            Condition::Probation { .. } => Condition::Probation { ends_in_ms: 0 },
            Condition::Quarantined { reason, .. } => Condition::Quarantined { retry_in_ms: 0, reason },
            condition => condition,
        };
        Reported {
            version: info.map(|info| info.version.clone()),
            generation: standing.lineage.generation,
            condition,
            behind: is_behind.then(why).flatten(),
            sha256,
        }
    }
}

impl Standing {
    /// Of what is in charge.
    fn condition(&self) -> Condition {
        let Some(charge) = &self.charge else {
            let reason = |failed: &super::Failed| failed.reason.clone();
            return match (&self.loading, &self.failed) {
                (None, Some(failed)) => Condition::Failed { reason: reason(failed) },
                _ => Condition::Loading,
            };
        };
        let status = charge.plugin.stats().status();
        if let State::Quarantined { retry_in_ms } = status.state {
            return Condition::Quarantined { retry_in_ms, reason: status.last_failure.unwrap_or_default() };
        }
        let left = |until: Instant| until.saturating_duration_since(Instant::now()).as_millis() as u64;
        match self.probation.as_ref().map(|probation| left(probation.until)) {
            Some(ends_in_ms) if ends_in_ms > 0 => Condition::Probation { ends_in_ms },
            _ => Condition::Active,
        }
    }

    fn refused(&self) -> Option<String> {
        let (charge, failed) = (self.charge.as_ref()?, self.failed.as_ref()?);
        (failed.sha256.as_deref() == Some(charge.sha256())).then(|| failed.reason.clone())
    }

    fn versions(&self) -> Vec<Version> {
        let in_charge = self.charge.as_ref().map(|charge| charge.sha256());
        let condition = |sha256: &str, withdrawn: Option<&String>| {
            if in_charge == Some(sha256) {
                return self.condition();
            }
            let failed = self.failed.as_ref().filter(|failed| failed.sha256.as_deref() == Some(sha256));
            match failed.map(|failed| &failed.reason).or(withdrawn) {
                _ if self.loading.as_deref() == Some(sha256) => Condition::Loading,
                Some(reason) => Condition::Failed { reason: reason.clone() },
                None => Condition::Kept,
            }
        };
        let known = |sha256: &str| self.lineage.versions.iter().any(|release| release.sha256 == sha256);
        let failed =
            self.failed.iter().filter_map(|failed| Some((failed.sha256.as_deref()?, Some(failed.at))));
        let others = self.loading.iter().map(|sha256| (sha256.as_str(), None));
        // What did not come into charge, or runs here alone, has no entry in the lineage.
        let alone = others.chain(failed).chain(in_charge.map(|sha256| (sha256, None)));
        let mut shown: Vec<Version> = vec![];
        for (sha256, at) in alone.filter(|(sha256, _)| !known(sha256)) {
            if !shown.iter().any(|version| version.sha256 == sha256) {
                let (sha256, condition) = (sha256.to_owned(), condition(sha256, None));
                shown.push(Version { sha256, version: None, condition, how: None, by: None, at });
            }
        }
        shown.extend(self.lineage.versions.iter().map(|release| Version {
            sha256: release.sha256.clone(),
            version: Some(release.version.clone()),
            condition: condition(&release.sha256, release.withdrawn.as_ref()),
            how: Some(release.how),
            by: release.by.clone(),
            at: Some(release.at),
        }));
        shown
    }
}
