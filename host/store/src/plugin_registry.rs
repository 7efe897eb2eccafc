//! The versions of plugins that all nodes are to run, and what each node says of its own. Runs and compiles nothing.

use crate::{Lineage, Revision, Unavailable};
use bytes::Bytes;
use std::{collections::HashMap, sync::Arc};

/// Keeps which version of each plugin is active, and the code of those that can be gone back to.
///
/// A plugin is named as in the configuration, and a version by the SHA-256 of its code in hexadecimal. Whatever carries code
/// takes longer than [`PATIENCE`](crate::PATIENCE), because it goes in pieces, each of which is answered within that time.
#[async_trait::async_trait]
pub trait PluginRegistry: Send + Sync {
    /// The versions of all plugins, unless they are as `known`; then `None`.
    async fn read(&self, known: Option<&Revision>) -> Result<Option<StoredPlugins>, Unavailable>;

    /// The versions of one plugin. Generation 0 where it was never loaded.
    async fn lineage(&self, plugin: &str) -> Result<Lineage, Unavailable>;

    /// Activates another version. `false`: another change came before, and nothing was done. After an error it may have been
    /// done all the same; the lineage says so.
    async fn change(&self, plugin: &str, change: Change<'_>) -> Result<bool, Unavailable>;

    /// Writes again what the store has lost: the lineage, unless it has one that is as new, and the code, which is given by
    /// digest, of versions that it has none of. Where the store has a newer lineage, nothing is written. Can be repeated after an
    /// error.
    async fn restore(
        &self,
        plugin: &str,
        lineage: &Lineage,
        code: Vec<(String, Bytes)>,
    ) -> Result<(), Unavailable>;

    /// The code of a version, as long as the lineage has it. Compare it with its digest: the store may take it away meanwhile.
    async fn code(&self, plugin: &str, sha256: &str) -> Result<Option<Bytes>, Unavailable>;

    /// What this node says of its plugins, for all to see, as JSON. It is to be said again every few seconds.
    async fn report(&self, report: &str) -> Result<(), Unavailable>;

    /// What each node says, with the node's name, sorted by it. Nodes that have been silent for a while are left out.
    async fn reports(&self) -> Result<Vec<(Arc<str>, String)>, Unavailable>;
}

/// The versions of all plugins, by name, and of which state that is.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredPlugins {
    pub revision: Revision,
    pub lineages: HashMap<String, Lineage>,
}

/// Another version of a plugin is to be active.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// Follows the generation before it, or changes nothing.
    pub lineage: &'a Lineage,
    /// Of the active version, where it is not held already.
    pub code: Option<&'a Bytes>,
    /// Digests whose code is held no longer.
    pub dropped: &'a [String],
}
