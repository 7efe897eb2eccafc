//! The host's clock. `Instant::now` and `SystemTime::now` panic in Wasm.

use crate::host;
use std::time::Duration;

/// Milliseconds since 1970 began, UTC.
pub fn unix_ms() -> u64 {
    host::unix_ms()
}

/// The time since 1970 began, UTC, in whole milliseconds.
pub fn since_epoch() -> Duration {
    Duration::from_millis(unix_ms())
}
