//! The tasks that run the handshakes of new connections: one task per core runs all of them. However many
//! clients connect at once, the tasks of established connections compete with a few tasks only, and not with
//! one for each handshake.

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use std::{
    panic::AssertUnwindSafe,
    sync::atomic::{AtomicUsize, Ordering},
};
use switchyard_process::vital::VitalTasks;
use tokio::sync::mpsc;

/// After this many steps, which take at most about a millisecond, a task yields to others.
const STEPS_PER_TURN: usize = 16;

/// The tasks that run handshakes. They end when this is dropped and all handshakes have ended.
pub(super) struct HandshakePool {
    queues: Vec<mpsc::UnboundedSender<BoxFuture<'static, ()>>>,
    next: AtomicUsize,
}

impl HandshakePool {
    pub(super) fn start(vitals: &VitalTasks) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let queues = (0..cores).map(|_| {
            let (queue, handshakes) = mpsc::unbounded_channel();
            vitals.spawn("the task that runs handshakes", run_all(handshakes));
            queue
        });
        Self { queues: queues.collect(), next: AtomicUsize::new(0) }
    }

    /// Runs a handshake in one of the tasks. A panic ends this handshake only.
    pub(super) fn run(&self, handshake: impl Future<Output = ()> + Send + 'static) {
        let queue = &self.queues[self.next.fetch_add(1, Ordering::Relaxed) % self.queues.len()];
        let handshake = AssertUnwindSafe(handshake).catch_unwind().map(drop).boxed();
        queue.send(handshake).ok();
    }
}

async fn run_all(mut handshakes: mpsc::UnboundedReceiver<BoxFuture<'static, ()>>) {
    let (mut running, mut is_open) = (FuturesUnordered::new(), true);
    let mut steps = 0_usize;
    while is_open || !running.is_empty() {
        tokio::select! {
            handshake = handshakes.recv(), if is_open => match handshake {
                Some(handshake) => running.push(handshake),
                None => is_open = false,
            },
            Some(()) = running.next() => {}
        }
        steps += 1;
        if steps.is_multiple_of(STEPS_PER_TURN) {
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::{sync::oneshot, time::timeout};

    #[tokio::test]
    async fn a_handshake_that_panics_or_never_ends_does_not_delay_others() {
        let pool = HandshakePool::start(&VitalTasks::default());
        for _ in 0..100 {
            pool.run(async { panic!("on purpose") });
            pool.run(std::future::pending());
        }
        let (ran, has_run) = oneshot::channel();
        pool.run(async { ran.send(()).unwrap() });
        timeout(Duration::from_secs(10), has_run).await.expect("it ran").unwrap();
    }
}
