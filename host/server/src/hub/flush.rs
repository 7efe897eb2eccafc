//! When what waits for connections is written: at once while there is little to do, and together once it pays. The write is
//! nearly all that a delivery costs, and one takes any number of frames.

use super::{Connection, command::Command};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{runtime::Handle, sync::mpsc::WeakUnboundedSender, task::yield_now};

/// How long frames wait for others once nothing is being written. Members of a room that is quieter than one message in this
/// time would gain nothing.
pub(super) const GATHER: Duration = Duration::from_millis(20);

/// Deliveries a second of one shard from which on it pays: a quarter of what a slow core can write one by one.
const BUSY: f64 = 25_000.0;

/// How often that is looked at.
const WINDOW: Duration = Duration::from_millis(100);

/// Connections that are written for in one turn: less than a millisecond.
const SHARE: usize = 64;

/// How often messages of a room come.
#[derive(Default)]
pub(crate) struct Pace {
    last: Option<Instant>,
    /// Between two of them, on average of the last eight or so; zero where that is not known.
    gap: Duration,
}

impl Pace {
    pub(crate) fn message(&mut self, now: Instant) {
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
pub(super) struct Flush {
    now: Vec<Arc<Connection>>,
    gathering: Vec<Arc<Connection>>,
    /// When it is time for those.
    due: Option<Instant>,
    /// Those that gathered last are still being written for.
    writing: bool,
    /// Since when deliveries are counted, and how many they are.
    window: (Instant, u64),
    busy: bool,
}

impl Flush {
    pub(super) fn new(now: Instant) -> Self {
        Self { now: vec![], gathering: vec![], due: None, writing: false, window: (now, 0), busy: false }
    }

    /// Where connections go for which a message of a room is the first that waits.
    pub(super) fn of(&mut self, pace: &Pace, now: Instant) -> &mut Vec<Arc<Connection>> {
        if !self.busy || !pace.is_quick() {
            return &mut self.now;
        }
        if !self.writing {
            self.due.get_or_insert(now + GATHER);
        }
        &mut self.gathering
    }

    pub(super) fn delivered(&mut self, count: u64, now: Instant) {
        self.window.1 += count;
        let since = now - self.window.0;
        if since >= WINDOW {
            self.busy = self.window.1 as f64 / since.as_secs_f64() >= BUSY;
            self.window = (now, 0);
        }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Writes for those who need not wait, and, when it is time, for those who did. `queue` is told when that is done.
    pub(super) fn write(&mut self, now: Instant, queue: &WeakUnboundedSender<Command>) {
        write(&mut self.now, None);
        if self.due.is_some_and(|due| due <= now) {
            self.due = None;
            self.writing = write(&mut self.gathering, Some(queue));
        }
    }

    /// Those that gathered were written for.
    pub(super) fn written(&mut self, now: Instant) {
        self.writing = false;
        self.due = (!self.gathering.is_empty()).then(|| now + GATHER);
    }
}

/// A few at once; many by a task a core, in turns: neither does a large room keep its shard, nor do its own next messages wait
/// until all of its members have the last. Whether that goes on when this returns; then `queue` is told of its end.
fn write(connections: &mut Vec<Arc<Connection>>, queue: Option<&WeakUnboundedSender<Command>>) -> bool {
    if connections.len() <= SHARE {
        connections.drain(..).for_each(|connection| connection.outbox.flush());
        return false;
    }
    let (connections, queue) = (std::mem::take(connections), queue.cloned());
    let cores = Handle::current().metrics().num_workers().min(connections.len().div_ceil(SHARE));
    let many = Arc::new(Many { connections, next: AtomicUsize::new(0), queue });
    for _ in 0..cores {
        let many = many.clone();
        tokio::spawn(async move {
            while let Some(rest) = many.connections.get(many.next.fetch_add(SHARE, Ordering::Relaxed)..) {
                rest.iter().take(SHARE).for_each(|connection| connection.outbox.flush());
                yield_now().await;
            }
        });
    }
    true
}

/// Connections that tasks share.
struct Many {
    connections: Vec<Arc<Connection>>,
    /// The first that no task has taken.
    next: AtomicUsize,
    queue: Option<WeakUnboundedSender<Command>>,
}

impl Drop for Many {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.as_ref().and_then(WeakUnboundedSender::upgrade) {
            queue.send(Command::Written).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{hot::connection, outbox::tests::Held};
    use tokio::sync::mpsc;

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
        flush.write(now, &mpsc::unbounded_channel().0.downgrade());
        assert_eq!(flush.due(), None);
        now += WINDOW;
        flush.delivered(100, now);
        assert!(std::ptr::eq(flush.of(&quick, now), &flush.now), "calm again");
    }

    /// All members of a large room had a message before its next was looked at, and that one then waited as long again.
    #[tokio::test]
    async fn many_are_written_for_in_turns_and_what_gathers_meanwhile_waits_for_the_last() {
        let (queue, mut told) = mpsc::unbounded_channel();
        let (mut now, weak) = (Instant::now(), queue.downgrade());
        let quick = pace(&mut now, GATHER / 2, 50);
        let mut flush = Flush::new(now);
        now += WINDOW;
        flush.delivered(5_000, now);
        let pipes: Vec<_> = (0..SHARE * 3).map(|_| Held::new(100)).collect();
        for pipe in &pipes {
            let connection = self::connection(pipe.clone());
            connection.outbox.put("hello".into());
            flush.of(&quick, now).push(connection);
        }
        now += GATHER;
        flush.write(now, &weak);
        yield_now().await;
        let written = || pipes.iter().filter(|pipe| !pipe.bytes().is_empty()).count();
        assert_eq!(written(), SHARE, "others had their turn");
        flush.of(&quick, now).push(connection(pipes[0].clone()));
        assert_eq!(flush.due(), None, "the last is not written for");
        assert!(matches!(told.recv().await, Some(Command::Written)));
        assert_eq!(written(), SHARE * 2);
        flush.written(now);
        assert_eq!(flush.due(), Some(now + GATHER));
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
