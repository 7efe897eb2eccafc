//! A queue of rooms whose logs must be read. Each server is asked for a limited number of rooms at a time,
//! and a failing server for one at a time, with a growing delay. So the load on a server that is starting or
//! unreachable does not grow with the number of its rooms, and its rooms do not delay those of other servers.
//! No I/O.

use fred::types::config::Server;
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};
use switchyard_protocol::room::RoomName;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// How many rooms of one server are read at a time.
const MAX_CONCURRENT_READS: usize = 64;
/// The delay after a read that failed. It doubles with each failure, from the first value up to the second.
const MIN_RETRY_DELAY: Duration = Duration::from_millis(100);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(1);

/// By server of a Cluster; `None` without a Cluster.
#[derive(Default)]
pub(crate) struct ResyncQueue(HashMap<Option<Server>, ServerQueue>);

struct ServerQueue {
    order: VecDeque<RoomName>,
    /// The same rooms, and whether to subscribe first.
    waiting: HashMap<RoomName, bool>,
    permits: Arc<Semaphore>,
    retry_delay: Duration,
    /// No room is read before this time.
    retry_at: Instant,
}

/// Permission to read a room, until it is dropped.
pub(crate) struct ResyncPermit {
    server: Option<Server>,
    _permit: OwnedSemaphorePermit,
}

impl Default for ServerQueue {
    fn default() -> Self {
        Self {
            order: VecDeque::new(),
            waiting: HashMap::new(),
            permits: Arc::new(Semaphore::new(MAX_CONCURRENT_READS)),
            retry_delay: MIN_RETRY_DELAY,
            retry_at: Instant::now(),
        }
    }
}

impl ServerQueue {
    fn reset_delay(&mut self) {
        (self.retry_delay, self.retry_at) = (MIN_RETRY_DELAY, Instant::now());
    }

    fn next(&mut self, now: Instant) -> Option<(RoomName, bool, OwnedSemaphorePermit)> {
        let is_failing = self.retry_delay > MIN_RETRY_DELAY;
        let is_busy = is_failing && self.permits.available_permits() < MAX_CONCURRENT_READS;
        if now < self.retry_at || is_busy || self.order.is_empty() {
            return None;
        }
        let permit = self.permits.clone().try_acquire_owned().ok()?;
        let room = self.order.pop_front()?;
        let subscribe = self.waiting.remove(&room)?;
        Some((room, subscribe, permit))
    }
}

impl ResyncQueue {
    /// Adds a room of this server, unless it waits already.
    pub(crate) fn add(&mut self, server: Option<Server>, room: RoomName, subscribe: bool) {
        let queue = self.0.entry(server).or_default();
        match queue.waiting.get_mut(&room) {
            Some(waits) => *waits |= subscribe,
            None => {
                queue.order.push_back(room.clone());
                queue.waiting.insert(room, subscribe);
            }
        }
    }

    /// Ends the delay of a server, because it is connected again.
    pub(crate) fn connected(&mut self, server: &Option<Server>) {
        if let Some(queue) = self.0.get_mut(server) {
            queue.reset_delay();
        }
    }

    /// The next room to read, and whether to subscribe first.
    pub(crate) fn next(&mut self, now: Instant) -> Option<(RoomName, bool, ResyncPermit)> {
        self.0.iter_mut().find_map(|(server, queue)| {
            let (room, subscribe, permit) = queue.next(now)?;
            Some((room, subscribe, ResyncPermit { server: server.clone(), _permit: permit }))
        })
    }

    /// Records that a room was read, or that reading it failed.
    pub(crate) fn finished(&mut self, permit: ResyncPermit, was_read: bool, now: Instant) {
        let Some(queue) = self.0.get_mut(&permit.server) else { return };
        if was_read {
            queue.reset_delay();
        } else if now >= queue.retry_at {
            // Rooms that fail at the same time count as one.
            queue.retry_at = now + queue.retry_delay;
            queue.retry_delay = (2 * queue.retry_delay).min(MAX_RETRY_DELAY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    fn room(n: usize) -> RoomName {
        RoomName::parse(&format!("room-{n}")).expect("a name")
    }

    fn begin(queue: &mut ResyncQueue) -> Vec<(RoomName, bool, ResyncPermit)> {
        std::iter::from_fn(|| queue.next(Instant::now())).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_server_is_tried_rarely_and_does_not_delay_others() {
        let (mut queue, bad, good) = (ResyncQueue::default(), Server::new("bad", 1), Server::new("good", 1));
        (0..1000).for_each(|n| queue.add(Some(bad.clone()), room(n), true));
        (1000..1100).for_each(|n| queue.add(Some(good.clone()), room(n), false));
        queue.add(Some(good.clone()), room(1000), true);
        let begun = begin(&mut queue);
        let (of_bad, of_good): (Vec<_>, Vec<_>) =
            begun.into_iter().partition(|(.., permit)| permit.server.as_ref() == Some(&bad));
        assert_eq!((of_bad.len(), of_good.len()), (MAX_CONCURRENT_READS, MAX_CONCURRENT_READS));
        assert!(of_good[0].1 && !of_good[1].1, "a room that was added twice is read once, after subscribing");
        for (.., permit) in of_good {
            queue.finished(permit, true, Instant::now());
        }
        assert_eq!(begin(&mut queue).len(), 100 - MAX_CONCURRENT_READS, "the other rooms of the good server");

        let fail = |queue: &mut ResyncQueue, rooms: Vec<(RoomName, bool, ResyncPermit)>| {
            for (room, subscribe, permit) in rooms {
                queue.finished(permit, false, Instant::now());
                queue.add(Some(bad.clone()), room, subscribe);
            }
        };
        fail(&mut queue, of_bad);
        let mut started = 0;
        for _ in 0..600 {
            advance(Duration::from_millis(100)).await;
            let begun = begin(&mut queue);
            started += begun.len();
            fail(&mut queue, begun);
        }
        assert!((58..=66).contains(&started), "{started} in a minute");
        advance(MAX_RETRY_DELAY).await;
        let (.., permit) = queue.next(Instant::now()).expect("one");
        assert!(queue.next(Instant::now()).is_none(), "no other room before that one is read");
        queue.finished(permit, true, Instant::now());
        let permits = begin(&mut queue);
        assert_eq!(permits.len(), MAX_CONCURRENT_READS, "as many as before");
        fail(&mut queue, permits);
        assert!(queue.next(Instant::now()).is_none());
        queue.connected(&Some(bad.clone()));
        assert_eq!(begin(&mut queue).len(), MAX_CONCURRENT_READS);
    }
}
