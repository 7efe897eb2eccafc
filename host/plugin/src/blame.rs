//! Who is responsible for a plugin's failures. Whoever sends what the plugin cannot handle has a circuit
//! breaker of its own, and is quarantined before the plugin itself is. The plugin's own breaker is in
//! `governor.rs`.
//!
//! When filters cannot be evaluated for a message, the message or a filter may be the cause. What is known
//! decides who is blamed (`deliver.rs`):
//!
//! - The message passes the filters of some principals, and the call fails with those of others: the latter.
//! - The call fails with the filters of each of several principals: the publisher of the message.
//! - Everything else, such as a room with filters of a single principal: the messages of this publisher in
//!   this room. Other publishers' messages and other rooms are not affected. If messages of several
//!   publishers fail on the same filters of a room, these filters are suspended, and nothing else.
//! - The publisher is not known, because it is connected to another node: the messages of all such publishers
//!   in this room.

use super::breaker::{Breaker, FailureOrigin};
use std::borrow::Cow;
use std::collections::HashMap;
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
    /// The messages of one publisher in one room, or those of all publishers that are not known. Only these
    /// messages are affected.
    Messages { room: &'a str, publisher: Option<&'a str> },
}

/// The breakers of everybody who caused failures recently.
#[derive(Default)]
pub(crate) struct BlameBreakers {
    principals: HashMap<Box<str>, Breaker>,
    history_readers: HashMap<Box<str>, Breaker>,
    /// By [`messages_key`].
    messages: HashMap<Box<str>, Breaker>,
    /// For the filters of a room, if messages of several publishers fail on them.
    filters: HashMap<Box<str>, Breaker>,
    hasher: RandomState,
}

/// A room and a publisher. Names of rooms contain no space, so this is unique.
fn messages_key(room: &str, publisher: Option<&str>) -> String {
    [room, " ", publisher.unwrap_or_default()].concat()
}

impl BlameBreakers {
    /// Whether messages in this room have made the plugin fail recently. Only then does it matter who
    /// published one.
    pub(crate) fn suspects_messages_in(&self, room: &str) -> bool {
        let is_in_room = |key: &str| key.split_once(' ').is_some_and(|(name, _)| name == room);
        !self.messages.is_empty() && self.messages.keys().any(|key| is_in_room(key))
    }

    /// Whether the plugin may be called on this behalf. The error is how long it may not.
    pub(crate) fn admit(&mut self, blame: Blame<'_>, now: Instant) -> Result<(), Duration> {
        match self.find(blame) {
            Some(breaker) => breaker.admit(now),
            None => Ok(()),
        }
    }

    /// Records a success. Returns true if it ended a quarantine.
    pub(crate) fn record_success(&mut self, blame: Blame<'_>) -> bool {
        if let Blame::Messages { room, .. } = blame
            && !self.filters.is_empty()
            && let Some(breaker) = self.filters.get_mut(room)
        {
            breaker.record_success();
        }
        self.find(blame).is_some_and(Breaker::record_success)
    }

    /// Records a failure. If a quarantine follows, returns how long it lasts. The host has no breaker here.
    pub(crate) fn record_failure(&mut self, blame: Blame<'_>, now: Instant) -> Option<Duration> {
        let (breakers, name) = self.breakers_of(blame)?;
        find_or_add(breakers, &name, now).record_failure(now, FailureOrigin::Host)
    }

    /// Records that filters of a room failed on a message. If messages of several publishers did so, returns
    /// for how long the filters must be suspended.
    pub(crate) fn record_filter_failure(
        &mut self,
        room: &str,
        publisher: &str,
        now: Instant,
    ) -> Option<Duration> {
        let origin = FailureOrigin::Principal(self.hasher.hash_one(publisher));
        let breaker = find_or_add(&mut self.filters, room, now);
        // Ends a suspension whose time is over.
        breaker.admit(now).ok();
        breaker.record_failure(now, origin)
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
        // Usually there are no breakers, and then no name is made or hashed.
        if matches!(blame, Blame::Messages { .. }) && self.messages.is_empty() {
            return None;
        }
        let (breakers, name) = self.breakers_of(blame)?;
        if breakers.is_empty() { None } else { breakers.get_mut(&*name) }
    }

    fn breakers_of<'a>(
        &mut self,
        blame: Blame<'a>,
    ) -> Option<(&mut HashMap<Box<str>, Breaker>, Cow<'a, str>)> {
        match blame {
            Blame::Host => None,
            Blame::Principal(name) => Some((&mut self.principals, name.into())),
            Blame::HistoryReader(name) => Some((&mut self.history_readers, name.into())),
            Blame::Messages { room, publisher } => {
                Some((&mut self.messages, messages_key(room, publisher).into()))
            }
        }
    }
}

fn find_or_add<'a>(
    breakers: &'a mut HashMap<Box<str>, Breaker>,
    name: &str,
    now: Instant,
) -> &'a mut Breaker {
    if !breakers.contains_key(name) {
        evict(breakers, now);
    }
    breakers.entry(name.into()).or_insert_with(Breaker::new)
}

/// If there are too many breakers, removes all healthy ones, or else the one whose last failure is the oldest.
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
        let messages = Blame::Messages { room: "a", publisher: Some("mallory") };
        for blame in [Blame::Principal("acme"), Blame::HistoryReader("mallory"), messages, Blame::Host] {
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
    fn messages_are_quarantined_by_room_and_publisher() {
        let (mut breakers, now) = (BlameBreakers::default(), Instant::now());
        let of = |room, publisher| Blame::Messages { room, publisher };
        assert!(!breakers.suspects_messages_in("a"));
        for publisher in [Some("mallory"), None] {
            let pause = quarantine(&mut breakers, of("a", publisher), now);
            assert_eq!(breakers.admit(of("a", publisher), now), Err(pause));
        }
        assert!(breakers.suspects_messages_in("a") && !breakers.suspects_messages_in("b"));
        for blame in [of("a", Some("acme")), of("b", Some("mallory")), of("b", None)] {
            assert_eq!(breakers.admit(blame, now), Ok(()), "{blame:?}");
        }
    }

    #[test]
    fn filters_are_suspended_only_if_messages_of_several_publishers_fail_on_them() {
        let (mut breakers, now) = (BlameBreakers::default(), Instant::now());
        for n in 0..20 {
            let publisher = ["mallory", "mallet"][n % 2];
            assert_eq!(breakers.record_filter_failure("a", publisher, now), None);
        }
        assert_eq!(breakers.record_filter_failure("b", "acme", now), None, "another room");
        let pause = breakers.record_filter_failure("a", "acme", now).expect("suspended");
        // One message passes, so the next failures start another count.
        let later = now + pause + Duration::from_secs(11);
        assert_eq!(breakers.record_filter_failure("a", "acme", later), None);
        breakers.record_success(Blame::Messages { room: "a", publisher: Some("acme") });
        for publisher in ["acme", "zed"] {
            assert_eq!(breakers.record_filter_failure("a", publisher, later), None);
        }
    }

    #[test]
    fn failures_of_history_readers_and_messages_do_not_count_against_the_plugin() {
        let breakers = BlameBreakers::default();
        assert_eq!(breakers.origin(Blame::HistoryReader("a")), None);
        assert_eq!(breakers.origin(Blame::Messages { room: "a", publisher: Some("b") }), None);
        assert_eq!(breakers.origin(Blame::Host), Some(FailureOrigin::Host));
        assert_ne!(breakers.origin(Blame::Principal("a")), breakers.origin(Blame::Principal("b")));
        assert_eq!(breakers.origin(Blame::Principal("a")), breakers.origin(Blame::Principal("a")));
    }
}
