//! A token bucket. It is refilled at a rate, and each event takes tokens out of it. Does not know what the
//! events are.

use crate::rate::Rate;
use std::time::{Duration, Instant};

/// How long callers wait before they try a bucket again that is never refilled.
const RETRY_WITHOUT_TOKENS: Duration = Duration::from_secs(60);

/// The part of the needed tokens that may be missing, because numbers are rounded.
const ROUNDING_ERROR: f64 = 1e-6;

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
        self.take_n(1, now)
    }

    /// Takes this many tokens. If they are more than the bucket can hold, it has to be full, and is in debt
    /// afterwards: so everything passes at some time, and the rate holds. `Err`: there are not enough, but
    /// there will be after this time, if nobody takes any meanwhile.
    pub(crate) fn take_n(&mut self, tokens: usize, now: Instant) -> Result<(), Duration> {
        match self.wait_for(tokens, now) {
            Some(wait) => Err(wait),
            None => {
                self.tokens -= tokens as f64;
                Ok(())
            }
        }
    }

    /// Takes this many tokens for something that has happened already. The bucket may be in debt afterwards.
    pub(crate) fn charge(&mut self, tokens: usize, now: Instant) {
        self.refill(now);
        self.tokens -= tokens as f64;
    }

    /// Takes a token that may not be there. The bucket may owe at most what it can hold, so that it recovers soon.
    pub(super) fn overdraw(&mut self, now: Instant) {
        self.refill(now);
        self.tokens = (self.tokens - 1.0).max(-f64::from(self.rate.times));
    }

    /// Takes a token, or whatever part of one there is.
    pub(super) fn drain_one(&mut self, now: Instant) {
        self.refill(now);
        self.tokens = (self.tokens - 1.0).max(0.0);
    }

    /// How long until there is a token. `None`: there is one now.
    pub(crate) fn wait(&mut self, now: Instant) -> Option<Duration> {
        self.wait_for(1, now)
    }

    /// How long until there are this many tokens, or as many as the bucket can hold. `None`: there are now.
    pub(crate) fn wait_for(&mut self, tokens: usize, now: Instant) -> Option<Duration> {
        self.refill(now);
        let needed = match self.rate.times {
            0 => return Some(RETRY_WITHOUT_TOKENS),
            times => f64::from(times).min(tokens as f64),
        };
        let missing = needed - self.tokens;
        // Less than this is lost in the arithmetic. Whoever has waited for it would be told to wait again.
        if missing <= needed * ROUNDING_ERROR {
            return None;
        }
        let wait = self.rate.period.as_nanos() as f64 * missing / f64::from(self.rate.times);
        Some(Duration::from_nanos(wait.ceil() as u64))
    }

    pub(crate) fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.tokens >= self.rate.times.into()
    }

    fn refill(&mut self, now: Instant) {
        // Another thread may have read the clock later and come first.
        let now = now.max(self.refilled);
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
    fn what_never_fits_passes_a_full_bucket_and_leaves_a_debt() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut bucket = TokenBucket::full(Rate::per_second(10), start);
        assert_eq!(bucket.take_n(4, start), Ok(()));
        assert_eq!(bucket.take_n(25, start), Err(Duration::from_millis(400)), "it has to be full");
        assert_eq!(bucket.take_n(7, start), Err(Duration::from_millis(100)), "6 are left");
        bucket.tokens += 4.0;
        assert_eq!(bucket.take_n(25, start), Ok(()));
        assert_eq!(bucket.take(start), Err(Duration::from_millis(1600)), "15 are owed");
        assert_eq!(bucket.take_n(5, after(2)), Ok(()));
        bucket.charge(30, after(2));
        assert_eq!(bucket.wait(after(2)), Some(Duration::from_millis(3100)));
        assert!(bucket.is_full(after(6)));
        assert_eq!(bucket.take_n(11, after(6)), Ok(()), "it never holds more than one period");
        assert_eq!(bucket.take(after(6)), Err(Duration::from_millis(200)));
    }

    /// Otherwise a caller that waits as long as it was told is told to wait for some nanoseconds more.
    #[test]
    fn after_the_wait_there_are_enough() {
        for times in [3, 7, 1000, 1_000_003, u32::MAX] {
            let (rate, start) = (Rate::per_second(times), Instant::now());
            let mut bucket = TokenBucket::full(rate, start);
            let tokens = times as usize / 3 + 1;
            bucket.charge(times as usize, start);
            let mut now = start;
            for _ in 0..20 {
                now += bucket.take_n(tokens, now).expect_err("not yet");
                assert_eq!(bucket.take_n(tokens, now), Ok(()), "{times}");
            }
        }
    }

    /// Threads read the clock before they have the lock of the bucket.
    #[test]
    fn time_that_seems_to_go_back_gives_no_token_twice() {
        let (start, half) = (Instant::now(), Duration::from_millis(500));
        let mut bucket = TokenBucket::full(Rate::per_second(2), start);
        assert_eq!(bucket.take_n(2, start), Ok(()));
        assert_eq!(bucket.take(start + half), Ok(()));
        assert!(bucket.take(start).is_err());
        assert_eq!(bucket.take(start + half), Err(half));
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
