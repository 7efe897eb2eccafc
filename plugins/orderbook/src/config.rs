//! What an operator configures.

use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The most levels with a size that each side of a published book keeps; 1 or more.
    pub max_depth: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_depth: 50 }
    }
}

impl Config {
    /// # Errors
    /// A depth of 0, which would publish empty books.
    pub(crate) fn checked(self) -> Result<Self, String> {
        if self.max_depth == 0 {
            return Err("config.max_depth is 0, which leaves nothing of a book: 1 or more".to_owned());
        }
        Ok(self)
    }
}
