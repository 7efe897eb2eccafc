//! What all nodes must know and no store may lose for them: API keys and the versions of plugins. A store that lacks what a node
//! has read there has lost it, and is given it again; to take something away is to write that it is gone.

use crate::key::KeyConfig;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// How long it is remembered that a key was revoked. A node that has not read the registry for longer forgets what it knew.
pub(crate) const REVOKED: Duration = Duration::from_secs(30 * 24 * 3600);

/// Which state of a registry something was read from. The same one only while nothing was changed and nothing lost: a registry that
/// begins anew has another epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision(pub Arc<str>);

impl Revision {
    /// Where there is no registry.
    pub fn none() -> Self {
        Self("".into())
    }

    pub fn epoch(&self) -> &str {
        self.0.split(' ').next().unwrap_or_default()
    }
}

/// An entry as it is kept: its version, and after a space what it says; nothing after it where it was revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry(pub Arc<str>);

impl Entry {
    /// Unix milliseconds, or more: each change has a higher one than those before.
    pub fn version(&self) -> u64 {
        self.0.split(' ').next().and_then(|version| version.parse().ok()).unwrap_or(0)
    }

    /// `None`: it was revoked.
    pub fn content(&self) -> Option<&str> {
        self.0.split_once(' ').map(|(_, content)| content)
    }
}

/// Entries by name: what a registry holds, or what a node knows of it.
pub(crate) type Entries = BTreeMap<Arc<str>, Entry>;

/// The API keys that are kept in the store, as a node knows them.
#[derive(Clone, Debug)]
pub struct StoredKeys {
    pub revision: Revision,
    /// By digest, those that were revoked among them.
    pub entries: Entries,
    pub keys: Vec<KeyConfig>,
    /// When the store was read last, or said that nothing has changed; Unix milliseconds.
    pub read_at: u64,
}

impl Default for StoredKeys {
    fn default() -> Self {
        Self { revision: Revision::none(), entries: Entries::new(), keys: vec![], read_at: 0 }
    }
}

/// What a node knows after it has read `found`, and what of it the registry has lost. Of each entry the newest counts; of those that
/// were revoked before `oldest`, nobody needs to be told.
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
        entries.iter().map(|(name, text)| ((*name).into(), Entry((*text).into()))).collect()
    }

    #[test]
    fn what_a_registry_lacks_was_lost_and_what_it_says_is_gone_is_gone() {
        let known = entries(&[("a", "5 A"), ("b", "6 B"), ("c", "7")]);
        assert_eq!(merge(&known, known.clone(), 0), (known.clone(), Entries::new()));
        assert_eq!(merge(&known, Entries::new(), 0), (known.clone(), known.clone()), "it is empty");
        // Revoked, changed, and added.
        let found = entries(&[("a", "8"), ("b", "9 C"), ("c", "7"), ("d", "10 D")]);
        assert_eq!(merge(&known, found.clone(), 0), (found, Entries::new()));
        // It went back, and somebody has written to it since.
        let found = entries(&[("a", "5 A"), ("b", "4 A"), ("c", "3 C"), ("d", "10 D")]);
        let (merged, lost) = merge(&known, found, 0);
        assert_eq!(merged, entries(&[("a", "5 A"), ("b", "6 B"), ("c", "7"), ("d", "10 D")]));
        assert_eq!(lost, entries(&[("b", "6 B"), ("c", "7")]));
        // That "c" was revoked is so long ago that no registry remembers it.
        assert_eq!(merge(&known, entries(&[("a", "5 A"), ("b", "6 B")]), 7).1, Entries::new());
    }

    #[test]
    fn an_entry_says_its_version_and_whether_it_was_revoked() {
        let entry = |text: &str| Entry(text.into());
        assert_eq!((entry("12 a b").version(), entry("12 a b").content()), (12, Some("a b")));
        assert_eq!((entry("12").version(), entry("12").content()), (12, None));
        assert_eq!(Revision("e 3".into()).epoch(), "e");
    }
}
