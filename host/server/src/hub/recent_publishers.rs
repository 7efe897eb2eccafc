//! Who recently published which message on this node, so that a message that makes a plugin fail can be
//! traced to its publisher. A delivery does not name the publisher, because it may come from another node.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    mem,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};
use switchyard_process::lock::LockExt;
use switchyard_protocol::Publication;
use switchyard_store::Message;

/// The minimum time for which messages are remembered; the maximum is twice as long. A shard delivers its
/// backlog well within this time.
const RETENTION_PERIOD: Duration = Duration::from_secs(30);
/// Maximum number of messages of one principal that are remembered in a period: as many as may wait for a
/// shard.
pub(super) const MAX_MESSAGES_PER_PRINCIPAL: usize = super::MAX_SHARD_BACKLOG;
/// Maximum number of messages of all principals that are remembered in a period. Two periods take at most 2
/// MiB: 16 bytes for each message, and as much again for spare capacity.
const MAX_MESSAGES: usize = 32_768;

/// The latest publishers in the rooms of one plugin.
///
/// A principal never displaces messages of others. Once it has as many messages as there is space left, each
/// new one replaces its own oldest. So a principal that floods a room leaves space for others, and the total
/// is at most [`MAX_MESSAGES`] in each of two periods.
#[derive(Default)]
pub(super) struct RecentPublishers {
    periods: Mutex<Periods>,
    hasher: RandomState,
}

#[derive(Default)]
struct Periods {
    current: Period,
    previous: Period,
    /// When the current period began.
    began: Option<Instant>,
    next_serial: u64,
}

#[derive(Default)]
struct Period {
    by_principal: HashMap<Arc<str>, VecDeque<NotedMessage>>,
    len: usize,
}

/// A message that was noted: its place in the order of all messages, and the hash of its content.
#[derive(Clone, Copy)]
struct NotedMessage {
    serial: u64,
    hash: u64,
}

/// Identifies a message that was noted, so that it can be forgotten.
pub(super) struct Note {
    principal: Arc<str>,
    serial: u64,
}

impl RecentPublishers {
    /// Notes a message that is about to be stored.
    pub(super) fn note(&self, message: &Message<'_>, now: Instant) -> Note {
        let hash = self.hash(message.room, message.event, message.data);
        let mut periods = self.lock();
        periods.advance(now);
        periods.next_serial += 1;
        let serial = periods.next_serial;
        periods.current.push(message.principal, NotedMessage { serial, hash });
        Note { principal: message.principal.clone(), serial }
    }

    /// Forgets a message that is not delivered after all.
    pub(super) fn forget(&self, note: &Note) {
        let mut periods = self.lock();
        let Periods { current, previous, .. } = &mut *periods;
        if !current.remove(note) {
            previous.remove(note);
        }
    }

    /// Who published this message, or the latest one with the same content.
    pub(super) fn find(&self, message: &Publication) -> Option<Arc<str>> {
        let hash = self.hash(&message.room, message.event.as_deref(), message.data());
        let periods = self.lock();
        periods.current.find(hash).or_else(|| periods.previous.find(hash)).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Periods> {
        self.periods.locked()
    }

    fn hash(&self, room: &str, event: Option<&str>, data: &str) -> u64 {
        self.hasher.hash_one((room, event, data))
    }
}

impl Periods {
    fn advance(&mut self, now: Instant) {
        let age = now.duration_since(*self.began.get_or_insert(now));
        if age >= RETENTION_PERIOD {
            let ended = mem::take(&mut self.current);
            self.previous = if age < 2 * RETENTION_PERIOD { ended } else { Period::default() };
            self.began = Some(now);
        }
    }
}

impl Period {
    fn push(&mut self, principal: &Arc<str>, entry: NotedMessage) {
        let free = MAX_MESSAGES - self.len;
        let entries = match self.by_principal.get_mut(principal) {
            Some(entries) => entries,
            None if free == 0 => return,
            None => self.by_principal.entry(principal.clone()).or_default(),
        };
        if entries.len() >= free.min(MAX_MESSAGES_PER_PRINCIPAL) {
            entries.pop_front();
            self.len -= 1;
        }
        entries.push_back(entry);
        self.len += 1;
    }

    fn remove(&mut self, note: &Note) -> bool {
        let Some(entries) = self.by_principal.get_mut(&note.principal) else { return false };
        let Ok(index) = entries.binary_search_by_key(&note.serial, |entry| entry.serial) else {
            return false;
        };
        entries.remove(index);
        self.len -= 1;
        if entries.is_empty() {
            self.by_principal.remove(&note.principal);
        }
        true
    }

    fn find(&self, hash: u64) -> Option<&Arc<str>> {
        let found = self.by_principal.iter().filter_map(|(principal, entries)| {
            let entry = entries.iter().rev().find(|entry| entry.hash == hash)?;
            Some((entry.serial, principal))
        });
        found.max_by_key(|(serial, _)| *serial).map(|(_, principal)| principal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use switchyard_protocol::room::RoomName;

    fn note(publishers: &RecentPublishers, principal: &str, data: &str, now: Instant) -> Note {
        let room = RoomName::parse("r").unwrap();
        let principal = principal.into();
        let message = Message {
            room: &room,
            event: None,
            data,
            principal: &principal,
            idempotency_key: None,
            needs_member: false,
        };
        publishers.note(&message, now)
    }

    fn found(publishers: &RecentPublishers, data: &str) -> Option<String> {
        let message = Publication::new("r".into(), "e".into(), 1, 0, None, data);
        publishers.find(&message).map(|principal| principal.to_string())
    }

    #[test]
    fn a_message_leads_back_to_whoever_published_it_last() {
        let (publishers, now) = (RecentPublishers::default(), Instant::now());
        note(&publishers, "acme", "1", now);
        note(&publishers, "zed", "2", now);
        assert_eq!(found(&publishers, "1").as_deref(), Some("acme"));
        assert_eq!(found(&publishers, "2").as_deref(), Some("zed"));
        assert_eq!(found(&publishers, "3"), None);
        let again = note(&publishers, "zed", "1", now);
        assert_eq!(found(&publishers, "1").as_deref(), Some("zed"));
        // A duplicate of acme's message, for example, which is not delivered.
        publishers.forget(&again);
        assert_eq!(found(&publishers, "1").as_deref(), Some("acme"));
        publishers.forget(&again);
        assert_eq!(publishers.lock().current.len, 2);
    }

    #[test]
    fn a_principal_displaces_only_its_own_messages() {
        let (publishers, now) = (RecentPublishers::default(), Instant::now());
        note(&publishers, "acme", "poison", now);
        for n in 0..2 * MAX_MESSAGES {
            note(&publishers, "mallory", &n.to_string(), now);
        }
        assert_eq!(found(&publishers, "poison").as_deref(), Some("acme"));
        assert_eq!(publishers.lock().current.len, 1 + MAX_MESSAGES_PER_PRINCIPAL);
    }

    #[test]
    fn the_sum_is_bounded_and_leaves_space_for_other_principals() {
        let (publishers, now) = (RecentPublishers::default(), Instant::now());
        for principal in 0..12 {
            for n in 0..MAX_MESSAGES_PER_PRINCIPAL {
                note(&publishers, &format!("greedy-{principal}"), &n.to_string(), now);
                assert!(publishers.lock().current.len < MAX_MESSAGES);
            }
        }
        note(&publishers, "acme", "poison", now);
        assert_eq!(found(&publishers, "poison").as_deref(), Some("acme"));
    }

    #[test]
    fn messages_are_forgotten_after_two_periods() {
        let (publishers, now) = (RecentPublishers::default(), Instant::now());
        note(&publishers, "acme", "1", now);
        let old = note(&publishers, "acme", "2", now);
        note(&publishers, "zed", "3", now + RETENTION_PERIOD);
        assert_eq!(found(&publishers, "1").as_deref(), Some("acme"));
        publishers.forget(&old);
        assert_eq!(found(&publishers, "2"), None);
        note(&publishers, "zed", "4", now + 2 * RETENTION_PERIOD);
        assert_eq!(found(&publishers, "1"), None);
        assert_eq!(found(&publishers, "3").as_deref(), Some("zed"));
        note(&publishers, "zed", "5", now + 9 * RETENTION_PERIOD);
        assert_eq!((found(&publishers, "4"), publishers.lock().previous.len), (None, 0));
    }
}
