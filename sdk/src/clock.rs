//! The host's clock. In Wasm, `Instant::now` and `SystemTime::now` panic; use these functions instead.

use crate::host;
use std::time::Duration;

/// The current Unix time, in milliseconds since 1970-01-01 00:00:00 UTC.
pub fn unix_ms() -> u64 {
    host::unix_ms()
}

/// The current Unix time as a [`Duration`] since 1970-01-01 00:00:00 UTC, in whole milliseconds.
pub fn since_epoch() -> Duration {
    Duration::from_millis(unix_ms())
}
