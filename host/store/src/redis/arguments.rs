//! Converts plain values to arguments of Redis commands and scripts.

use fred::types::Value;
use std::time::Duration;

pub(super) fn integer(value: u64) -> Value {
    // As text, because scripts receive all arguments as text. No number here needs more than 53 bits.
    Value::from(value.to_string())
}

pub(super) fn millis(duration: Duration) -> Value {
    integer(duration.as_millis() as u64)
}
