//! The plugin registry in Redis: version histories, code, and the reports of nodes. Does not compile or run
//! anything.

use crate::{
    HistoryChange, Revision, StoredPlugins, Unavailable, VersionHistory,
    redis::{
        arguments,
        link::Link,
        names::Names,
        replies,
        revision::REVISION,
        scripts::plugins::{self as scripts, Uploaded, VersionReply},
    },
};
use bytes::Bytes;
use std::{collections::HashMap, sync::Arc, time::Duration};

/// How long the report of a node is shown.
const REPORT_TTL: Duration = Duration::from_secs(15);
/// How long the report of a node is stored. It differs from [`REPORT_TTL`] so that nodes whose times differ
/// do not delete each other's reports.
const REPORT_DELETION_AGE: Duration = Duration::from_secs(120);

/// The size of the pieces in which code is written and read. Leases, messages and probes use the same
/// connection, and wait for at most one piece.
const CODE_PIECE_BYTES: usize = 1 << 20;

pub(super) struct PluginVersions<'a> {
    pub link: &'a Link,
    pub names: &'a Names,
}

impl PluginVersions<'_> {
    pub(super) async fn newer(&self, known: Option<&Revision>) -> Result<Option<StoredPlugins>, Unavailable> {
        let arguments = vec![self.names.plugins().into(), REVISION.into()];
        let revision = self.link.command("HGET", arguments).await?;
        let revision = if revision.is_null() { Revision::none() } else { Revision(replies::text(revision)?) };
        if Some(&revision) == known {
            return Ok(None);
        }
        let all = self.link.command("HGETALL", vec![self.names.plugins().into()]).await?;
        let mut stored = StoredPlugins { revision: Revision::none(), histories: HashMap::new() };
        for (plugin, history) in replies::pairs(all)? {
            if &*plugin == REVISION {
                stored.revision = Revision(history);
                continue;
            }
            match serde_json::from_str(&history) {
                Ok(history) => drop(stored.histories.insert(plugin.to_string(), history)),
                // A later version of Switchyard may have written it. The other plugins are not affected.
                Err(error) => {
                    tracing::error!(%plugin, %error, "cannot read the versions of a plugin in the store")
                }
            }
        }
        Ok(Some(stored))
    }

    pub(super) async fn history(&self, plugin: &str) -> Result<VersionHistory, Unavailable> {
        let history = self.link.command("HGET", vec![self.names.plugins().into(), plugin.into()]).await?;
        if history.is_null() {
            return Ok(VersionHistory::default());
        }
        let unreadable = |error| {
            Unavailable(format!("cannot read the versions of plugin '{plugin}' in the store: {error}"))
        };
        serde_json::from_str(&replies::text(history)?).map_err(unreadable)
    }

    pub(super) async fn change(&self, plugin: &str, change: HistoryChange<'_>) -> Result<bool, Unavailable> {
        let HistoryChange { history, code, dropped } = change;
        if let Some(code) = code {
            self.upload(plugin, &history.current, code).await?;
        }
        let size = code.map_or(0, Bytes::len);
        match scripts::write_versions(self.link, self.names, plugin, history, size, dropped).await? {
            VersionReply::Written => Ok(true),
            VersionReply::Outdated => Ok(false),
            VersionReply::MissingCode => Err(code_lost()),
        }
    }

    /// Writes the code of the active version first, together with the history, so that a node that reads the
    /// history finds it.
    pub(super) async fn restore(
        &self,
        plugin: &str,
        history: &VersionHistory,
        mut code: Vec<(String, Bytes)>,
    ) -> Result<(), Unavailable> {
        code.sort_by_key(|(sha256, _)| *sha256 != history.current);
        let mut is_written = false;
        for (sha256, bytes) in code {
            let key = self.names.plugin_code(plugin, &sha256);
            let is_there = self.link.command("EXISTS", vec![key.as_str().into()]).await?;
            if replies::number(&is_there)? == 0 {
                self.write_missing(plugin, history, Some((&sha256, &bytes))).await?;
                is_written = true;
            }
        }
        match is_written {
            true => Ok(()),
            false => self.write_missing(plugin, history, None).await,
        }
    }

    async fn write_missing(
        &self,
        plugin: &str,
        history: &VersionHistory,
        code: Option<(&str, &Bytes)>,
    ) -> Result<(), Unavailable> {
        let mut uploaded = None;
        if let Some((sha256, code)) = code {
            self.upload(plugin, sha256, code).await?;
            uploaded = Some(Uploaded { sha256, size: code.len() });
        }
        match scripts::restore_versions(self.link, self.names, plugin, history, uploaded).await? {
            VersionReply::MissingCode => Err(code_lost()),
            VersionReply::Written | VersionReply::Outdated => Ok(()),
        }
    }

    pub(super) async fn forget(&self, plugin: &str) -> Result<(), Unavailable> {
        loop {
            let history = self.history(plugin).await?;
            if history.generation == 0
                || scripts::forget_versions(self.link, self.names, plugin, &history).await?
            {
                return Ok(());
            }
        }
    }

    /// Uploads code for a script to store. It expires unless it is stored soon. Nodes that upload the same
    /// code share one upload.
    async fn upload(&self, plugin: &str, sha256: &str, code: &Bytes) -> Result<(), Unavailable> {
        let mut before = 0;
        while before < code.len() {
            let piece = code.slice(before..code.len().min(before + CODE_PIECE_BYTES));
            let there = scripts::upload(self.link, self.names, plugin, sha256, before, piece).await?;
            if there < before {
                // Another node has stored it, or Redis has lost it. The script that follows finds out.
                break;
            }
            before = there;
        }
        Ok(())
    }

    /// Callers must compare the code with its digest, because the code may have been deleted between two
    /// pieces.
    pub(super) async fn code(&self, plugin: &str, sha256: &str) -> Result<Option<Bytes>, Unavailable> {
        let (key, mut code) = (self.names.plugin_code(plugin, sha256), Vec::new());
        loop {
            let (from, to) = (code.len() as u64, (code.len() + CODE_PIECE_BYTES - 1) as u64);
            let arguments = vec![key.as_str().into(), arguments::integer(from), arguments::integer(to)];
            let piece =
                self.link.command("GETRANGE", arguments).await?.into_owned_bytes().unwrap_or_default();
            code.extend_from_slice(&piece);
            if piece.len() < CODE_PIECE_BYTES {
                return Ok(Some(Bytes::from(code)).filter(|code| !code.is_empty()));
            }
        }
    }

    pub(super) async fn report(&self, node: &str, now: u64, report: &str) -> Result<(), Unavailable> {
        let value = format!("{now} {report}");
        let arguments = vec![self.names.plugins_nodes().into(), node.into(), value.into()];
        self.link.command("HSET", arguments).await.map(drop)
    }

    pub(super) async fn delete_report(&self, node: &str) -> Result<(), Unavailable> {
        self.link.command("HDEL", vec![self.names.plugins_nodes().into(), node.into()]).await.map(drop)
    }

    pub(super) async fn reports(&self, now: u64) -> Result<Vec<(Arc<str>, String)>, Unavailable> {
        let all = self.link.command("HGETALL", vec![self.names.plugins_nodes().into()]).await?;
        let mut reports = vec![];
        for (node, value) in replies::pairs(all)? {
            let (at, report) = value.split_once(' ').unwrap_or_default();
            let age = Duration::from_millis(now.saturating_sub(at.parse().unwrap_or_default()));
            if age < REPORT_TTL {
                reports.push((node, report.to_owned()));
            } else if age > REPORT_DELETION_AGE {
                self.delete_report(&node).await?;
            }
        }
        reports.sort();
        Ok(reports)
    }
}

fn code_lost() -> Unavailable {
    Unavailable("Redis lost the code of a plugin while it was being written".to_owned())
}
