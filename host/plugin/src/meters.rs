//! A plugin's own metrics: as many as it described, counted over all its instances.

use serde::Serialize;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Metrics of one plugin; each is a series an operator stores.
const MAX_METERS: usize = 64;

/// Upper bounds of a histogram's buckets, the last one without bound: decades, since what is observed
/// may be seconds, bytes or members.
pub const BOUNDS: [f64; 10] = [0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6];

/// Whether a metric only grows or has a distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MeterKind {
    Counter,
    Histogram,
}

/// A metric that a plugin described.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Meter {
    #[serde(skip)]
    pub(super) id: u32,
    pub name: String,
    pub kind: MeterKind,
}

/// A metric's value now.
#[derive(Clone, Debug, PartialEq)]
pub enum Reading {
    Counter(u64),
    /// Values below each of [`BOUNDS`] and above the one before; the last entry is those above all.
    Histogram {
        buckets: [u64; BOUNDS.len() + 1],
        sum: f64,
    },
}

/// The cells behind a plugin's metrics.
#[derive(Default)]
pub(crate) struct Meters {
    cells: HashMap<u32, (String, Cell)>,
}

enum Cell {
    Counter(AtomicU64),
    Histogram { buckets: [AtomicU64; BOUNDS.len() + 1], sum: AtomicU64 },
}

impl Meters {
    /// Fails with a sentence about what `describe` should have listed.
    pub(crate) fn new(described: &[Meter]) -> Result<Self, String> {
        if described.len() > MAX_METERS {
            return Err(format!("it lists {} metrics and may have {MAX_METERS}", described.len()));
        }
        let mut cells = HashMap::new();
        for meter in described {
            let name = &meter.name;
            let mut letters = name.bytes();
            let named = letters.next().is_some_and(|b| b.is_ascii_lowercase())
                && letters.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            if !named || name.len() > 64 {
                return Err(format!(
                    "metric name {name:?} must be a lower-case word like orders_seen, of at most 64 bytes"
                ));
            }
            if described.iter().filter(|other| other.name == *name).count() > 1 {
                return Err(format!("it lists the metric '{name}' twice"));
            }
            let cell = match meter.kind {
                MeterKind::Counter => Cell::Counter(AtomicU64::new(0)),
                MeterKind::Histogram => {
                    Cell::Histogram { buckets: Default::default(), sum: AtomicU64::new(0) }
                }
            };
            if cells.insert(meter.id, (name.clone(), cell)).is_some() {
                return Err(format!("it lists two metrics with id {}", meter.id));
            }
        }
        Ok(Self { cells })
    }

    pub(crate) fn count(&self, id: u32, by: u64) {
        if let Some((_, Cell::Counter(value))) = self.cells.get(&id) {
            value.fetch_add(by, Relaxed);
        }
    }

    /// What is negative or no number is not observed: the sum of a histogram only grows.
    pub(crate) fn observe(&self, id: u32, value: f64) {
        if let Some((_, Cell::Histogram { buckets, sum })) = self.cells.get(&id)
            && value.is_finite()
            && value >= 0.0
        {
            buckets[BOUNDS.partition_point(|bound| *bound < value)].fetch_add(1, Relaxed);
            let add = |bits| Some((f64::from_bits(bits) + value).min(f64::MAX).to_bits());
            let _ = sum.fetch_update(Relaxed, Relaxed, add);
        }
    }

    /// Every metric's name and value, ordered by name.
    pub(crate) fn read(&self) -> Vec<(&str, Reading)> {
        let mut all: Vec<_> = self.cells.values().map(|(name, cell)| (name.as_str(), cell.read())).collect();
        all.sort_by_key(|(name, _)| *name);
        all
    }
}

impl Cell {
    fn read(&self) -> Reading {
        match self {
            Cell::Counter(value) => Reading::Counter(value.load(Relaxed)),
            Cell::Histogram { buckets, sum } => Reading::Histogram {
                buckets: std::array::from_fn(|i| buckets[i].load(Relaxed)),
                sum: f64::from_bits(sum.load(Relaxed)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter(id: u32, name: &str, kind: MeterKind) -> Meter {
        Meter { id, name: name.into(), kind }
    }

    #[test]
    fn only_what_was_described_is_counted() {
        let described = [meter(1, "orders", MeterKind::Counter), meter(2, "size", MeterKind::Histogram)];
        let meters = Meters::new(&described).unwrap();
        meters.count(1, 2);
        meters.count(1, 3);
        meters.count(2, 1);
        meters.count(9, 1);
        for value in [0.5, 1.0, 5e6, f64::NAN, f64::INFINITY, -1.0] {
            meters.observe(2, value);
        }
        let buckets = [0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1];
        let expected =
            [("orders", Reading::Counter(5)), ("size", Reading::Histogram { buckets, sum: 5_000_001.5 })];
        assert_eq!(meters.read(), expected);
        (0..2).for_each(|_| meters.observe(2, f64::MAX));
        let [_, (_, Reading::Histogram { sum, .. })] = meters.read()[..] else { panic!() };
        assert_eq!(sum, f64::MAX, "a sum stays a number");
    }

    #[test]
    fn names_and_ids_are_checked() {
        for (name, says) in [("Orders", "lower-case"), ("", "lower-case"), ("a-b", "lower-case")] {
            let error = Meters::new(&[meter(1, name, MeterKind::Counter)]).err().unwrap();
            assert!(error.contains(says), "{error}");
        }
        let twice = [meter(1, "a", MeterKind::Counter), meter(1, "b", MeterKind::Counter)];
        assert!(Meters::new(&twice).err().unwrap().contains("id 1"));
    }
}
