//! A plugin whose metrics would make a scrape invalid if the host allowed it: names that clash with the
//! samples of other metrics, and values that no counter and no histogram may have.

use switchyard_sdk::metrics::{Counter, Histogram, Metric};
use switchyard_sdk::{Plugin, Publication, Publish, Reject, Verdict};

// A test swaps these two names in the bytes of the file, so that two plugins disagree about their kinds.
const SHARED_COUNTER: Counter = Counter::new(0, "shared_one");
const SHARED_HISTOGRAM: Histogram = Histogram::new(1, "shared_two");

const ORDERS: Counter = Counter::new(2, "orders");
/// Names that samples of other metrics have.
const CLASHING: [Metric; 6] = [
    Counter::new(3, "orders_total").metric(),
    Counter::new(4, "shared_two_sum").metric(),
    Counter::new(5, "shared_two_count").metric(),
    Histogram::new(6, "shared_two_bucket").metric(),
    Counter::new(7, "orders_created").metric(),
    Counter::new(8, "info").metric(),
];

/// The plugin.
pub struct Meters;

impl Plugin for Meters {
    type Config = switchyard_sdk::NoConfig;
    const METRICS: &'static [Metric] = &[
        SHARED_COUNTER.metric(),
        SHARED_HISTOGRAM.metric(),
        ORDERS.metric(),
        CLASHING[0],
        CLASHING[1],
        CLASHING[2],
        CLASHING[3],
        CLASHING[4],
        CLASHING[5],
    ];

    fn new(_: Self::Config) -> Result<Self, String> {
        Ok(Self)
    }
}

impl Publish for Meters {
    fn publish(&self, _: &Publication<'_>) -> Result<Verdict, Reject> {
        SHARED_COUNTER.add(1);
        ORDERS.add(u64::MAX);
        [f64::NAN, f64::NEG_INFINITY, f64::INFINITY, -5.0, -f64::MAX, f64::MAX, f64::MAX, 0.5]
            .into_iter()
            .for_each(|value| SHARED_HISTOGRAM.observe(value));
        Ok(Verdict::Pass)
    }
}

switchyard_sdk::export!(Meters: publish);
