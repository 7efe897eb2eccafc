//! Cluster time: the clock of leases, claims and the ends of sessions. All nodes advance it together, in Redis,
//! by their own monotonic clocks, so setting the clock of Redis does not change it. It advances only while some
//! node reaches Redis, and never faster than real time.

use std::{
    sync::{Mutex, MutexGuard},
    time::Duration,
};
use switchyard_process::lock::LockExt;
use tokio::time::Instant;

/// How far this node advances the clock without a reply of Redis. After that, possibly no node reaches Redis,
/// and all of them must have time to return before they are considered dead.
pub(crate) const MAX_EXTRAPOLATION: Duration = Duration::from_secs(2);

/// What this node knows about cluster time. Never ahead of the real one.
#[derive(Default)]
pub(crate) struct ClusterClock(Mutex<Option<Reading>>);

#[derive(Clone, Copy)]
struct Reading {
    /// A cluster time in milliseconds, and an instant at which it was that or later.
    time: u64,
    since: Instant,
    /// When Redis last reported cluster time.
    observed_at: Instant,
}

impl Reading {
    fn now(&self) -> u64 {
        let until = Instant::now().min(self.observed_at + MAX_EXTRAPOLATION);
        self.time + until.saturating_duration_since(self.since).as_millis() as u64
    }

    fn is_recent(&self) -> bool {
        self.observed_at.elapsed() <= MAX_EXTRAPOLATION
    }
}

impl ClusterClock {
    /// Redis has reported this cluster time.
    pub(crate) fn observe(&self, time: u64) {
        let observed_at = Instant::now();
        let mut known = self.known();
        *known = Some(match *known {
            // The reply is older than the estimate, so it only shows that Redis was reached. The fastest reply
            // gives the best estimate.
            Some(known) if known.is_recent() && known.now() >= time => Reading { observed_at, ..known },
            Some(known) => Reading { time: time.max(known.now()), since: observed_at, observed_at },
            None => Reading { time, since: observed_at, observed_at },
        });
    }

    /// A lower bound of cluster time in milliseconds, or 0 if this node has never read it.
    pub(crate) fn now(&self) -> u64 {
        self.known().map_or(0, |known| known.now())
    }

    /// The same, if Redis has reported the time recently.
    pub(crate) fn recent(&self) -> Option<u64> {
        self.known().filter(Reading::is_recent).map(|known| known.now())
    }

    fn known(&self) -> MutexGuard<'_, Option<Reading>> {
        self.0.locked()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn it_advances_with_this_nodes_clock_and_is_never_ahead() {
        let time = ClusterClock::default();
        assert_eq!((time.now(), time.recent()), (0, None), "no reply yet");
        time.observe(5000);
        // A slow reply to this node's own report does not set the clock back, however many there are.
        for n in 1..=100 {
            advance(SECOND).await;
            assert_eq!((time.now(), time.recent()), (5000 + n * 1000, Some(5000 + n * 1000)));
            time.observe(5000 + n * 1000 - 300);
        }
        // Another node knows better.
        time.observe(200_000);
        advance(SECOND).await;
        assert_eq!(time.now(), 201_000);
    }

    #[tokio::test(start_paused = true)]
    async fn it_stops_while_redis_cannot_be_reached() {
        let time = ClusterClock::default();
        time.observe(5000);
        advance(60 * SECOND).await;
        assert_eq!((time.now(), time.recent()), (7000, None), "nobody may have reached Redis");
        time.observe(7000);
        advance(SECOND).await;
        assert_eq!(time.now(), 8000);
        advance(60 * SECOND).await;
        // Other nodes have advanced it meanwhile.
        time.observe(68_000);
        assert_eq!(time.now(), 68_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_redis_that_goes_back_does_not_set_it_back() {
        let time = ClusterClock::default();
        time.observe(50_000);
        time.observe(100);
        assert_eq!(time.now(), 50_000);
        advance(60 * SECOND).await;
        time.observe(100);
        assert_eq!((time.now(), time.recent()), (52_000, Some(52_000)));
    }
}
