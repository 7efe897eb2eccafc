//! The plugin's configuration.

use serde::Deserialize;

/// The plugin's configuration.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The maximum number of levels with a size that each side of a published book keeps; at least 1.
    pub max_depth: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_depth: 50 }
    }
}

impl Config {
    /// Validates the configuration.
    ///
    /// # Errors
    /// A depth of 0, which would publish empty books.
    pub(crate) fn checked(self) -> Result<Self, String> {
        if self.max_depth == 0 {
            return Err("config.max_depth must be at least 1, got 0".to_owned());
        }
        Ok(self)
    }
}
