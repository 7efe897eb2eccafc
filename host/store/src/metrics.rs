//! What a node counts about a store that is elsewhere, in Prometheus' terms.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use std::time::Duration;

/// What a node counts about a store that is elsewhere.
#[derive(Clone)]
pub struct StoreMetrics {
    commands: Family<CommandLabel, Histogram>,
    failures: Family<CommandLabel, Counter>,
    pub reconnects: Counter,
    pub lag: Histogram,
    /// Rooms in which publications were missed and read from the log.
    pub repairs: Counter,
    /// Rooms in which publications were missed and no longer held.
    pub losses: Counter,
    /// 1 while the node's lease is held.
    pub lease: Gauge,
    pub nodes: Gauge,
    pub reaped: Counter,
    /// Of the server that is fullest.
    memory: Gauge,
    memory_limit: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct CommandLabel {
    pub command: &'static str,
}

/// Seconds: a quarter of a millisecond to 4 s.
fn times() -> Histogram {
    Histogram::new(exponential_buckets(0.00025, 2.0, 15))
}

impl Default for StoreMetrics {
    fn default() -> Self {
        Self {
            commands: Family::new_with_constructor(times),
            failures: Family::default(),
            reconnects: Counter::default(),
            lag: times(),
            repairs: Counter::default(),
            losses: Counter::default(),
            lease: Gauge::default(),
            nodes: Gauge::default(),
            reaped: Counter::default(),
            memory: Gauge::default(),
            memory_limit: Gauge::default(),
        }
    }
}

impl StoreMetrics {
    /// Shows them in `registry`, under names that begin with `store_`.
    pub fn register(&self, registry: &mut Registry) {
        let Self {
            commands,
            failures,
            reconnects,
            lag,
            repairs,
            losses,
            lease,
            nodes,
            reaped,
            memory,
            memory_limit,
        } = self.clone();
        let unit = || Unit::Seconds;
        registry.register_with_unit(
            "store_command",
            "Until the store answered, by command",
            unit(),
            commands,
        );
        registry.register("store_failures", "Commands that the store did not answer, by command", failures);
        registry.register("store_reconnects", "Times a connection to the store was made anew", reconnects);
        registry.register_with_unit(
            "store_lag",
            "From a message's time until this node heard it",
            unit(),
            lag,
        );
        registry.register("store_repairs", "Times missed messages were read from a room's log", repairs);
        registry.register("store_losses", "Times missed messages were no longer held", losses);
        registry.register("store_lease", "1 while this node's lease is held", lease);
        registry.register("store_nodes", "Nodes whose lease is held", nodes);
        registry.register(
            "store_reaped",
            "Nodes that died or took another name, and were cleared away by this one",
            reaped,
        );
        registry.register_with_unit(
            "store_memory",
            "What the store uses, of several servers the fullest",
            Unit::Bytes,
            memory,
        );
        let limit = "What that server may use";
        registry.register_with_unit("store_memory_limit", limit, Unit::Bytes, memory_limit);
    }

    pub fn filled(&self, used: usize, limit: usize) {
        let gauge = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.memory.set(gauge(used));
        self.memory_limit.set(gauge(limit));
    }

    pub fn answered(&self, command: &'static str, after: Duration, well: bool) {
        let label = CommandLabel { command };
        match well {
            true => self.commands.get_or_create(&label).observe(after.as_secs_f64()),
            false => drop(self.failures.get_or_create(&label).inc()),
        }
    }
}
