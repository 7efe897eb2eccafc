//! How often each place of the program may log. Whoever makes one place log again and again, as a client may, can neither
//! fill the disk nor hide what other places have to say.

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Layer};

/// Lines of one place that may follow one another at once.
const BURST: u32 = 100;
/// How long it takes until one more may follow.
const REFILL: Duration = Duration::from_millis(100);
/// How often it is said what was left out.
pub(super) const REPORT: Duration = Duration::from_secs(10);

/// Of plugins each has a limit of its own, so that one does not hide what another says; what operators did is always told.
const UNBOUNDED: [&str; 2] = ["switchyard::guest", "switchyard::audit"];

/// All places that have logged, which is a part of the program's own: there are as many as there are in its text.
#[derive(Clone, Default)]
pub(super) struct Places(Arc<Mutex<HashMap<Place, Bucket>>>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub module: Cow<'static, str>,
    pub line: u32,
}

/// Fills with time, and is emptied by lines.
#[derive(Clone, Copy)]
struct Bucket {
    /// When it would be full again.
    full: Instant,
    left_out: u64,
}

impl Places {
    /// Whether one more line may come from there.
    fn admits(&self, place: Place, now: Instant) -> bool {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = places.entry(place).or_insert(Bucket { full: now, left_out: 0 });
        let full = bucket.full.max(now) + REFILL;
        if full > now + REFILL * BURST {
            bucket.left_out += 1;
            return false;
        }
        bucket.full = full;
        true
    }

    /// What was left out since this was asked last, and where.
    pub(super) fn left_out(&self) -> Vec<(Place, u64)> {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left_out = |(place, bucket): (&Place, &mut Bucket)| {
            let count = std::mem::take(&mut bucket.left_out);
            (count > 0).then(|| (place.clone(), count))
        };
        places.iter_mut().filter_map(left_out).collect()
    }
}

impl<S: Subscriber> Layer<S> for Places {
    /// Who asks for more than is logged by default wants to see all of it.
    fn event_enabled(&self, event: &Event, _: Context<S>) -> bool {
        let metadata = event.metadata();
        *metadata.level() > Level::INFO || UNBOUNDED.contains(&metadata.target()) || {
            let is_admitted = self.admits(Place::of(event), Instant::now());
            if !is_admitted {
                super::DROPPED.inc();
            }
            is_admitted
        }
    }
}

impl Place {
    fn of(event: &Event) -> Self {
        let metadata = event.metadata();
        let mut place = Self { module: metadata.target().into(), line: metadata.line().unwrap_or(0) };
        // Of a library that logs by `log`, every line comes from the same place, and says in its fields from which.
        if metadata.target() == "log" {
            event.record(&mut place);
        }
        place
    }
}

impl Visit for Place {
    fn record_str(&mut self, field: &Field, text: &str) {
        if field.name() == "log.target" {
            self.module = text.to_owned().into();
        }
    }

    fn record_u64(&mut self, field: &Field, number: u64) {
        if field.name() == "log.line" {
            self.line = number as u32;
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(line: u32) -> Place {
        Place { module: "switchyard::server".into(), line }
    }

    #[test]
    fn a_place_that_logs_again_and_again_is_left_out_and_counted_and_others_are_not() {
        let (places, start) = (Places::default(), Instant::now());
        let logged = |line, count, now| (0..count).filter(|_| places.admits(place(line), now)).count();
        assert_eq!(logged(1, 1000, start), 100);
        assert_eq!(logged(2, 50, start), 50, "another place has its own");
        assert_eq!(places.left_out(), [(place(1), 900)]);
        assert_eq!(places.left_out(), []);
        assert_eq!(logged(1, 1000, start + Duration::from_secs(1)), 10);
        assert_eq!(logged(1, 1000, start + Duration::from_secs(3600)), 100, "silence is saved up to a burst");
        assert_eq!(places.left_out(), [(place(1), 990 + 900)]);
    }
}
