//! How often each callsite, a place in the code, may log. A client that makes one callsite log again and
//! again can neither fill the disk nor hide what other callsites log. Writes nothing itself.

use super::AUDIT_TARGET;
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

/// Lines that one callsite may log at once.
const BURST_LINES: u32 = 100;
/// The time after which a callsite may log one more line.
const REFILL_INTERVAL: Duration = Duration::from_millis(100);
/// How often the log says how many lines were suppressed.
pub(super) const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// Targets without a limit here. Each plugin has a limit of its own, so that one cannot hide what another
/// logs; and every action of an operator is logged.
const UNLIMITED_TARGETS: [&str; 2] = ["switchyard::guest", AUDIT_TARGET];

/// All callsites that have logged. Their number is bounded by the size of the program.
#[derive(Clone, Default)]
pub(super) struct CallsiteLimiter(Arc<Mutex<HashMap<Callsite, Bucket>>>);

/// A place in the code that logs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Callsite {
    pub module: Cow<'static, str>,
    pub line: u32,
}

/// A token bucket: time fills it, and each line takes a token.
#[derive(Clone, Copy)]
struct Bucket {
    /// When it will be full again.
    full_at: Instant,
    /// Lines since the last report that found it empty.
    suppressed: u64,
}

impl CallsiteLimiter {
    /// Whether the callsite may log one more line.
    fn allows(&self, callsite: Callsite, now: Instant) -> bool {
        let mut callsites = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = callsites.entry(callsite).or_insert(Bucket { full_at: now, suppressed: 0 });
        let full_at = bucket.full_at.max(now) + REFILL_INTERVAL;
        if full_at > now + REFILL_INTERVAL * BURST_LINES {
            bucket.suppressed += 1;
            return false;
        }
        bucket.full_at = full_at;
        true
    }

    /// How many lines of which callsites were suppressed since the last call.
    pub(super) fn take_suppressed(&self) -> Vec<(Callsite, u64)> {
        let mut callsites = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let take = |(callsite, bucket): (&Callsite, &mut Bucket)| {
            let count = std::mem::take(&mut bucket.suppressed);
            (count > 0).then(|| (callsite.clone(), count))
        };
        callsites.iter_mut().filter_map(take).collect()
    }
}

impl<S: Subscriber> Layer<S> for CallsiteLimiter {
    /// Levels that are not logged by default have no limit: who asks for them wants to see everything.
    fn event_enabled(&self, event: &Event, _: Context<S>) -> bool {
        let metadata = event.metadata();
        *metadata.level() > Level::INFO || UNLIMITED_TARGETS.contains(&metadata.target()) || {
            let is_allowed = self.allows(Callsite::of(event), Instant::now());
            if !is_allowed {
                super::DROPPED_LINES.inc();
            }
            is_allowed
        }
    }
}

impl Callsite {
    fn of(event: &Event) -> Self {
        let metadata = event.metadata();
        let mut callsite = Self { module: metadata.target().into(), line: metadata.line().unwrap_or(0) };
        // All lines of libraries that use the crate `log` come from one callsite. Their fields name the true
        // one.
        if metadata.target() == "log" {
            event.record(&mut callsite);
        }
        callsite
    }
}

impl Visit for Callsite {
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

    fn callsite(line: u32) -> Callsite {
        Callsite { module: "switchyard::server".into(), line }
    }

    #[test]
    fn each_callsite_has_its_own_limit() {
        let (limiter, start) = (CallsiteLimiter::default(), Instant::now());
        let logged = |line, count, now| (0..count).filter(|_| limiter.allows(callsite(line), now)).count();
        assert_eq!(logged(1, 1000, start), 100);
        assert_eq!(logged(2, 50, start), 50, "another callsite has its own");
        assert_eq!(limiter.take_suppressed(), [(callsite(1), 900)]);
        assert_eq!(limiter.take_suppressed(), []);
        assert_eq!(logged(1, 1000, start + Duration::from_secs(1)), 10);
        assert_eq!(
            logged(1, 1000, start + Duration::from_secs(3600)),
            100,
            "unused lines are saved up to a burst"
        );
        assert_eq!(limiter.take_suppressed(), [(callsite(1), 990 + 900)]);
    }
}
