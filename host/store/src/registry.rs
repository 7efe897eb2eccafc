//! Entries that all nodes must know, and that nodes write again if the store loses them: API keys and
//! versions of plugins. Compares entries by version only.
//!
//! Entries are never removed, only replaced by newer ones; a revocation is an entry, too. So if the store
//! lacks an entry that a node has read, the store has lost it.

use crate::key::KeyConfig;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// How long the revocation of a key is remembered. A node that has not read the registry for longer forgets
/// what it knew.
pub(crate) const REVOCATION_TTL: Duration = Duration::from_secs(30 * 24 * 3600);

/// Identifies the state of a registry: an epoch and, after a space, a number. It changes whenever an entry
/// changes or is lost. A registry that starts empty again has another epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision(pub Arc<str>);

impl Revision {
    /// That of a registry that does not exist.
    pub fn none() -> Self {
        Self("".into())
    }

    /// Its epoch; empty for a registry that does not exist.
    pub fn epoch(&self) -> &str {
        self.0.split(' ').next().unwrap_or_default()
    }
}

/// An entry as it is stored: its version and, after a space, its content. The entry of a revoked key is only
/// a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RegistryEntry(pub Arc<str>);

impl RegistryEntry {
    /// Its version: Unix milliseconds, or more. Each change has a greater version than those before.
    pub(crate) fn version(&self) -> u64 {
        self.0.split(' ').next().and_then(|version| version.parse().ok()).unwrap_or(0)
    }

    /// Its content, or `None` if it was revoked.
    pub(crate) fn content(&self) -> Option<&str> {
        self.0.split_once(' ').map(|(_, content)| content)
    }
}

/// Entries by name, as a registry holds them or as a node knows them.
pub(crate) type Entries = BTreeMap<Arc<str>, RegistryEntry>;

/// The API keys of the store, as a node knows them.
#[derive(Clone, Debug)]
pub struct StoredKeys {
    /// The state of the registry in which they were read.
    pub revision: Revision,
    /// All entries by digest, including those of revoked keys.
    pub(crate) entries: Entries,
    /// The keys of those entries that are not revoked.
    pub keys: Vec<KeyConfig>,
    /// When they were last read, or the store said that nothing had changed, in Unix milliseconds.
    pub read_at: u64,
}

impl Default for StoredKeys {
    fn default() -> Self {
        Self { revision: Revision::none(), entries: Entries::new(), keys: vec![], read_at: 0 }
    }
}

/// Merges the entries that a node knows with those that it has just found in the registry. Returns all of
/// them, each in its newest version, and those that the registry has lost. Revocations that are not newer
/// than the version `oldest` do not count as lost, because a registry forgets them.
pub(crate) fn merge(known: &Entries, found: Entries, oldest: u64) -> (Entries, Entries) {
    let mut lost = Entries::new();
    for (name, entry) in known {
        let is_newer = found.get(name).is_none_or(|other| other.version() < entry.version());
        if is_newer && (entry.content().is_some() || entry.version() > oldest) {
            lost.insert(name.clone(), entry.clone());
        }
    }
    let mut merged = found;
    merged.extend(lost.clone());
    (merged, lost)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(entries: &[(&str, &str)]) -> Entries {
        entries.iter().map(|(name, text)| ((*name).into(), RegistryEntry((*text).into()))).collect()
    }

    #[test]
    fn what_a_registry_lacks_is_lost_and_what_it_revokes_is_not() {
        let known = entries(&[("a", "5 A"), ("b", "6 B"), ("c", "7")]);
        assert_eq!(merge(&known, known.clone(), 0), (known.clone(), Entries::new()));
        assert_eq!(merge(&known, Entries::new(), 0), (known.clone(), known.clone()), "the registry is empty");
        // Revoked, changed, and added.
        let found = entries(&[("a", "8"), ("b", "9 C"), ("c", "7"), ("d", "10 D")]);
        assert_eq!(merge(&known, found.clone(), 0), (found, Entries::new()));
        // The registry went back to an older state, and was written to since.
        let found = entries(&[("a", "5 A"), ("b", "4 A"), ("c", "3 C"), ("d", "10 D")]);
        let (merged, lost) = merge(&known, found, 0);
        assert_eq!(merged, entries(&[("a", "5 A"), ("b", "6 B"), ("c", "7"), ("d", "10 D")]));
        assert_eq!(lost, entries(&[("b", "6 B"), ("c", "7")]));
        // "c" was revoked so long ago that no registry remembers it.
        assert_eq!(merge(&known, entries(&[("a", "5 A"), ("b", "6 B")]), 7).1, Entries::new());
    }

    #[test]
    fn an_entry_has_a_version_and_unless_it_was_revoked_content() {
        let entry = |text: &str| RegistryEntry(text.into());
        assert_eq!((entry("12 a b").version(), entry("12 a b").content()), (12, Some("a b")));
        assert_eq!((entry("12").version(), entry("12").content()), (12, None));
        assert_eq!(Revision("e 3".into()).epoch(), "e");
    }
}
