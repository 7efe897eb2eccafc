//! What every plugin is, whatever hooks it has.

use crate::metrics::Metric;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A policy with its configuration. The host makes one value an instance and may replace it at any moment
/// (after a trap, on a swap, on a reload), so a field may hold what `new` derives from the config or a cache,
/// never something that would be missed.
///
/// Hooks take `&self`; the host never calls two at once in one instance, so a cache may sit in a `RefCell`.
pub trait Plugin: Sized + 'static {
    /// The plugin's section of the host's configuration, read from JSON (`{}` when there is none).
    /// Put `#[serde(deny_unknown_fields, default)]` on it: a misspelt key is then told by its name.
    type Config: DeserializeOwned;

    /// The counters and histograms that the host shall export. See [`crate::metrics`].
    const METRICS: &'static [Metric] = &[];

    /// # Errors
    /// What is wrong with the config and what would be right. The operator reads it, and the plugin does not start.
    fn new(config: Self::Config) -> Result<Self, String>;

    /// A JSON Schema of [`Plugin::Config`], for tools that check or complete a configuration.
    fn config_schema() -> Option<String> {
        None
    }
}

/// The config of a plugin that takes none: any key is refused.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoConfig {}
