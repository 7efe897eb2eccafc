//! Verdicts on room names that may be given again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Names remembered by one governor; a megabyte or so of them.
const MAX_ROOMS: usize = 4096;

/// Verdicts by the name that was asked for, each until its time.
#[derive(Default)]
pub(crate) struct Rooms {
    verdicts: HashMap<String, (Instant, Option<String>)>,
}

impl Rooms {
    /// The canonical name if the verdict still holds; the inner `None` leaves the name as it is.
    pub(crate) fn get(&self, name: &str, now: Instant) -> Option<Option<String>> {
        let (until, canonical) = self.verdicts.get(name)?;
        (now < *until).then(|| canonical.clone())
    }

    pub(crate) fn put(&mut self, name: &str, canonical: Option<String>, holds: Duration, now: Instant) {
        let Some(until) = now.checked_add(holds).filter(|until| *until > now) else { return };
        if self.verdicts.len() >= MAX_ROOMS && !self.verdicts.contains_key(name) {
            self.verdicts.retain(|_, (until, _)| now < *until);
            if self.verdicts.len() >= MAX_ROOMS {
                self.verdicts.clear();
            }
        }
        self.verdicts.insert(name.to_owned(), (until, canonical));
    }

    pub(crate) fn clear(&mut self) {
        self.verdicts.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_holds_for_its_time() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let mut rooms = Rooms::default();
        rooms.put("a", Some("A".into()), second, now);
        rooms.put("b", None, Duration::ZERO, now);
        assert_eq!(rooms.get("a", now), Some(Some("A".into())));
        assert_eq!(rooms.get("b", now), None);
        assert_eq!(rooms.get("a", now + second), None);
    }

    #[test]
    fn memory_is_bounded_whatever_is_asked() {
        let now = Instant::now();
        let mut rooms = Rooms::default();
        for i in 0..3 * MAX_ROOMS {
            rooms.put(&i.to_string(), None, Duration::from_secs(60), now);
            assert!(rooms.verdicts.len() <= MAX_ROOMS);
        }
    }
}
