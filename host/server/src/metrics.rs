//! The metrics that this node exports to Prometheus. Does not count anything itself; those of plugins are in
//! `admin/metrics`.

use crate::limit_mode::LimitMode;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use std::sync::Arc;
use switchyard_process::log;
use switchyard_protocol::{Close, ErrorCode};
use switchyard_store::StoreMetrics;

/// The metrics of a node. Clones share their counters.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Arc<Registry>,
    pub connections: Gauge,
    pub opened: Counter,
    pub closed: Family<CloseLabel, Counter>,
    pub errors: Family<ErrorLabel, Counter>,
    pub published: Counter,
    /// Messages put into outboxes. Replayed messages do not count.
    pub deliveries: Counter,
    pub replayed: Counter,
    pub gaps: Counter,
    pub rooms: Gauge,
    reloads: Family<ReloadLabel, Counter>,
    pub unauthenticated: Gauge,
    limited: Family<LimitLabel, Counter>,
    refused_keys: Family<ListenerLabel, Counter>,
    /// Audit lines that are not in the file.
    pub audit_lost: Counter,
    pub store: StoreMetrics,
}

/// The limit because of which a connection or request was refused, or evicted to make room.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LimitKind {
    Unauthenticated,
    AddressConnections,
    AddressUnauthenticated,
    AddressConnects,
    AddressFailures,
    Files,
    Operators,
    Requests,
    Publishes,
    Bytes,
    Subscribes,
    Reads,
    Filters,
    Memory,
    RoomPublishes,
    RoomBytes,
}

impl LimitKind {
    const ALL: [Self; 16] = [
        Self::Unauthenticated,
        Self::AddressConnections,
        Self::AddressUnauthenticated,
        Self::AddressConnects,
        Self::AddressFailures,
        Self::Files,
        Self::Operators,
        Self::Requests,
        Self::Publishes,
        Self::Bytes,
        Self::Subscribes,
        Self::Reads,
        Self::Filters,
        Self::Memory,
        Self::RoomPublishes,
        Self::RoomBytes,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Unauthenticated => "unauthenticated",
            Self::AddressConnections => "address_connections",
            Self::AddressUnauthenticated => "address_unauthenticated",
            Self::AddressConnects => "address_connects",
            Self::AddressFailures => "address_failures",
            Self::Files => "files",
            Self::Operators => "operators",
            Self::Requests => "requests",
            Self::Publishes => "publishes",
            Self::Bytes => "bytes",
            Self::Subscribes => "subscribes",
            Self::Reads => "reads",
            Self::Filters => "filters",
            Self::Memory => "memory",
            Self::RoomPublishes => "room_publishes",
            Self::RoomBytes => "room_bytes",
        }
    }

    /// The modes in which it can count. Limits that protect the node are always enforced.
    fn modes(self) -> &'static [LimitMode] {
        match self {
            Self::Unauthenticated | Self::Files | Self::Operators => &[LimitMode::Enforce],
            _ => &[LimitMode::Enforce, LimitMode::Observe],
        }
    }

    fn label(self, mode: LimitMode) -> LimitLabel {
        LimitLabel { limit: self.as_str(), mode: mode.as_str() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabel {
    limit: &'static str,
    mode: &'static str,
}

/// One of the node's two listeners, as a label.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ListenerKind {
    Clients,
    Operators,
}

impl ListenerKind {
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
            register!("reloads", "Times the configuration was reloaded, by result");
        // Export all series from the start, so that an alert sees the first increase.
        for result in ["applied", "refused"] {
            drop(reloads.get_or_create(&ReloadLabel { result }));
        }
        let limited: Family<LimitLabel, Counter> =
            register!("limited", "Connections and requests that a limit refused or ended, by limit");
        for limit in LimitKind::ALL {
            for mode in limit.modes() {
                drop(limited.get_or_create(&limit.label(*mode)));
            }
        }
        let refused_keys: Family<ListenerLabel, Counter> =
            register!("keys_refused", "Invalid keys that were presented, by listener");
        for listener in [ListenerKind::Clients, ListenerKind::Operators] {
            drop(refused_keys.get_or_create(&ListenerLabel { listener: listener.as_str() }));
        }
        registry.register(
            "log_lines_dropped",
            "Log lines that were dropped because the queue was full or they could not be written",
            log::dropped_lines(),
        );
        let store = StoreMetrics::default();
        store.register(&mut registry);
        Self {
            connections: register!("connections", "Live authenticated connections"),
            opened: register!("connections_opened", "Connections that authenticated"),
            closed: register!("connections_closed", "Connections that the server closed, by close code"),
            errors: register!("errors", "Error answers to clients, by code"),
            published: register!(
                "messages_published",
                "Messages that were stored and passed on for delivery"
            ),
            deliveries: register!("deliveries", "Messages queued for connections, not counting replays"),
            replayed: register!("messages_replayed", "Messages replayed to connections"),
            gaps: register!("gaps", "Times a connection was told that it missed messages"),
            rooms: register!("rooms", "Rooms with a member on this node"),
            reloads,
            unauthenticated: register!(
                "unauthenticated_connections",
                "Live connections that have not authenticated"
            ),
            limited,
            refused_keys,
            audit_lost: register!("audit_lost", "Audit lines that could not be written to the file"),
            store,
            registry: Arc::new(registry),
        }
    }
}

impl Metrics {
    pub(crate) fn count_error(&self, code: ErrorCode) {
        self.errors.get_or_create(&ErrorLabel { code: code.as_str() }).inc();
    }

    pub(crate) fn count_reload(&self, is_applied: bool) {
        let result = if is_applied { "applied" } else { "refused" };
        self.reloads.get_or_create(&ReloadLabel { result }).inc();
    }

    /// Counts what a limit refused, or would have refused if it were enforced.
    pub(crate) fn count_limited(&self, limit: LimitKind, mode: LimitMode) {
        self.limited.get_or_create(&limit.label(mode)).inc();
    }

    pub(crate) fn count_refused_key(&self, listener: ListenerKind) {
        self.refused_keys.get_or_create(&ListenerLabel { listener: listener.as_str() }).inc();
    }

    pub(crate) fn count_close(&self, close: Close) {
        self.closed.get_or_create(&CloseLabel { code: close.code().into() }).inc();
    }

    /// The metrics in the OpenMetrics text format, without the final `# EOF`.
    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a String");
        text.trim_end_matches("# EOF\n").to_owned()
    }
}
