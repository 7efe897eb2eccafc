//! The time as plugins see it: that of the system, until somebody drives it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;
use switchyard_protocol::unix_ms;

/// The value of a clock that nobody drives.
const SYSTEM: u64 = 0;

/// A clock. Clones show the same time.
#[derive(Clone, Debug)]
pub struct PluginClock {
    started: Instant,
    /// Unix milliseconds, or [`SYSTEM`].
    driven_ms: Arc<AtomicU64>,
}

impl Default for PluginClock {
    /// The clock of the system.
    fn default() -> Self {
        Self::driven(SYSTEM)
    }
}

impl PluginClock {
    /// A clock that shows this Unix time, in milliseconds, until it is [set](Self::set).
    pub fn driven(unix_ms: u64) -> Self {
        Self { started: Instant::now(), driven_ms: Arc::new(AtomicU64::new(unix_ms)) }
    }

    /// Shows this Unix time from now on, in milliseconds.
    pub fn set(&self, unix_ms: u64) {
        self.driven_ms.store(unix_ms, Relaxed);
    }

    /// The Unix time in milliseconds.
    pub fn unix_ms(&self) -> u64 {
        match self.driven_ms.load(Relaxed) {
            SYSTEM => unix_ms(),
            driven => driven,
        }
    }

    /// Milliseconds since some moment in the past. Setting the clock of the system does not change it.
    pub(crate) fn monotonic_ms(&self) -> u64 {
        match self.driven_ms.load(Relaxed) {
            SYSTEM => u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            driven => driven,
        }
    }
}
