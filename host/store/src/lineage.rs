//! Which versions of a plugin there were and which is in charge: what all nodes agree on.

use serde::{Deserialize, Serialize};

/// Versions that can be gone back to, the one in charge among them.
pub(crate) const KEPT: usize = 5;

/// Digests that are remembered: a file with one of them is nothing new.
const REMEMBERED: usize = 64;

/// A plugin's versions. Which of them is in charge changes in one step for all nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lineage {
    /// Rises with each change; 0 where nothing was loaded yet.
    pub generation: u64,
    /// SHA-256 of the version in charge, in hexadecimal.
    pub current: String,
    /// The one that was loaded last comes first; the code of these is held.
    pub versions: Vec<Release>,
    /// Digests of what was loaded before those.
    pub earlier: Vec<String>,
}

/// A version as it was loaded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Release {
    pub sha256: String,
    /// As the plugin calls it.
    pub version: String,
    /// Of its code, where it came with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    pub how: How,
    /// The principal who loaded it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Unix milliseconds.
    pub at: u64,
    /// Why it went out of charge by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdrawn: Option<String>,
}

/// How a version came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// It is the file of the configuration of some node.
    File,
    /// An operator handed it in.
    Load,
    /// It had run in the shadow of another.
    Promotion,
}

impl How {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            How::File => "file",
            How::Load => "load",
            How::Promotion => "promotion",
        }
    }
}

impl Lineage {
    /// The next generation, in which `release` is in charge, and the digests of those whose code is to be held no longer.
    pub fn with(&self, release: Release) -> (Self, Vec<String>) {
        let mut next = self.clone();
        next.generation += 1;
        next.current = release.sha256.clone();
        next.versions.retain(|other| other.sha256 != release.sha256);
        next.earlier.retain(|other| *other != release.sha256);
        next.versions.insert(0, release);
        let dropped = next.versions.split_off(next.versions.len().min(KEPT));
        let dropped: Vec<_> = dropped.into_iter().map(|release| release.sha256).collect();
        next.earlier.splice(0..0, dropped.iter().cloned());
        next.earlier.truncate(REMEMBERED);
        (next, dropped)
    }

    /// The next generation, in which an earlier version is in charge again. `withdrawn`: why the present one is not to be
    /// gone back to by itself.
    pub fn back_to(&self, sha256: &str, withdrawn: Option<&str>) -> Self {
        let mut next = self.clone();
        next.generation += 1;
        if let Some(reason) = withdrawn
            && let Some(present) = next.versions.iter_mut().find(|release| release.sha256 == self.current)
        {
            present.withdrawn = Some(reason.to_owned());
        }
        next.current = sha256.to_owned();
        next
    }

    pub fn in_charge(&self) -> Option<&Release> {
        self.find(&self.current)
    }

    /// The version that was loaded before the present one, unless it went out of charge by itself.
    pub fn before(&self) -> Option<&Release> {
        let present = self.versions.iter().position(|release| release.sha256 == self.current)?;
        self.versions[present + 1..].iter().find(|release| release.withdrawn.is_none())
    }

    /// The version whose digest begins so, if there is just one.
    pub fn find(&self, digest: &str) -> Option<&Release> {
        let mut found = self.versions.iter().filter(|release| release.sha256.starts_with(digest));
        found.next().filter(|_| found.next().is_none() && !digest.is_empty())
    }

    /// Whether it was ever loaded, as far as that is remembered.
    pub fn remembers(&self, sha256: &str) -> bool {
        self.versions.iter().any(|release| release.sha256 == sha256)
            || self.earlier.iter().any(|one| one == sha256)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn release(sha256: &str) -> Release {
        let (sha256, version) = (sha256.to_owned(), "0.1.0".to_owned());
        Release { sha256, version, signature: None, how: How::Load, by: None, at: 1, withdrawn: None }
    }

    fn loaded(names: &[&str]) -> Lineage {
        names.iter().fold(Lineage::default(), |lineage, name| lineage.with(release(name)).0)
    }

    fn before(lineage: &Lineage) -> Option<&str> {
        lineage.before().map(|release| &*release.sha256)
    }

    #[test]
    fn going_back_goes_further_each_time() {
        let lineage = loaded(&["a", "b", "c"]);
        assert_eq!((lineage.generation, before(&lineage)), (3, Some("b")));
        let lineage = lineage.back_to("b", None);
        assert_eq!((lineage.generation, before(&lineage)), (4, Some("a")));
        assert_eq!(before(&lineage.back_to("a", None)), None);
        assert_eq!(before(&lineage.with(release("d")).0), Some("c"), "c is there still");
    }

    #[test]
    fn what_was_withdrawn_is_passed_over() {
        let lineage = loaded(&["a", "b"]).back_to("a", Some("it panicked")).with(release("c")).0;
        assert_eq!(before(&lineage), Some("a"));
        assert_eq!(lineage.find("b").unwrap().withdrawn.as_deref(), Some("it panicked"));
        // Loaded anew, it has another chance.
        assert_eq!(lineage.with(release("b")).0.find("b").unwrap().withdrawn, None);
    }

    #[test]
    fn the_last_few_are_kept_and_older_ones_remembered() {
        let lineage = loaded(&["a", "b", "c", "d", "e"]);
        let (lineage, dropped) = lineage.with(release("f"));
        assert_eq!((dropped, lineage.versions.len()), (vec!["a".to_owned()], KEPT));
        assert!(lineage.remembers("a") && lineage.find("a").is_none() && !lineage.remembers("x"));
        let (lineage, dropped) = lineage.with(release("c"));
        assert_eq!((dropped, lineage.in_charge().unwrap().sha256.as_str()), (vec![], "c"));
    }

    #[test]
    fn a_version_is_found_by_the_beginning_of_its_digest() {
        let lineage = loaded(&["abc", "abd", "e"]);
        assert_eq!(lineage.find("abd").map(|release| &*release.sha256), Some("abd"));
        assert!(lineage.find("ab").is_none() && lineage.find("").is_none() && lineage.find("x").is_none());
    }
}
