//! A plugin's own metrics: those that it lists in `describe`, summed over all its instances. The host's
//! metrics about plugins are in `status.rs`.

use super::load::LoadErrorKind;
use serde::Serialize;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use switchyard_process::lock::LockExt;

/// Maximum number of metrics of one plugin. Each is at least one time series in the operator's storage.
const MAX_METRICS: usize = 64;

/// How many metrics of a plugin keep their values, over all its versions.
const MAX_KEPT_METRICS: usize = 16 * MAX_METRICS;

/// Maximum length of a metric's name, in bytes.
const MAX_NAME_BYTES: usize = 64;

/// Upper bounds of a histogram's buckets; one more bucket has no bound. They are powers of ten, because
/// values may be seconds, bytes or members.
pub const HISTOGRAM_BOUNDS: [f64; 10] = [0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6];

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricKind {
    /// A number that only grows.
    Counter,
    /// A distribution of values, in the buckets of [`HISTOGRAM_BOUNDS`].
    Histogram,
}

/// A metric that a plugin lists in `describe`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Metric {
    #[serde(skip)]
    pub(super) id: u32,
    /// The name in the plugin's own words, such as `orders_seen`; the host prefixes it.
    pub name: String,
    /// The type of the metric.
    pub kind: MetricKind,
}

/// The current value of a metric.
#[derive(Clone, Debug, PartialEq)]
pub enum MetricValue {
    /// The count so far.
    Counter(u64),
    /// The distribution so far.
    Histogram {
        /// How many values are at most each of [`HISTOGRAM_BOUNDS`] and above the one before; the last entry
        /// counts those above all bounds.
        buckets: [u64; HISTOGRAM_BOUNDS.len() + 1],
        /// The sum of all values.
        sum: f64,
    },
}

/// The counters and histograms of one plugin, by the id that it gave them.
#[derive(Default)]
pub(crate) struct PluginMetrics {
    cells: HashMap<u32, (String, Arc<Cell>)>,
}

/// The values of the metrics that the versions of a plugin define, by name. A version goes on where the one
/// before is, and both count there while one replaces the other.
#[derive(Default)]
pub(crate) struct GuestSeries(Mutex<VecDeque<(String, Arc<Cell>)>>);

enum Cell {
    Counter(AtomicU64),
    Histogram { buckets: [AtomicU64; HISTOGRAM_BOUNDS.len() + 1], sum: AtomicU64 },
}

impl PluginMetrics {
    /// Fails if the list that `describe` returned is not valid.
    pub(crate) fn new(described: &[Metric]) -> Result<Self, LoadErrorKind> {
        let invalid = |reason: String| Err(LoadErrorKind::InvalidDescription(reason));
        if described.len() > MAX_METRICS {
            return invalid(format!(
                "it lists {} metrics; at most {MAX_METRICS} are allowed",
                described.len()
            ));
        }
        let mut cells = HashMap::new();
        for metric in described {
            let name = &metric.name;
            let mut letters = name.bytes();
            let is_valid = letters.next().is_some_and(|b| b.is_ascii_lowercase())
                && letters.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            if !is_valid || name.len() > MAX_NAME_BYTES {
                return invalid(format!(
                    "metric name {name:?} must be a lower-case word such as orders_seen, of at most {MAX_NAME_BYTES} \
                     bytes"
                ));
            }
            if described.iter().filter(|other| other.name == *name).count() > 1 {
                return invalid(format!("it lists the metric '{name}' twice"));
            }
            let cell = match metric.kind {
                MetricKind::Counter => Cell::Counter(AtomicU64::new(0)),
                MetricKind::Histogram => {
                    Cell::Histogram { buckets: Default::default(), sum: AtomicU64::new(0) }
                }
            };
            if cells.insert(metric.id, (name.clone(), Arc::new(cell))).is_some() {
                return invalid(format!("it lists two metrics with id {}", metric.id));
            }
        }
        Ok(Self { cells })
    }

    pub(crate) fn count(&self, id: u32, by: u64) {
        if let Some(Cell::Counter(value)) = self.cell(id) {
            value.fetch_add(by, Relaxed);
        }
    }

    /// Ignores negative, infinite and NaN values: the sum of a histogram must only grow.
    pub(crate) fn observe(&self, id: u32, value: f64) {
        if let Some(Cell::Histogram { buckets, sum }) = self.cell(id)
            && value.is_finite()
            && value >= 0.0
        {
            buckets[HISTOGRAM_BOUNDS.partition_point(|bound| *bound < value)].fetch_add(1, Relaxed);
            let add = |bits| Some((f64::from_bits(bits) + value).min(f64::MAX).to_bits());
            let _ = sum.fetch_update(Relaxed, Relaxed, add);
        }
    }

    fn cell(&self, id: u32) -> Option<&Cell> {
        self.cells.get(&id).map(|(_, cell)| &**cell)
    }

    /// The name and value of every metric, ordered by name.
    pub(crate) fn read(&self) -> Vec<(&str, MetricValue)> {
        let mut all: Vec<_> = self.cells.values().map(|(name, cell)| (name.as_str(), cell.read())).collect();
        all.sort_by_key(|(name, _)| *name);
        all
    }
}

impl GuestSeries {
    /// Lets a version's metrics go on from the values of earlier versions. A metric of another kind starts at 0.
    pub(crate) fn continue_in(&self, metrics: &PluginMetrics) -> PluginMetrics {
        let mut known = self.0.locked();
        let mut proceed = |name: &String, own: &Arc<Cell>| {
            let earlier = known.iter().position(|(other, _)| other == name).and_then(|at| known.remove(at));
            let cell = earlier.map(|(_, cell)| cell).filter(|cell| cell.is_same_kind(own));
            let cell = cell.unwrap_or_else(|| own.clone());
            known.push_back((name.clone(), cell.clone()));
            cell
        };
        let cells = metrics.cells.iter().map(|(id, (name, own))| (*id, (name.clone(), proceed(name, own))));
        let metrics = PluginMetrics { cells: cells.collect() };
        let excess = known.len().saturating_sub(MAX_KEPT_METRICS);
        known.drain(..excess);
        metrics
    }
}

impl Cell {
    fn is_same_kind(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    fn read(&self) -> MetricValue {
        match self {
            Cell::Counter(value) => MetricValue::Counter(value.load(Relaxed)),
            Cell::Histogram { buckets, sum } => MetricValue::Histogram {
                buckets: std::array::from_fn(|i| buckets[i].load(Relaxed)),
                sum: f64::from_bits(sum.load(Relaxed)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric(id: u32, name: &str, kind: MetricKind) -> Metric {
        Metric { id, name: name.into(), kind }
    }

    #[test]
    fn only_described_metrics_are_counted() {
        let described = [metric(1, "orders", MetricKind::Counter), metric(2, "size", MetricKind::Histogram)];
        let metrics = PluginMetrics::new(&described).unwrap();
        metrics.count(1, 2);
        metrics.count(1, 3);
        metrics.count(2, 1);
        metrics.count(9, 1);
        for value in [0.5, 1.0, 5e6, f64::NAN, f64::INFINITY, -1.0] {
            metrics.observe(2, value);
        }
        let buckets = [0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1];
        let expected = [
            ("orders", MetricValue::Counter(5)),
            ("size", MetricValue::Histogram { buckets, sum: 5_000_001.5 }),
        ];
        assert_eq!(metrics.read(), expected);
        (0..2).for_each(|_| metrics.observe(2, f64::MAX));
        let [_, (_, MetricValue::Histogram { sum, .. })] = metrics.read()[..] else { panic!() };
        assert_eq!(sum, f64::MAX, "the sum stays finite");
    }

    #[test]
    fn a_metric_goes_on_in_the_next_version_unless_its_kind_changes() {
        let series = GuestSeries::default();
        let version = |described: &[Metric]| series.continue_in(&PluginMetrics::new(described).unwrap());
        let first =
            version(&[metric(1, "orders", MetricKind::Counter), metric(2, "size", MetricKind::Histogram)]);
        first.count(1, 5);
        first.observe(2, 1.0);
        // The other version has other ids, and another kind of metric under a known name.
        let second =
            version(&[metric(2, "orders", MetricKind::Counter), metric(1, "size", MetricKind::Counter)]);
        second.count(2, 1);
        first.count(1, 1);
        let value = |metrics: &PluginMetrics, at: usize| metrics.read()[at].1.clone();
        assert_eq!(value(&second, 0), MetricValue::Counter(7), "both count while one replaces the other");
        assert_eq!(value(&second, 1), MetricValue::Counter(0));
        drop((first, second));
        let third = version(&[metric(7, "orders", MetricKind::Counter)]);
        assert_eq!(value(&third, 0), MetricValue::Counter(7));
    }

    #[test]
    fn the_number_of_metrics_that_are_kept_is_bounded() {
        let series = GuestSeries::default();
        for n in 0..2 * MAX_KEPT_METRICS {
            let metrics = PluginMetrics::new(&[metric(1, &format!("m{n}"), MetricKind::Counter)]).unwrap();
            series.continue_in(&metrics);
        }
        assert_eq!(series.0.locked().len(), MAX_KEPT_METRICS);
    }

    #[test]
    fn invalid_names_and_duplicate_ids_are_rejected() {
        for (name, expected) in [("Orders", "lower-case"), ("", "lower-case"), ("a-b", "lower-case")] {
            let error = PluginMetrics::new(&[metric(1, name, MetricKind::Counter)]).err().unwrap();
            assert!(error.to_string().contains(expected), "{error}");
        }
        let twice = [metric(1, "a", MetricKind::Counter), metric(1, "b", MetricKind::Counter)];
        assert!(PluginMetrics::new(&twice).err().unwrap().to_string().contains("id 1"));
    }
}
