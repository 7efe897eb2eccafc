//! The cost of one window of publishing. Does not know how messages are published.

use crate::redis_counters;
use serde_json::{Value, json};
use std::time::Instant;
use switchyard_tests::{Node, Redis, cpu_time, report::rounded};

/// The number of publishes in a window, and the processor seconds that they took.
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

    /// Microseconds per publish.
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

/// The counters, read when a window begins and when it ends.
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
            Some(_) => cpu_time::cpu(std::process::id()),
            None => cpu_time::children(),
        };
        Self {
            at: Instant::now(),
            redis: redis_counters::redis_cpu(redis).await,
            node: node.map_or(0.0, |node| cpu_time::cpu(node.process.id())),
            publishers,
            machine: cpu_time::machine(),
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
