//! Who is responsible for a plugin's failures. Each principal, history reader and room has a circuit breaker
//! of its own: whoever sends what the plugin cannot handle is quarantined before the plugin itself is. The
//! plugin's own breaker is in `governor.rs`.

use super::breaker::{Breaker, FailureOrigin};
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

/// How many breakers of each kind are kept. Only those that failed recently have one.
const MAX_BREAKERS: usize = 1024;

/// On whose behalf a plugin is called, and who bears the consequences if it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame<'a> {
    /// The host itself: calls that serve everybody.
    Host,
    /// A principal: its request to connect, join or publish, or a message or filter that is known to be its
    /// own.
    Principal(&'a str),
    /// A principal that reads history. The messages are those of others, so only this principal is affected.
    HistoryReader(&'a str),
    /// A room, for a message whose publisher is not known. Only this room is affected.
    Room(&'a str),
}

impl fmt::Display for Blame<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("the host"),
            Self::Principal(id) => write!(f, "principal '{id}'"),
            Self::HistoryReader(id) => write!(f, "history for principal '{id}'"),
            Self::Room(room) => write!(f, "room '{room}'"),
        }
    }
}

/// The breakers of everybody who caused failures recently.
#[derive(Default)]
pub(crate) struct BlameBreakers {
    principals: HashMap<Box<str>, Breaker>,
    history_readers: HashMap<Box<str>, Breaker>,
    rooms: HashMap<Box<str>, Breaker>,
    hasher: RandomState,
}

impl BlameBreakers {
    /// Whether the plugin may be called on this behalf. The error is how long it may not.
    pub(crate) fn admit(&mut self, blame: Blame<'_>, now: Instant) -> Result<(), Duration> {
        match self.find(blame) {
            Some(breaker) => breaker.admit(now),
            None => Ok(()),
        }
    }

    /// Records a success. Returns true if it ended a quarantine.
    pub(crate) fn record_success(&mut self, blame: Blame<'_>) -> bool {
        self.find(blame).is_some_and(Breaker::record_success)
    }

    /// Records a failure. If a quarantine follows, returns how long it lasts. The host has no breaker here.
    pub(crate) fn record_failure(&mut self, blame: Blame<'_>, now: Instant) -> Option<Duration> {
        let (breakers, name) = self.breakers_of(blame)?;
        if !breakers.contains_key(name) {
            evict(breakers, now);
        }
        breakers.entry(name.into()).or_insert_with(Breaker::new).record_failure(now, FailureOrigin::Host)
    }

    /// What such a failure counts as in the plugin's own breaker; `None` if it does not count there.
    pub(crate) fn origin(&self, blame: Blame<'_>) -> Option<FailureOrigin> {
        match blame {
            Blame::Host => Some(FailureOrigin::Host),
            Blame::Principal(name) => Some(FailureOrigin::Principal(self.hasher.hash_one(name))),
            Blame::HistoryReader(_) | Blame::Room(_) => None,
        }
    }

    fn find(&mut self, blame: Blame<'_>) -> Option<&mut Breaker> {
        let (breakers, name) = self.breakers_of(blame)?;
        // Usually there are no breakers, and then no name is hashed.
        if breakers.is_empty() { None } else { breakers.get_mut(name) }
    }

    fn breakers_of<'a>(&mut self, blame: Blame<'a>) -> Option<(&mut HashMap<Box<str>, Breaker>, &'a str)> {
        match blame {
            Blame::Host => None,
            Blame::Principal(name) => Some((&mut self.principals, name)),
            Blame::HistoryReader(name) => Some((&mut self.history_readers, name)),
            Blame::Room(name) => Some((&mut self.rooms, name)),
        }
    }
}

/// If there are too many breakers, removes all healthy ones, or else the one whose last failure is the
/// oldest.
fn evict(breakers: &mut HashMap<Box<str>, Breaker>, now: Instant) {
    if breakers.len() < MAX_BREAKERS {
        return;
    }
    breakers.retain(|_, breaker| !breaker.is_healthy(now));
    if breakers.len() >= MAX_BREAKERS {
        let oldest =
            breakers.iter().min_by_key(|(_, breaker)| breaker.last_failure()).map(|(name, _)| name.clone());
        oldest.map(|name| breakers.remove(&name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quarantine(breakers: &mut BlameBreakers, blame: Blame<'_>, now: Instant) -> Duration {
        (0..5).find_map(|_| breakers.record_failure(blame, now)).expect("quarantined")
    }

    #[test]
    fn a_quarantine_affects_nobody_else() {
        let (mut breakers, now) = (BlameBreakers::default(), Instant::now());
        let pause = quarantine(&mut breakers, Blame::Principal("mallory"), now);
        assert_eq!(breakers.admit(Blame::Principal("mallory"), now), Err(pause));
        for blame in
            [Blame::Principal("acme"), Blame::HistoryReader("mallory"), Blame::Room("mallory"), Blame::Host]
        {
            assert_eq!(breakers.admit(blame, now), Ok(()), "{blame:?}");
        }
        // It fails again on trial, so the next pause is longer.
        let later = now + pause;
        assert_eq!(breakers.admit(Blame::Principal("mallory"), later), Ok(()));
        assert_eq!(breakers.record_failure(Blame::Principal("mallory"), later), Some(2 * pause));
        let later = later + 2 * pause;
        assert_eq!(breakers.admit(Blame::Principal("mallory"), later), Ok(()));
        assert!(breakers.record_success(Blame::Principal("mallory")));
        assert!(!breakers.record_success(Blame::Principal("mallory")), "the quarantine has ended already");
    }

    #[test]
    fn the_number_of_breakers_is_bounded_and_healthy_ones_are_removed() {
        let (mut breakers, start) = (BlameBreakers::default(), Instant::now());
        for n in 0..3 * MAX_BREAKERS as u32 {
            breakers.record_failure(Blame::Principal(&n.to_string()), start + n * Duration::from_millis(1));
            assert!(breakers.principals.len() <= MAX_BREAKERS);
        }
        let late = start + Duration::from_secs(1000);
        breakers.record_failure(Blame::Principal("late"), late);
        assert_eq!(breakers.principals.len(), 1, "the others have been healthy for long");
    }

    #[test]
    fn failures_of_history_readers_and_rooms_do_not_count_against_the_plugin() {
        let breakers = BlameBreakers::default();
        assert_eq!(breakers.origin(Blame::HistoryReader("a")), None);
        assert_eq!(breakers.origin(Blame::Room("a")), None);
        assert_eq!(breakers.origin(Blame::Host), Some(FailureOrigin::Host));
        assert_ne!(breakers.origin(Blame::Principal("a")), breakers.origin(Blame::Principal("b")));
        assert_eq!(breakers.origin(Blame::Principal("a")), breakers.origin(Blame::Principal("a")));
    }
}
