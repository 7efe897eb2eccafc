//! The plugin's configuration.

use serde::Deserialize;
use std::collections::BTreeMap;

/// The plugin's configuration.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The protocols, which are the first part of a room's name. In any case; at least one.
    pub protocols: Vec<String>,
    /// The chains, which are the second part of a room's name. In any case; at least one.
    pub chains: Vec<String>,
    /// How long the host may cache the answer for a name, in seconds; an hour by default. A changed
    /// configuration starts new instances and clears that cache, so this can be long.
    #[serde(default = "default_cache_seconds")]
    pub cache_seconds: u32,
    /// The limits for principals whose tier has no entry in `tiers`.
    #[serde(default)]
    pub rooms: RoomLimits,
    /// The limits of each tier.
    #[serde(default)]
    pub tiers: BTreeMap<String, RoomLimits>,
}

/// Maximum numbers of rooms of this plugin. Without a number, the plugin sets no limit.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoomLimits {
    /// For one connection.
    pub per_connection: Option<u32>,
    /// For all connections of a principal to one node, added up.
    pub per_principal: Option<u32>,
}

fn default_cache_seconds() -> u32 {
    3600
}

impl Config {
    /// Validates the configuration, and brings protocols and chains into lower case and sorted order for
    /// lookups.
    ///
    /// # Errors
    /// A list is empty, or contains something that cannot be part of a room's name.
    pub(crate) fn checked(mut self) -> Result<Self, String> {
        for (field, example, names) in
            [("protocols", "uniswap-v3", &mut self.protocols), ("chains", "ethereum", &mut self.chains)]
        {
            if names.is_empty() {
                return Err(format!("config.{field} must have at least one entry, e.g. \"{example}\""));
            }
            for name in names.iter_mut() {
                name.make_ascii_lowercase();
                let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
                if name.is_empty() || !name.bytes().all(is_allowed) {
                    return Err(format!(
                        "config.{field}: invalid entry '{name}'; expected only A-Z, a-z, 0-9, '.', '_' and '-'"
                    ));
                }
            }
            names.sort_unstable();
            names.dedup();
        }
        Ok(self)
    }

    /// The limits of a tier.
    pub(crate) fn room_limits(&self, tier: &str) -> RoomLimits {
        self.tiers.get(tier).copied().unwrap_or(self.rooms)
    }
}
