//! What one window of publishing took from whom. Knows nothing of how it is published.

use crate::asked;
use serde_json::{Value, json};
use std::time::Instant;
use switchyard_tests::{Node, Redis, report::rounded, spent};

/// Publishes within a time, and seconds of processor time that they took.
pub struct Load {
    pub publishes: u64,
    pub seconds: f64,
    pub redis: f64,
    pub node: f64,
    pub publishers: f64,
    pub machine: f64,
}

impl Load {
    pub fn rate(&self) -> f64 {
        self.publishes as f64 / self.seconds
    }

    /// Microseconds a publish.
    pub fn each(&self, cpu: f64) -> f64 {
        cpu * 1e6 / self.publishes as f64
    }

    pub fn cores(&self, cpu: f64) -> f64 {
        cpu / self.seconds
    }

    pub fn others(&self) -> f64 {
        (self.machine - self.redis - self.node - self.publishers).max(0.0)
    }

    pub fn figures(&self) -> Value {
        json!({
            "publishes_a_second": rounded(self.rate()),
            "redis_cpu_us_a_publish": rounded(self.each(self.redis)),
            "node_cpu_us_a_publish": rounded(self.each(self.node)),
            "redis_cores": rounded(self.cores(self.redis)),
            "node_cores": rounded(self.cores(self.node)),
            "publishers_cores": rounded(self.cores(self.publishers)),
            "other_programs_cores": rounded(self.cores(self.others())),
        })
    }
}

/// What is counted when a window begins and when it ends.
pub struct Mark {
    at: Instant,
    redis: f64,
    node: f64,
    publishers: f64,
    machine: f64,
}

impl Mark {
    pub async fn now(redis: &Redis, node: Option<&Node>) -> Self {
        let publishers = match node {
            Some(_) => spent::cpu(std::process::id()),
            None => spent::children(),
        };
        Self {
            at: Instant::now(),
            redis: asked::redis_cpu(redis).await,
            node: node.map_or(0.0, |node| spent::cpu(node.process.id())),
            publishers,
            machine: spent::machine(),
        }
    }

    pub fn until(&self, end: &Mark, publishes: u64) -> Load {
        Load {
            publishes,
            seconds: (end.at - self.at).as_secs_f64(),
            redis: end.redis - self.redis,
            node: end.node - self.node,
            publishers: end.publishers - self.publishers,
            machine: end.machine - self.machine,
        }
    }
}
