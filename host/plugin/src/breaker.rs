//! A circuit breaker: stops calls for a while after repeated failures. There is one for each plugin, and one
//! for each principal, history reader and room whose requests make a plugin fail (`blame.rs`).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// This many failures within [`FAILURE_WINDOW`] open the breaker. A failure costs its shard up to one call's
/// budget, so with the default budget at most half a percent of its time.
const FAILURE_THRESHOLD: usize = 5;
const FAILURE_WINDOW: Duration = Duration::from_secs(10);

/// The failures must involve this many principals: with fewer, what they send may be the cause.
const MIN_PRINCIPALS: usize = 3;

/// How many failures are remembered, at most [`FAILURE_THRESHOLD`] of each principal.
const MAX_REMEMBERED_FAILURES: usize = 64;

/// How long the breaker stays open the first time, and at most.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Whose call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureOrigin {
    /// A call of the host itself, or any call in a breaker that belongs to a single principal or room.
    Host,
    /// A call for a principal, identified by a hash of its name.
    Principal(u64),
}

/// Allows calls (closed), blocks them (open), or allows them on trial (half-open).
pub(crate) struct Breaker {
    state: State,
    failures: VecDeque<(Instant, FailureOrigin)>,
    last_failure: Option<Instant>,
    /// How long the breaker stays open next time.
    pause: Duration,
}

enum State {
    Closed,
    Open {
        until: Instant,
    },
    /// One principal may fail without ending the trial; the failure of a second one does.
    HalfOpen {
        failed: Option<FailureOrigin>,
    },
}

impl Breaker {
    pub(crate) fn new() -> Self {
        Self { state: State::Closed, failures: VecDeque::new(), last_failure: None, pause: FIRST_PAUSE }
    }

    /// Whether a call may be made. The error is how long calls remain blocked.
    pub(crate) fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        if let State::Open { until } = self.state {
            if now < until {
                return Err(until - now);
            }
            self.state = State::HalfOpen { failed: None };
        }
        Ok(())
    }

    /// Whether it is open. It stays so until the first call after the pause.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// Records a success. Returns true if it ended a quarantine.
    pub(crate) fn record_success(&mut self) -> bool {
        let ended = matches!(self.state, State::HalfOpen { .. });
        if ended {
            self.state = State::Closed;
        }
        ended
    }

    /// Records a failure. If it opens the breaker, returns for how long.
    pub(crate) fn record_failure(&mut self, now: Instant, origin: FailureOrigin) -> Option<Duration> {
        // After a long time without failures, the pause starts at its minimum again. Otherwise it keeps
        // doubling.
        if self.is_healthy(now) {
            self.pause = FIRST_PAUSE;
        }
        self.last_failure = Some(now);
        self.remember(now, origin);
        let opens = match &mut self.state {
            State::HalfOpen { failed } => match (origin, *failed) {
                (FailureOrigin::Host, _) => true,
                (_, None) => {
                    *failed = Some(origin);
                    false
                }
                (_, Some(first)) => first != origin,
            },
            State::Closed | State::Open { .. } => self.reaches_threshold(),
        };
        if !opens {
            return None;
        }
        let pause = self.pause;
        self.state = State::Open { until: now + pause };
        self.pause = (2 * pause).min(MAX_PAUSE);
        Some(pause)
    }

    /// Whether there has been no failure for so long that the breaker's state no longer matters.
    pub(crate) fn is_healthy(&self, now: Instant) -> bool {
        self.last_failure.is_none_or(|last| now.duration_since(last) > MAX_PAUSE + FAILURE_WINDOW)
    }

    pub(crate) fn last_failure(&self) -> Option<Instant> {
        self.last_failure
    }

    fn remember(&mut self, now: Instant, origin: FailureOrigin) {
        self.failures.retain(|(at, _)| now.duration_since(*at) <= FAILURE_WINDOW);
        let of_origin = self.failures.iter().filter(|(_, other)| *other == origin).count();
        if of_origin >= FAILURE_THRESHOLD {
            let first = self.failures.iter().position(|(_, other)| *other == origin);
            self.failures.remove(first.expect("the count is not zero"));
        } else if self.failures.len() >= MAX_REMEMBERED_FAILURES {
            self.failures.pop_front();
        }
        self.failures.push_back((now, origin));
    }

    fn reaches_threshold(&self) -> bool {
        let of_host = self.failures.iter().filter(|(_, origin)| *origin == FailureOrigin::Host).count();
        let mut principals: Vec<u64> = self
            .failures
            .iter()
            .filter_map(|(_, origin)| match origin {
                FailureOrigin::Host => None,
                FailureOrigin::Principal(hash) => Some(*hash),
            })
            .collect();
        principals.sort_unstable();
        principals.dedup();
        of_host >= FAILURE_THRESHOLD
            || (self.failures.len() >= FAILURE_THRESHOLD && principals.len() >= MIN_PRINCIPALS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn open(breaker: &mut Breaker, now: Instant) -> Duration {
        (0..FAILURE_THRESHOLD)
            .find_map(|_| breaker.record_failure(now, FailureOrigin::Host))
            .expect("quarantined")
    }

    #[test]
    fn rare_failures_do_not_open_it() {
        let mut breaker = Breaker::new();
        let start = Instant::now();
        for i in 0..100 {
            assert_eq!(breaker.record_failure(start + 3 * i * SECOND, FailureOrigin::Host), None);
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
        assert!(breaker.record_success());
        assert!(!breaker.record_success());
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
            pause =
                breaker.record_failure(now, FailureOrigin::Host).expect("one failure is enough in a trial");
            assert_eq!(pause, expected * SECOND);
        }
    }

    #[test]
    fn the_pause_starts_over_after_a_long_time_without_failures() {
        let mut breaker = Breaker::new();
        let start = Instant::now();
        open(&mut breaker, start);
        assert!(breaker.admit(start + SECOND).is_ok());
        breaker.record_success();
        assert_eq!(open(&mut breaker, start + 2 * SECOND), 2 * SECOND);
        assert!(breaker.admit(start + 4 * SECOND).is_ok());
        breaker.record_success();
        assert_eq!(open(&mut breaker, start + 200 * SECOND), SECOND);
    }

    #[test]
    fn one_principal_alone_never_opens_it_but_three_do() {
        let mut breaker = Breaker::new();
        let now = Instant::now();
        for n in 0..1000 {
            assert_eq!(breaker.record_failure(now, FailureOrigin::Principal(n % 2)), None);
        }
        assert_eq!(breaker.record_failure(now, FailureOrigin::Principal(2)), Some(FIRST_PAUSE));
        // On trial, failures of a single principal do not open it again.
        let now = now + FIRST_PAUSE;
        assert!(breaker.admit(now).is_ok());
        for _ in 0..100 {
            assert_eq!(breaker.record_failure(now, FailureOrigin::Principal(1)), None);
        }
        assert!(breaker.admit(now).is_ok() && breaker.record_success());
    }

    #[test]
    fn its_memory_is_bounded_and_failures_of_principals_do_not_displace_those_of_the_host() {
        let mut breaker = Breaker::new();
        let now = Instant::now();
        for n in 0..1000 {
            breaker.record_failure(now, FailureOrigin::Principal(n));
            assert!(breaker.failures.len() <= MAX_REMEMBERED_FAILURES);
        }
        let mut breaker = Breaker::new();
        for _ in 0..4 {
            assert_eq!(breaker.record_failure(now, FailureOrigin::Host), None);
            for _ in 0..20 {
                assert_eq!(breaker.record_failure(now, FailureOrigin::Principal(1)), None);
            }
        }
        assert_eq!(breaker.record_failure(now, FailureOrigin::Host), Some(FIRST_PAUSE));
    }
}
