//! A token bucket. It is refilled at a rate, and each event takes a token out of it. Does not know what the
//! events are.

use super::Rate;
use std::time::{Duration, Instant};

/// How long callers wait before they try a bucket again that is never refilled.
const RETRY_WITHOUT_TOKENS: Duration = Duration::from_secs(60);

/// Holds at most the tokens of one period of its rate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenBucket {
    rate: Rate,
    /// A fraction is the part of a token that has been earned.
    tokens: f64,
    refilled: Instant,
}

impl TokenBucket {
    pub(crate) fn full(rate: Rate, now: Instant) -> Self {
        Self { rate, tokens: rate.times.into(), refilled: now }
    }

    /// Changes the rate. Tokens that were taken before stay taken.
    pub(crate) fn set_rate(&mut self, rate: Rate) {
        self.rate = rate;
        self.tokens = self.tokens.min(rate.times.into());
    }

    /// Takes a token. `Err`: there is none, but there will be one after this time.
    pub(crate) fn take(&mut self, now: Instant) -> Result<(), Duration> {
        match self.wait(now) {
            Some(wait) => Err(wait),
            None => {
                self.tokens -= 1.0;
                Ok(())
            }
        }
    }

    /// Takes a token, or whatever part of one there is.
    pub(super) fn drain_one(&mut self, now: Instant) {
        self.refill(now);
        self.tokens = (self.tokens - 1.0).max(0.0);
    }

    /// How long until there is a token. `None`: there is one now.
    pub(super) fn wait(&mut self, now: Instant) -> Option<Duration> {
        self.refill(now);
        if self.tokens >= 1.0 {
            return None;
        }
        Some(match self.rate.times {
            0 => RETRY_WITHOUT_TOKENS,
            times => self.rate.period.mul_f64((1.0 - self.tokens) / f64::from(times)),
        })
    }

    pub(super) fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.tokens >= self.rate.times.into()
    }

    fn refill(&mut self, now: Instant) {
        let periods = (now - self.refilled).as_secs_f64() / self.rate.period.as_secs_f64();
        let times = f64::from(self.rate.times);
        (self.tokens, self.refilled) = ((self.tokens + periods * times).min(times), now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_one_period_and_fills_evenly() {
        let rate = Rate::try_from("20/m".to_owned()).unwrap();
        let start = Instant::now();
        let mut bucket = TokenBucket::full(rate, start);
        for _ in 0..20 {
            assert_eq!(bucket.wait(start), None);
            bucket.drain_one(start);
        }
        assert_eq!(bucket.wait(start), Some(Duration::from_secs(3)));
        assert_eq!(bucket.wait(start + Duration::from_millis(3001)), None);
        assert!(bucket.is_full(start + Duration::from_secs(61)));
    }

    #[test]
    fn a_burst_of_one_period_passes_and_then_callers_learn_how_long_to_wait() {
        let (start, half_a_second) = (Instant::now(), Duration::from_millis(500));
        let mut bucket = TokenBucket::full(Rate::per_second(2), start);
        let taken = [bucket.take(start), bucket.take(start), bucket.take(start)];
        assert_eq!(taken, [Ok(()), Ok(()), Err(half_a_second)]);
        assert_eq!(bucket.take(start + half_a_second), Ok(()));
        assert_eq!(TokenBucket::full(Rate::per_second(0), start).take(start), Err(RETRY_WITHOUT_TOKENS));
    }

    #[test]
    fn a_new_rate_gives_back_no_token() {
        let (start, later) = (Instant::now(), Instant::now() + Duration::from_secs(1));
        let mut bucket = TokenBucket::full(Rate::per_second(2), start);
        assert_eq!([bucket.take(later), bucket.take(later)], [Ok(()), Ok(())]);
        bucket.set_rate(Rate::per_second(4));
        assert_eq!(bucket.take(later), Err(Duration::from_millis(250)));
    }
}
