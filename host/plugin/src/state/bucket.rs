//! A token bucket: how much it holds, and when it will hold more. Knows no key and no clock.

/// What a bucket holds is counted in parts of a token, so that one that gains one token a minute gains one
/// part a millisecond.
const PARTS_PER_TOKEN: u64 = 60_000;

/// The answer if waiting does not help.
pub(super) const NEVER: u64 = u64::MAX;

/// What a plugin asks of a bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Withdrawal {
    pub amount: u32,
    /// The tokens that the bucket holds when it is full.
    pub burst: u32,
    /// The tokens that it gains in a minute.
    pub per_minute: u32,
}

/// A bucket, as it was at one moment. Times are in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TokenBucket {
    parts: u64,
    at: u64,
    burst: u32,
    per_minute: u32,
}

impl TokenBucket {
    pub(super) fn full(burst: u32, per_minute: u32, now: u64) -> Self {
        Self { parts: parts(burst), at: now, burst, per_minute }
    }

    /// Takes from the bucket, or returns after how many milliseconds that would succeed. The bucket takes
    /// over the size and the rate, whatever the answer is.
    pub(super) fn take(&mut self, asked: Withdrawal, now: u64) -> Result<(), u64> {
        // What it gained until now, it gained at the old rate.
        let gained = now.saturating_sub(self.at).saturating_mul(self.per_minute.into());
        self.parts = self.parts.saturating_add(gained).min(parts(self.burst)).min(parts(asked.burst));
        (self.at, self.burst, self.per_minute) = (self.at.max(now), asked.burst, asked.per_minute);
        match parts(asked.amount).checked_sub(self.parts) {
            None | Some(0) => {
                self.parts -= parts(asked.amount);
                Ok(())
            }
            Some(_) if asked.amount > asked.burst => Err(NEVER),
            Some(missing) => Err(self.time_to_gain(missing)),
        }
    }

    /// The time from which on it is full, and carries no information.
    pub(super) fn full_at(&self) -> u64 {
        self.at.saturating_add(self.time_to_gain(parts(self.burst) - self.parts))
    }

    fn time_to_gain(&self, missing: u64) -> u64 {
        match (missing, u64::from(self.per_minute)) {
            (0, _) => 0,
            (_, 0) => NEVER,
            (missing, per_ms) => missing.div_ceil(per_ms),
        }
    }
}

fn parts(tokens: u32) -> u64 {
    u64::from(tokens) * PARTS_PER_TOKEN
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(bucket: &mut TokenBucket, amount: u32, now: u64) -> Result<(), u64> {
        let (burst, per_minute) = (bucket.burst, bucket.per_minute);
        bucket.take(Withdrawal { amount, burst, per_minute }, now)
    }

    #[test]
    fn the_error_is_the_exact_time_after_which_it_succeeds() {
        // One token in 10 s, and the most inconvenient rate, one in 60/7 s.
        for (per_minute, wait) in [(6, 10_000), (7, 8572)] {
            let mut bucket = TokenBucket::full(1, per_minute, 500);
            assert_eq!(take(&mut bucket, 1, 500), Ok(()));
            assert_eq!(take(&mut bucket, 1, 500), Err(wait));
            assert_eq!(bucket.full_at(), 500 + wait);
            assert_eq!(take(&mut bucket, 1, 499 + wait), Err(1));
            assert_eq!(take(&mut bucket, 1, 500 + wait), Ok(()));
        }
    }

    #[test]
    fn a_bucket_gains_continuously_and_holds_no_more_than_its_burst() {
        let mut bucket = TokenBucket::full(10, 60, 0);
        assert_eq!(take(&mut bucket, 10, 0), Ok(()));
        assert_eq!(take(&mut bucket, 3, 2500), Err(500));
        assert_eq!((take(&mut bucket, 2, 2500), take(&mut bucket, 1, 2500)), (Ok(()), Err(500)));
        assert_eq!((take(&mut bucket, 10, 3_600_000), take(&mut bucket, 1, 3_600_000)), (Ok(()), Err(1000)));
        assert_eq!(take(&mut bucket, 0, 3_600_000), Ok(()), "nothing can always be taken");
    }

    #[test]
    fn a_changed_burst_or_rate_clamps_the_level() {
        let mut bucket = TokenBucket::full(10, 60, 0);
        let mut ask =
            |amount, burst, per_minute, now| bucket.take(Withdrawal { amount, burst, per_minute }, now);
        assert_eq!(ask(1, 4, 60, 0), Ok(()), "of the ten, four are left");
        assert_eq!(ask(4, 100, 60, 0), Err(1000), "a larger bucket is not full");
        assert_eq!(ask(0, 100, 6, 1000), Ok(()));
        assert_eq!(ask(5, 100, 6, 1000), Err(10_000), "the second was gained at the old rate");
    }

    #[test]
    fn hostile_numbers_overflow_nothing() {
        const MAX: u32 = u32::MAX;
        let mut bucket = TokenBucket::full(MAX, MAX, 0);
        assert_eq!(take(&mut bucket, MAX, 0), Ok(()));
        assert_eq!(take(&mut bucket, MAX, 0), Err(60_000));
        assert_eq!(take(&mut bucket, MAX, u64::MAX), Ok(()));
        assert_eq!(bucket.full_at(), u64::MAX);
        assert_eq!(take(&mut bucket, 1, 0), Err(1), "a clock that goes back takes nothing away");
        let mut never = TokenBucket::full(1, 0, 0);
        assert_eq!((take(&mut never, 1, 0), take(&mut never, 1, u64::MAX)), (Ok(()), Err(NEVER)));
        assert_eq!(never.full_at(), NEVER);
        let above = Withdrawal { amount: 2, burst: 1, per_minute: MAX };
        assert_eq!(TokenBucket::full(1, MAX, 0).take(above, 0), Err(NEVER));
        let empty = Withdrawal { amount: 0, burst: 0, per_minute: 0 };
        assert_eq!(TokenBucket::full(MAX, MAX, 0).take(empty, 0), Ok(()));
    }
}
