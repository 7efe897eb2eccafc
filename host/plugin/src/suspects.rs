//! Whose requests make a plugin fail: each has a breaker of its own, so that who sends what the plugin cannot bear is
//! left alone before the plugin is. Bounded, and forgets those that were well for a while.

use super::breaker::{Breaker, Witness};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

/// Principals and rooms that are remembered of each kind. Only those that failed lately are.
const MOST: usize = 1024;

/// On whose behalf a plugin is asked, and who bears the consequences when it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame<'a> {
    /// The host itself: what it does for all.
    Host,
    /// A principal's request to connect, to join or to publish, or a message or filter that is known to be its.
    Caller(&'a str),
    /// A principal that reads history: the messages are others', so it speaks for nobody but itself.
    Reader(&'a str),
    /// A room whose message came from nobody knows whom: it speaks for itself as well.
    Room(&'a str),
}

#[derive(Default)]
pub(crate) struct Suspects {
    callers: HashMap<Box<str>, Breaker>,
    readers: HashMap<Box<str>, Breaker>,
    rooms: HashMap<Box<str>, Breaker>,
    hasher: RandomState,
}

impl Suspects {
    /// Whether the plugin may be asked on that behalf; otherwise for how long not.
    pub(crate) fn admit(&mut self, blame: Blame<'_>, now: Instant) -> Result<(), Duration> {
        match self.find(blame) {
            Some(breaker) => breaker.admit(now),
            None => Ok(()),
        }
    }

    /// True if this ended its quarantine.
    pub(crate) fn succeeded(&mut self, blame: Blame<'_>) -> bool {
        self.find(blame).is_some_and(Breaker::succeeded)
    }

    /// For how long it is quarantined, if that is the consequence. The host has no breaker here.
    pub(crate) fn failed(&mut self, blame: Blame<'_>, now: Instant) -> Option<Duration> {
        let (breakers, name) = self.of(blame)?;
        if !breakers.contains_key(name) {
            make_room(breakers, now);
        }
        breakers.entry(name.into()).or_insert_with(Breaker::new).failed(now, Witness::Host)
    }

    /// What that failure says of the plugin itself; `None`: nothing.
    pub(crate) fn witness(&self, blame: Blame<'_>) -> Option<Witness> {
        match blame {
            Blame::Host => Some(Witness::Host),
            Blame::Caller(name) => Some(Witness::Principal(self.hasher.hash_one(name))),
            Blame::Reader(_) | Blame::Room(_) => None,
        }
    }

    fn find(&mut self, blame: Blame<'_>) -> Option<&mut Breaker> {
        let (breakers, name) = self.of(blame)?;
        // Most of the time nobody is suspected, and names are not hashed.
        if breakers.is_empty() { None } else { breakers.get_mut(name) }
    }

    fn of<'a>(&mut self, blame: Blame<'a>) -> Option<(&mut HashMap<Box<str>, Breaker>, &'a str)> {
        match blame {
            Blame::Host => None,
            Blame::Caller(name) => Some((&mut self.callers, name)),
            Blame::Reader(name) => Some((&mut self.readers, name)),
            Blame::Room(name) => Some((&mut self.rooms, name)),
        }
    }
}

/// Those that were well for long go first, then the one that failed least lately.
fn make_room(breakers: &mut HashMap<Box<str>, Breaker>, now: Instant) {
    if breakers.len() < MOST {
        return;
    }
    breakers.retain(|_, breaker| !breaker.is_forgotten(now));
    if breakers.len() >= MOST {
        let oldest = breakers.iter().min_by_key(|(_, breaker)| breaker.last()).map(|(name, _)| name.clone());
        oldest.map(|name| breakers.remove(&name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quarantine(suspects: &mut Suspects, blame: Blame<'_>, now: Instant) -> Duration {
        (0..5).find_map(|_| suspects.failed(blame, now)).expect("quarantined")
    }

    #[test]
    fn one_is_left_alone_and_the_others_are_served() {
        let (mut suspects, now) = (Suspects::default(), Instant::now());
        let pause = quarantine(&mut suspects, Blame::Caller("mallory"), now);
        assert_eq!(suspects.admit(Blame::Caller("mallory"), now), Err(pause));
        for blame in [Blame::Caller("acme"), Blame::Reader("mallory"), Blame::Room("mallory"), Blame::Host] {
            assert_eq!(suspects.admit(blame, now), Ok(()), "{blame:?}");
        }
        // Tried again, it fails again, and waits for longer.
        let later = now + pause;
        assert_eq!(suspects.admit(Blame::Caller("mallory"), later), Ok(()));
        assert_eq!(suspects.failed(Blame::Caller("mallory"), later), Some(2 * pause));
        let later = later + 2 * pause;
        assert_eq!(suspects.admit(Blame::Caller("mallory"), later), Ok(()));
        assert!(suspects.succeeded(Blame::Caller("mallory")));
        assert!(!suspects.succeeded(Blame::Caller("mallory")), "that was the end of it");
    }

    #[test]
    fn the_table_is_bounded_and_forgets_those_that_failed_longest_ago() {
        let (mut suspects, start) = (Suspects::default(), Instant::now());
        for n in 0..3 * MOST as u32 {
            suspects.failed(Blame::Caller(&n.to_string()), start + n * Duration::from_millis(1));
            assert!(suspects.callers.len() <= MOST);
        }
        let late = start + Duration::from_secs(1000);
        suspects.failed(Blame::Caller("late"), late);
        assert_eq!(suspects.callers.len(), 1, "the others were well for long");
    }

    #[test]
    fn who_reads_and_whose_message_it_is_nobody_knows_say_nothing_of_the_plugin() {
        let suspects = Suspects::default();
        assert_eq!(suspects.witness(Blame::Reader("a")), None);
        assert_eq!(suspects.witness(Blame::Room("a")), None);
        assert_eq!(suspects.witness(Blame::Host), Some(Witness::Host));
        assert_ne!(suspects.witness(Blame::Caller("a")), suspects.witness(Blame::Caller("b")));
        assert_eq!(suspects.witness(Blame::Caller("a")), suspects.witness(Blame::Caller("a")));
    }
}
