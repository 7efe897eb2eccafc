//! A lower bound of Redis' clock. Each reply with a time improves it; it is never ahead of the real clock.

use crate::RESPONSE_TIMEOUT;
use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard},
    time::Duration,
};
use switchyard_process::lock::LockExt;
use tokio::time::Instant;

/// How long Redis may take to execute a write, counted from the client's request. Longer than callers wait for
/// the reply, so a write that was reported as failed can still be executed until then.
pub(crate) const WRITE_VALIDITY: Duration = Duration::from_secs(2);
const _: () = assert!(WRITE_VALIDITY.as_millis() > RESPONSE_TIMEOUT.as_millis());
/// Redis refuses a write whose deadline is further ahead than this, because its clock must have been set back
/// since the node read it. The scripts contain the same number.
const MAX_DEADLINE_AHEAD: Duration = Duration::from_secs(5);
/// How many replies are remembered. The one that was fastest gives the best bound.
pub(crate) const MAX_SAMPLES: usize = 16;
/// A reply that is behind the estimate by more than this, in microseconds, was not slow: the clock was set
/// back.
const CLOCK_STEP_MICROS: u64 = 250_000;

/// The times that Redis has reported recently, in microseconds, and when each was received.
#[derive(Default)]
pub(crate) struct RedisClock(Mutex<VecDeque<(u64, Instant)>>);

impl RedisClock {
    /// Records that Redis' clock showed `time`, in Unix microseconds, at some moment before now.
    pub(crate) fn observe(&self, time: u64) {
        let now = Instant::now();
        let mut samples = self.samples();
        if samples.iter().any(|(time_then, observed_at)| {
            extrapolate(*time_then, *observed_at, now) > time + CLOCK_STEP_MICROS
        }) {
            samples.clear();
        }
        if samples.len() == MAX_SAMPLES {
            samples.pop_front();
        }
        samples.push_back((time, now));
    }

    /// A lower bound of what Redis' clock shows at `instant`, which may be in the past, in microseconds.
    pub(crate) fn micros_at(&self, instant: Instant) -> u64 {
        self.samples()
            .iter()
            .map(|(time, observed_at)| extrapolate(*time, *observed_at, instant))
            .max()
            .unwrap_or(0)
    }

    /// A lower bound of what Redis' clock shows now, in milliseconds.
    pub(crate) fn now_ms(&self) -> u64 {
        self.micros_at(Instant::now()) / 1000
    }

    fn samples(&self) -> MutexGuard<'_, VecDeque<(u64, Instant)>> {
        self.0.locked()
    }
}

/// Whether Redis refuses a write with this deadline when its clock shows `time`. Both are in milliseconds.
pub(crate) fn is_late(deadline: u64, time: u64) -> bool {
    time > deadline || deadline - time > MAX_DEADLINE_AHEAD.as_millis() as u64
}

/// What a clock shows at `instant`, in microseconds, if it showed `time` at `observed_at` or earlier.
pub(crate) fn extrapolate(time: u64, observed_at: Instant, instant: Instant) -> u64 {
    match instant.checked_duration_since(observed_at) {
        Some(since) => time + since.as_micros() as u64,
        None => time.saturating_sub((observed_at - instant).as_micros() as u64 + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_bound_is_never_ahead_and_follows_a_clock_that_is_set_back() {
        let (clock, began) = (RedisClock::default(), Instant::now());
        assert_eq!(clock.micros_at(began), 0, "no reply yet");
        clock.observe(10_000_000);
        assert_eq!(clock.micros_at(began), 10_000_000);
        assert_eq!(clock.micros_at(began + Duration::from_micros(2500)), 10_002_500);
        assert_eq!(clock.micros_at(began - Duration::from_micros(2500)), 9_997_499);
        tokio::time::advance(Duration::from_millis(10)).await;
        // This reply took longer, which says nothing about the clock.
        clock.observe(10_005_000);
        assert_eq!(clock.now_ms(), 10_010);
        clock.observe(9_000_000);
        assert_eq!(clock.now_ms(), 9_000);
    }
}
