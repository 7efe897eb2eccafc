//! A plugin whose metrics would spoil a scrape, if the host let them: names of which one is a sample of another's, and values
//! that no counter and no histogram may have.

use switchyard_sdk::metrics::{Counter, Histogram, Metric};
use switchyard_sdk::{Message, Plugin, Publish, Reject, Verdict};

// A test exchanges these two names in the file's bytes, so that two plugins disagree about what they are.
const ONE: Counter = Counter::new(0, "shared_one");
const TWO: Histogram = Histogram::new(1, "shared_two");

const ORDERS: Counter = Counter::new(2, "orders");
/// Each is a name that samples of the ones beside it have.
const CLASHING: [Metric; 6] = [
    Counter::new(3, "orders_total").metric(),
    Counter::new(4, "shared_two_sum").metric(),
    Counter::new(5, "shared_two_count").metric(),
    Histogram::new(6, "shared_two_bucket").metric(),
    Counter::new(7, "orders_created").metric(),
    Counter::new(8, "info").metric(),
];

pub struct Meters;

impl Plugin for Meters {
    type Config = switchyard_sdk::NoConfig;
    const METRICS: &'static [Metric] = &[
        ONE.metric(),
        TWO.metric(),
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
    fn publish(&self, _: &str, _: Message<'_>) -> Result<Verdict, Reject> {
        ONE.add(1);
        ORDERS.add(u64::MAX);
        [f64::NAN, f64::NEG_INFINITY, f64::INFINITY, -5.0, -f64::MAX, f64::MAX, f64::MAX, 0.5]
            .into_iter()
            .for_each(|value| TWO.observe(value));
        Ok(Verdict::Pass)
    }
}

switchyard_sdk::export!(Meters: publish);
