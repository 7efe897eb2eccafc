//! The error of all calls of a store, and how long they may take.

use std::time::Duration;

/// How long a store may take to answer. After that the call fails with [`Unavailable`].
pub const RESPONSE_TIMEOUT: Duration = Duration::from_millis(1500);

/// A call of the store failed, or it is unknown whether it succeeded. Holds the reason, for operators.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the store is not available: {0}")]
pub struct Unavailable(pub String);

/// The start of the error of a store that has no memory for more data. It is the one of Redis, which
/// identifies its errors only by their first word.
pub(crate) const OUT_OF_MEMORY: &str = "OOM";

impl Unavailable {
    /// The error of a store that works, but has no memory for more data.
    pub(crate) fn full(reason: &str) -> Self {
        Self(format!("{OUT_OF_MEMORY}: {reason}"))
    }

    /// Whether the store works, but has no memory for more data.
    pub fn is_full(&self) -> bool {
        self.0.starts_with(OUT_OF_MEMORY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_store_is_recognized_whoever_says_so() {
        let redis = Unavailable("OOM command not allowed when used memory > 'maxmemory'.".to_owned());
        assert!(redis.is_full() && Unavailable::full("much is used").is_full());
        assert!(!Unavailable("Redis does not answer".to_owned()).is_full());
    }
}
