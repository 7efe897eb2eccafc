//! How long to wait before the next attempt.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(250);
const MOST: Duration = Duration::from_secs(15);

/// Doubles from [`FIRST`] to [`MOST`]. The second half of each wait is chance, so that clients that were lost
/// together do not come back together.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    attempts: u32,
}

impl Backoff {
    pub(super) fn next(&mut self) -> Duration {
        let whole = FIRST.saturating_mul(1 << self.attempts.min(16)).min(MOST);
        self.attempts += 1;
        whole / 2 + whole.mul_f64(chance() / 2.0)
    }
}

/// From 0 to 1, without 1.
pub(super) fn chance() -> f64 {
    let bits = getrandom::u32().expect("the system has entropy");
    f64::from(bits) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_ceiling_and_half_of_each_is_chance() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..12).map(|_| backoff.next()).collect();
        for (n, wait) in waits.iter().enumerate() {
            let whole = FIRST.saturating_mul(1 << n).min(MOST);
            assert!((whole / 2..whole).contains(wait), "{n}: {wait:?}");
        }
        for _ in 0..100 {
            assert!(backoff.next() < MOST);
        }
    }
}
