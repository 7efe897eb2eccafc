//! Cached answers of the `room` hook: which room names are valid, and under which canonical name.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How many names a governor caches; they take about a megabyte.
const MAX_NAMES: usize = 4096;

/// Answers by the name that was asked for. Each is valid until its time.
#[derive(Default)]
pub(crate) struct RoomNameCache {
    answers: HashMap<String, (Instant, Option<String>)>,
}

impl RoomNameCache {
    /// The cached answer, if it is still valid. The inner `None` means that the name is canonical already.
    pub(crate) fn get(&self, name: &str, now: Instant) -> Option<Option<String>> {
        let (until, canonical) = self.answers.get(name)?;
        (now < *until).then(|| canonical.clone())
    }

    pub(crate) fn put(&mut self, name: &str, canonical: Option<String>, ttl: Duration, now: Instant) {
        let Some(until) = now.checked_add(ttl).filter(|until| *until > now) else { return };
        if self.answers.len() >= MAX_NAMES && !self.answers.contains_key(name) {
            self.answers.retain(|_, (until, _)| now < *until);
            if self.answers.len() >= MAX_NAMES {
                self.answers.clear();
            }
        }
        self.answers.insert(name.to_owned(), (until, canonical));
    }

    pub(crate) fn clear(&mut self) {
        self.answers.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_expires() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let mut cache = RoomNameCache::default();
        cache.put("a", Some("A".into()), second, now);
        cache.put("b", None, Duration::ZERO, now);
        assert_eq!(cache.get("a", now), Some(Some("A".into())));
        assert_eq!(cache.get("b", now), None);
        assert_eq!(cache.get("a", now + second), None);
    }

    #[test]
    fn the_number_of_cached_names_is_bounded() {
        let now = Instant::now();
        let mut cache = RoomNameCache::default();
        for i in 0..3 * MAX_NAMES {
            cache.put(&i.to_string(), None, Duration::from_secs(60), now);
            assert!(cache.answers.len() <= MAX_NAMES);
        }
    }
}
