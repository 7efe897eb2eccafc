//! Reads of histories under way: a few at a time, one of each principal, in turn.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Reads of all principals under way at a time. With pages of 256 KiB that is a megabyte, which a publish waits for at most.
const AT_ONCE: usize = 4;

pub struct Reads {
    all: Arc<Semaphore>,
    /// Of the principals that read or wait to. Each has one place in the queue for all, so that they take turns.
    principals: Mutex<HashMap<Arc<str>, Queue>>,
}

struct Queue {
    /// Reads under way or waiting.
    count: usize,
    turn: Arc<Semaphore>,
}

/// Lets one page be read; then it is the next one's turn.
pub struct Turn<'a> {
    reads: &'a Reads,
    principal: &'a Arc<str>,
    permits: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

impl Default for Reads {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(AT_ONCE)), principals: Mutex::default() }
    }
}

impl Reads {
    pub async fn turn<'a>(&'a self, principal: &'a Arc<str>) -> Turn<'a> {
        let own = {
            let mut principals = self.lock();
            let new = || Queue { count: 0, turn: Arc::new(Semaphore::new(1)) };
            let queue = principals.entry(principal.clone()).or_insert_with(new);
            queue.count += 1;
            queue.turn.clone()
        };
        // From here on dropping it leaves the queue, also where it waits.
        let mut turn = Turn { reads: self, principal, permits: None };
        let own = own.acquire_owned().await.expect("never closed");
        let of_all = self.all.clone().acquire_owned().await.expect("never closed");
        turn.permits = Some((of_all, own));
        turn
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Queue>> {
        self.principals.lock().expect("no code panics while it holds the queues")
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.permits = None;
        let mut principals = self.reads.lock();
        let queue = principals.get_mut(self.principal).expect("counted when it came");
        queue.count -= 1;
        if queue.count == 0 {
            principals.remove(self.principal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn principals_take_turns_whatever_each_asks_for() {
        let reads = Reads::default();
        let names: Vec<Arc<str>> = ["greedy", "a", "b", "c", "d"].map(Arc::from).into();
        let mut greedy: Vec<_> = (0..100).map(|_| Box::pin(reads.turn(&names[0]))).collect();
        let first = greedy[0].as_mut().now_or_never().expect("nobody else reads");
        assert!(greedy[1..].iter_mut().all(|turn| turn.as_mut().now_or_never().is_none()), "one at a time");
        let others: Vec<_> = names[1..4].iter().map(|name| reads.turn(name).now_or_never()).collect();
        assert!(others.iter().all(Option::is_some), "a hundred reads of one do not keep others waiting");
        let mut last = Box::pin(reads.turn(&names[4]));
        assert!(last.as_mut().now_or_never().is_none(), "no more than {AT_ONCE} at a time");
        drop(first);
        // The next of the greedy one queues behind it.
        assert!(greedy[1].as_mut().now_or_never().is_none());
        assert!(last.as_mut().now_or_never().is_some());
        drop((greedy, others, last));
        assert!(reads.lock().is_empty(), "nothing is kept of who reads no more");
    }
}
