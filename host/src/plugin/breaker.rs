//! When a plugin that keeps failing is left alone for a while.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// So many failures within [`WINDOW`] open the breaker. A failure costs its shard up to a call's budget, so
/// by default half a percent of its time.
const FAILURES: usize = 5;
const WINDOW: Duration = Duration::from_secs(10);

/// How long it stays open first, and at most.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// Lets calls through (closed), none (open), or one to see (trying).
pub struct Breaker {
    state: State,
    failures: VecDeque<Instant>,
    /// For how long it opens next time.
    pause: Duration,
}

enum State {
    Closed,
    Open { until: Instant },
    Trying,
}

impl Breaker {
    pub fn new() -> Self {
        Self { state: State::Closed, failures: VecDeque::with_capacity(FAILURES), pause: FIRST }
    }

    /// Whether a call may be made; otherwise for how long not.
    pub fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        if let State::Open { until } = self.state {
            if now < until {
                return Err(until - now);
            }
            self.state = State::Trying;
        }
        Ok(())
    }

    /// True if this ended a quarantine.
    pub fn succeeded(&mut self) -> bool {
        let ended = matches!(self.state, State::Trying);
        if ended {
            self.state = State::Closed;
        }
        ended
    }

    /// For how long the plugin is quarantined, if that is the consequence.
    pub fn failed(&mut self, now: Instant) -> Option<Duration> {
        // A plugin that was well for long starts over; one that fails now and then waits ever longer.
        if self.failures.back().is_some_and(|last| now.duration_since(*last) > LONGEST + WINDOW) {
            self.pause = FIRST;
        }
        if self.failures.len() == FAILURES {
            self.failures.pop_front();
        }
        self.failures.push_back(now);
        let often = self.failures.len() == FAILURES && now.duration_since(self.failures[0]) <= WINDOW;
        if !often && !matches!(self.state, State::Trying) {
            return None;
        }
        let pause = self.pause;
        self.state = State::Open { until: now + pause };
        self.pause = (2 * pause).min(LONGEST);
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn open(breaker: &mut Breaker, now: Instant) -> Duration {
        (0..FAILURES).find_map(|_| breaker.failed(now)).expect("quarantined")
    }

    #[test]
    fn rare_failures_are_only_failures() {
        let mut breaker = Breaker::new();
        let start = Instant::now();
        for i in 0..100 {
            assert_eq!(breaker.failed(start + 3 * i * SECOND), None);
            assert!(breaker.admit(start + 3 * i * SECOND).is_ok());
        }
    }

    #[test]
    fn frequent_failures_open_it_and_one_success_closes_it() {
        let mut breaker = Breaker::new();
        let start = Instant::now();
        assert_eq!(open(&mut breaker, start), SECOND);
        assert_eq!(breaker.admit(start + SECOND / 4), Err(SECOND * 3 / 4));
        assert!(breaker.admit(start + SECOND).is_ok());
        assert!(breaker.succeeded());
        assert!(!breaker.succeeded());
        assert!(breaker.admit(start + SECOND).is_ok());
    }

    #[test]
    fn a_failed_trial_doubles_the_pause_up_to_a_minute() {
        let mut breaker = Breaker::new();
        let mut now = Instant::now();
        let mut pause = open(&mut breaker, now);
        for expected in [2, 4, 8, 16, 32, 60, 60] {
            now += pause;
            assert!(breaker.admit(now).is_ok());
            pause = breaker.failed(now).expect("one failure is enough while trying");
            assert_eq!(pause, expected * SECOND);
        }
    }

    #[test]
    fn the_pause_starts_over_after_a_long_while_of_health() {
        let mut breaker = Breaker::new();
        let start = Instant::now();
        open(&mut breaker, start);
        assert!(breaker.admit(start + SECOND).is_ok());
        breaker.succeeded();
        assert_eq!(open(&mut breaker, start + 2 * SECOND), 2 * SECOND);
        assert!(breaker.admit(start + 4 * SECOND).is_ok());
        breaker.succeeded();
        assert_eq!(open(&mut breaker, start + 200 * SECOND), SECOND);
    }
}
