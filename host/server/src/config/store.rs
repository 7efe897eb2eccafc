//! `[store]`: where rooms and sessions are stored, in the process or in Redis. Connects to nothing.

use serde::Deserialize;
use switchyard_protocol::room::is_valid_principal;
use switchyard_store::{RedisUrl, Site};

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

impl TryFrom<toml::Value> for StoreUrl {
    type Error = String;

    /// The error does not show the value, which may be nothing but a password.
    fn try_from(url: toml::Value) -> Result<Self, String> {
        match url.as_str() {
            Some("memory") => Ok(Self::Memory),
            Some(url) => {
                RedisUrl::parse(url).map(|url| Self::Redis(Box::new(url))).map_err(|error| error.to_string())
            }
            None => Err(format!("store.url must be a string, but its type is {}", url.type_str())),
        }
    }
}

/// `store.prefix`: 1 to 64 characters of `A-Z a-z 0-9 . _ -`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct KeyPrefix(pub String);

impl TryFrom<String> for KeyPrefix {
    type Error = String;

    fn try_from(prefix: String) -> Result<Self, String> {
        match is_valid_principal(&prefix) {
            true => Ok(Self(prefix)),
            false => Err(format!(
                "store.prefix: invalid prefix '{prefix}'; expected 1 to 64 characters of A-Z a-z 0-9 . _ -"
            )),
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
