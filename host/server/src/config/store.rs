//! Where rooms are kept: in the process, or in Redis.

use serde::Deserialize;
use switchyard_protocol::room::is_valid_principal;
use switchyard_store::{RedisUrl, Site};

/// `[store]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    pub url: StoreUrl,
    /// How all keys in Redis begin: stores with different ones know nothing of each other.
    pub prefix: Prefix,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { url: StoreUrl::Memory, prefix: Prefix("switchyard".to_owned()) }
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "toml::Value")]
pub enum StoreUrl {
    /// The embedded store.
    Memory,
    Redis(Box<RedisUrl>),
}

impl TryFrom<toml::Value> for StoreUrl {
    type Error = String;

    /// The error does not repeat the value, which may be a password alone.
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

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct Prefix(pub String);

impl TryFrom<String> for Prefix {
    type Error = String;

    fn try_from(prefix: String) -> Result<Self, String> {
        match is_valid_principal(&prefix) {
            true => Ok(Self(prefix)),
            false => Err(format!("store.prefix '{prefix}' is none: 1 to 64 of A-Z a-z 0-9 . _ -")),
        }
    }
}

impl StoreConfig {
    /// Where it is, unless it is in the process.
    pub fn site(&self) -> Option<Site> {
        match &self.url {
            StoreUrl::Memory => None,
            StoreUrl::Redis(url) => Some(Site { url: RedisUrl::clone(url), prefix: self.prefix.0.clone() }),
        }
    }
}
