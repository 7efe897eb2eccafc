//! Cluster time: the clock that leases, claims and the ends of sessions are counted by. All nodes keep it together, in Redis, and no
//! clock of Redis' moves it. It goes on only while nodes reach Redis, and never faster than their own monotonic clocks.

use std::{
    sync::{Mutex, MutexGuard},
    time::Duration,
};
use tokio::time::Instant;

/// What goes by between two answers counts up to this. Beyond it nobody may have reached Redis, and others need their time to come
/// back before they are taken for dead.
pub(crate) const MAX_UNHEARD: Duration = Duration::from_secs(2);

/// What this node knows of it: never later than it is.
#[derive(Default)]
pub(crate) struct ClusterClock(Mutex<Option<Reading>>);

#[derive(Clone, Copy)]
struct Reading {
    /// A time in milliseconds, and when it was that, or later. All since then counts.
    time: u64,
    since: Instant,
    /// When Redis said last what time it is.
    heard_at: Instant,
}

impl Reading {
    fn now(&self) -> u64 {
        let until = Instant::now().min(self.heard_at + MAX_UNHEARD);
        self.time + until.saturating_duration_since(self.since).as_millis() as u64
    }

    fn is_recent(&self) -> bool {
        self.heard_at.elapsed() <= MAX_UNHEARD
    }
}

impl ClusterClock {
    /// Redis said that it was so late.
    pub(crate) fn observe(&self, time: u64) {
        let heard_at = Instant::now();
        let mut known = self.known();
        *known = Some(match *known {
            // The answer that came fastest says best what time it is.
            Some(known) if known.is_recent() && known.now() >= time => Reading { heard_at, ..known },
            Some(known) => Reading { time: time.max(known.now()), since: heard_at, heard_at },
            None => Reading { time, since: heard_at, heard_at },
        });
    }

    /// What time it is, as far as this node can be sure; 0 before it has heard of any.
    pub(crate) fn now(&self) -> u64 {
        self.known().map_or(0, |known| known.now())
    }

    /// The same, if that was heard of lately.
    pub(crate) fn recent(&self) -> Option<u64> {
        self.known().filter(Reading::is_recent).map(|known| known.now())
    }

    fn known(&self) -> MutexGuard<'_, Option<Reading>> {
        self.0.lock().expect("no code panics while it holds the time")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn it_goes_on_with_this_nodes_clock_and_is_never_ahead() {
        let time = ClusterClock::default();
        assert_eq!((time.now(), time.recent()), (0, None), "nothing was heard");
        time.observe(5000);
        // A slow answer to what this node said itself does not set it back, however many there are.
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
    async fn it_stands_still_while_redis_cannot_be_reached() {
        let time = ClusterClock::default();
        time.observe(5000);
        advance(60 * SECOND).await;
        assert_eq!((time.now(), time.recent()), (7000, None), "nobody may have reached Redis");
        time.observe(7000);
        advance(SECOND).await;
        assert_eq!(time.now(), 8000);
        advance(60 * SECOND).await;
        // Others went on meanwhile.
        time.observe(68_000);
        assert_eq!(time.now(), 68_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_redis_that_went_back_does_not_set_it_back() {
        let time = ClusterClock::default();
        time.observe(50_000);
        time.observe(100);
        assert_eq!(time.now(), 50_000);
        advance(60 * SECOND).await;
        time.observe(100);
        assert_eq!((time.now(), time.recent()), (52_000, Some(52_000)));
    }
}
