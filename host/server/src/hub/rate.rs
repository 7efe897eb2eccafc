//! A token bucket that holds one second's worth.

use std::time::Instant;

#[derive(Debug)]
pub(super) struct Rate {
    per_second: f64,
    left: f64,
    at: Instant,
}

impl Rate {
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        Self { per_second: per_second.into(), left: per_second.into(), at: now }
    }

    /// Another limit, with what was taken already.
    pub(super) fn change(&mut self, per_second: u32) {
        self.per_second = per_second.into();
        self.left = self.left.min(self.per_second);
    }

    /// Takes one, or says after how many milliseconds there will be one.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), u64> {
        let earned = now.duration_since(self.at).as_secs_f64() * self.per_second;
        (self.left, self.at) = ((self.left + earned).min(self.per_second), now);
        if self.left >= 1.0 {
            self.left -= 1.0;
            return Ok(());
        }
        Err(match self.per_second > 0.0 {
            true => ((1.0 - self.left) / self.per_second * 1000.0).ceil() as u64,
            false => 60_000,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn it_lets_a_burst_of_a_second_through_and_then_says_when() {
        let start = Instant::now();
        let mut rate = Rate::new(2, start);
        assert_eq!([rate.take(start), rate.take(start), rate.take(start)], [Ok(()), Ok(()), Err(500)]);
        assert_eq!(rate.take(start + Duration::from_millis(500)), Ok(()));
        assert_eq!(Rate::new(0, start).take(start), Err(60_000));
        // Another limit gives back nothing that was taken.
        rate.change(4);
        assert_eq!(rate.take(start + Duration::from_millis(500)), Err(250));
    }
}
