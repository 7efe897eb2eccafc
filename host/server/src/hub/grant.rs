//! The limits of one publisher: bytes per message and messages per second. Does not know whose they are.

use super::rate::Rate;
use std::time::Instant;
use switchyard_plugin::Limits;
use switchyard_protocol::{ErrorCode, Refusal};

#[derive(Default)]
pub(super) struct Grant {
    message_bytes: Option<u32>,
    rate: Option<Rate>,
}

impl Grant {
    /// Sets other limits. What was used of the old ones counts.
    pub(super) fn change(&mut self, limits: &Limits, now: Instant) {
        self.message_bytes = limits.message_bytes;
        match (&mut self.rate, limits.publishes_per_second) {
            (Some(rate), Some(most)) => rate.change(most),
            (rate, most) => *rate = most.map(|most| Rate::new(most, now)),
        }
    }

    /// Counts one message of so many bytes, or refuses it. `too_many` makes the message for a publisher that must wait for
    /// so many milliseconds.
    pub(super) fn take(
        &mut self,
        bytes: usize,
        now: Instant,
        too_many: impl FnOnce(u64) -> String,
    ) -> Result<(), Refusal> {
        if let Some(most) = self.message_bytes.filter(|most| bytes > *most as usize) {
            let message = format!("data has {bytes} bytes, at most {most} are allowed here");
            return Err(Refusal::new(ErrorCode::MessageTooLarge, message));
        }
        let Some(rate) = &mut self.rate else { return Ok(()) };
        rate.take(now).map_err(|after| Refusal::retry(ErrorCode::RateLimited, too_many(after), after))
    }
}
