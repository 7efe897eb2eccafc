//! API keys in Redis, which are valid on every node, in addition to those of each node's configuration.
//! Authenticates nobody.

use crate::{
    RESPONSE_TIMEOUT, StoreMetrics, StoredKeys, Unavailable,
    grant::Grants,
    key::{Digest, Expiry, KeyConfig, KeyId, PrincipalName, Scope, Tags},
    redis::{
        connecting::{StartupReporter, connect},
        link::{Link, Replication},
        names::Names,
        open_error::OpenError,
        replies,
        revision::REVISION,
        scripts::registries::{self, EntryWrite},
        site::Site,
    },
    registry::{Entries, REVOCATION_TTL, RegistryEntry, Revision, merge},
};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};
use switchyard_process::vital::VitalTasks;
use switchyard_protocol::unix_ms;

/// How long a command waits until it is connected to Redis.
const OPEN_TIMEOUT: Duration = RESPONSE_TIMEOUT.saturating_mul(4);
/// How much longer the registry remembers a revocation than nodes do, so that no node restores a key right
/// after the registry has forgotten its revocation.
const REVOCATION_TTL_MARGIN: Duration = Duration::from_secs(24 * 3600);

/// The API keys that are stored in Redis and are valid on every node, in addition to those of each node's
/// configuration.
pub struct Keyring {
    link: Arc<Link>,
    names: Names,
}

/// A key as it is stored under its digest, as JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyRecord {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    principal: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tier: Option<String>,
    scopes: Vec<Scope>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rooms: Option<Grants>,
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    tags: Tags,
    /// Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<u64>,
}

/// The result of comparing what a node knows with the registry.
pub(super) struct SyncedKeys {
    pub keys: StoredKeys,
    /// That the registry lost keys and they could not be written again, for operators.
    pub lost: Option<String>,
}

impl Keyring {
    /// Connects to the keyring without a node, for commands.
    ///
    /// # Errors
    ///
    /// If the URL or the server cannot be used, the keys there belong to another version of Switchyard, or
    /// Redis does not answer within 6 s.
    pub async fn open(site: &Site) -> Result<Self, OpenError> {
        // If one of the tasks panics, the connection fails, and that is reported.
        let vitals = VitalTasks::default();
        let mut reporter = StartupReporter::new(site, |_: &str| {});
        let connecting = connect(&mut reporter, StoreMetrics::default(), &vitals);
        let timed_out = |_| OpenError::Timeout(site.url.to_string());
        let (link, ..) = tokio::time::timeout(OPEN_TIMEOUT, connecting).await.map_err(timed_out)??;
        Ok(Self::of(Arc::new(link), Names::of(site)))
    }

    pub(super) fn of(link: Arc<Link>, names: Names) -> Self {
        Self { link, names }
    }

    /// Reads all keys, and writes those of `known` again that the registry has lost. `None` if nothing has
    /// changed since `known` was read.
    pub(super) async fn sync(&self, known: &StoredKeys) -> Result<Option<SyncedKeys>, Unavailable> {
        let arguments = vec![self.names.keys().into(), REVISION.into()];
        let revision = self.link.command("HGET", arguments).await?;
        let revision = if revision.is_null() { Revision::none() } else { Revision(replies::text(revision)?) };
        // If the registry is gone, it has lost all that this node knows.
        if revision == known.revision && (revision != Revision::none() || known.entries.is_empty()) {
            return Ok(None);
        }
        let (mut revision, found) = self.read().await?;
        // Measured by this node's clock or Redis', whichever is ahead, so that a revocation is not restored
        // just when the registry forgets it.
        let latest = found.values().map(RegistryEntry::version).fold(unix_ms(), u64::max);
        let oldest = latest.saturating_sub(REVOCATION_TTL.as_millis() as u64);
        // A node that was away for that long may know keys whose revocation nobody remembers any more.
        let is_outdated = known.read_at < unix_ms().saturating_sub(REVOCATION_TTL.as_millis() as u64)
            && revision != Revision::none();
        let known = if is_outdated { &Entries::new() } else { &known.entries };
        let (entries, missing) = merge(known, found, oldest);
        let mut lost = None;
        if !missing.is_empty() {
            let count = missing.len();
            lost = self.restore(&missing).await.err().map(|error| {
                format!(
                    "the store has lost {count} of its API keys; this node still accepts them, but could not write them \
                     again: {error}"
                )
            });
            if lost.is_some() {
                // So that the next call tries again.
                revision = Revision::none();
            } else {
                tracing::warn!(count, "the store had lost API keys; this node has written them again");
            }
        }
        let keys = entries.iter().filter_map(|(digest, entry)| decode_entry(digest, entry)).collect();
        // If keys were written, the revision has changed, and the next call reads all keys once more.
        let keys = StoredKeys { revision, entries, keys, read_at: unix_ms() };
        Ok(Some(SyncedKeys { keys, lost }))
    }

    async fn read(&self) -> Result<(Revision, Entries), Unavailable> {
        let all = self.link.command("HGETALL", vec![self.names.keys().into()]).await?;
        let (mut revision, mut entries) = (Revision::none(), Entries::new());
        for (name, text) in replies::pairs(all)? {
            match &*name {
                REVISION => revision = Revision(text),
                _ => drop(entries.insert(name, RegistryEntry(text))),
            }
        }
        Ok((revision, entries))
    }

    /// All keys that are not revoked, sorted by principal.
    ///
    /// # Errors
    ///
    /// If Redis does not answer in time.
    pub async fn list(&self) -> Result<Vec<KeyConfig>, Unavailable> {
        let (_, entries) = self.read().await?;
        let mut keys: Vec<_> =
            entries.iter().filter_map(|(digest, entry)| decode_entry(digest, entry)).collect();
        keys.sort_by_key(|key| (key.principal.0.clone(), key.digest.to_string()));
        Ok(keys)
    }

    /// Adds a key, or replaces the one with the same digest. Returns how many replicas have confirmed it
    /// within 1 s.
    ///
    /// # Errors
    ///
    /// If Redis does not answer in time. The key may have been added nevertheless.
    pub async fn add(&self, key: &KeyConfig) -> Result<Replication, Unavailable> {
        let record = KeyRecord {
            id: key.id.as_ref().map(|id| id.0.to_string()),
            principal: key.principal.0.to_string(),
            tier: key.tier.as_ref().map(|tier| tier.get_ref().clone()),
            scopes: key.scopes.clone(),
            rooms: key.rooms.clone(),
            tags: key.tags.clone(),
            expires: key.expires.map(|at| at.0),
        };
        let record = serde_json::to_string(&record).expect("a record is plain data");
        Ok(self.write(&key.digest, Some(&record)).await?.1)
    }

    /// Revokes a key. Returns whether it was in the store, and how many replicas have confirmed the
    /// revocation within 1 s.
    ///
    /// # Errors
    ///
    /// If Redis does not answer in time. The key may have been revoked nevertheless.
    pub async fn revoke(&self, digest: &Digest) -> Result<(bool, Replication), Unavailable> {
        self.write(digest, None).await
    }

    /// Writes a key or, without `content`, its revocation. Returns whether the key was there before.
    async fn write(
        &self,
        digest: &Digest,
        content: Option<&str>,
    ) -> Result<(bool, Replication), Unavailable> {
        let digest = digest.to_string();
        let entry = EntryWrite { name: &digest, version: None, content };
        registries::write_key_replicated(
            &self.link,
            &self.names,
            REVOCATION_TTL + REVOCATION_TTL_MARGIN,
            entry,
        )
        .await
    }

    /// Writes lost entries again, unless another node has.
    async fn restore(&self, missing: &Entries) -> Result<(), Unavailable> {
        let entries = missing.iter().map(|(name, entry)| EntryWrite {
            name,
            version: Some(entry.version()),
            content: entry.content(),
        });
        registries::write_keys(&self.link, &self.names, REVOCATION_TTL + REVOCATION_TTL_MARGIN, entries).await
    }
}

/// The key of an entry. `None` if it is revoked, or cannot be read because a later version wrote it; other
/// keys stay valid.
fn decode_entry(digest: &str, entry: &RegistryEntry) -> Option<KeyConfig> {
    let content = entry.content()?;
    let key = decode_key(digest, content);
    if key.is_none() {
        tracing::error!(%digest, "cannot read a key in the store; a later version may have written it");
    }
    key
}

fn decode_key(digest: &str, record: &str) -> Option<KeyConfig> {
    let KeyRecord { id, principal, tier, scopes, rooms, tags, expires } =
        serde_json::from_str(record).ok()?;
    Some(KeyConfig {
        id: id.map(KeyId::try_from).transpose().ok()?,
        digest: Digest::try_from(digest.to_owned()).ok()?,
        principal: PrincipalName::try_from(principal).ok()?,
        tier: tier.map(|tier| toml::Spanned::new(0..0, tier)),
        scopes,
        rooms,
        tags,
        expires: expires.map(Expiry),
    })
}
