//! When the outboxes of a shard's members are written: at once under low load, and with a delay under high
//! load. A write is nearly all that a delivery costs, and takes any number of frames, so a delay lets several
//! deliveries share one write.

use super::{Connection, command::ShardCommand};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{runtime::Handle, sync::mpsc::WeakUnboundedSender, task::yield_now};

/// How long frames wait for others before they are written together. In a room with fewer messages than one
/// in this time, waiting would save nothing.
pub(super) const WRITE_COALESCE_DELAY: Duration = Duration::from_millis(20);

/// The load from which a shard delays writes, in deliveries per second: a quarter of the writes that a slow
/// core can do.
const COALESCE_MIN_DELIVERIES_PER_SECOND: f64 = 25_000.0;

/// The period in which deliveries are counted.
const LOAD_WINDOW: Duration = Duration::from_millis(100);

/// How many connections are written before other tasks get their turn. Takes less than a millisecond.
const WRITE_BATCH_SIZE: usize = 64;

/// How often a room has a message.
#[derive(Default)]
pub(crate) struct MessagePace {
    last: Option<Instant>,
    /// The moving average of the time between about the last eight messages.
    interval: Duration,
}

impl MessagePace {
    pub(crate) fn message(&mut self, now: Instant) {
        // With this limit, one pause has an effect on the average at once. A burst needs several messages.
        let since = self.last.map_or(LOAD_WINDOW, |last| (now - last).min(LOAD_WINDOW));
        self.interval = match self.last {
            None => since,
            Some(_) => self.interval * 7 / 8 + since / 8,
        };
        self.last = Some(now);
    }

    fn is_fast(&self) -> bool {
        self.last.is_some() && self.interval < WRITE_COALESCE_DELAY
    }
}

/// The connections of a shard whose outbox has to be written.
pub(super) struct FlushQueue {
    immediate: Vec<Arc<Connection>>,
    delayed: Vec<Arc<Connection>>,
    /// When `delayed` has to be written.
    due: Option<Instant>,
    /// Whether tasks are still writing the last delayed connections.
    is_writing: bool,
    /// When the load window started, and the deliveries since then.
    window: (Instant, u64),
    is_busy: bool,
}

impl FlushQueue {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            immediate: vec![],
            delayed: vec![],
            due: None,
            is_writing: false,
            window: (now, 0),
            is_busy: false,
        }
    }

    /// Where to add the connections whose first waiting frame is a message of a room with this pace.
    pub(super) fn queue_for(&mut self, pace: &MessagePace, now: Instant) -> &mut Vec<Arc<Connection>> {
        if !self.is_busy || !pace.is_fast() {
            return &mut self.immediate;
        }
        if !self.is_writing {
            self.due.get_or_insert(now + WRITE_COALESCE_DELAY);
        }
        &mut self.delayed
    }

    /// Counts deliveries, to measure the load.
    pub(super) fn count(&mut self, deliveries: u64, now: Instant) {
        self.window.1 += deliveries;
        let elapsed = now - self.window.0;
        if elapsed >= LOAD_WINDOW {
            let per_second = self.window.1 as f64 / elapsed.as_secs_f64();
            self.is_busy = per_second >= COALESCE_MIN_DELIVERIES_PER_SECOND;
            self.window = (now, 0);
        }
    }

    /// When [`Self::write`] has to be called next.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Writes the immediate connections, and the delayed ones if they are due. When tasks have written the
    /// delayed ones, they send [`ShardCommand::Written`] to `queue`.
    pub(super) fn write(&mut self, now: Instant, queue: &WeakUnboundedSender<ShardCommand>) {
        write(&mut self.immediate, None);
        if self.due.is_some_and(|due| due <= now) {
            self.due = None;
            self.is_writing = write(&mut self.delayed, Some(queue));
        }
    }

    /// Writes everything, because the shard ends.
    pub(super) fn write_all(&mut self) {
        for connection in self.immediate.drain(..).chain(self.delayed.drain(..)) {
            connection.outbox.flush();
        }
    }

    /// Call on [`ShardCommand::Written`].
    pub(super) fn written(&mut self, now: Instant) {
        self.is_writing = false;
        self.due = (!self.delayed.is_empty()).then(|| now + WRITE_COALESCE_DELAY);
    }
}

/// Writes a few connections at once. Leaves many to one task for each core, in batches, so that a large room
/// does not block its shard, and a member that was written does not wait for the last one before it is sent
/// the next message. Returns whether tasks were started. They send [`ShardCommand::Written`] to `queue` when
/// they are done.
fn write(connections: &mut Vec<Arc<Connection>>, queue: Option<&WeakUnboundedSender<ShardCommand>>) -> bool {
    if connections.len() <= WRITE_BATCH_SIZE {
        connections.drain(..).for_each(|connection| connection.outbox.flush());
        return false;
    }
    let (connections, queue) = (std::mem::take(connections), queue.cloned());
    let tasks = Handle::current().metrics().num_workers().min(connections.len().div_ceil(WRITE_BATCH_SIZE));
    let shared = Arc::new(SharedFlush { connections, next: AtomicUsize::new(0), queue });
    for _ in 0..tasks {
        let shared = shared.clone();
        tokio::spawn(async move {
            while let Some(batch) = shared.take_batch() {
                batch.iter().for_each(|connection| connection.outbox.flush());
                yield_now().await;
            }
        });
    }
    true
}

/// Connections that several tasks write.
struct SharedFlush {
    connections: Vec<Arc<Connection>>,
    /// The first one that no task has taken.
    next: AtomicUsize,
    queue: Option<WeakUnboundedSender<ShardCommand>>,
}

impl SharedFlush {
    fn take_batch(&self) -> Option<&[Arc<Connection>]> {
        let rest = self.connections.get(self.next.fetch_add(WRITE_BATCH_SIZE, Ordering::Relaxed)..)?;
        Some(&rest[..rest.len().min(WRITE_BATCH_SIZE)])
    }
}

impl Drop for SharedFlush {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.as_ref().and_then(WeakUnboundedSender::upgrade) {
            queue.send(ShardCommand::Written).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::tests::TestPipe;
    use tokio::sync::mpsc;

    fn pace(now: &mut Instant, interval: Duration, messages: u32) -> MessagePace {
        let mut pace = MessagePace::default();
        for _ in 0..messages {
            *now += interval;
            pace.message(*now);
        }
        pace
    }

    #[test]
    fn writes_are_delayed_only_under_load_and_in_fast_rooms() {
        let mut now = Instant::now();
        let (slow, fast) =
            (pace(&mut now, WRITE_COALESCE_DELAY * 2, 50), pace(&mut now, WRITE_COALESCE_DELAY / 2, 50));
        let mut flush = FlushQueue::new(now);
        assert!(std::ptr::eq(flush.queue_for(&fast, now), &flush.immediate), "low load");
        now += LOAD_WINDOW;
        flush.count(5_000, now);
        assert!(std::ptr::eq(flush.queue_for(&slow, now), &flush.immediate), "a slow room");
        assert_eq!(flush.due(), None);
        assert!(std::ptr::eq(flush.queue_for(&fast, now), &flush.delayed));
        assert_eq!(flush.due(), Some(now + WRITE_COALESCE_DELAY));
        now += WRITE_COALESCE_DELAY / 2;
        flush.queue_for(&fast, now);
        assert_eq!(flush.due(), Some(now + WRITE_COALESCE_DELAY / 2), "the first connection decides");
        now += WRITE_COALESCE_DELAY / 2;
        flush.write(now, &mpsc::unbounded_channel().0.downgrade());
        assert_eq!(flush.due(), None);
        now += LOAD_WINDOW;
        flush.count(100, now);
        assert!(std::ptr::eq(flush.queue_for(&fast, now), &flush.immediate), "low load again");
    }

    /// Once, a message to a large room was written to all members before the shard handled the next one.
    #[tokio::test]
    async fn many_connections_are_written_in_batches_and_new_ones_wait_for_the_last_batch() {
        let (queue, mut commands) = mpsc::unbounded_channel();
        let (mut now, weak) = (Instant::now(), queue.downgrade());
        let fast = pace(&mut now, WRITE_COALESCE_DELAY / 2, 50);
        let mut flush = FlushQueue::new(now);
        now += LOAD_WINDOW;
        flush.count(5_000, now);
        let pipes: Vec<_> = (0..WRITE_BATCH_SIZE * 3).map(|_| TestPipe::new(100)).collect();
        for pipe in &pipes {
            let connection = Connection::detached(pipe.clone());
            connection.outbox.put("hello".into());
            flush.queue_for(&fast, now).push(connection);
        }
        now += WRITE_COALESCE_DELAY;
        flush.write(now, &weak);
        yield_now().await;
        let written = || pipes.iter().filter(|pipe| !pipe.take_bytes().is_empty()).count();
        assert_eq!(written(), WRITE_BATCH_SIZE, "other tasks get their turn");
        flush.queue_for(&fast, now).push(Connection::detached(pipes[0].clone()));
        assert_eq!(flush.due(), None, "the last batch is not written");
        assert!(matches!(commands.recv().await, Some(ShardCommand::Written)));
        assert_eq!(written(), WRITE_BATCH_SIZE * 2);
        flush.written(now);
        assert_eq!(flush.due(), Some(now + WRITE_COALESCE_DELAY));
    }

    /// Frames that were waiting for others stayed in the outboxes when the shard of a removed plugin ended.
    #[test]
    fn a_shard_that_ends_leaves_nothing_unwritten() {
        let mut now = Instant::now();
        let fast = pace(&mut now, WRITE_COALESCE_DELAY / 2, 50);
        let mut flush = FlushQueue::new(now);
        now += LOAD_WINDOW;
        flush.count(5_000, now);
        let pipe = TestPipe::new(100);
        let connection = Connection::detached(pipe.clone());
        connection.outbox.put("hello".into());
        flush.queue_for(&fast, now).push(connection);
        flush.write(now, &mpsc::unbounded_channel().0.downgrade());
        assert!(pipe.take_bytes().is_empty(), "it is delayed");
        flush.write_all();
        assert!(!pipe.take_bytes().is_empty());
    }

    #[test]
    fn a_room_turns_slow_after_a_few_pauses_and_fast_during_a_burst() {
        let mut now = Instant::now();
        let mut fast = pace(&mut now, WRITE_COALESCE_DELAY / 4, 50);
        assert!(fast.is_fast());
        for _ in 0..3 {
            now += Duration::from_secs(1);
            fast.message(now);
        }
        assert!(!fast.is_fast());
        for _ in 0..12 {
            now += Duration::from_millis(2);
            fast.message(now);
        }
        assert!(fast.is_fast());
    }
}
