//! What this node counts about itself, in Prometheus' terms.

use crate::{close::Close, protocol::Code};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use std::sync::Arc;

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
            registry: Arc::new(registry),
        }
    }
}

impl Metrics {
    pub fn error(&self, code: Code) {
        self.errors.get_or_create(&ErrorLabel { code: code.as_str() }).inc();
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
