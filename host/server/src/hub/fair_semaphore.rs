//! A semaphore for work that takes long, which principals acquire in turn. A principal holds one permit at a time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub(super) struct FairSemaphore {
    all: Arc<Semaphore>,
    /// Principals that hold a permit or wait for one. Each waits once in the common queue, so that they take turns.
    principals: Mutex<HashMap<Arc<str>, Queue>>,
}

struct Queue {
    /// How many hold the permit or wait for it.
    count: usize,
    turn: Arc<Semaphore>,
}

/// Allows one piece of work. Dropping it gives the permit to the next principal.
pub(crate) struct FairPermit<'a> {
    of: &'a FairSemaphore,
    principal: &'a Arc<str>,
    permits: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

impl FairSemaphore {
    /// With so many permits for all principals together.
    pub(super) fn new(at_once: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(at_once)), principals: Mutex::default() }
    }

    /// Waits until it is the principal's turn.
    pub(super) async fn acquire<'a>(&'a self, principal: &'a Arc<str>) -> FairPermit<'a> {
        let own = {
            let mut principals = self.lock();
            let new = || Queue { count: 0, turn: Arc::new(Semaphore::new(1)) };
            let queue = principals.entry(principal.clone()).or_insert_with(new);
            queue.count += 1;
            queue.turn.clone()
        };
        // From here on, dropping it leaves the queue, also while it waits.
        let mut turn = FairPermit { of: self, principal, permits: None };
        let own = own.acquire_owned().await.expect("never closed");
        let of_all = self.all.clone().acquire_owned().await.expect("never closed");
        turn.permits = Some((of_all, own));
        turn
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Queue>> {
        self.principals.lock().expect("no code panics while it holds the queues")
    }
}

impl Drop for FairPermit<'_> {
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
    fn principals_take_turns_however_much_each_wants() {
        let reads = FairSemaphore::new(4);
        let names: Vec<Arc<str>> = ["greedy", "a", "b", "c", "d"].map(Arc::from).into();
        let mut greedy: Vec<_> = (0..100).map(|_| Box::pin(reads.acquire(&names[0]))).collect();
        let first = greedy[0].as_mut().now_or_never().expect("nobody else reads");
        assert!(greedy[1..].iter_mut().all(|turn| turn.as_mut().now_or_never().is_none()), "one at a time");
        let others: Vec<_> = names[1..4].iter().map(|name| reads.acquire(name).now_or_never()).collect();
        assert!(others.iter().all(Option::is_some), "a hundred reads of one do not keep others waiting");
        let mut last = Box::pin(reads.acquire(&names[4]));
        assert!(last.as_mut().now_or_never().is_none(), "no more than four at a time");
        drop(first);
        // The greedy principal's next request is behind the last one.
        assert!(greedy[1].as_mut().now_or_never().is_none());
        assert!(last.as_mut().now_or_never().is_some());
        drop((greedy, others, last));
        assert!(reads.lock().is_empty(), "nothing is kept of who reads no more");
    }
}
