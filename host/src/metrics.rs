//! What this node counts about itself, in Prometheus' terms.

use crate::{close::Close, log, protocol::Code};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use std::{sync::Arc, time::Duration};

/// Counters that clones share.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    pub connections: Gauge,
    pub opened: Counter,
    pub closed: Family<CloseLabel, Counter>,
    pub errors: Family<ErrorLabel, Counter>,
    pub published: Counter,
    /// Frames handed to outboxes.
    pub deliveries: Counter,
    pub replayed: Counter,
    pub gaps: Counter,
    pub rooms: Gauge,
    reloads: Family<ReloadLabel, Counter>,
    pub unauthenticated: Gauge,
    limited: Family<LimitedLabel, Counter>,
    refused_keys: Family<ListenerLabel, Counter>,
    pub store: StoreMetrics,
}

/// What somebody was turned away by, or had to make room for.
#[derive(Clone, Copy, Debug)]
pub enum Limited {
    Unauthenticated,
    AddressUnauthenticated,
    AddressFailures,
    Files,
    Operators,
}

impl Limited {
    const ALL: [Self; 5] = [
        Self::Unauthenticated,
        Self::AddressUnauthenticated,
        Self::AddressFailures,
        Self::Files,
        Self::Operators,
    ];

    fn label(self) -> LimitedLabel {
        let limit = match self {
            Self::Unauthenticated => "unauthenticated",
            Self::AddressUnauthenticated => "address_unauthenticated",
            Self::AddressFailures => "address_failures",
            Self::Files => "files",
            Self::Operators => "operators",
        };
        LimitedLabel { limit, mode: "enforce" }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitedLabel {
    limit: &'static str,
    mode: &'static str,
}

#[derive(Clone, Copy, Debug)]
pub enum Listener {
    Clients,
    Operators,
}

impl Listener {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Clients => "clients",
            Self::Operators => "operators",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerLabel {
    listener: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabel {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CloseLabel {
    pub code: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ErrorLabel {
    pub code: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("switchyard");
        macro_rules! register {
            ($name:literal, $help:literal) => {{
                let metric = Default::default();
                registry.register($name, $help, Clone::clone(&metric));
                metric
            }};
        }
        let started: Gauge = Gauge::default();
        started.set((crate::protocol::unix_ms() / 1000) as i64);
        registry.register_with_unit(
            "start_time",
            "When the process started, Unix time",
            Unit::Seconds,
            started,
        );
        let reloads: Family<ReloadLabel, Counter> =
            register!("reloads", "Times the configuration was read again, by what became of it");
        // Shown from the start, so that the first one is seen to rise.
        for result in ["applied", "refused"] {
            drop(reloads.get_or_create(&ReloadLabel { result }));
        }
        let limited: Family<LimitedLabel, Counter> =
            register!("limited", "Connections and requests that a limit turned away or ended, by limit");
        Limited::ALL.iter().for_each(|limit| drop(limited.get_or_create(&limit.label())));
        let refused_keys: Family<ListenerLabel, Counter> =
            register!("keys_refused", "Keys that were presented and are not good, by listener");
        for listener in [Listener::Clients, Listener::Operators] {
            drop(refused_keys.get_or_create(&ListenerLabel { listener: listener.as_str() }));
        }
        registry.register(
            "log_lines_dropped",
            "Log lines for which there was no room, or which could not be written",
            log::dropped(),
        );
        Self {
            connections: register!("connections", "Authenticated connections that live now"),
            opened: register!("connections_opened", "Connections that authenticated"),
            closed: register!("connections_closed", "Connections that the server closed, by close code"),
            errors: register!("errors", "Error answers to clients, by code"),
            published: register!("messages_published", "Messages stored and handed to routing"),
            deliveries: register!("deliveries", "Messages handed to connections, replays not counted"),
            replayed: register!("messages_replayed", "Messages replayed to connections that came back"),
            gaps: register!("gaps", "Times a connection was told that messages were lost to it"),
            rooms: register!("rooms", "Rooms with a connected member on this node"),
            reloads,
            unauthenticated: register!(
                "unauthenticated_connections",
                "Connections that live now and have not authenticated"
            ),
            limited,
            refused_keys,
            store: StoreMetrics::new(&mut registry),
            registry: Arc::new(registry),
        }
    }
}

impl Metrics {
    pub fn error(&self, code: Code) {
        self.errors.get_or_create(&ErrorLabel { code: code.as_str() }).inc();
    }

    pub fn reload(&self, is_applied: bool) {
        let result = if is_applied { "applied" } else { "refused" };
        self.reloads.get_or_create(&ReloadLabel { result }).inc();
    }

    pub fn limited(&self, limit: Limited) {
        self.limited.get_or_create(&limit.label()).inc();
    }

    pub fn key_refused(&self, listener: Listener) {
        self.refused_keys.get_or_create(&ListenerLabel { listener: listener.as_str() }).inc();
    }

    pub fn close(&self, close: Close) {
        self.closed.get_or_create(&CloseLabel { code: close.code().into() }).inc();
    }

    /// The text format, without its end mark.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a String");
        text.trim_end_matches("# EOF\n").to_owned()
    }
}

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
pub struct CommandLabel {
    pub command: &'static str,
}

/// Seconds: a quarter of a millisecond to 4 s.
fn times() -> Histogram {
    Histogram::new(exponential_buckets(0.00025, 2.0, 15))
}

impl StoreMetrics {
    fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
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
        };
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
        } = metrics.clone();
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
        metrics
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
