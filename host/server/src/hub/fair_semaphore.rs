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
    principals: Mutex<Principals>,
}

#[derive(Default)]
struct Principals {
    queues: HashMap<Arc<str>, PrincipalQueue>,
    /// How many requests all principals have together.
    requests: usize,
}

struct PrincipalQueue {
    /// How many requests hold the principal's permit or wait for it.
    requests: usize,
    /// Has the one permit of the principal.
    own: Arc<Semaphore>,
}

/// How many requests may hold or wait for a permit.
#[derive(Clone, Copy)]
pub(super) struct QueueLimits {
    pub per_principal: usize,
    pub in_all: usize,
}

impl QueueLimits {
    const NONE: Self = Self { per_principal: usize::MAX, in_all: usize::MAX };
}

/// Which queue is as long as it may be.
#[derive(Debug, PartialEq)]
pub(super) enum QueueFull {
    OfPrincipal,
    InAll,
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
        self.acquire_within(principal, QueueLimits::NONE).await.unwrap_or_else(|_| unreachable!("no limit"))
    }

    /// Does the same if the queues are shorter than this.
    pub(super) async fn acquire_within<'a>(
        &'a self,
        principal: &'a Arc<str>,
        limits: QueueLimits,
    ) -> Result<FairPermit<'a>, QueueFull> {
        let own = {
            let mut principals = self.lock();
            if principals.requests >= limits.in_all {
                return Err(QueueFull::InAll);
            }
            if principals.queues.get(principal).is_some_and(|own| own.requests >= limits.per_principal) {
                return Err(QueueFull::OfPrincipal);
            }
            principals.requests += 1;
            let new = || PrincipalQueue { requests: 0, own: Arc::new(Semaphore::new(1)) };
            let queue = principals.queues.entry(principal.clone()).or_insert_with(new);
            queue.requests += 1;
            queue.own.clone()
        };
        // From here on, dropping it leaves the queue, even while it waits.
        let mut permit = FairPermit { semaphore: self, principal, permits: None };
        let own = own.acquire_owned().await.expect("never closed");
        let shared = self.shared.clone().acquire_owned().await.expect("never closed");
        permit.permits = Some((shared, own));
        Ok(permit)
    }

    fn lock(&self) -> MutexGuard<'_, Principals> {
        self.principals.locked()
    }
}

impl Drop for FairPermit<'_> {
    fn drop(&mut self) {
        self.permits = None;
        let mut principals = self.semaphore.lock();
        principals.requests -= 1;
        let queue = principals.queues.get_mut(self.principal).expect("counted when it was acquired");
        queue.requests -= 1;
        if queue.requests == 0 {
            principals.queues.remove(self.principal);
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
        assert!(reads.lock().queues.is_empty(), "principals that read nothing take no memory");
        assert_eq!(reads.lock().requests, 0);
    }

    /// Connections that wait for their turn have no connection slot, so nothing else limits them.
    #[test]
    fn no_more_than_the_limit_wait_for_a_principal_and_in_all() {
        let turns = FairSemaphore::new(1);
        let [greedy, other, last]: [Arc<str>; 3] = ["greedy", "other", "last"].map(Arc::from);
        let limits = QueueLimits { per_principal: 2, in_all: 3 };
        let first = turns.acquire_within(&greedy, limits).now_or_never().expect("nobody else").unwrap();
        let mut second = Box::pin(turns.acquire_within(&greedy, limits));
        assert!(second.as_mut().now_or_never().is_none(), "it waits");
        let third = turns.acquire_within(&greedy, limits).now_or_never().expect("it does not wait");
        assert_eq!(third.err(), Some(QueueFull::OfPrincipal));
        let mut waiting = Box::pin(turns.acquire_within(&other, limits));
        assert!(waiting.as_mut().now_or_never().is_none(), "the limit of one does not concern another");
        let refused = turns.acquire_within(&last, limits).now_or_never().expect("it does not wait");
        assert_eq!(refused.err(), Some(QueueFull::InAll));
        drop((second, waiting));
        let again = turns.acquire_within(&greedy, limits);
        drop(first);
        assert!(again.now_or_never().expect("its turn").is_ok(), "whoever leaves the queue makes room");
    }
}
