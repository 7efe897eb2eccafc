//! The delay before each attempt to reconnect.

use std::time::Duration;

const FIRST_DELAY: Duration = Duration::from_millis(250);
const MAX_DELAY: Duration = Duration::from_secs(15);

/// Delays that double from [`FIRST_DELAY`] to [`MAX_DELAY`]. The second half of each is random, so that
/// clients that were disconnected together do not come back together.
#[derive(Debug, Default)]
pub(super) struct ReconnectBackoff {
    attempts: u32,
}

impl ReconnectBackoff {
    pub(super) fn next_delay(&mut self) -> Duration {
        let full = FIRST_DELAY.saturating_mul(1 << self.attempts.min(16)).min(MAX_DELAY);
        self.attempts += 1;
        full / 2 + full.mul_f64(random_fraction() / 2.0)
    }
}

/// A random number in 0..1.
pub(super) fn random_fraction() -> f64 {
    let bits = getrandom::u32().expect("the system has entropy");
    f64::from(bits) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_maximum_and_their_second_half_is_random() {
        let mut backoff = ReconnectBackoff::default();
        let delays: Vec<_> = (0..12).map(|_| backoff.next_delay()).collect();
        for (n, delay) in delays.iter().enumerate() {
            let full = FIRST_DELAY.saturating_mul(1 << n).min(MAX_DELAY);
            assert!((full / 2..full).contains(delay), "{n}: {delay:?}");
        }
        for _ in 0..100 {
            assert!(backoff.next_delay() < MAX_DELAY);
        }
    }
}
