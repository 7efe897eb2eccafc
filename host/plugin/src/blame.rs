//! Who is responsible for a plugin's failures. Each principal, history reader and room, and each publisher in a
//! room, has a circuit breaker of its own: whoever sends what the plugin cannot handle is quarantined before the
//! plugin itself is. The plugin's own breaker is in `governor_group.rs`.

use super::breaker::{Breaker, FailureOrigin};
use std::borrow::Borrow;
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
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
    /// The messages of a publisher in a room, of which it is not known whether they or the filters there are the cause.
    /// Only these messages are affected, and the whole room if the messages of several publishers fail or the
    /// publisher is not known.
    Messages {
        /// The room.
        room: &'a str,
        /// The publisher, if it is known.
        publisher: Option<&'a str>,
    },
}

impl fmt::Display for Blame<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("the host"),
            Self::Principal(id) => write!(f, "principal '{id}'"),
            Self::HistoryReader(id) => write!(f, "history for principal '{id}'"),
            Self::Messages { room, publisher: Some(id) } => {
                write!(f, "messages of principal '{id}' in room '{room}'")
            }
            Self::Messages { room, publisher: None } => write!(f, "room '{room}'"),
        }
    }
}

/// The breakers of everybody who caused failures recently.
#[derive(Default)]
pub(crate) struct BlameBreakers {
    principals: HashMap<Box<str>, Breaker>,
    history_readers: HashMap<Box<str>, Breaker>,
    rooms: HashMap<Box<str>, Breaker>,
    /// By hashes of the room and of the publisher, so that a message that is delivered makes no key.
    publishers: HashMap<(u64, u64), Breaker>,
    hasher: RandomState,
}

impl BlameBreakers {
    /// Whether the plugin may be called on this behalf. The error is how long it may not.
    pub(crate) fn admit(&mut self, blame: Blame<'_>, now: Instant) -> Result<(), Duration> {
        if let Some(breaker) = self.find_publisher(blame) {
            breaker.admit(now)?;
        }
        match self.find(blame) {
            Some(breaker) => breaker.admit(now),
            None => Ok(()),
        }
    }

    /// Records a success. Returns true if it ended a quarantine.
    pub(crate) fn record_success(&mut self, blame: Blame<'_>) -> bool {
        let ends_own = self.find_publisher(blame).is_some_and(Breaker::record_success);
        self.find(blame).is_some_and(Breaker::record_success) || ends_own
    }

    /// Records a failure. If a quarantine follows, returns whose it is and how long it lasts. The host has no breaker
    /// here.
    pub(crate) fn record_failure<'a>(
        &mut self,
        blame: Blame<'a>,
        now: Instant,
    ) -> Option<(Blame<'a>, Duration)> {
        let key = self.publisher_key(blame);
        let own = key.and_then(|key| fail(&mut self.publishers, &key, key, now, FailureOrigin::Host));
        // Not a quarantine of the room, as long as only one publisher's messages fail.
        let origin = key.map_or(FailureOrigin::Host, |(_, publisher)| FailureOrigin::Principal(publisher));
        let (breakers, name) = self.breakers_of(blame)?;
        let pause = fail(breakers, name, name.into(), now, origin);
        let whole = match blame {
            Blame::Messages { room, .. } => Blame::Messages { room, publisher: None },
            blame => blame,
        };
        pause.map(|pause| (whole, pause)).or(own.map(|pause| (blame, pause)))
    }

    /// What such a failure counts as in the plugin's own breaker; `None` if it does not count there.
    pub(crate) fn origin(&self, blame: Blame<'_>) -> Option<FailureOrigin> {
        match blame {
            Blame::Host => Some(FailureOrigin::Host),
            Blame::Principal(name) => Some(FailureOrigin::Principal(self.hasher.hash_one(name))),
            Blame::HistoryReader(_) | Blame::Messages { .. } => None,
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
            Blame::Messages { room, .. } => Some((&mut self.rooms, room)),
        }
    }

    fn find_publisher(&mut self, blame: Blame<'_>) -> Option<&mut Breaker> {
        if self.publishers.is_empty() {
            return None;
        }
        let key = self.publisher_key(blame)?;
        self.publishers.get_mut(&key)
    }

    fn publisher_key(&self, blame: Blame<'_>) -> Option<(u64, u64)> {
        match blame {
            Blame::Messages { room, publisher: Some(id) } => {
                Some((self.hasher.hash_one(room), self.hasher.hash_one(id)))
            }
            _ => None,
        }
    }
}

/// Records a failure in the breaker of this name. If it opens, returns how long.
fn fail<K, Q>(
    breakers: &mut HashMap<K, Breaker>,
    name: &Q,
    key: K,
    now: Instant,
    origin: FailureOrigin,
) -> Option<Duration>
where
    K: Borrow<Q> + Clone + Eq + Hash,
    Q: Eq + Hash + ?Sized,
{
    if !breakers.contains_key(name) {
        evict(breakers, now);
    }
    breakers.entry(key).or_insert_with(Breaker::new).record_failure(now, origin)
}

/// If there are too many breakers, removes all healthy ones, or else the one whose last failure is the
/// oldest.
fn evict<K: Clone + Eq + Hash>(breakers: &mut HashMap<K, Breaker>, now: Instant) {
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
        let (quarantined, pause) =
            (0..5).find_map(|_| breakers.record_failure(blame, now)).expect("quarantined");
        assert_eq!(quarantined, blame);
        pause
    }

    #[test]
    fn a_quarantine_affects_nobody_else() {
        let (mut breakers, now) = (BlameBreakers::default(), Instant::now());
        let pause = quarantine(&mut breakers, Blame::Principal("mallory"), now);
        assert_eq!(breakers.admit(Blame::Principal("mallory"), now), Err(pause));
        for blame in
            [Blame::Principal("acme"), Blame::HistoryReader("mallory"), room("mallory", None), Blame::Host]
        {
            assert_eq!(breakers.admit(blame, now), Ok(()), "{blame:?}");
        }
        // It fails again on trial, so the next pause is longer.
        let later = now + pause;
        assert_eq!(breakers.admit(Blame::Principal("mallory"), later), Ok(()));
        let mallory = Blame::Principal("mallory");
        assert_eq!(breakers.record_failure(mallory, later), Some((mallory, 2 * pause)));
        let later = later + 2 * pause;
        assert_eq!(breakers.admit(Blame::Principal("mallory"), later), Ok(()));
        assert!(breakers.record_success(Blame::Principal("mallory")));
        assert!(!breakers.record_success(Blame::Principal("mallory")), "the quarantine has ended already");
    }

    fn room<'a>(room: &'a str, publisher: Option<&'a str>) -> Blame<'a> {
        Blame::Messages { room, publisher }
    }

    #[test]
    fn failing_messages_of_one_publisher_affect_no_others_in_their_room() {
        let (mut breakers, now) = (BlameBreakers::default(), Instant::now());
        for name in ["a", "b"] {
            let pause = quarantine(&mut breakers, room(name, Some("mallory")), now);
            assert_eq!(breakers.admit(room(name, Some("mallory")), now), Err(pause));
            assert_eq!(breakers.admit(room(name, Some("acme")), now), Ok(()));
            assert_eq!(breakers.admit(room(name, None), now), Ok(()));
        }
        assert_eq!(breakers.admit(room("c", Some("mallory")), now), Ok(()));
        let later = now + Duration::from_secs(5);
        assert_eq!(breakers.admit(room("a", Some("mallory")), later), Ok(()), "a trial");
        assert!(breakers.record_success(room("a", Some("mallory"))));
        // If the messages of several publishers fail, a filter there is the cause.
        for publisher in ["acme", "zed"] {
            assert_eq!(
                breakers.record_failure(room("b", Some(publisher)), now).is_some(),
                publisher == "zed"
            );
        }
        assert!(breakers.admit(room("b", Some("innocent")), now).is_err());
        assert_eq!(breakers.admit(room("a", Some("innocent")), now), Ok(()));
    }

    #[test]
    fn the_number_of_breakers_is_bounded_and_healthy_ones_are_removed() {
        let (mut breakers, start) = (BlameBreakers::default(), Instant::now());
        for n in 0..3 * MAX_BREAKERS as u32 {
            let (id, at) = (n.to_string(), start + n * Duration::from_millis(1));
            breakers.record_failure(Blame::Principal(&id), at);
            breakers.record_failure(room("a", Some(&id)), at);
            assert!(breakers.principals.len().max(breakers.publishers.len()) <= MAX_BREAKERS);
        }
        let late = start + Duration::from_secs(1000);
        breakers.record_failure(Blame::Principal("late"), late);
        assert_eq!(breakers.principals.len(), 1, "the others have been healthy for long");
    }

    #[test]
    fn failures_of_history_readers_and_rooms_do_not_count_against_the_plugin() {
        let breakers = BlameBreakers::default();
        assert_eq!(breakers.origin(Blame::HistoryReader("a")), None);
        assert_eq!(breakers.origin(room("a", Some("b"))), None);
        assert_eq!(breakers.origin(Blame::Host), Some(FailureOrigin::Host));
        assert_ne!(breakers.origin(Blame::Principal("a")), breakers.origin(Blame::Principal("b")));
        assert_eq!(breakers.origin(Blame::Principal("a")), breakers.origin(Blame::Principal("a")));
    }
}
