//! `[store]`: where rooms and sessions are stored, in the process or in Redis. Connects to nothing.

use serde::Deserialize;
use switchyard_protocol::room::is_valid_word;
use switchyard_store::{RedisUrl, RedisUrlError, Site};

/// `[store]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// Which store it is, and its address.
    pub url: StoreUrl,
    /// The prefix of all keys in Redis. Stores with different prefixes do not affect each other.
    pub prefix: KeyPrefix,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { url: StoreUrl::Memory, prefix: KeyPrefix("switchyard".to_owned()) }
    }
}

/// `store.url`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "toml::Value")]
pub enum StoreUrl {
    /// In the memory of the process.
    Memory,
    /// In Redis.
    Redis(Box<RedisUrl>),
}

/// Why a value of `store.url` is invalid. The message does not show the value, which may be nothing but a
/// password.
#[derive(Debug, thiserror::Error)]
pub enum InvalidStoreUrl {
    /// It is not a string, but a value of this type of TOML.
    #[error(
        r#"store.url must be a string such as "memory" or "redis://127.0.0.1:6379", but its type is {0}"#
    )]
    Type(&'static str),
    /// It is neither `memory` nor a valid URL of Redis.
    #[error(transparent)]
    Redis(#[from] RedisUrlError),
}

impl TryFrom<toml::Value> for StoreUrl {
    type Error = InvalidStoreUrl;

    fn try_from(url: toml::Value) -> Result<Self, InvalidStoreUrl> {
        match url.as_str() {
            Some("memory") => Ok(Self::Memory),
            Some(url) => Ok(Self::Redis(Box::new(RedisUrl::parse(url)?))),
            None => Err(InvalidStoreUrl::Type(url.type_str())),
        }
    }
}

/// `store.prefix`: 1 to 64 characters of `A-Z a-z 0-9 . _ -`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct KeyPrefix(pub String);

/// A value of `store.prefix` that is not a prefix.
#[derive(Debug, thiserror::Error)]
#[error("store.prefix: invalid prefix '{0}'; expected 1 to 64 characters of A-Z a-z 0-9 . _ -")]
pub struct InvalidKeyPrefix(String);

impl TryFrom<String> for KeyPrefix {
    type Error = InvalidKeyPrefix;

    fn try_from(prefix: String) -> Result<Self, InvalidKeyPrefix> {
        match is_valid_word(&prefix) {
            true => Ok(Self(prefix)),
            false => Err(InvalidKeyPrefix(prefix)),
        }
    }
}

impl StoreConfig {
    /// Where the store is in Redis; `None` for the memory store.
    pub fn site(&self) -> Option<Site> {
        match &self.url {
            StoreUrl::Memory => None,
            StoreUrl::Redis(url) => Some(Site { url: RedisUrl::clone(url), prefix: self.prefix.0.clone() }),
        }
    }
}
