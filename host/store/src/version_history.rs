//! The versions that were loaded of a plugin, and which one is active: what all nodes agree on. Holds no
//! code.

use serde::{Deserialize, Serialize};

/// The most versions of a plugin whose code is stored, the active one included. An operator can roll back to
/// these.
pub(crate) const MAX_STORED_VERSIONS: usize = 5;

/// The most digests that are remembered after their code was deleted. A file with one of them is not a new
/// version.
const MAX_REMEMBERED_DIGESTS: usize = 64;

/// The versions of one plugin. It is stored and replaced as a whole, so the active version changes for all
/// nodes in one step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VersionHistory {
    /// Increases by 1 with each change. 0 if no version was ever loaded.
    pub generation: u64,
    /// SHA-256 of the active version, in hexadecimal. Empty if no version was ever loaded.
    pub current: String,
    /// The versions whose code is stored, from the one loaded last to the oldest.
    pub versions: Vec<Release>,
    /// SHA-256 of versions that were loaded before those, from the newest to the oldest.
    pub earlier: Vec<String>,
    /// Whether the active version became active by a rollback.
    #[serde(default)]
    pub is_rollback: bool,
}

/// One version of a plugin, as it was loaded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Release {
    /// SHA-256 of the code, in hexadecimal.
    pub sha256: String,
    /// The version number that the plugin reports, such as `0.1.0`.
    pub version: String,
    /// The signature of the code, if it was loaded with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// Where the version came from.
    #[serde(rename = "how")]
    pub source: ActivationSource,
    /// The principal that loaded the version. `None` for a file of the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// When the version was loaded, in Unix milliseconds.
    pub at: u64,
    /// Why the version was rolled back automatically, if it was and was not activated since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdrawn: Option<String>,
    /// The principal that rolled the version back, if one did and it was not activated since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back_by: Option<String>,
}

/// Why a version is rolled back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RollbackReason<'a> {
    /// It failed, for this reason.
    Failed(&'a str),
    /// This principal asked for it.
    ByHand(&'a str),
}

/// Where a version came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivationSource {
    /// The plugin's file in the configuration of a node.
    File,
    /// An operator loaded it over HTTP.
    Load,
    /// It ran as a candidate and was promoted.
    Promotion,
}

impl Release {
    fn was_rolled_back(&self) -> bool {
        self.withdrawn.is_some() || self.rolled_back_by.is_some()
    }
}

impl ActivationSource {
    /// The name in JSON, logs and audit lines.
    pub const fn name(self) -> &'static str {
        match self {
            ActivationSource::File => "file",
            ActivationSource::Load => "load",
            ActivationSource::Promotion => "promotion",
        }
    }
}

impl VersionHistory {
    /// Returns the next generation, in which `release` is active, and the digests of the versions whose code
    /// is no longer to be stored.
    pub fn activate(&self, release: Release) -> (Self, Vec<String>) {
        let mut next = self.clone();
        next.generation += 1;
        next.is_rollback = false;
        next.current = release.sha256.clone();
        next.versions.retain(|other| other.sha256 != release.sha256);
        next.earlier.retain(|other| *other != release.sha256);
        next.versions.insert(0, release);
        let dropped = next.versions.split_off(next.versions.len().min(MAX_STORED_VERSIONS));
        let dropped: Vec<_> = dropped.into_iter().map(|release| release.sha256).collect();
        next.earlier.splice(0..0, dropped.iter().cloned());
        next.earlier.truncate(MAX_REMEMBERED_DIGESTS);
        (next, dropped)
    }

    /// Returns the next generation, in which the stored version `sha256` is active again. If it is older than
    /// the active one, that one is withdrawn: [`previous`](Self::previous) passes over it from then on.
    pub fn roll_back_to(&self, sha256: &str, reason: RollbackReason<'_>) -> Self {
        let mut next = self.clone();
        next.generation += 1;
        let position = |sha256: &str| self.versions.iter().position(|release| release.sha256 == sha256);
        let (active, target) = (position(&self.current), position(sha256));
        if let Some(active) = active.filter(|active| target.is_none_or(|target| target > *active)) {
            let release = &mut next.versions[active];
            match reason {
                RollbackReason::Failed(why) => release.withdrawn = Some(why.to_owned()),
                RollbackReason::ByHand(by) => release.rolled_back_by = Some(by.to_owned()),
            }
        }
        if let Some(target) = target {
            let release = &mut next.versions[target];
            (release.withdrawn, release.rolled_back_by) = (None, None);
        }
        next.current = sha256.to_owned();
        next.is_rollback = true;
        next
    }

    /// The active version. `None` if no version was ever loaded.
    pub fn active(&self) -> Option<&Release> {
        self.find(&self.current)
    }

    /// The newest version that was loaded before the active one and was not rolled back.
    pub fn previous(&self) -> Option<&Release> {
        let active = self.versions.iter().position(|release| release.sha256 == self.current)?;
        self.versions[active + 1..].iter().find(|release| !release.was_rolled_back())
    }

    /// The stored version with this SHA-256.
    pub fn find(&self, sha256: &str) -> Option<&Release> {
        self.versions.iter().find(|release| release.sha256 == sha256)
    }

    /// The stored versions whose SHA-256 starts with `digest`.
    pub fn find_by_prefix(&self, digest: &str) -> Vec<&Release> {
        self.versions.iter().filter(|release| release.sha256.starts_with(digest)).collect()
    }

    /// Whether this version was ever loaded, as far as that is remembered.
    pub fn has_seen(&self, sha256: &str) -> bool {
        self.versions.iter().any(|release| release.sha256 == sha256)
            || self.earlier.iter().any(|one| one == sha256)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const BY_HAND: RollbackReason = RollbackReason::ByHand("acme");

    pub(crate) fn release(sha256: &str) -> Release {
        let (sha256, version) = (sha256.to_owned(), "0.1.0".to_owned());
        Release {
            sha256,
            version,
            signature: None,
            source: ActivationSource::Load,
            by: None,
            at: 1,
            withdrawn: None,
            rolled_back_by: None,
        }
    }

    fn loaded(names: &[&str]) -> VersionHistory {
        names.iter().fold(VersionHistory::default(), |history, name| history.activate(release(name)).0)
    }

    fn before(history: &VersionHistory) -> Option<&str> {
        history.previous().map(|release| &*release.sha256)
    }

    #[test]
    fn each_rollback_goes_one_version_further_back() {
        let history = loaded(&["a", "b", "c"]);
        assert_eq!((history.generation, before(&history)), (3, Some("b")));
        let history = history.roll_back_to("b", BY_HAND);
        assert_eq!((history.generation, before(&history)), (4, Some("a")));
        assert_eq!(before(&history.roll_back_to("a", BY_HAND)), None);
        assert_eq!(history.find_by_prefix("c").len(), 1, "c is still there");
    }

    /// Regression: after a rollback by hand and another load, a rollback activated the version that had just been
    /// rolled back.
    #[test]
    fn a_rollback_never_activates_a_version_that_was_rolled_back() {
        let history = loaded(&["a", "b"]).roll_back_to("a", BY_HAND).activate(release("c")).0;
        assert_eq!(before(&history), Some("a"));
        let history = history.roll_back_to("a", BY_HAND);
        assert_eq!(before(&history), None, "there is none, rather than b or c");
        // Whoever names a version wants it, and it is as good as any other from then on.
        let history = history.roll_back_to("b", BY_HAND);
        assert_eq!(before(&history), Some("a"), "a was not withdrawn by going forward");
        assert_eq!(before(&history.activate(release("d")).0), Some("b"));
    }

    #[test]
    fn a_rollback_passes_over_withdrawn_versions() {
        let history = loaded(&["a", "b"])
            .roll_back_to("a", RollbackReason::Failed("it panicked"))
            .activate(release("c"))
            .0;
        assert_eq!(before(&history), Some("a"));
        assert_eq!(history.find_by_prefix("b")[0].withdrawn.as_deref(), Some("it panicked"));
        // Loading it again gives it another chance.
        assert_eq!(history.activate(release("b")).0.find_by_prefix("b")[0].withdrawn, None);
    }

    #[test]
    fn the_newest_versions_are_stored_and_older_digests_are_remembered() {
        let history = loaded(&["a", "b", "c", "d", "e"]);
        let (history, dropped) = history.activate(release("f"));
        assert_eq!((dropped, history.versions.len()), (vec!["a".to_owned()], MAX_STORED_VERSIONS));
        assert!(history.has_seen("a") && history.find_by_prefix("a").is_empty() && !history.has_seen("x"));
        let (history, dropped) = history.activate(release("c"));
        assert_eq!((dropped, history.active().unwrap().sha256.as_str()), (vec![], "c"));
    }

    #[test]
    fn a_version_is_found_by_a_prefix_of_its_digest() {
        let history = loaded(&["abc", "abd", "e"]);
        let found = |prefix| {
            history.find_by_prefix(prefix).iter().map(|release| &*release.sha256).collect::<Vec<_>>()
        };
        assert_eq!(found("abd"), ["abd"]);
        assert_eq!((found("ab").len(), found("x").len()), (2, 0));
    }
}
