//! API keys that are kept in Redis: good on every node, beside those of each node's file.

use super::{Link, Names, Site, answer};
use crate::{
    key::{Digest, Expiry, KeyConfig, PrincipalName, Scope},
    metrics::Metrics,
    store::{StoredKeys, Unavailable},
};
use fred::types::Value;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

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

impl Keyring {
    /// For the command line, which has no node.
    pub async fn open(site: &Site) -> Result<Self, String> {
        let opened = super::open(site, Metrics::default().store);
        let late = |_| format!("the store {} does not answer", site.url);
        let (link, _) = tokio::time::timeout(super::PATIENCE * 4, opened).await.map_err(late)??;
        Ok(Self::of(Arc::new(link), Names::new(&site.prefix)))
    }

    pub(super) fn of(link: Arc<Link>, names: Names) -> Self {
        Self { link, names }
    }

    pub(super) async fn newer(&self, known: u64) -> Result<Option<StoredKeys>, Unavailable> {
        // The version first: what is read then is at least as new.
        let version = self.link.command("GET", vec![self.names.keys_version().into()]).await?;
        let version = if version.is_null() { 0 } else { answer::number(&version)? };
        if version == known {
            return Ok(None);
        }
        Ok(Some(StoredKeys { version, keys: self.list().await? }))
    }

    pub async fn list(&self) -> Result<Vec<KeyConfig>, Unavailable> {
        let all = self.link.command("HGETALL", vec![self.names.keys().into()]).await?;
        let mut keys = vec![];
        for (digest, stored) in answer::pairs(all)? {
            match read(&digest, &stored) {
                Some(key) => keys.push(key),
                // Of a version to come; the others are good all the same.
                None => tracing::error!(%digest, "a key in the store cannot be read"),
            }
        }
        keys.sort_by_key(|key| (key.principal.0.clone(), key.digest.to_string()));
        Ok(keys)
    }

    pub async fn add(&self, key: &KeyConfig) -> Result<(), Unavailable> {
        let stored = Stored {
            principal: key.principal.0.to_string(),
            tier: key.tier.as_ref().map(|tier| tier.get_ref().clone()),
            scopes: key.scopes.clone(),
            expires: key.expires.map(|at| at.0),
        };
        let stored = serde_json::to_string(&stored).expect("plain data");
        let digest = key.digest.to_string();
        self.link.command("HSET", vec![self.names.keys().into(), digest.into(), stored.into()]).await?;
        self.changed().await
    }

    /// Whether it was there.
    pub async fn revoke(&self, digest: &Digest) -> Result<bool, Unavailable> {
        let arguments = vec![self.names.keys().into(), Value::from(digest.to_string())];
        let removed = answer::number(&self.link.command("HDEL", arguments).await?)?;
        self.changed().await?;
        Ok(removed == 1)
    }

    async fn changed(&self) -> Result<(), Unavailable> {
        self.link.command("INCR", vec![self.names.keys_version().into()]).await.map(drop)
    }
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
