//! The memory store as a plugin registry: versions of plugins, their code, and what they govern, for a single
//! node.

use super::MemoryStore;
use crate::{
    Governance, GovernanceRegistry, HistoryChange, PluginRegistry, Revision, StoredPlugins, Unavailable,
    VersionHistory,
};
use bytes::Bytes;
use std::{collections::HashMap, sync::Arc};
use switchyard_process::lock::LockExt;

#[derive(Default)]
pub(super) struct PluginTable {
    /// How many changes there were.
    changes: u64,
    histories: HashMap<String, VersionHistory>,
    /// By plugin and SHA-256.
    codes: HashMap<(String, String), Bytes>,
    report: Option<String>,
}

impl PluginTable {
    pub(super) fn newer(&self, known: Option<&Revision>) -> Option<StoredPlugins> {
        let revision = Revision(format!("memory {}", self.changes).into());
        (Some(&revision) != known).then(|| StoredPlugins { revision, histories: self.histories.clone() })
    }

    pub(super) fn history(&self, plugin: &str) -> VersionHistory {
        self.histories.get(plugin).cloned().unwrap_or_default()
    }

    pub(super) fn change(&mut self, plugin: &str, change: HistoryChange<'_>) -> bool {
        let history = self.histories.entry(plugin.to_owned()).or_default();
        if history.generation + 1 != change.history.generation {
            return false;
        }
        *history = change.history.clone();
        let key = |sha256: &str| (plugin.to_owned(), sha256.to_owned());
        if let Some(code) = change.code {
            self.codes.insert(key(&change.history.current), code.clone());
        }
        change.dropped.iter().for_each(|sha256| drop(self.codes.remove(&key(sha256))));
        self.changes += 1;
        true
    }

    /// Takes a history that is newer than the one in the store, and the code of one that is at least as new.
    pub(super) fn restore(&mut self, plugin: &str, history: &VersionHistory, code: Vec<(String, Bytes)>) {
        let generation = self.histories.get(plugin).map_or(0, |known| known.generation);
        if generation > history.generation {
            return;
        }
        for (sha256, bytes) in code {
            self.codes.entry((plugin.to_owned(), sha256)).or_insert(bytes);
        }
        if generation < history.generation {
            self.histories.insert(plugin.to_owned(), history.clone());
            self.changes += 1;
        }
    }

    pub(super) fn forget(&mut self, plugin: &str) {
        self.histories.remove(plugin);
        self.codes.retain(|(of, _), _| of != plugin);
        self.changes += 1;
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

#[async_trait::async_trait]
impl PluginRegistry for MemoryStore {
    async fn read(&self, known: Option<&Revision>) -> Result<Option<StoredPlugins>, Unavailable> {
        Ok(self.plugins().newer(known))
    }

    async fn history(&self, plugin: &str) -> Result<VersionHistory, Unavailable> {
        Ok(self.plugins().history(plugin))
    }

    async fn change(&self, plugin: &str, change: HistoryChange<'_>) -> Result<bool, Unavailable> {
        Ok(self.plugins().change(plugin, change))
    }

    async fn restore(
        &self,
        plugin: &str,
        history: &VersionHistory,
        code: Vec<(String, Bytes)>,
    ) -> Result<(), Unavailable> {
        self.plugins().restore(plugin, history, code);
        Ok(())
    }

    async fn forget(&self, plugin: &str) -> Result<(), Unavailable> {
        self.plugins().forget(plugin);
        Ok(())
    }

    async fn code(&self, plugin: &str, sha256: &str) -> Result<Option<Bytes>, Unavailable> {
        Ok(self.plugins().code(plugin, sha256))
    }

    async fn report(&self, report: &str) -> Result<(), Unavailable> {
        self.plugins().report(report);
        Ok(())
    }

    async fn reports(&self) -> Result<Vec<(Arc<str>, String)>, Unavailable> {
        Ok(self.plugins().reports())
    }
}

#[async_trait::async_trait]
impl GovernanceRegistry for MemoryStore {
    async fn governance(&self, known: Option<u64>) -> Result<Option<Governance>, Unavailable> {
        let record = self.governance.locked();
        Ok((known != Some(record.id)).then(|| record.clone()))
    }

    async fn replace_governance(
        &self,
        expected: &Governance,
        next: &Governance,
    ) -> Result<bool, Unavailable> {
        let mut record = self.governance.locked();
        if record.id != expected.id {
            return Ok(false);
        }
        *record = next.as_written(expected);
        Ok(true)
    }
}
