//! When a plugin that keeps failing is left alone for a while, or one whose requests make it fail.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// So many failures within [`WINDOW`] open the breaker. A failure costs its shard up to a call's budget, so
/// by default half a percent of its time.
const FAILURES: usize = 5;
const WINDOW: Duration = Duration::from_secs(10);

/// So many principals must have failed among those: with fewer it may be what they send.
const SEVERAL: usize = 3;

/// Failures that are remembered. Each principal has [`FAILURES`] at most.
const REMEMBERED: usize = 64;

/// How long it stays open first, and at most.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// Whose call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Witness {
    /// Nobody's but the host's own, or that of the one whose breaker this is: it speaks for itself.
    Host,
    /// A principal's, by a number that stands for its name.
    Principal(u64),
}

/// Lets calls through (closed), none (open), or some to see (trying).
pub(crate) struct Breaker {
    state: State,
    failures: VecDeque<(Instant, Witness)>,
    last: Option<Instant>,
    /// For how long it opens next time.
    pause: Duration,
}

enum State {
    Closed,
    Open {
        until: Instant,
    },
    /// A principal may have failed already.
    Trying {
        failed: Option<Witness>,
    },
}

impl Breaker {
    pub(crate) fn new() -> Self {
        Self { state: State::Closed, failures: VecDeque::new(), last: None, pause: FIRST }
    }

    /// Whether a call may be made; otherwise for how long not.
    pub(crate) fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        if let State::Open { until } = self.state {
            if now < until {
                return Err(until - now);
            }
            self.state = State::Trying { failed: None };
        }
        Ok(())
    }

    /// Whether calls are refused, or will be tried only with the next one.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// True if this ended a quarantine.
    pub(crate) fn succeeded(&mut self) -> bool {
        let ended = matches!(self.state, State::Trying { .. });
        if ended {
            self.state = State::Closed;
        }
        ended
    }

    /// For how long calls are refused, if that is the consequence.
    pub(crate) fn failed(&mut self, now: Instant, whose: Witness) -> Option<Duration> {
        // One that was well for long starts over; one that fails now and then waits ever longer.
        if self.last.is_some_and(|last| now.duration_since(last) > LONGEST + WINDOW) {
            self.pause = FIRST;
        }
        self.last = Some(now);
        self.remember(now, whose);
        let opens = match &mut self.state {
            State::Trying { failed } => match (whose, *failed) {
                (Witness::Host, _) => true,
                (_, None) => {
                    *failed = Some(whose);
                    false
                }
                (_, Some(first)) => first != whose,
            },
            State::Closed | State::Open { .. } => self.is_often(),
        };
        if !opens {
            return None;
        }
        let pause = self.pause;
        self.state = State::Open { until: now + pause };
        self.pause = (2 * pause).min(LONGEST);
        Some(pause)
    }

    /// Whether nothing of it is worth remembering.
    pub(crate) fn is_forgotten(&self, now: Instant) -> bool {
        self.last.is_none_or(|last| now.duration_since(last) > LONGEST + WINDOW)
    }

    /// When it failed last.
    pub(crate) fn last(&self) -> Option<Instant> {
        self.last
    }

    fn remember(&mut self, now: Instant, whose: Witness) {
        self.failures.retain(|(at, _)| now.duration_since(*at) <= WINDOW);
        let mine = self.failures.iter().filter(|(_, witness)| *witness == whose).count();
        if mine >= FAILURES {
            let first = self.failures.iter().position(|(_, witness)| *witness == whose);
            self.failures.remove(first.expect("there are some"));
        } else if self.failures.len() >= REMEMBERED {
            self.failures.pop_front();
        }
        self.failures.push_back((now, whose));
    }

    fn is_often(&self) -> bool {
        let host = self.failures.iter().filter(|(_, witness)| *witness == Witness::Host).count();
        let mut principals: Vec<u64> = self
            .failures
            .iter()
            .filter_map(|(_, witness)| match witness {
                Witness::Host => None,
                Witness::Principal(number) => Some(*number),
            })
            .collect();
        principals.sort_unstable();
        principals.dedup();
        host >= FAILURES || (self.failures.len() >= FAILURES && principals.len() >= SEVERAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn open(breaker: &mut Breaker, now: Instant) -> Duration {
        (0..FAILURES).find_map(|_| breaker.failed(now, Witness::Host)).expect("quarantined")
    }

    #[test]
    fn rare_failures_are_only_failures() {
        let mut breaker = Breaker::new();
        let start = Instant::now();
        for i in 0..100 {
            assert_eq!(breaker.failed(start + 3 * i * SECOND, Witness::Host), None);
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
            pause = breaker.failed(now, Witness::Host).expect("one failure is enough while trying");
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

    #[test]
    fn one_principal_opens_nothing_however_often_it_fails_and_three_do() {
        let mut breaker = Breaker::new();
        let now = Instant::now();
        for n in 0..1000 {
            assert_eq!(breaker.failed(now, Witness::Principal(n % 2)), None);
        }
        assert_eq!(breaker.failed(now, Witness::Principal(2)), Some(FIRST));
        // While it is tried, one alone does not end the trial.
        let now = now + FIRST;
        assert!(breaker.admit(now).is_ok());
        for _ in 0..100 {
            assert_eq!(breaker.failed(now, Witness::Principal(1)), None);
        }
        assert!(breaker.admit(now).is_ok() && breaker.succeeded());
    }

    #[test]
    fn what_it_remembers_is_bounded_and_principals_do_not_hide_the_host() {
        let mut breaker = Breaker::new();
        let now = Instant::now();
        for n in 0..1000 {
            breaker.failed(now, Witness::Principal(n));
            assert!(breaker.failures.len() <= REMEMBERED);
        }
        let mut breaker = Breaker::new();
        for _ in 0..4 {
            assert_eq!(breaker.failed(now, Witness::Host), None);
            for _ in 0..20 {
                assert_eq!(breaker.failed(now, Witness::Principal(1)), None);
            }
        }
        assert_eq!(breaker.failed(now, Witness::Host), Some(FIRST));
    }
}
