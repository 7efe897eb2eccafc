//! The one error of a store, and how long it may take to come.

use std::time::Duration;

/// How long an answer of a store may take; then it is an error.
pub const PATIENCE: Duration = Duration::from_millis(1500);

/// The store did not do what it was asked, or cannot say whether it did.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the store is not available: {0}")]
pub struct Unavailable(pub String);

impl Unavailable {
    /// It answers, and has no memory for more.
    pub fn is_full(&self) -> bool {
        self.0.starts_with("OOM")
    }
}
