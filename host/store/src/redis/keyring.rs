//! API keys that are kept in Redis: good on every node, beside those of each node's file.

use crate::{
    RESPONSE_TIMEOUT, StoreMetrics, StoredKeys, Unavailable,
    key::{Digest, Expiry, KeyConfig, PrincipalName, Scope},
    redis::{
        answer,
        link::{Link, Replication},
        names::Names,
        opening::{Waiting, open},
        revision::REVISION,
        scripts::registries::{self, EntryWrite},
        site::Site,
    },
    registry::{Entries, Entry, REVOCATION_TTL, Revision, merge},
};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};
use switchyard_process::vital::VitalTasks;
use switchyard_protocol::unix_ms;

/// How much longer than nodes the registry remembers that a key was revoked, so that none offers again what it has just forgotten.
const LONGER: Duration = Duration::from_secs(24 * 3600);

pub struct Keyring {
    link: Arc<Link>,
    names: Names,
}

/// What is kept of a key, behind its digest.
#[derive(Serialize, Deserialize)]
struct Stored {
    principal: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tier: Option<String>,
    scopes: Vec<Scope>,
    /// Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<u64>,
}

/// What a node knows after it has looked, and whether the registry lost some of it and could not be given it again.
pub(super) struct Synced {
    pub keys: StoredKeys,
    pub lost: Option<String>,
}

impl Keyring {
    /// For the command line, which has no node.
    pub async fn open(site: &Site) -> Result<Self, String> {
        // A task that panics is seen by the answer that does not come.
        let vitals = VitalTasks::default();
        let mut waiting = Waiting::new(site, |_: &str| {});
        let opened = open(&mut waiting, StoreMetrics::default(), &vitals);
        let late = |_| format!("the store {} does not answer", site.url);
        let (link, ..) = tokio::time::timeout(RESPONSE_TIMEOUT * 4, opened).await.map_err(late)??;
        Ok(Self::of(Arc::new(link), Names::of(site)))
    }

    pub(super) fn of(link: Arc<Link>, names: Names) -> Self {
        Self { link, names }
    }

    /// Reads what has changed since `known`, and writes again what of it is not there any more. `None`: nothing changed.
    pub(super) async fn sync(&self, known: &StoredKeys) -> Result<Option<Synced>, Unavailable> {
        let asked = vec![self.names.keys().into(), REVISION.into()];
        let revision = self.link.command("HGET", asked).await?;
        let revision = if revision.is_null() { Revision::none() } else { Revision(answer::text(revision)?) };
        // Where there is no registry any more, what this node knows of it is lost there.
        if revision == known.revision && (revision != Revision::none() || known.entries.is_empty()) {
            return Ok(None);
        }
        let (mut revision, found) = self.read().await?;
        // By whichever clock is ahead, this node's or Redis': what the registry forgets now is not offered.
        let latest = found.values().map(Entry::version).fold(unix_ms(), u64::max);
        let oldest = latest.saturating_sub(REVOCATION_TTL.as_millis() as u64);
        // Who was away for so long may know keys of which nobody remembers that they were revoked.
        let is_outdated = known.read_at < unix_ms().saturating_sub(REVOCATION_TTL.as_millis() as u64)
            && revision != Revision::none();
        let before = if is_outdated { &Entries::new() } else { &known.entries };
        let (entries, missing) = merge(before, found, oldest);
        let mut lost = None;
        if !missing.is_empty() {
            let count = missing.len();
            lost = self.offer(&missing).await.err().map(|error| {
                format!("the store has lost {count} of its API keys; this node goes on with them, and could not write them again: {error}")
            });
            if lost.is_some() {
                // It is tried again.
                revision = Revision::none();
            } else {
                tracing::warn!(count, "the store had lost API keys; this node has written them again");
            }
        }
        let keys = entries.iter().filter_map(|(digest, entry)| key(digest, entry)).collect();
        // What was written has changed the revision, so that this node looks once more.
        let keys = StoredKeys { revision, entries, keys, read_at: unix_ms() };
        Ok(Some(Synced { keys, lost }))
    }

    async fn read(&self) -> Result<(Revision, Entries), Unavailable> {
        let all = self.link.command("HGETALL", vec![self.names.keys().into()]).await?;
        let (mut revision, mut entries) = (Revision::none(), Entries::new());
        for (name, text) in answer::pairs(all)? {
            match &*name {
                REVISION => revision = Revision(text),
                _ => drop(entries.insert(name, Entry(text))),
            }
        }
        Ok((revision, entries))
    }

    pub async fn list(&self) -> Result<Vec<KeyConfig>, Unavailable> {
        let (_, entries) = self.read().await?;
        let mut keys: Vec<_> = entries.iter().filter_map(|(digest, entry)| key(digest, entry)).collect();
        keys.sort_by_key(|key| (key.principal.0.clone(), key.digest.to_string()));
        Ok(keys)
    }

    pub async fn add(&self, key: &KeyConfig) -> Result<Replication, Unavailable> {
        let stored = Stored {
            principal: key.principal.0.to_string(),
            tier: key.tier.as_ref().map(|tier| tier.get_ref().clone()),
            scopes: key.scopes.clone(),
            expires: key.expires.map(|at| at.0),
        };
        let stored = serde_json::to_string(&stored).expect("plain data");
        Ok(self.write(&key.digest, Some(&stored)).await?.1)
    }

    /// Whether it was there, and which replicas know that it is not any more.
    pub async fn revoke(&self, digest: &Digest) -> Result<(bool, Replication), Unavailable> {
        self.write(digest, None).await
    }

    /// Whether the key was there before.
    async fn write(
        &self,
        digest: &Digest,
        content: Option<&str>,
    ) -> Result<(bool, Replication), Unavailable> {
        let digest = digest.to_string();
        let entry = EntryWrite { name: &digest, version: None, content };
        registries::write_key_replicated(&self.link, &self.names, REVOCATION_TTL + LONGER, entry).await
    }

    /// Writes what was lost, unless somebody else did.
    async fn offer(&self, missing: &Entries) -> Result<(), Unavailable> {
        let entries = missing.iter().map(|(name, entry)| EntryWrite {
            name,
            version: Some(entry.version()),
            content: entry.content(),
        });
        registries::write_keys(&self.link, &self.names, REVOCATION_TTL + LONGER, entries).await
    }
}

/// `None` also for one that cannot be read, which is of a version to come; the others are good all the same.
fn key(digest: &str, entry: &Entry) -> Option<KeyConfig> {
    let content = entry.content()?;
    let key = read(digest, content);
    if key.is_none() {
        tracing::error!(%digest, "a key in the store cannot be read");
    }
    key
}

fn read(digest: &str, stored: &str) -> Option<KeyConfig> {
    let Stored { principal, tier, scopes, expires } = serde_json::from_str(stored).ok()?;
    Some(KeyConfig {
        digest: Digest::try_from(digest.to_owned()).ok()?,
        principal: PrincipalName::try_from(principal).ok()?,
        tier: tier.map(|tier| toml::Spanned::new(0..0, tier)),
        scopes,
        expires: expires.map(Expiry),
    })
}
