//! Work that takes long: a few at a time, one of each principal, in turn.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub(super) struct InTurn {
    all: Arc<Semaphore>,
    /// Of the principals that are at it or wait to be. Each has one place in the queue for all, so that they take turns.
    principals: Mutex<HashMap<Arc<str>, Queue>>,
}

struct Queue {
    /// Under way or waiting.
    count: usize,
    turn: Arc<Semaphore>,
}

/// Lets one thing be done; then it is the next one's turn.
pub(crate) struct Turn<'a> {
    of: &'a InTurn,
    principal: &'a Arc<str>,
    permits: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

impl InTurn {
    /// So many of all principals at a time.
    pub(super) fn new(at_once: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(at_once)), principals: Mutex::default() }
    }

    pub(super) async fn turn<'a>(&'a self, principal: &'a Arc<str>) -> Turn<'a> {
        let own = {
            let mut principals = self.lock();
            let new = || Queue { count: 0, turn: Arc::new(Semaphore::new(1)) };
            let queue = principals.entry(principal.clone()).or_insert_with(new);
            queue.count += 1;
            queue.turn.clone()
        };
        // From here on dropping it leaves the queue, also where it waits.
        let mut turn = Turn { of: self, principal, permits: None };
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
        let mut principals = self.of.lock();
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
        let reads = InTurn::new(4);
        let names: Vec<Arc<str>> = ["greedy", "a", "b", "c", "d"].map(Arc::from).into();
        let mut greedy: Vec<_> = (0..100).map(|_| Box::pin(reads.turn(&names[0]))).collect();
        let first = greedy[0].as_mut().now_or_never().expect("nobody else reads");
        assert!(greedy[1..].iter_mut().all(|turn| turn.as_mut().now_or_never().is_none()), "one at a time");
        let others: Vec<_> = names[1..4].iter().map(|name| reads.turn(name).now_or_never()).collect();
        assert!(others.iter().all(Option::is_some), "a hundred reads of one do not keep others waiting");
        let mut last = Box::pin(reads.turn(&names[4]));
        assert!(last.as_mut().now_or_never().is_none(), "no more than four at a time");
        drop(first);
        // The next of the greedy one queues behind it.
        assert!(greedy[1].as_mut().now_or_never().is_none());
        assert!(last.as_mut().now_or_never().is_some());
        drop((greedy, others, last));
        assert!(reads.lock().is_empty(), "nothing is kept of who reads no more");
    }
}
