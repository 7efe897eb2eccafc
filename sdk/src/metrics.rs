//! Counters and histograms that the host exports for the plugin, under names that the plugin chooses.
//!
//! ```
//! use switchyard_sdk::metrics::{Counter, Metric};
//!
//! const REJECTED: Counter = Counter::new(0, "rejected");
//! // In a plugin, this is `Plugin::METRICS`.
//! const METRICS: &[Metric] = &[REJECTED.metric()];
//!
//! REJECTED.add(1);
//! ```

use crate::host;

/// The kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// See [`Counter`].
    Counter,
    /// See [`Histogram`].
    Histogram,
}

/// The declaration of a metric, for [`Plugin::METRICS`](crate::Plugin::METRICS).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// The id that the plugin chose. It must be unique within the plugin.
    pub id: u32,
    /// The name. The host exports it with a prefix.
    pub name: &'static str,
    /// Whether this is a counter or a histogram.
    pub kind: Kind,
}

/// A counter, which only grows. The host ignores it unless `Plugin::METRICS` lists it.
#[derive(Debug, Clone, Copy)]
pub struct Counter {
    id: u32,
    name: &'static str,
}

impl Counter {
    /// A counter with an id that the plugin chooses. The id must be unique within the plugin.
    pub const fn new(id: u32, name: &'static str) -> Self {
        Self { id, name }
    }

    /// The declaration of this counter for `Plugin::METRICS`.
    pub const fn metric(self) -> Metric {
        Metric { id: self.id, name: self.name, kind: Kind::Counter }
    }

    /// Adds `by` to the counter.
    pub fn add(self, by: u64) {
        host::count(self.id, by);
    }
}

/// A histogram, which records the distribution of values. The host ignores it unless `Plugin::METRICS` lists
/// it.
#[derive(Debug, Clone, Copy)]
pub struct Histogram {
    id: u32,
    name: &'static str,
}

impl Histogram {
    /// A histogram with an id that the plugin chooses. The id must be unique within the plugin.
    pub const fn new(id: u32, name: &'static str) -> Self {
        Self { id, name }
    }

    /// The declaration of this histogram for `Plugin::METRICS`.
    pub const fn metric(self) -> Metric {
        Metric { id: self.id, name: self.name, kind: Kind::Histogram }
    }

    /// Records a value. The host ignores values that are negative or not finite.
    pub fn observe(self, value: f64) {
        host::observe(self.id, value);
    }
}
