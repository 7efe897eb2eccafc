//! What an operator configures.

use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// First part of a name, in any case.
    pub protocols: Vec<String>,
    /// Second part of a name, in any case.
    pub chains: Vec<String>,
    /// For how long the host may keep an answer about a name. A changed config makes new instances and
    /// empties that cache, so it may be long.
    #[serde(default = "an_hour")]
    pub cache_seconds: u32,
    /// For principals whose tier has no entry of its own.
    #[serde(default)]
    pub rooms: Rooms,
    #[serde(default)]
    pub tiers: BTreeMap<String, Rooms>,
}

/// The most rooms of this plugin; absent is no limit of the plugin's.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rooms {
    pub per_connection: Option<u32>,
    pub per_principal: Option<u32>,
}

fn an_hour() -> u32 {
    3600
}

impl Config {
    /// Lower case and sorted, as names are looked up.
    ///
    /// # Errors
    /// A list is empty, or holds what can never be a part of a room's name.
    pub(crate) fn checked(mut self) -> Result<Self, String> {
        for (field, example, names) in
            [("protocols", "uniswap-v3", &mut self.protocols), ("chains", "ethereum", &mut self.chains)]
        {
            if names.is_empty() {
                return Err(format!("config.{field} is empty: name at least one, such as \"{example}\""));
            }
            for name in names.iter_mut() {
                name.make_ascii_lowercase();
                let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
                if name.is_empty() || !name.bytes().all(fits) {
                    return Err(format!(
                        "config.{field}: '{name}' must be of A-Z, a-z, 0-9, '.', '_' and '-'"
                    ));
                }
            }
            names.sort_unstable();
            names.dedup();
        }
        Ok(self)
    }

    pub(crate) fn rooms(&self, tier: &str) -> Rooms {
        self.tiers.get(tier).copied().unwrap_or(self.rooms)
    }
}
