//! The API keys that a node accepts, and the limits of their tiers. Keeps only the digests of keys, not the
//! keys.

use serde::Deserialize;
use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
};
use subtle::ConstantTimeEq;
use switchyard_protocol::{ErrorCode, Refusal, unix_ms};
use switchyard_store::key::{Digest, Expiry, KeyConfig, Scope};

/// `[tier.NAME]`: the limits of principals whose keys are of this tier.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tier {
    /// Maximum number of live connections of one principal, on all nodes that share a store.
    pub connections: u32,
    /// Maximum number of rooms of one connection. `*` and the inbox do not count.
    pub rooms: u32,
}

impl Default for Tier {
    fn default() -> Self {
        Self { connections: 100, rooms: 100 }
    }
}

/// The tier of keys that do not name one.
pub const DEFAULT_TIER: &str = "default";

/// A configured key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Key {
    pub digest: Digest,
    /// What plugins know the key by: the first 16 hexadecimal digits of the digest.
    pub id: Arc<str>,
    pub principal: Arc<str>,
    pub tier: Arc<str>,
    pub limits: Tier,
    scopes: Vec<Scope>,
    /// Unix milliseconds. `None`: never.
    expires: Option<u64>,
}

impl Key {
    /// Refuses if the key lacks a scope. `what` completes the message "key 'x' may not …".
    pub(crate) fn require(&self, scope: Scope, what: impl fmt::Display) -> Result<(), Refusal> {
        if self.has_scope(scope) {
            return Ok(());
        }
        let message =
            format!("key '{}' may not {what}: it lacks the scope '{}'", self.principal, scope.as_str());
        Err(Refusal::new(ErrorCode::Forbidden, message))
    }

    fn has_scope(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    fn check_expiry(&self, now: u64) -> Result<(), Refusal> {
        match self.expires {
            Some(at) if at <= now => {
                let at = Expiry(at);
                Err(Refusal::new(ErrorCode::ExpiredKey, format!("key '{}' expired at {at}", self.principal)))
            }
            _ => Ok(()),
        }
    }
}

/// All configured keys. They are looked up by the first bytes of their digest, and the whole digest is
/// compared in constant time.
#[derive(Default)]
pub(crate) struct Keys {
    by_prefix: HashMap<[u8; 8], Vec<Arc<Key>>>,
    principals: HashSet<Arc<str>>,
}

impl Keys {
    /// `tiers` must contain every tier that a key names. Checking the configuration makes sure of that.
    pub(crate) fn new(keys: &[KeyConfig], tiers: &HashMap<String, Tier>) -> Self {
        let mut all = Self::default();
        for config in keys {
            let tier = config.tier.as_ref().map_or(DEFAULT_TIER, |tier| tier.get_ref().as_str());
            all.insert(Key {
                digest: config.digest,
                id: key_id(&config.digest),
                principal: config.principal.0.clone(),
                tier: tier.into(),
                limits: tiers.get(tier).copied().unwrap_or_default(),
                scopes: config.scopes.clone(),
                expires: config.expires.map(|expires| expires.0),
            });
        }
        all
    }

    fn insert(&mut self, key: Key) {
        let prefix = key.digest.as_bytes()[..8].try_into().expect("eight bytes");
        self.principals.insert(key.principal.clone());
        self.by_prefix.entry(prefix).or_default().push(Arc::new(key));
    }

    /// Whether there is no key at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_prefix.is_empty()
    }

    /// Whether a principal has a key, even an expired one.
    pub(crate) fn has_principal(&self, principal: &str) -> bool {
        self.principals.contains(principal)
    }

    /// Finds the key that a client presented.
    pub(crate) fn authenticate(&self, key: &str) -> Result<Arc<Key>, Refusal> {
        self.find(&Digest::of(key))
    }

    /// Finds a key by its digest. It may have changed since a connection authenticated with it, or be gone.
    pub(crate) fn find(&self, digest: &Digest) -> Result<Arc<Key>, Refusal> {
        let same = |key: &&Arc<Key>| bool::from(key.digest.as_bytes().ct_eq(digest.as_bytes()));
        let found = self.by_prefix.get(&digest.as_bytes()[..8]).and_then(|keys| keys.iter().find(same));
        let Some(key) = found else {
            return Err(Refusal::new(
                ErrorCode::InvalidKey,
                "unknown API key; check it, or ask the operator of the server for one",
            ));
        };
        key.check_expiry(unix_ms())?;
        Ok(key.clone())
    }
}

fn key_id(digest: &Digest) -> Arc<str> {
    let digits = digest.as_bytes()[..8].iter().map(|byte| format!("{byte:02x}"));
    digits.collect::<String>().into()
}

/// Generates a key: `sk_`, and 160 random bits in hexadecimal.
pub fn generate_key() -> String {
    let mut bits = [0u8; 20];
    getrandom::fill(&mut bits).expect("the system has entropy");
    bits.iter().fold("sk_".to_owned(), |key, byte| key + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use switchyard_store::key::PrincipalName;

    fn keys(expires: Option<u64>) -> Keys {
        let config = KeyConfig {
            digest: Digest::of("secret"),
            principal: PrincipalName("acme".into()),
            tier: None,
            scopes: vec![Scope::Publish],
            expires: expires.map(Expiry),
        };
        Keys::new(&[config], &HashMap::new())
    }

    #[test]
    fn a_key_is_accepted_until_it_expires_and_only_for_its_scopes() {
        let key = keys(None).authenticate("secret").unwrap();
        assert_eq!(&*key.principal, "acme");
        assert!(key.require(Scope::Publish, "publish").is_ok());
        let refusal = key.require(Scope::Admin, "see rooms").unwrap_err();
        assert!(refusal.message.contains("'acme' may not see rooms") && refusal.message.contains("admin"));
        assert_eq!(keys(None).authenticate("secreT").unwrap_err().code, ErrorCode::InvalidKey);
        assert_eq!(keys(Some(unix_ms() - 1)).authenticate("secret").unwrap_err().code, ErrorCode::ExpiredKey);
    }
}
