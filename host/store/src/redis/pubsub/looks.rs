//! Rooms whose logs are to be read when it is their turn: of each server some at a time, and of one that fails one at a time, with a
//! pause that grows. So what is asked of a server that is loading or away does not grow with the rooms that it has, and they hold up
//! none of another's. No I/O.

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

/// Rooms that are read at a time, of each server.
const AT_ONCE: usize = 64;
/// After a room that could not be read, twice as long each time, from the first to the second.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(1);

/// By server; one that is not told from others has no name.
#[derive(Default)]
pub(crate) struct Looks(HashMap<Option<Server>, Queue>);

struct Queue {
    order: VecDeque<RoomName>,
    /// The same rooms, and whether to subscribe before.
    waiting: HashMap<RoomName, bool>,
    places: Arc<Semaphore>,
    pause: Duration,
    /// Nothing is asked before.
    after: Instant,
}

/// A room's turn, until this is dropped.
pub(crate) struct Turn {
    server: Option<Server>,
    _place: OwnedSemaphorePermit,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            order: VecDeque::new(),
            waiting: HashMap::new(),
            places: Arc::new(Semaphore::new(AT_ONCE)),
            pause: SHORTEST,
            after: Instant::now(),
        }
    }
}

impl Queue {
    fn recovers(&mut self) {
        (self.pause, self.after) = (SHORTEST, Instant::now());
    }

    fn next(&mut self, now: Instant) -> Option<(RoomName, bool, OwnedSemaphorePermit)> {
        let is_failing = self.pause > SHORTEST;
        let is_busy = is_failing && self.places.available_permits() < AT_ONCE;
        if now < self.after || is_busy || self.order.is_empty() {
            return None;
        }
        let place = self.places.clone().try_acquire_owned().ok()?;
        let room = self.order.pop_front()?;
        let subscribe = self.waiting.remove(&room)?;
        Some((room, subscribe, place))
    }
}

impl Looks {
    /// A room that this server has is to be read.
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

    /// The server is connected: its rooms need not wait any longer.
    pub(crate) fn connected(&mut self, server: &Option<Server>) {
        if let Some(queue) = self.0.get_mut(server) {
            queue.recovers();
        }
    }

    /// Whose turn it is, and whether to subscribe before.
    pub(crate) fn next(&mut self, now: Instant) -> Option<(RoomName, bool, Turn)> {
        self.0.iter_mut().find_map(|(server, queue)| {
            let (room, subscribe, place) = queue.next(now)?;
            Some((room, subscribe, Turn { server: server.clone(), _place: place }))
        })
    }

    /// A room was read, or could not be.
    pub(crate) fn ended(&mut self, turn: Turn, was_read: bool, now: Instant) {
        let Some(queue) = self.0.get_mut(&turn.server) else { return };
        if was_read {
            queue.recovers();
        } else if now >= queue.after {
            // Of those that failed at the same time, one counts.
            queue.after = now + queue.pause;
            queue.pause = (2 * queue.pause).min(LONGEST);
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

    fn begin(looks: &mut Looks) -> Vec<(RoomName, bool, Turn)> {
        std::iter::from_fn(|| looks.next(Instant::now())).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_server_that_fails_little_is_asked_and_others_go_on() {
        let (mut looks, bad, good) = (Looks::default(), Server::new("bad", 1), Server::new("good", 1));
        (0..1000).for_each(|n| looks.add(Some(bad.clone()), room(n), true));
        (1000..1100).for_each(|n| looks.add(Some(good.clone()), room(n), false));
        looks.add(Some(good.clone()), room(1000), true);
        let begun = begin(&mut looks);
        let (of_bad, of_good): (Vec<_>, Vec<_>) =
            begun.into_iter().partition(|(.., turn)| turn.server.as_ref() == Some(&bad));
        assert_eq!((of_bad.len(), of_good.len()), (AT_ONCE, AT_ONCE));
        assert!(of_good[0].1 && !of_good[1].1, "asked for twice, it is read once, and subscribed before");
        for (.., turn) in of_good {
            looks.ended(turn, true, Instant::now());
        }
        assert_eq!(begin(&mut looks).len(), 100 - AT_ONCE, "the rest of the good server's");

        let fail = |looks: &mut Looks, rooms: Vec<(RoomName, bool, Turn)>| {
            for (room, subscribe, turn) in rooms {
                looks.ended(turn, false, Instant::now());
                looks.add(Some(bad.clone()), room, subscribe);
            }
        };
        fail(&mut looks, of_bad);
        let mut asked = 0;
        for _ in 0..600 {
            advance(Duration::from_millis(100)).await;
            let begun = begin(&mut looks);
            asked += begun.len();
            fail(&mut looks, begun);
        }
        assert!((58..=66).contains(&asked), "{asked} in a minute");
        advance(LONGEST).await;
        let (.., turn) = looks.next(Instant::now()).expect("one");
        assert!(looks.next(Instant::now()).is_none(), "no other before that one is answered");
        looks.ended(turn, true, Instant::now());
        let turns = begin(&mut looks);
        assert_eq!(turns.len(), AT_ONCE, "all again, as before");
        fail(&mut looks, turns);
        assert!(looks.next(Instant::now()).is_none());
        looks.connected(&Some(bad.clone()));
        assert_eq!(begin(&mut looks).len(), AT_ONCE);
    }
}
