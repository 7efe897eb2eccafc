//! Stores which versions of plugins all nodes run, their code, and what each node reports about its own
//! plugins. Does not compile or run anything.

use crate::{Revision, Unavailable, VersionHistory};
use bytes::Bytes;
use std::{collections::HashMap, sync::Arc};

/// Stores the version history of each plugin, and the code of the versions that can be rolled back to.
///
/// A plugin is named as in the configuration, and a version by the SHA-256 of its code in hexadecimal.
/// Whatever carries code takes longer than [`RESPONSE_TIMEOUT`](crate::RESPONSE_TIMEOUT), because it goes in
/// pieces, each of which is answered within that time.
#[async_trait::async_trait]
pub trait PluginRegistry: Send + Sync {
    /// The histories of all plugins. `None` if they have not changed since `known`.
    async fn read(&self, known: Option<&Revision>) -> Result<Option<StoredPlugins>, Unavailable>;

    /// The history of one plugin. Its generation is 0 if no version was ever loaded.
    async fn history(&self, plugin: &str) -> Result<VersionHistory, Unavailable>;

    /// Activates another version. Returns `false` and does nothing if another change came first. After an
    /// error, the change may have been made nevertheless; the history tells.
    async fn change(&self, plugin: &str, change: HistoryChange<'_>) -> Result<bool, Unavailable>;

    /// Writes what the store has lost: the history, unless the stored one is as new, and the missing code of
    /// versions, by SHA-256. Writes nothing if the stored history is newer. Can be repeated after an error.
    async fn restore(
        &self,
        plugin: &str,
        history: &VersionHistory,
        code: Vec<(String, Bytes)>,
    ) -> Result<(), Unavailable>;

    /// Deletes the history of a plugin, and the code of its versions. No node may have the plugin any more.
    async fn forget(&self, plugin: &str) -> Result<(), Unavailable>;

    /// The code of a version, if it is still stored. Callers must compare it with its SHA-256.
    async fn code(&self, plugin: &str, sha256: &str) -> Result<Option<Bytes>, Unavailable>;

    /// Stores this node's report about its plugins, as JSON. It expires unless it is repeated every few
    /// seconds.
    async fn report(&self, report: &str) -> Result<(), Unavailable>;

    /// The names and reports of all nodes, sorted by name. Expired reports are left out.
    async fn reports(&self) -> Result<Vec<(Arc<str>, String)>, Unavailable>;
}

/// The histories of all plugins, and the revision of the registry that they belong to.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredPlugins {
    /// The state of the registry.
    pub revision: Revision,
    /// By the name of the plugin.
    pub histories: HashMap<String, VersionHistory>,
}

/// A change of a plugin's active version.
#[derive(Debug, Clone, Copy)]
pub struct HistoryChange<'a> {
    /// The new history. It is stored only if its generation is one more than that of the stored history.
    pub history: &'a VersionHistory,
    /// The code of the active version, unless it is stored already.
    pub code: Option<&'a Bytes>,
    /// SHA-256 of the versions whose code is deleted.
    pub dropped: &'a [String],
}
