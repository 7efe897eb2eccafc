//! The trait that every plugin implements, whichever hooks it has.

use crate::metrics::Metric;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A plugin. Each instance has one value of this type. The host may replace an instance at any time: after a
/// failure, when another version becomes active, or when the configuration is reloaded. So use the fields for
/// what `new` derives from the configuration, and for caches. What must not be lost belongs into
/// [`state`](crate::state).
///
/// Hooks take `&self`. The host never calls two hooks of one instance at the same time, so a cache can be in
/// a `RefCell`.
pub trait Plugin: Sized + 'static {
    /// The plugin's configuration, which the operator writes. It is read from JSON, or from `{}` if there is
    /// none. Add `#[serde(deny_unknown_fields, default)]`, so that an error names a misspelled key.
    type Config: DeserializeOwned;

    /// The counters and histograms that the host exports for this plugin. See [`crate::metrics`].
    const METRICS: &'static [Metric] = &[];

    /// Creates the plugin for one instance.
    ///
    /// # Errors
    /// What is wrong with the configuration, and what would be right. The operator sees this text, cut to 512
    /// bytes, and the plugin is not loaded.
    fn new(config: Self::Config) -> Result<Self, String>;

    /// A JSON Schema of [`Plugin::Config`], for tools that check or complete a configuration. By default it is
    /// made from the type, with [`schema_of`](crate::schema_of).
    fn config_schema() -> Option<String> {
        Some(crate::schema_of::<Self::Config>())
    }
}

/// The configuration of a plugin that has none. Any key in it is an error.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoConfig {}
