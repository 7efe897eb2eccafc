//! Versions of plugins that all nodes run, and what each node says of them.

use super::{Link, Names, answer, keyring::REVISION, scripts};
use crate::store::{Change, Lineage, Revision, StoredPlugins, Unavailable};
use bytes::Bytes;
use fred::types::Value;
use std::{collections::HashMap, sync::Arc, time::Duration};

/// A node that has said nothing for so long is not shown, and is forgotten after a while more.
const SILENT: Duration = Duration::from_secs(15);
const FORGOTTEN: Duration = Duration::from_secs(120);

pub struct Plugins<'a> {
    pub link: &'a Link,
    pub names: &'a Names,
}

impl Plugins<'_> {
    pub async fn newer(&self, known: Option<&Revision>) -> Result<Option<StoredPlugins>, Unavailable> {
        let asked = vec![self.names.plugins().into(), REVISION.into()];
        let revision = self.link.command("HGET", asked).await?;
        let revision = if revision.is_null() { Revision::none() } else { Revision(answer::text(revision)?) };
        if Some(&revision) == known {
            return Ok(None);
        }
        let all = self.link.command("HGETALL", vec![self.names.plugins().into()]).await?;
        let mut stored = StoredPlugins { revision: Revision::none(), lineages: HashMap::new() };
        for (plugin, lineage) in answer::pairs(all)? {
            if &*plugin == REVISION {
                stored.revision = Revision(lineage);
                continue;
            }
            match serde_json::from_str(&lineage) {
                Ok(lineage) => drop(stored.lineages.insert(plugin.to_string(), lineage)),
                // Of a version to come; the others are good all the same.
                Err(error) => {
                    tracing::error!(%plugin, %error, "a plugin's versions in the store cannot be read")
                }
            }
        }
        Ok(Some(stored))
    }

    pub async fn lineage(&self, plugin: &str) -> Result<Lineage, Unavailable> {
        let lineage = self.link.command("HGET", vec![self.names.plugins().into(), plugin.into()]).await?;
        if lineage.is_null() {
            return Ok(Lineage::default());
        }
        let unreadable =
            |error| Unavailable(format!("the versions of plugin '{plugin}' cannot be read: {error}"));
        serde_json::from_str(&answer::text(lineage)?).map_err(unreadable)
    }

    pub async fn change(&self, plugin: &str, change: Change<'_>) -> Result<bool, Unavailable> {
        let code = |sha256: &str| self.names.plugin_code(plugin, sha256);
        let mut keys = vec![self.names.plugins(), code(&change.lineage.current)];
        keys.extend(change.dropped.iter().map(|sha256| code(sha256)));
        let lineage = serde_json::to_string(change.lineage).expect("plain data");
        let generation = change.lineage.generation - 1;
        let bytes = change.code.cloned().unwrap_or_default();
        let arguments = vec![
            plugin.into(),
            answer::integer(generation),
            lineage.into(),
            Value::Bytes(bytes),
            super::new_registry().into(),
        ];
        let changed = self.link.run(&scripts::RELEASE, keys, arguments).await?;
        Ok(answer::number(&changed)? == 1)
    }

    pub async fn restore(
        &self,
        plugin: &str,
        lineage: &Lineage,
        code: Vec<(String, Bytes)>,
    ) -> Result<(), Unavailable> {
        let (mut keys, generation) = (vec![self.names.plugins()], answer::integer(lineage.generation));
        let text = serde_json::to_string(lineage).expect("plain data");
        let mut arguments = vec![plugin.into(), generation, text.into(), super::new_registry().into()];
        for (sha256, bytes) in code {
            keys.push(self.names.plugin_code(plugin, &sha256));
            arguments.push(Value::Bytes(bytes));
        }
        self.link.run(&scripts::RESTORE, keys, arguments).await.map(drop)
    }

    pub async fn code(&self, plugin: &str, sha256: &str) -> Result<Option<Bytes>, Unavailable> {
        let code = self.link.command("GET", vec![self.names.plugin_code(plugin, sha256).into()]).await?;
        Ok(code.into_owned_bytes().map(Bytes::from))
    }

    pub async fn report(&self, node: &str, now: u64, report: &str) -> Result<(), Unavailable> {
        let said = format!("{now} {report}");
        let arguments = vec![self.names.plugins_nodes().into(), node.into(), said.into()];
        self.link.command("HSET", arguments).await.map(drop)
    }

    pub async fn unreport(&self, node: &str) -> Result<(), Unavailable> {
        self.link.command("HDEL", vec![self.names.plugins_nodes().into(), node.into()]).await.map(drop)
    }

    pub async fn reports(&self, now: u64) -> Result<Vec<(Arc<str>, String)>, Unavailable> {
        let all = self.link.command("HGETALL", vec![self.names.plugins_nodes().into()]).await?;
        let mut reports = vec![];
        for (node, said) in answer::pairs(all)? {
            let (at, report) = said.split_once(' ').unwrap_or_default();
            let age = Duration::from_millis(now.saturating_sub(at.parse().unwrap_or_default()));
            if age < SILENT {
                reports.push((node, report.to_owned()));
            } else if age > FORGOTTEN {
                self.unreport(&node).await?;
            }
        }
        reports.sort();
        Ok(reports)
    }
}
