//! Limits one publisher: bytes per message and messages per second. Does not know whose limits they are.

use crate::limits::{Rate, TokenBucket};
use std::time::Instant;
use switchyard_plugin::Limits;
use switchyard_protocol::{ErrorCode, Refusal};

/// The limits of one publisher, and how much of them is used.
#[derive(Default)]
pub(super) struct PublishLimiter {
    message_bytes: Option<u32>,
    bucket: Option<TokenBucket>,
}

impl PublishLimiter {
    /// Sets the limits. What was used under the old ones still counts.
    pub(super) fn set_limits(&mut self, limits: &Limits, now: Instant) {
        self.message_bytes = limits.message_bytes;
        match (&mut self.bucket, limits.publishes_per_second.map(Rate::per_second)) {
            (Some(bucket), Some(rate)) => bucket.set_rate(rate),
            (bucket, rate) => *bucket = rate.map(|rate| TokenBucket::full(rate, now)),
        }
    }

    /// Counts one message of this size, or refuses it. `too_many` makes the error message; its argument is
    /// how long the publisher has to wait, in milliseconds.
    pub(super) fn take(
        &mut self,
        bytes: usize,
        now: Instant,
        too_many: impl FnOnce(u64) -> String,
    ) -> Result<(), Refusal> {
        if let Some(max) = self.message_bytes.filter(|max| bytes > *max as usize) {
            let message = format!("data has {bytes} bytes; at most {max} are allowed here");
            return Err(Refusal::new(ErrorCode::MessageTooLarge, message));
        }
        let Some(bucket) = &mut self.bucket else { return Ok(()) };
        bucket.take(now).map_err(|wait| {
            let milliseconds = wait.as_nanos().div_ceil(1_000_000) as u64;
            Refusal::retry(ErrorCode::RateLimited, too_many(milliseconds), milliseconds)
        })
    }
}
