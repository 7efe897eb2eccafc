//! Versions of plugins, for a node that is alone.

use crate::{Change, Lineage, Revision, StoredPlugins};
use bytes::Bytes;
use std::{collections::HashMap, sync::Arc};

#[derive(Default)]
pub(super) struct Plugins {
    /// How often they were changed.
    changes: u64,
    lineages: HashMap<String, Lineage>,
    /// By plugin and digest.
    codes: HashMap<(String, String), Bytes>,
    report: Option<String>,
}

impl Plugins {
    pub(super) fn newer(&self, known: Option<&Revision>) -> Option<StoredPlugins> {
        let revision = Revision(format!("memory {}", self.changes).into());
        (Some(&revision) != known).then(|| StoredPlugins { revision, lineages: self.lineages.clone() })
    }

    pub(super) fn lineage(&self, plugin: &str) -> Lineage {
        self.lineages.get(plugin).cloned().unwrap_or_default()
    }

    pub(super) fn change(&mut self, plugin: &str, change: Change<'_>) -> bool {
        let lineage = self.lineages.entry(plugin.to_owned()).or_default();
        if lineage.generation + 1 != change.lineage.generation {
            return false;
        }
        *lineage = change.lineage.clone();
        let key = |sha256: &str| (plugin.to_owned(), sha256.to_owned());
        if let Some(code) = change.code {
            self.codes.insert(key(&change.lineage.current), code.clone());
        }
        change.dropped.iter().for_each(|sha256| drop(self.codes.remove(&key(sha256))));
        self.changes += 1;
        true
    }

    pub(super) fn code(&self, plugin: &str, sha256: &str) -> Option<Bytes> {
        self.codes.get(&(plugin.to_owned(), sha256.to_owned())).cloned()
    }

    pub(super) fn report(&mut self, report: &str) {
        self.report = Some(report.to_owned());
    }

    pub(super) fn reports(&self) -> Vec<(Arc<str>, String)> {
        self.report.iter().map(|report| ("this".into(), report.clone())).collect()
    }
}
