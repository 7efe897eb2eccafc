//! Redis' clock, as far as this node can be sure of it: never later than it really is.

use crate::RESPONSE_TIMEOUT;
use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard},
    time::Duration,
};
use tokio::time::Instant;

/// What a write may take, from the moment its client asked, until Redis does not carry it out any more. Longer than an answer
/// is waited for.
pub(crate) const WRITE_VALIDITY: Duration = Duration::from_secs(2);
const _: () = assert!(WRITE_VALIDITY.as_millis() > RESPONSE_TIMEOUT.as_millis());
/// Nobody gives a write longer than this: one that would have longer is refused, as the clock was set back since its node heard of it.
/// The scripts have the same number.
const MAX_DEADLINE_AHEAD: Duration = Duration::from_secs(5);
/// Answers that are remembered: the one that came fastest says best what the clock shows.
pub(crate) const MAX_SAMPLES: usize = 16;
/// Microseconds beyond which an answer was not slow, but the clock was set back.
const CLOCK_STEP_MICROS: u64 = 250_000;

/// What Redis said lately, in microseconds, and when that was heard.
#[derive(Default)]
pub(crate) struct RedisClock(Mutex<VecDeque<(u64, Instant)>>);

impl RedisClock {
    /// Redis said that it was so late, in Unix microseconds, before now.
    pub(crate) fn observe(&self, time: u64) {
        let now = Instant::now();
        let mut samples = self.samples();
        if samples
            .iter()
            .any(|(time_then, heard)| extrapolate(*time_then, *heard, now) > time + CLOCK_STEP_MICROS)
        {
            samples.clear();
        }
        if samples.len() == MAX_SAMPLES {
            samples.pop_front();
        }
        samples.push_back((time, now));
    }

    /// A lower bound of what Redis' clock shows, or showed, at an instant, in microseconds.
    pub(crate) fn micros_at(&self, instant: Instant) -> u64 {
        self.samples().iter().map(|(time, heard)| extrapolate(*time, *heard, instant)).max().unwrap_or(0)
    }

    /// The same in milliseconds, for now.
    pub(crate) fn now_ms(&self) -> u64 {
        self.micros_at(Instant::now()) / 1000
    }

    fn samples(&self) -> MutexGuard<'_, VecDeque<(u64, Instant)>> {
        self.0.lock().expect("no code panics while it holds the clock")
    }
}

/// Whether a write with this deadline is not carried out any more by a clock that shows `time`, in milliseconds.
pub(crate) fn is_late(deadline: u64, time: u64) -> bool {
    time > deadline || deadline - time > MAX_DEADLINE_AHEAD.as_millis() as u64
}

/// Microseconds at `instant` by a clock that showed `time` at `heard`, or before.
pub(crate) fn extrapolate(time: u64, heard: Instant, instant: Instant) -> u64 {
    match instant.checked_duration_since(heard) {
        Some(since) => time + since.as_micros() as u64,
        None => time.saturating_sub((heard - instant).as_micros() as u64 + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_never_ahead_and_follows_a_clock_that_is_set_back() {
        let (clock, began) = (RedisClock::default(), Instant::now());
        assert_eq!(clock.micros_at(began), 0, "nothing was heard");
        clock.observe(10_000_000);
        assert_eq!(clock.micros_at(began), 10_000_000);
        assert_eq!(clock.micros_at(began + Duration::from_micros(2500)), 10_002_500);
        assert_eq!(clock.micros_at(began - Duration::from_micros(2500)), 9_997_499);
        tokio::time::advance(Duration::from_millis(10)).await;
        // This answer took longer, which says nothing of the clock.
        clock.observe(10_005_000);
        assert_eq!(clock.now_ms(), 10_010);
        clock.observe(9_000_000);
        assert_eq!(clock.now_ms(), 9_000);
    }
}
