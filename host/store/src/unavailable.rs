//! The error of all calls of a store, and how long they may take.

use std::time::Duration;

/// How long a store may take to answer. After that the call fails with [`Unavailable`].
pub const RESPONSE_TIMEOUT: Duration = Duration::from_millis(1500);

/// A call of the store failed, or it is unknown whether it succeeded. Holds the reason, for operators.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the store is not available: {0}")]
pub struct Unavailable(pub String);

impl Unavailable {
    /// Whether the store works, but has no memory for more data.
    pub fn is_full(&self) -> bool {
        self.0.starts_with("OOM")
    }
}
