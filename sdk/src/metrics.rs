//! Counters and histograms that the host exports for the plugin, under names of the plugin's.
//!
//! ```
//! use switchyard_sdk::metrics::{Counter, Metric};
//!
//! const REFUSED: Counter = Counter::new(0, "refused");
//! /// Stands in the plugin as `const METRICS`.
//! const METRICS: &[Metric] = &[REFUSED.metric()];
//!
//! REFUSED.add(1);
//! ```

use crate::host;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Histogram,
}

/// What the host is told of a handle. `id` is the plugin's own choice, one for each handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    pub id: u32,
    pub name: &'static str,
    pub kind: Kind,
}

/// Counts up.
#[derive(Debug, Clone, Copy)]
pub struct Counter {
    id: u32,
    name: &'static str,
}

impl Counter {
    pub const fn new(id: u32, name: &'static str) -> Self {
        Self { id, name }
    }

    pub const fn metric(self) -> Metric {
        Metric { id: self.id, name: self.name, kind: Kind::Counter }
    }

    pub fn add(self, by: u64) {
        host::count(self.id, by);
    }
}

/// Records values and their distribution.
#[derive(Debug, Clone, Copy)]
pub struct Histogram {
    id: u32,
    name: &'static str,
}

impl Histogram {
    pub const fn new(id: u32, name: &'static str) -> Self {
        Self { id, name }
    }

    pub const fn metric(self) -> Metric {
        Metric { id: self.id, name: self.name, kind: Kind::Histogram }
    }

    pub fn observe(self, value: f64) {
        host::observe(self.id, value);
    }
}
