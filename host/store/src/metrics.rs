//! The metrics of a store outside of this process. Only counts; who counts what is elsewhere.

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

/// The metrics of a store outside of this process. A clone counts in the same metrics.
#[derive(Clone)]
pub struct StoreMetrics {
    commands: Family<CommandLabel, Histogram>,
    failures: Family<CommandLabel, Counter>,
    /// How often a connection to the store was opened again.
    pub(crate) reconnects: Counter,
    /// Seconds from a message's time until this node received it.
    pub(crate) lag: Histogram,
    /// How often missed messages of a room were read from its log.
    pub(crate) repairs: Counter,
    /// How often the missed messages of a room were no longer held.
    pub(crate) losses: Counter,
    /// 1 while this node holds its lease.
    pub(crate) lease: Gauge,
    /// How many nodes hold their lease.
    pub(crate) nodes: Gauge,
    /// How many dead nodes this one has cleaned up after.
    pub(crate) reaped: Counter,
    /// Bytes that the fullest server uses.
    memory: Gauge,
    /// Bytes that this server may use.
    memory_limit: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct CommandLabel {
    pub command: &'static str,
}

/// A histogram of seconds, with buckets from 0.25 ms to 4 s.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.00025, 2.0, 15))
}

impl Default for StoreMetrics {
    fn default() -> Self {
        Self {
            commands: Family::new_with_constructor(seconds),
            failures: Family::default(),
            reconnects: Counter::default(),
            lag: seconds(),
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
    /// Registers the metrics, under names that begin with `store_`.
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
            "Time until the store answered, by command",
            unit(),
            commands,
        );
        registry.register("store_failures", "Commands that the store did not answer, by command", failures);
        registry.register("store_reconnects", "Times a connection to the store was opened again", reconnects);
        registry.register_with_unit(
            "store_lag",
            "Time from a message's timestamp until this node received it",
            unit(),
            lag,
        );
        registry.register("store_repairs", "Times missed messages were read from the log of a room", repairs);
        registry.register("store_losses", "Times missed messages were no longer held", losses);
        registry.register("store_lease", "1 while this node's lease is held", lease);
        registry.register("store_nodes", "Nodes whose lease is held", nodes);
        registry.register(
            "store_reaped",
            "Nodes that died or took another name, and that this node cleaned up after",
            reaped,
        );
        registry.register_with_unit(
            "store_memory",
            "Memory that the store uses, of several servers the fullest",
            Unit::Bytes,
            memory,
        );
        let limit = "Memory that this server may use";
        registry.register_with_unit("store_memory_limit", limit, Unit::Bytes, memory_limit);
    }

    /// Says that the store is in this process: its only node needs no lease, so nothing can take it away.
    pub fn set_single_node(&self) {
        self.lease.set(1);
        self.nodes.set(1);
    }

    /// Records how many bytes the fullest server uses and may use.
    pub(crate) fn record_memory(&self, used: usize, limit: usize) {
        let gauge = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.memory.set(gauge(used));
        self.memory_limit.set(gauge(limit));
    }

    /// Records a command: how long its answer took or, without `success`, that there was none.
    pub(crate) fn record_command(&self, command: &'static str, duration: Duration, success: bool) {
        let label = CommandLabel { command };
        match success {
            true => self.commands.get_or_create(&label).observe(duration.as_secs_f64()),
            false => drop(self.failures.get_or_create(&label).inc()),
        }
    }
}
