//! A semaphore for slow work that principals acquire in turn. A principal holds at most one permit at a time.
//! Does not know the work.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};
use switchyard_process::lock::LockExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A semaphore that serves principals in turn.
pub(super) struct FairSemaphore {
    shared: Arc<Semaphore>,
    /// Principals that hold a permit or wait for one. Each waits only once for the shared semaphore, so they
    /// take turns.
    principals: Mutex<HashMap<Arc<str>, PrincipalQueue>>,
}

struct PrincipalQueue {
    /// How many requests hold the principal's permit or wait for it.
    requests: usize,
    /// Has the one permit of the principal.
    own: Arc<Semaphore>,
}

/// Allows one piece of work. Dropping it passes the permit to the next principal.
pub(crate) struct FairPermit<'a> {
    semaphore: &'a FairSemaphore,
    principal: &'a Arc<str>,
    permits: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

impl FairSemaphore {
    /// Creates a semaphore with this many permits for all principals together.
    pub(super) fn new(permits: usize) -> Self {
        Self { shared: Arc::new(Semaphore::new(permits)), principals: Mutex::default() }
    }

    /// Waits until it is the principal's turn.
    pub(super) async fn acquire<'a>(&'a self, principal: &'a Arc<str>) -> FairPermit<'a> {
        let own = {
            let mut principals = self.lock();
            let new = || PrincipalQueue { requests: 0, own: Arc::new(Semaphore::new(1)) };
            let queue = principals.entry(principal.clone()).or_insert_with(new);
            queue.requests += 1;
            queue.own.clone()
        };
        // From here on, dropping it leaves the queue, even while it waits.
        let mut permit = FairPermit { semaphore: self, principal, permits: None };
        let own = own.acquire_owned().await.expect("never closed");
        let shared = self.shared.clone().acquire_owned().await.expect("never closed");
        permit.permits = Some((shared, own));
        permit
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, PrincipalQueue>> {
        self.principals.locked()
    }
}

impl Drop for FairPermit<'_> {
    fn drop(&mut self) {
        self.permits = None;
        let mut principals = self.semaphore.lock();
        let queue = principals.get_mut(self.principal).expect("counted when it was acquired");
        queue.requests -= 1;
        if queue.requests == 0 {
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
        assert!(reads.lock().is_empty(), "principals that read nothing take no memory");
    }
}
