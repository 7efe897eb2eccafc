//! When what waits for connections is written: at once while there is little to do, and together once it pays. The write is
//! nearly all that a delivery costs, and one takes any number of frames.

use super::Connection;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// The longest that a frame waits for others. Members of a room that is quieter than one message in this time would gain
/// nothing.
pub const GATHER: Duration = Duration::from_millis(20);

/// Deliveries a second of one shard from which on it pays: a quarter of what a slow core can write one by one.
const BUSY: f64 = 25_000.0;

/// How often that is looked at.
const WINDOW: Duration = Duration::from_millis(100);

/// Connections that are written for at once: less than a millisecond.
const SHARE: usize = 64;

/// How often messages of a room come.
#[derive(Default)]
pub struct Pace {
    last: Option<Instant>,
    /// Between two of them, on average of the last eight or so; zero where that is not known.
    gap: Duration,
}

impl Pace {
    pub fn message(&mut self, now: Instant) {
        // A pause is soon noticed, a burst takes some messages.
        let since = self.last.map_or(WINDOW, |last| (now - last).min(WINDOW));
        self.gap = match self.last {
            None => since,
            Some(_) => self.gap * 7 / 8 + since / 8,
        };
        self.last = Some(now);
    }

    fn is_quick(&self) -> bool {
        self.last.is_some() && self.gap < GATHER
    }
}

/// The connections of a shard for which something waits.
pub struct Flush {
    now: Vec<Arc<Connection>>,
    gathering: Vec<Arc<Connection>>,
    /// When it is time for those.
    due: Option<Instant>,
    /// Since when deliveries are counted, and how many they are.
    window: (Instant, u64),
    busy: bool,
}

impl Flush {
    pub fn new(now: Instant) -> Self {
        Self { now: vec![], gathering: vec![], due: None, window: (now, 0), busy: false }
    }

    /// Where connections go for which a message of a room is the first that waits.
    pub fn of(&mut self, pace: &Pace, now: Instant) -> &mut Vec<Arc<Connection>> {
        if !self.busy || !pace.is_quick() {
            return &mut self.now;
        }
        self.due.get_or_insert(now + GATHER);
        &mut self.gathering
    }

    pub fn delivered(&mut self, count: u64, now: Instant) {
        self.window.1 += count;
        let since = now - self.window.0;
        if since >= WINDOW {
            self.busy = self.window.1 as f64 / since.as_secs_f64() >= BUSY;
            self.window = (now, 0);
        }
    }

    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Writes for those who need not wait, and, when it is time, for those who did.
    pub fn write(&mut self, now: Instant) {
        write(&mut self.now);
        if self.due.is_some_and(|due| due <= now) {
            self.due = None;
            write(&mut self.gathering);
        }
    }
}

/// A few at once; many by tasks that other cores may take, so that a large room does not keep its shard.
fn write(connections: &mut Vec<Arc<Connection>>) {
    while connections.len() > SHARE {
        let share = connections.split_off(connections.len() - SHARE);
        tokio::spawn(async move { share.iter().for_each(|connection| connection.outbox.flush()) });
    }
    connections.drain(..).for_each(|connection| connection.outbox.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(now: &mut Instant, gap: Duration, messages: u32) -> Pace {
        let mut pace = Pace::default();
        for _ in 0..messages {
            *now += gap;
            pace.message(*now);
        }
        pace
    }

    #[test]
    fn frames_gather_only_where_many_are_delivered_and_the_room_is_quick() {
        let mut now = Instant::now();
        let (slow, quick) = (pace(&mut now, GATHER * 2, 50), pace(&mut now, GATHER / 2, 50));
        let mut flush = Flush::new(now);
        assert!(std::ptr::eq(flush.of(&quick, now), &flush.now), "little to do");
        now += WINDOW;
        flush.delivered(5_000, now);
        assert!(std::ptr::eq(flush.of(&slow, now), &flush.now), "nothing to gain");
        assert_eq!(flush.due(), None);
        assert!(std::ptr::eq(flush.of(&quick, now), &flush.gathering));
        assert_eq!(flush.due(), Some(now + GATHER));
        now += GATHER / 2;
        flush.of(&quick, now);
        assert_eq!(flush.due(), Some(now + GATHER / 2), "the first that waits decides");
        now += GATHER / 2;
        flush.write(now);
        assert_eq!(flush.due(), None);
        now += WINDOW;
        flush.delivered(100, now);
        assert!(std::ptr::eq(flush.of(&quick, now), &flush.now), "calm again");
    }

    #[test]
    fn a_pause_ends_gathering_and_a_burst_begins_it_soon() {
        let mut now = Instant::now();
        let mut quick = pace(&mut now, GATHER / 4, 50);
        assert!(quick.is_quick());
        for _ in 0..3 {
            now += Duration::from_secs(1);
            quick.message(now);
        }
        assert!(!quick.is_quick());
        for _ in 0..12 {
            now += Duration::from_millis(2);
            quick.message(now);
        }
        assert!(quick.is_quick());
    }
}
