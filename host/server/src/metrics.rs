//! What this node counts about itself, in Prometheus' terms.

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use std::sync::Arc;
use switchyard_process::log;
use switchyard_protocol::{Close, ErrorCode};
use switchyard_store::StoreMetrics;

/// Counters that clones share.
#[derive(Clone)]
pub(crate) struct Metrics {
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
pub(crate) enum Limited {
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
pub(crate) enum Listener {
    Clients,
    Operators,
}

impl Listener {
    pub(crate) fn as_str(self) -> &'static str {
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
pub(crate) struct CloseLabel {
    pub code: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ErrorLabel {
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
        started.set((switchyard_protocol::unix_ms() / 1000) as i64);
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
            log::dropped_lines(),
        );
        let store = StoreMetrics::default();
        store.register(&mut registry);
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
            store,
            registry: Arc::new(registry),
        }
    }
}

impl Metrics {
    pub(crate) fn error(&self, code: ErrorCode) {
        self.errors.get_or_create(&ErrorLabel { code: code.as_str() }).inc();
    }

    pub(crate) fn reload(&self, is_applied: bool) {
        let result = if is_applied { "applied" } else { "refused" };
        self.reloads.get_or_create(&ReloadLabel { result }).inc();
    }

    pub(crate) fn limited(&self, limit: Limited) {
        self.limited.get_or_create(&limit.label()).inc();
    }

    pub(crate) fn key_refused(&self, listener: Listener) {
        self.refused_keys.get_or_create(&ListenerLabel { listener: listener.as_str() }).inc();
    }

    pub(crate) fn close(&self, close: Close) {
        self.closed.get_or_create(&CloseLabel { code: close.code().into() }).inc();
    }

    /// The text format, without its end mark.
    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a String");
        text.trim_end_matches("# EOF\n").to_owned()
    }
}
